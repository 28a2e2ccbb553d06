"""Photographs encoded by a pretrained network, through the stages: preset own_photos."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import stages
from encoders import import_small_encoder
from photographs import draw_photograph, vary_photograph, write_photographs
from stages import (
    CARD,
    EVALUATE,
    REPORT,
    TRAIN,
    prepare_data,
    read_text,
    run_stage,
    set_param,
    write_params,
)

import episodic
from episodic.preprocessing.encoders.cache import FeatureCache
from episodic.preprocessing.encoders.encoder import ENCODER_VARIABLE
from tasks import download, episodes, params
from tasks.runtime.files import read_json

CLASSES, IMAGES, SIZE = 20, 8, (120, 90)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """All stages of a small run, on features of a small encoder: Lite0 at 64 pixels."""
    folder = tmp_path_factory.mktemp("photographs")
    patch = pytest.MonkeyPatch()
    for name, value in (("XDG_CACHE_HOME", folder / "cache"), (ENCODER_VARIABLE, folder)):
        patch.setenv(name, str(value))
        patch.setitem(stages.ENVIRONMENT, name, str(value))
    names = [f"class{label:02d}" for label in range(CLASSES)]
    write_photographs(folder / "own", names, IMAGES, SIZE)
    import_small_encoder(folder / "small.safetensors", 64)
    changes = {
        "image_folder.path": "small.safetensors",
        "episodes.ways": "4",
        "episodes.queries": "4",
        "episodes.validation": "10",
        "episodes.test": "20",
    }
    write_params(folder, "own_photos", folder / "own", **changes)
    prepare_data(folder)
    run_stage(folder, "train", *TRAIN)
    run_stage(folder, "evaluate", *EVALUATE)
    run_stage(folder, "report", *REPORT)
    yield folder
    patch.undo()


def test_photographs_become_vectors(workspace):
    meta = read_json(workspace / "prepared/meta.json")
    assert meta["input"] == [1280]
    encoder = meta["inputs"]["encoder"]
    assert (encoder["name"], encoder["license"]) == ("small", "Apache-2.0")
    examples = np.load(workspace / "prepared/examples.npy")
    assert examples.shape == (CLASSES * IMAGES, 1280) and examples.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(examples, axis=1), 1, atol=1e-5)
    learner = episodic.load(workspace / "model")
    paths = [workspace / f"own/class{label:02d}/0.png" for label in range(4)]
    rows = [label * IMAGES for label in range(4)]
    np.testing.assert_array_equal(learner.inputs(paths).numpy(), examples[rows])
    assert learner.adapt(paths, list("abcd")).predict(paths).tolist() == list("abcd")
    metrics = read_json(workspace / "metrics.json")
    assert metrics["accuracy"] > 0.8 and "encoder_centroid" in metrics["baselines"]


def test_reports_show_the_photographs_and_name_the_encoder(workspace):
    thumbnails = np.load(workspace / "prepared/thumbnails.npy")
    assert thumbnails.shape == (CLASSES * IMAGES, 3, 64, 64)
    assert "data:image/png;base64," in (workspace / "report.html").read_text()
    card = read_text(workspace / CARD)
    digest = read_json(workspace / "prepared/meta.json")["inputs"]["encoder"]["digest"]
    assert f"the pretrained encoder small (digest {digest[:12]}), whose licence is Apache-2.0" in (
        " ".join(card.split())
    )
    assert "may have been trained on images of the test classes" in " ".join(card.split())
    assert "on features of the pretrained encoder small, used by protonet " in card
    error = 100 * read_json(workspace / "metrics.json")["calibration"]["ece"]
    assert f"calibration error on the test episodes is {error:.1f} % ± " in " ".join(card.split())
    assert "# add encoder=PATH of small, or set EPISODIC_ENCODER to it; see Limits" in card
    assert "SUPPORT_FOLDER -o ADAPTED --encoder ENCODER`" in card, "a command that works"
    page, shown = read_text(workspace / "report.html"), read_text(workspace / "summary/summary.md")
    for text in (page, shown, card):
        assert "features of the pretrained encoder small, " in text
    assert "encoder small" in shown.splitlines()[6]
    assert "All baselines except chance use the features of small too." in page
    assert "--rendering: auto" in page, "photographs are smoothed when they are enlarged"


def test_episodes_with_the_same_classes_are_not_compared_by_them(workspace):
    """Four of the 20 classes are for test, and an episode has four."""
    test = pd.read_parquet(workspace / "prepared/test.parquet")
    assert len({frozenset(classes) for classes in test["classes"]}) == 1
    page, tasks = (read_text(workspace / name) for name in ("report.html", "tasks.html"))
    assert "All test episodes have the same 4 classes, so the accuracy on other classes" in page
    assert "All test episodes have the same 4 classes, so episodes cannot be compared" in tasks
    assert "quintile" not in tasks and "Map of the test episodes" not in tasks


def test_only_a_changed_photograph_is_encoded_again(workspace, monkeypatch):
    encoded = []
    write = FeatureCache.write
    monkeypatch.setattr(
        FeatureCache,
        "write",
        lambda self, features: (encoded.append(len(features)), write(self, features)),
    )
    before = np.load(workspace / "prepared/examples.npy")
    photograph = vary_photograph(draw_photograph(3, SIZE), [3, 99], deviation=20)
    photograph.save(workspace / "own/class03/5.png")
    monkeypatch.chdir(workspace)
    settings = params.load(workspace / "params.yaml", "dataset", "episodes")
    download.run(settings, workspace / "raw2")
    episodes.run(settings, workspace / "raw2", workspace / "prepared2")
    assert encoded == [1]
    changed = np.load(workspace / "prepared2/examples.npy") != before
    assert np.flatnonzero(changed.any(1)).tolist() == [3 * IMAGES + 5]


def test_models_of_images_are_refused(workspace, tmp_path):
    for name in ("params.yaml", "small.safetensors"):
        (tmp_path / name).write_bytes((workspace / name).read_bytes())
    (tmp_path / "own").symlink_to(workspace / "own")
    set_param(tmp_path, "model.name", "conv4")
    _, error = run_stage(tmp_path, "download", "--out", "raw", code=1)
    assert error == (
        "error: params.yaml: model.name is 'conv4'; it must be mlp or module for image_folder, "
        "whose examples are vectors of numbers\n"
    )
    set_param(tmp_path, "image_folder.path", "missing.safetensors")
    _, error = run_stage(tmp_path, "download", "--out", "raw", code=1)
    assert error.startswith(
        "error: params.yaml: dataset.image_folder.features.path: missing.safetensors does not exist"
    )
    assert not (tmp_path / "raw").exists()


def test_events_tell_the_progress_of_the_encoder(workspace):
    output, _ = run_stage(workspace, "episodes", "--raw", "raw", "--out", "prepared3")
    events = [json.loads(line) for line in output.splitlines()]
    event = [event for event in events if event["event"] == "progress"][-1]
    total = CLASSES * IMAGES
    assert (event["stage"], event["what"], event["done"], event["total"]) == (
        "episodes",
        "images",
        total,
        total,
    )
