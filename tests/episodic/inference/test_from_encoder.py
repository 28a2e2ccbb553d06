"""A pretrained encoder with a head, without training: prediction, ONNX, files, command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from photographs import write_photographs

import episodic
from episodic.core.config import ConfigError
from episodic.inference.sklearn import FewShotClassifier
from episodic.preprocessing.encoders import encoder as encoders
from episodic.preprocessing.encoders.architectures import (
    LITE0,
    EncoderError,
    build_architecture,
)
from episodic.preprocessing.encoders.importing import import_weights
from episodic.preprocessing.images.reading import crop_image
from tests.episodic.test_cli import call

pytestmark = pytest.mark.usefixtures("own_cache")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> Path:
    """Five classes of six variations of one image."""
    return write_photographs(tmp_path_factory.mktemp("photographs"), "abcde", per_class=6)


def split(folder: Path) -> tuple[list[Path], list[str], list[Path], list[str]]:
    """Two support examples of each class, and the others."""
    files = sorted(folder.glob("*/*.png"))
    support, query = [p for p in files if p.stem < "2"], [p for p in files if p.stem >= "2"]
    return support, [p.parent.name for p in support], query, [p.parent.name for p in query]


def test_an_encoder_is_used_without_training(photographs, tmp_path):
    support, labels, query, expected = split(photographs)
    learner = episodic.from_encoder(LITE0)
    adapted = learner.adapt(support, labels)
    probabilities = adapted.predict_proba(query)
    assert adapted.predict(query).tolist() == expected
    adapted.save(tmp_path / "adapted")
    loaded = episodic.load_adapted(tmp_path / "adapted")
    assert np.array_equal(loaded.predict_proba(query), probabilities)
    config = loaded.config["inputs"]["encoder"]
    assert (config["name"], config["license"]) == (LITE0, "Apache-2.0")
    result = learner.evaluate(
        sorted(photographs.glob("*/*")),
        [path.parent.name for path in sorted(photographs.glob("*/*"))],
        episodes=10,
    )
    assert (result.ways, result.shots) == (5, 1) and result.accuracy > 0.9

    classifier = FewShotClassifier(encoder=LITE0).fit(support, labels)
    assert np.array_equal(classifier.predict_proba(query), probabilities)
    with pytest.raises(ConfigError, match="head is 'nearest'; it must be one of nearest_mean"):
        episodic.from_encoder(LITE0, head="nearest")


def test_encoder_and_head_are_one_onnx_file(photographs, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime has no wheel here")
    support, labels, query, _ = split(photographs)
    adapted = episodic.from_encoder(LITE0).adapt(support, labels)
    episodic.export_onnx(adapted, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"))
    transform = build_architecture(LITE0).transform
    x = np.stack([crop_image(path, transform) for path in query]).astype(np.float32) / 255
    (probabilities,) = session.run(None, {"x": x})
    np.testing.assert_allclose(probabilities, adapted.predict_proba(query), atol=1e-4)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["inputs"])["input"] == [3, 224, 224]


def test_the_encoder_of_a_model_is_required_by_its_digest(photographs, tmp_path, monkeypatch):
    support, labels, query, _ = split(photographs)
    own = tmp_path / "own.safetensors"
    shutil.copy(encoders.find_encoder(LITE0), own)
    import_weights(own, tmp_path / "small.safetensors", LITE0, {"size": 96, "resize": 100})
    small = tmp_path / "small.safetensors"
    adapted = episodic.from_encoder(small).adapt(support, labels)
    expected = adapted.predict_proba(query)
    adapted.save(tmp_path / "adapted")
    monkeypatch.delenv(encoders.ENCODER_VARIABLE, raising=False)
    with pytest.raises(EncoderError, match="needs the image encoder small: specify its file"):
        episodic.load_adapted(tmp_path / "adapted").predict(query)
    with pytest.raises(EncoderError, match="is not the encoder small that the model was made"):
        episodic.load_adapted(tmp_path / "adapted", encoder=own).predict(query)
    found = episodic.load_adapted(tmp_path / "adapted", encoder=small).predict_proba(query)
    assert np.array_equal(found, expected)
    for path in (small, tmp_path):
        monkeypatch.setenv(encoders.ENCODER_VARIABLE, str(path))
        found = episodic.load_adapted(tmp_path / "adapted").predict_proba(query)
        assert np.array_equal(found, expected)


def test_the_command_line_needs_neither_model_nor_data(photographs, tmp_path):
    def run(*arguments: object, code: int = 0) -> str:
        return call(tmp_path, *map(str, arguments), code=code)

    query = sorted(photographs.glob("*/5.png"))
    out = run("adapt", "--encoder", LITE0, photographs, "-o", tmp_path / "adapted")
    assert "adapted to 5 classes from 30 examples" in out
    lines = run("predict", tmp_path / "adapted", *query).splitlines()
    assert [line.split()[1] for line in lines] == [path.parent.name for path in query]
    out = run("evaluate", "--encoder", LITE0, photographs, "--episodes", 5, "--json")
    assert json.loads(out)["accuracy"] > 0.9
    out = run("info", tmp_path / "adapted")
    assert f"encoder     {LITE0}, digest " in out and "head        nearest_mean" in out
    out = run("encoder", "info", LITE0)
    assert "licence       Apache-2.0" in out
    assert run("adapt", photographs, "-o", tmp_path / "x", code=1) == (
        "error: specify MODEL and SUPPORT, or only SUPPORT with --encoder efficientnet_lite0; got"
        f" {photographs}\n"
    )
    assert not (tmp_path / "x").exists()
