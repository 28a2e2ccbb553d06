"""A pretrained sentence encoder: folders that are rejected, and a tiny one through the stages."""

from __future__ import annotations

import json
import re
import socket
import sys
from pathlib import Path

import encoders
import numpy as np
import pytest
import torch
from stages import EVALUATE, TRAIN, run_stage, set_param
from support import ROOT

import episodic
from episodic.core.config import ConfigError
from episodic.preprocessing import base as preprocessing
from episodic.preprocessing.base import InputError
from episodic.preprocessing.sentences import encoder
from episodic.preprocessing.text import TextFeatures
from tasks import params, preset
from tasks.runtime.files import read_json
from tasks.runtime.stage import StageError
from tests.episodic.preprocessing.test_text import corpus, csv_of

TEXTS = [text for texts in corpus().values() for text in texts]


def section(folder: Path, **more: object) -> dict:
    """The section `inputs` of a model's config.json."""
    described = {"kind": "text", "features": "encoder", "encoder": encoder.describe_encoder(folder)}
    return {"input": [encoder.embedding_size(folder)], "inputs": described | more}


def test_the_digest_covers_what_embeddings_depend_on(tmp_path):
    """It covers weights, tokenizer and modules, but not the path, README or other formats."""
    folder = encoders.write_encoder_files(tmp_path / "a")
    assert encoder.embedding_size(folder) == 8
    first = encoder.describe_encoder(folder)
    assert first["name"] == "a" and re.fullmatch("[0-9a-f]{64}", first["digest"])
    (folder / "README.md").write_text("of another day")
    (folder / "onnx").mkdir()
    (folder / "onnx/config.json").write_text("{}")
    folder.rename(tmp_path / "b")
    assert encoder.describe_encoder(tmp_path / "b") == first | {"name": "b"}
    for file in ("model.safetensors", "1_Pooling/config.json", "config.json"):
        whole = (tmp_path / "b" / file).read_bytes()
        (tmp_path / "b" / file).write_bytes(whole + b" ")
        assert encoder.describe_encoder(tmp_path / "b")["digest"] != first["digest"], file
        (tmp_path / "b" / file).write_bytes(whole)


def test_embedding_size(tmp_path):
    folder = encoders.write_encoder_files(tmp_path / "a")
    pooling = folder / "1_Pooling/config.json"
    pooling.write_text(
        json.dumps(
            {
                "word_embedding_dimension": 8,
                "pooling_mode_cls_token": True,
                "pooling_mode_mean_tokens": True,
            }
        )
    )
    assert encoder.embedding_size(folder) == 16, "two means of the tokens, one after the other"
    pooling.write_text(
        json.dumps(
            {
                "word_embedding_dimension": 8,
                "pooling_mode_cls_token": False,
                "pooling_mode_mean_tokens": True,
            }
        )
    )
    assert encoder.embedding_size(folder) == 8
    (folder / "modules.json").unlink()
    assert encoder.embedding_size(folder) == 8, "the mean for a plain transformer"


def broken(folder: Path, how: str) -> None:
    if how == "pickle":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif how == "code":
        (folder / "modules.json").write_text(json.dumps([{"path": "", "type": "mine.Transformer"}]))
    elif how == "outside":
        (folder / "modules.json").write_text(
            json.dumps([{"path": "..", "type": "sentence_transformers.models.Transformer"}])
        )
    elif how == "auto_map":
        (folder / "config.json").write_text(
            json.dumps({"hidden_size": 8, "auto_map": {"AutoModel": "mine.Model"}})
        )
    else:
        (folder / "config.json").unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("pickle", "its weights are a pickle (pytorch_model.bin), which is not read"),
        ("code", "lists mine.Transformer: the modules of an encoder must be"),
        ("outside", "which lies outside"),
        ("auto_map", "needs custom code"),
        ("empty", "since it has no config.json"),
    ],
)
def test_untrusted_encoders_are_rejected(tmp_path, how, message):
    folder = encoders.write_encoder_files(tmp_path / "a")
    broken(folder, how)
    with pytest.raises(InputError) as caught:
        encoder.describe_encoder(folder)
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_params_report_an_unusable_encoder(tmp_path):
    with pytest.raises(
        ConfigError, match="path is ''; it must be the folder of a sentence encoder"
    ):
        TextFeatures("encoder", path="")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / ".gitignore").write_text("*\n")
    with pytest.raises(InputError, match="empty is empty: put the files of a sentence encoder"):
        TextFeatures("encoder", path=str(tmp_path / "empty")).input  # noqa: B018
    raw = params.read_yaml(ROOT / "params.yaml")
    params.merge_into(
        raw,
        {
            "dataset": {
                "name": "clinc150",
                "clinc150": {"features": {"kind": "encoder", "path": str(tmp_path / "none")}},
            }
        },
    )
    for model, message in (
        (
            "textcnn",
            "must be bag, mlp or module for clinc150, whose examples are features of sentences",
        ),
        ("bag", "does not exist: specify the folder of a sentence encoder"),
    ):
        raw["model"]["name"] = model
        if model == "textcnn":
            raw["dataset"]["clinc150"]["features"]["path"] = str(
                encoders.write_encoder_files(tmp_path / "a")
            )
        with pytest.raises(StageError, match=message):
            params.parse(raw)
        raw["dataset"]["clinc150"]["features"]["path"] = str(tmp_path / "none")


def test_a_missing_library_is_reported_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    folder = encoders.write_encoder_files(tmp_path / "a")
    build = preprocessing.build(section(folder, path=folder))
    assert build(np.ones((2, 8))).shape == (2, 8), "existing embeddings need no encoder"
    with pytest.raises(
        InputError, match=r"needs one more package: pip install 'episodic-learning\[encoder\]'"
    ):
        build(["play a song"])


