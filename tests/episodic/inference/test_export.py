"""Exported models give the same predictions in other runtimes."""

from __future__ import annotations

import json
import zipfile

import numpy as np
import pytest
import torch

import episodic
from episodic.core.registry import ALGORITHMS
from episodic.inference import export
from episodic.inference.export import ExportError
from episodic.inference.labels import AdaptError
from episodic.training import model_folder
from tests.episodic.algorithms.test_every_algorithm import CASES, sampler
from tests.episodic.algorithms.test_every_algorithm import trained as trained_of
from tests.episodic.inference.reliable import SETS, reliability, set_reliability
from tests.episodic.inference.test_few_shot import NAMES, folder_of

WHICH = [
    "anil",
    "feat",
    "logistic, leave one out",
    "maml_plus_plus",
    "matching_net",
    "meta_baseline",
    "metaoptnet",
    "metaoptnet, leave one out",
    "protonet",
    "ridge",
    "ridge, leave one out",
    "baseline_plus_plus",
    "meta_lstm",
    "simpleshot",
]
"""One of each kind of head; the other methods adapt the same network."""


def adapted_of(name: str, folder, members: int = 1):
    episode = sampler("test", shots=2)(torch.arange(1))
    labels = [NAMES[i] for i in episode.support_y[0].tolist()]
    # Features of an untrained network are so similar that ridge and simpleshot amplify rounding.
    theta = trained_of(name).theta if name in ("ridge", "simpleshot") else None
    return episodic.load(folder_of(name, folder, members, theta)).adapt(
        episode.support_x[0], labels
    ), episode.query_x[0]


