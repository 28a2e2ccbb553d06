"""The model of a command: MODEL, or an encoder with a head, and what does not go together."""

from __future__ import annotations

import copy
import pickle
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file
from typer.testing import CliRunner

import episodic
from episodic.cli import app
from episodic.inference.labels import AdaptError
from episodic.inference.sklearn import FewShotClassifier
from episodic.preprocessing.encoders.encoder import find_encoder
from episodic.preprocessing.encoders.weights import read_description, write_encoder

LITE0 = "efficientnet_lite0"


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """Three classes of four plain images, and an encoder that is not the default one."""
    folder = tmp_path_factory.mktemp("workspace")
    for name, colour in (("red", (200, 0, 0)), ("green", (0, 200, 0)), ("blue", (0, 0, 200))):
        (folder / "support" / name).mkdir(parents=True)
        for i in range(4):
            image = Image.new("RGB", (40, 40), tuple(value + 10 * i for value in colour))
            image.save(folder / "support" / name / f"{i}.png")
    (folder / "empty").mkdir()
    path = find_encoder(LITE0)
    used = read_description(path)
    weights = {name: tensor / 2 for name, tensor in load_file(path).items()}
    mine = folder / "mine.safetensors"
    write_encoder(mine, used.architecture, used.transform, "MIT", used.width, weights)
    return folder


@pytest.fixture(autouse=True)
def in_workspace(workspace, monkeypatch):
    monkeypatch.chdir(workspace)


def call(*arguments: str, code: int = 0) -> str:
    ended = CliRunner().invoke(app, list(arguments))
    assert ended.exit_code == code, ended.output
    return ended.stderr if code else ended.stdout


@pytest.fixture(scope="module")
def models(workspace) -> dict[str, str]:
    """Folders of models without meta-training, as the pipeline writes them."""
    from episodic.training import model_folder

    for name, encoder in (("of_lite0", LITE0), ("of_mine", workspace / "mine.safetensors")):
        trained = episodic.from_encoder(encoder).trained
        config = {key: value for key, value in trained.config.items() if key != "head"}
        config |= {"ways": 3, "shots": 1, "validation": 0.5, "dataset": "image_folder"}
        model_folder.save(workspace / name, trained.members, config)
    return {name: str(workspace / name) for name in ("of_lite0", "of_mine")}


def test_a_model_with_another_encoder(models):
    """`--encoder` is the file of its encoder, in every command."""
    error = call("adapt", models["of_mine"], "support", "-o", "adapted", code=1)
    assert "the model needs the image encoder mine: specify its file with --encoder" in error
    encoder = ("--encoder", "mine.safetensors")
    call("adapt", models["of_mine"], "support", "-o", "adapted", *encoder)
    assert "red" in call("predict", "adapted", "support/red/0.png", *encoder)
    out = call(
        "evaluate", models["of_mine"], "support", "--episodes", "3", "--queries", "3", *encoder
    )
    assert re.search(r"\d %|\d\.\d %", out)
    error = call("adapt", models["of_lite0"], "support", "-o", "x", *encoder, code=1)
    assert "mine.safetensors is not the encoder efficientnet_lite0" in error
    assert not Path("x").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["of_lite0", "support", "--head", "ridge"],
            "error: --head is for --encoder without MODEL: ",
        ),
        (["support", "--encoder", ""], "error: there is no encoder ''"),
        (["support", "--encoder", "empty"], "error: empty has 0 .safetensors files; it must have"),
        (["support", "--encoder", LITE0, "--head", "rigde"], "error: head is 'rigde'; it must be"),
        (
            ["support", "--encoder", LITE0, "--steps", "3"],
            "error: steps is 3; it must be omitted, since nearest_mean has no inner loop",
        ),
        (
            ["support/red", "support/blue", "--encoder", LITE0],
            "error: support/red is not a trained model: with --encoder, specify one folder",
        ),
        (["support"], "error: specify MODEL and SUPPORT, or only SUPPORT with --encoder"),
        (["a", "b", "c"], "error: specify MODEL and SUPPORT, or only SUPPORT with --encoder"),
    ],
)
def test_what_does_not_go_together(models, arguments, message):
    assert call("adapt", *arguments, "-o", "x", code=1).startswith(message)
    assert not Path("x").exists()


def test_what_cannot_be_written_is_one_sentence(workspace, monkeypatch):
    """A full disk, and a folder of somebody else; tests may run as root, whom nothing stops."""

    def refuse(path: Path, *args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", refuse)
    error = call("adapt", "support", "--encoder", LITE0, "-o", "no/x", code=1)
    assert error == "error: no: Permission denied\n"
    monkeypatch.undo()
    monkeypatch.chdir(workspace)
    mkdir = Path.mkdir

    def refuse_drafts(path: Path, *args: object, **kwargs: object) -> None:
        if path.suffix == ".part":
            raise PermissionError(13, "Permission denied", str(path))
        mkdir(path, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", refuse_drafts)
    error = call("adapt", "support", "--encoder", LITE0, "-o", "no/x", code=1)
    assert error == "error: no/x: Permission denied\n"
    monkeypatch.undo()
    monkeypatch.chdir(workspace)

    def fill(*args: object, **kwargs: object) -> None:
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr("safetensors.torch.save_file", fill)
    error = call("adapt", "support", "--encoder", LITE0, "-o", "full", code=1)
    assert re.fullmatch(r"error: \S+safetensors: No space left on device \(os error 28\)\n", error)
    assert not list(workspace.glob("*full*")) and not list(workspace.glob(".full*"))


def test_other_users_can_read_an_adapted_model(workspace):
    """Weights have the permissions of other files, which safetensors would restrict."""
    call("adapt", "support", "--encoder", LITE0, "-o", "shared")
    modes = {path.name: path.stat().st_mode for path in Path("shared").iterdir()}
    assert modes["weights.safetensors"] == modes["support.safetensors"] == modes["config.json"]


def test_photographs_in_other_formats_are_not_left_out(workspace, tmp_path):
    shutil.copytree(workspace / "support", tmp_path / "mixed")
    (tmp_path / "mixed/red/0.png").rename(tmp_path / "mixed/red/IMG_0001.HEIC")
    error = call("adapt", str(tmp_path / "mixed"), "--encoder", LITE0, "-o", "x", code=1)
    assert "red has photographs in formats that are not read (IMG_0001.HEIC): convert" in error
    error = call("predict", "adapted", str(tmp_path / "mixed"), code=1)
    assert error.startswith("error:")


def test_a_fitted_estimator_can_be_copied(workspace):
    """As cross-validation in several processes does, and joblib."""
    images = sorted((workspace / "support").glob("*/*.png"))
    labels = [path.parent.name for path in images]
    fitted = FewShotClassifier(encoder=LITE0).fit(images, labels)
    expected = fitted.predict_proba(images)
    again = pickle.loads(pickle.dumps(fitted))  # noqa: S301 (our own bytes)
    np.testing.assert_array_equal(again.predict_proba(images), expected)
    np.testing.assert_array_equal(copy.deepcopy(fitted).predict_proba(images), expected)


def test_the_estimator_refuses_settings_without_effect(workspace):
    images = np.zeros((2, 3, 40, 40), np.uint8)
    learner = episodic.from_encoder(LITE0)
    with pytest.raises(AdaptError, match="mutually exclusive"):
        FewShotClassifier(learner, encoder=LITE0).fit(images, ["a", "b"])
    with pytest.raises(AdaptError, match="head is 'ridge'; it must be omitted without encoder"):
        FewShotClassifier(learner, head="ridge").fit(images, ["a", "b"])