def test_the_environment_variable_names_the_encoder(tmp_path, monkeypatch):
    folder = encoders.write_encoder_files(tmp_path / "a")
    monkeypatch.delenv(encoder.ENCODER_VARIABLE, raising=False)
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)

    def message() -> str:
        with pytest.raises(InputError) as caught:
            preprocessing.build(section(folder))(["play a song"])
        return str(caught.value)

    assert message() == "the model needs the sentence encoder a: set EPISODIC_ENCODER to its folder"
    for path in (folder, tmp_path):
        monkeypatch.setenv(encoder.ENCODER_VARIABLE, str(path))
        assert "episodic-learning[encoder]" in message(), "found"
    other = encoders.write_encoder_files(tmp_path / "other", vocabulary=3)
    monkeypatch.setenv(encoder.ENCODER_VARIABLE, str(other))
    assert re.fullmatch(
        r".*other is not the encoder a that the model was trained with \(digest \w{12}, not "
        r"\w{12}\): put that encoder there, or train again",
        message(),
    )


# --- with the library -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    """A tiny encoder, and a text model that was trained on its embeddings by the stages."""
    pytest.importorskip(
        "sentence_transformers",
        reason="sentence-transformers is not installed: pip install 'episodic-learning[encoder]'",
    )
    folder = tmp_path_factory.mktemp("encoder")
    csv_of(folder / "intents.csv")
    encoders.write_tiny_encoder(folder / "tiny", TEXTS)
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    preset.apply_preset("tiny", folder / "params.yaml")
    text = (folder / "params.yaml").read_text()
    start = text.index("  text_folder:")
    text = text[:start] + text[start:].replace("kind: ngrams", "kind: encoder", 1).replace(
        "path: data/encoder", "path: tiny", 1
    )
    (folder / "params.yaml").write_text(text)
    changes = {
        "dataset.name": "text_folder",
        "dataset.source": "intents.csv",
        "text_folder.split_fractions": "[0.5, 0.25, 0.25]",
    }
    changes |= {"episodes.ways": "2", "model.name": "mlp", "algorithm.name": "protonet"}
    for key, value in changes.items():
        set_param(folder, key, value)
    run_stage(folder, "download", "--out", "raw")
    message, _ = run_stage(folder, "episodes", "--raw", "raw", "--out", "prepared")
    assert '"what": "sentences", "done": 192, "total": 192' in message
    run_stage(folder, "train", *TRAIN)
    run_stage(folder, "evaluate", *EVALUATE)
    return folder


def test_the_stages_use_the_encoder_and_record_it(workspace):
    examples = np.load(workspace / "prepared/examples.npy")
    assert examples.dtype == np.float32 and examples.shape == (len(TEXTS), 32)
    np.testing.assert_allclose(np.linalg.norm(examples, axis=1), 1, atol=1e-5)
    metrics = read_json(workspace / "metrics.json")
    assert metrics["baselines"]["encoder_centroid"]["accuracy"] > 0.5, "chance"
    inputs = read_json(workspace / "model/config.json")["inputs"]
    assert inputs == {
        "kind": "text",
        "features": "encoder",
        "encoder": encoder.describe_encoder(workspace / "tiny"),
    }
    assert (
        str(workspace)
        not in (workspace / "model/config.json").read_text()
        + (workspace / "prepared/meta.json").read_text()
    )


def test_the_same_sentences_give_the_same_bytes_with_no_network(workspace, monkeypatch):
    def refused(*args, **kwargs):
        raise AssertionError("the network is not for encoders")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    first = np.load(workspace / "prepared/examples.npy")
    run_stage(workspace, "episodes", "--raw", "raw", "--out", "again")
    assert (workspace / "again/examples.npy").read_bytes() == (
        workspace / "prepared/examples.npy"
    ).read_bytes()
    preprocessor = preprocessing.build(section(workspace / "tiny", path=workspace / "tiny"))
    texts = [text for label in sorted(corpus()) for text in corpus()[label]]
    np.testing.assert_allclose(preprocessor(texts[:5]).numpy(), first[:5], atol=1e-5)
    assert (
        preprocessor(["order a pizza", "play a song"])
        - preprocessor(["play a song", "order a pizza"]).flip(0)
    ).abs().max() == 0


def test_inference_uses_the_encoder_of_training(workspace, monkeypatch):
    texts, labels = (
        [text for label in ("mail", "bank") for text in corpus()[label][:6]],
        ["mail"] * 6 + ["bank"] * 6,
    )
    monkeypatch.setenv(encoder.ENCODER_VARIABLE, str(workspace))
    learner = episodic.load(workspace / "model")
    adapted = learner.adapt(texts, labels)
    predictions = adapted.predict(texts)
    assert (predictions == labels).mean() > 0.6
    adapted.save(workspace / "adapted")
    again = episodic.load_adapted(workspace / "adapted")
    np.testing.assert_allclose(again.predict_proba(texts), adapted.predict_proba(texts), atol=1e-6)
    encoders.write_tiny_encoder(workspace / "elsewhere" / "tiny", TEXTS, seed=1)
    monkeypatch.setenv(encoder.ENCODER_VARIABLE, str(workspace / "elsewhere"))
    with pytest.raises(InputError, match="is not the encoder tiny that the model was trained with"):
        episodic.load_adapted(workspace / "adapted").predict(texts)


def test_an_unreadable_encoder_is_an_error(workspace, tmp_path):
    folder = encoders.write_encoder_files(tmp_path / "a", model_type="bert")
    with pytest.raises(InputError, match="cannot be read as a sentence encoder") as caught:
        preprocessing.build(section(folder, path=folder))(["play a song"])
    assert len(str(caught.value).splitlines()) == 1
    assert torch.get_num_threads() == 1