def same(actual: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(
        actual, expected, atol=1e-5 * max(1.0, float(np.abs(expected).max()))
    )


@pytest.mark.parametrize("name", WHICH)
def test_onnxruntime_predicts_the_same(name, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime has no wheel for this Python")
    adapted, x = adapted_of(name, tmp_path / "run", members=2 if name == "anil" else 1)
    export.export_onnx(adapted, tmp_path / "model.onnx")
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    for n in (1, 2, 25):
        (probabilities,) = session.run(["probabilities"], {"x": x[:n].numpy()})
        same(probabilities, adapted.predict_proba(x[:n]))
    known = session.get_modelmeta().custom_metadata_map
    assert json.loads(known["classes"]) == sorted(NAMES)
    assert json.loads(known["inputs"]) == {"kind": "image", "inverted": True, "input": [1, 28, 28]}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "run"], (
        "one file and no temporary files"
    )


def test_the_exported_encoder_returns_the_input_of_the_head(tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime has no wheel for this Python")
    adapted, x = adapted_of("protonet", tmp_path / "run")
    export.export_onnx(adapted, tmp_path / "encoder.onnx", encoder=True)
    (features,) = runtime.InferenceSession(str(tmp_path / "encoder.onnx")).run(
        ["features"], {"x": x.numpy()}
    )
    same(features, adapted.features(x).detach().numpy())
    # The algorithm predicts the nearest class mean of these features.
    support = adapted.features(adapted.support.support_x[0]).detach().numpy()
    means = np.stack([support[adapted.support.support_y[0].numpy() == c].mean(0) for c in range(5)])
    nearest = ((features[:, None] - means) ** 2).sum(-1).argmin(1)
    assert (np.array(sorted(NAMES))[nearest] == adapted.predict(x)).all()


def reliable_of(score: str, folder):
    """A model with two members for which about half of the queries are unknown."""
    episode = sampler("test", shots=2)(torch.arange(1))
    x, folder = episode.query_x[0], folder_of("protonet", folder, 2)

    def adapt(threshold: float):
        model = episodic.load(set_reliability(folder, reliability(score, threshold)))
        return model.adapt(episode.support_x[0], episode.support_y[0])

    familiarity = np.sort(adapt(0.0).predict_all(x, unknown=True).familiarity)
    threshold = float(familiarity[11:13].mean())
    return adapt(threshold), x, threshold


@pytest.mark.parametrize("score", ["max_softmax", "neighbour_distance"])
def test_unknown_classes_and_sets_are_further_outputs(score, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime has no wheel for this Python")
    adapted, x, threshold = reliable_of(score, tmp_path / "run")
    export.export_onnx(adapted, tmp_path / "model.onnx", unknown=True, coverage=0.8)
    export.export_torch(adapted, tmp_path / "model.pt2", unknown=True, coverage=0.8)
    session = runtime.InferenceSession(str(tmp_path / "model.onnx"))
    names = [output.name for output in session.get_outputs()]
    assert names == ["probabilities", "familiarity", "is_unknown", "in_set"]
    expected = adapted.predict_all(x, unknown=True)
    assert expected.is_unknown.sum() == 12
    members = expected.find_members(0.8)
    assert 0 < members.sum() < members.size
    program = torch.export.load(tmp_path / "model.pt2").module()
    for outputs in (session.run(names, {"x": x.numpy()}), program(x)):
        probabilities, familiarity, is_unknown, in_set = map(np.asarray, map(detach, outputs))
        same(probabilities, expected.probabilities)
        same(familiarity, expected.familiarity)
        np.testing.assert_array_equal(is_unknown, expected.is_unknown)
        np.testing.assert_array_equal(in_set, members)
    known = session.get_modelmeta().custom_metadata_map
    assert json.loads(known["unknown"]) == {"score": score, "threshold": threshold}
    assert json.loads(known["sets"]) == {"coverage": 0.8, "minimum": SETS.find_minimum(0.8)}


def detach(output):
    return output.detach() if isinstance(output, torch.Tensor) else output


def test_further_outputs_are_added_only_where_asked_for(tmp_path):
    adapted, x, _ = reliable_of("energy", tmp_path / "run")
    for options, names in (
        ({}, ["probabilities"]),
        ({"unknown": True}, ["probabilities", "familiarity", "is_unknown"]),
        ({"coverage": 0.8}, ["probabilities", "in_set"]),
    ):
        module = export.build_module(adapted, **options)
        outputs = module(x)
        assert module.output_names == names
        assert torch.is_tensor(outputs) if len(names) == 1 else len(outputs) == len(names)
        assert ("unknown" in module.metadata) == ("familiarity" in names)
        assert ("sets" in module.metadata) == ("in_set" in names)
    with pytest.raises(ExportError, match="features have no unknown classes"):
        export.build_module(adapted, encoder=True, unknown=True)
    without, _ = adapted_of("protonet", tmp_path / "other")
    for options in ({"unknown": True}, {"coverage": 0.9}):
        with pytest.raises(AdaptError, match="an earlier version trained it"):
            export.export_onnx(without, tmp_path / "model.onnx", **options)
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize("name", ["maml", "ridge"])
def test_torch_export_predicts_the_same(name, tmp_path):
    adapted, x = adapted_of(name, tmp_path / "run")
    export.export_torch(adapted, tmp_path / "model.pt2")
    extra = {"classes": ""}
    program = torch.export.load(tmp_path / "model.pt2", extra_files=extra).module()
    for n in (1, 7):
        same(program(x[:n]).detach().numpy(), adapted.predict_proba(x[:n]))
    assert json.loads(extra["classes"]) == sorted(NAMES)
    with zipfile.ZipFile(tmp_path / "model.pt2") as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    held = [
        member
        for member, content in members.items()
        if content and (content[:2] == b"PK" or member.endswith((".pt", ".pkl")))
    ]
    assert len(members) > 5 and held == [], "pickles, which torch.save would leave"


def test_a_curve_is_exported(tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="onnxruntime has no wheel for this Python")
    config = {
        "algorithm": {"name": "maml", "inner_lr": 0.01, "inner_steps": 1},
        "model": {"name": "mlp", "hidden": [40]},
        "ways": 1,
        "shots": 5,
        "batch_norm": "transductive",
        "input": [1],
        "inputs": {"kind": "numbers"},
        "kind": "regression",
        "classes": 0,
    }
    model_folder.save(tmp_path / "run", [model_folder.build_learner(config).init(0)], config)
    x = np.linspace(-5, 5, 5, dtype=np.float32)[:, None]
    adapted = episodic.load(tmp_path / "run").adapt(x, np.sin(x))
    export.export_onnx(adapted, tmp_path / "model.onnx")
    (targets,) = runtime.InferenceSession(str(tmp_path / "model.onnx")).run(["targets"], {"x": x})
    same(targets[:, 0], adapted.predict(x))


def test_unadapted_model_is_not_exported(tmp_path):
    model = episodic.load(folder_of("maml", tmp_path / "run"))
    with pytest.raises(
        ExportError,
        match="the inner loop cannot be exported: adapt the model to a task first",
    ):
        export.export_onnx(model, tmp_path / "model.onnx")  # type: ignore[arg-type]
    assert not (tmp_path / "model.onnx").exists()


def test_every_kind_of_head_is_covered():

    defined = {
        name
        for name in ALGORITHMS
        if any(attribute in vars(ALGORITHMS[name]) for attribute in ("query_outputs", "solve_head"))
    }
    inductive = {name for name in defined if not ALGORITHMS[name].transductive}
    assert {CASES[name].method or name for name in WHICH} >= inductive - {"finetune"}, (
        "an algorithm with its own predictions"
    )


@pytest.mark.parametrize("write", [export.export_onnx, export.export_torch])
def test_predictions_of_a_transductive_algorithm_are_not_exported(write, tmp_path):
    adapted, x = adapted_of("tim", tmp_path / "run")
    with pytest.raises(ExportError, match="of tim depend on the other examples"):
        write(adapted, tmp_path / "model")
    assert not (tmp_path / "model").exists()
    export.export_torch(adapted, tmp_path / "encoder.pt2", encoder=True)
    features = torch.export.load(tmp_path / "encoder.pt2").module()(x)
    same(features.detach().numpy(), adapted.features(x).detach().numpy())
