"""Every algorithm adapts, predicts, is saved and loaded; corrupt folders are rejected."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import episodic
from episodic.core import checkpoint
from episodic.core.errors import UserError
from episodic.core.model import Params
from episodic.inference.adapted import CHUNK
from episodic.inference.few_shot import FewShotLearner
from episodic.inference.labels import AdaptError
from episodic.preprocessing.base import InputError
from episodic.training import evaluation, model_folder
from episodic.training.model_folder import ModelFolderError
from tests.episodic.algorithms.test_every_algorithm import (
    CASES,
    QUERIES,
    SHOTS,
    WAYS,
    learner,
    sampler,
)

NAMES = ["pear", "fig", "apple", "date", "lime"]


def folder_of(name: str, path: Path, members: int = 1, theta: Params | None = None) -> Path:
    """A model as the stage train writes it: untrained, or with the parameters `theta`."""
    case, meta_learner = CASES[name], learner(name)
    method = case.method or name
    config = {
        "algorithm": {"name": method} | asdict(meta_learner.algorithm),
        "model": {"name": "conv4", "filters": 12},
        "batch_norm": "transductive",
        "input": [1, 28, 28],
        "inputs": {"kind": "image", "inverted": True},
        "kind": "classification",
        "ways": WAYS,
        "shots": SHOTS,
        "classes": len(sampler("train").counts),
        "dataset": "glyphs",
        "iteration": 1,
        "iterations": 1,
        "validation": 0.5,
    }
    model_folder.save(path, [theta or meta_learner.init(seed) for seed in range(members)], config)
    return path


@pytest.fixture(scope="module")
def protonet(tmp_path_factory) -> Path:
    return folder_of("protonet", tmp_path_factory.mktemp("model") / "run")


@pytest.mark.parametrize("name", CASES)
def test_predictions_equal_those_of_the_evaluation(name, tmp_path):
    """Inference and evaluation give the same outputs, also after saving and loading."""
    model = episodic.load(folder_of(name, tmp_path / "run"))
    episode = sampler("test", shots=2)(torch.arange(1))
    inductive = replace(learner(name), batch_norm="inductive")
    steps = evaluation.count_inner_steps(inductive, None)
    expected = (
        evaluation.adaptation_curve(
            inductive, [model.trained.members[0]], episode, [steps], ["inductive"]
        )
        .outputs[0, 0]
        .softmax(-1)
    )
    labels = [sorted(NAMES)[i] for i in episode.support_y[0].tolist()]
    adapted = model.adapt(episode.support_x[0], labels)
    probabilities = adapted.predict_proba(episode.query_x[0])
    assert adapted.classes_ == tuple(sorted(NAMES)) and probabilities.shape == (
        WAYS * QUERIES,
        WAYS,
    )
    np.testing.assert_allclose(probabilities, expected.numpy(), atol=2e-5)
    assert (
        adapted.predict(episode.query_x[0]) == np.array(sorted(NAMES))[probabilities.argmax(1)]
    ).all()
    single = np.concatenate(
        [adapted.predict_proba(episode.query_x[0, i : i + 1]) for i in range(5)]
    )
    if adapted.transductive:
        assert np.abs(single - probabilities[:5]).max() > 1e-3, "queries are predicted together"
    else:
        np.testing.assert_allclose(
            single, probabilities[:5], atol=2e-5, err_msg="it depends on the other queries"
        )
    adapted.save(tmp_path / "adapted")
    again = episodic.load_adapted(tmp_path / "adapted")
    np.testing.assert_allclose(again.predict_proba(episode.query_x[0]), probabilities, atol=1e-6)
    assert again.classes_ == adapted.classes_ and all(
        (again.thetas[0][n] == p).all() for n, p in adapted.thetas[0].items()
    )
    files = {path.name for path in (tmp_path / "adapted").iterdir()}
    assert files - {"meta_parameters.safetensors"} == {
        "config.json",
        "support.safetensors",
        "weights.safetensors",
    }


@pytest.mark.parametrize("name", CASES)
def test_unequal_shots_and_different_ways_work_or_raise(name, tmp_path):
    model = episodic.load(folder_of(name, tmp_path / "run"))
    episode = sampler("test", shots=3)(torch.arange(1))
    x, y = episode.support_x[0], episode.support_y[0]
    uneven = torch.tensor([0, 1, 2, 3, 6, 9, 12])  # three of the first class, one of each other
    adapted = model.adapt(x[uneven], y[uneven].tolist())
    assert np.isfinite(adapted.predict_proba(episode.query_x[0])).all()
    adapted.save(tmp_path / "adapted")
    assert (episodic.load_adapted(tmp_path / "adapted").predict(x) == adapted.predict(x)).all()
    three = x[:9], y[:9].tolist()
    if (
        model.trained.learner.test_variant.algorithm.any_ways
        or model.trained.learner.algorithm.labels == "split"
    ):
        assert model.adapt(*three).predict_proba(x).shape == (15, 3)
    else:
        with pytest.raises(
            AdaptError,
            match=rf"3 classes: {CASES[name].method or name} was trained for 5 classes per task",
        ):
            model.adapt(*three)


def test_a_transductive_model_gets_all_queries_at_once(tmp_path):
    """More of them than an inductive model predicts at once; the order does not matter."""
    model = episodic.load(folder_of("bd_cspn", tmp_path / "run"))
    episode = sampler("test", queries=15)(torch.arange(1))
    queries = torch.cat([episode.query_x[0], episode.query_x[0].flip(-1)])
    adapted = model.adapt(episode.support_x[0], NAMES)
    assert adapted.transductive and len(queries) > CHUNK
    probabilities = adapted.predict_proba(queries)
    np.testing.assert_allclose(
        adapted.predict_proba(queries.flip(0)), probabilities[::-1], atol=1e-5
    )
    in_chunks = np.concatenate([adapted.predict_proba(part) for part in queries.split(CHUNK)])
    assert np.abs(in_chunks - probabilities).max() > 1e-3
    protonet = episodic.load(folder_of("protonet", tmp_path / "protonet"))
    assert not protonet.adapt(episode.support_x[0], NAMES).transductive


def test_labels_of_any_hashable_kind(protonet, tmp_path):
    model = episodic.load(protonet)
    x = sampler("test")(torch.arange(1)).support_x[0]
    for labels in (
        [3, 1, 2, 5, 4],
        [True, False, True, False, True],
        [("a", 1), None, "b", 2.5, frozenset()],
        np.array(list("edcba")),
    ):
        adapted = model.adapt(x, labels)
        listed = [label.item() if isinstance(label, np.generic) else label for label in labels]
        assert set(adapted.classes_) == set(listed)
        if len(set(listed)) == 5:
            assert adapted.predict(x).tolist() == listed, (
                "every example is its own nearest neighbour"
            )
    with pytest.raises(
        AdaptError, match=r"the label \('a', 1\) is a tuple: only text and numbers can be written"
    ):
        model.adapt(x, [("a", 1), 2, 3, 4, 5]).save(tmp_path / "adapted")
    assert not (tmp_path / "adapted").exists()
    for labels, message in (
        ([1, 2], "there are 5 examples and 2 labels"),
        ([1] * 5, "are of the class 1: add examples of at least one other class"),
        ([[1], 2, 3, 4, 5], "is a list: a label must be hashable"),
    ):
        with pytest.raises(AdaptError, match=message):
            model.adapt(x, labels)


def test_paths_pillow_images_and_bytes_match_training_inputs(protonet, tmp_path):
    episode = sampler("test")(torch.arange(1))
    pixels = (episode.support_x[0, :, 0] * 255).round().to(torch.uint8).numpy()
    paths = []
    for i, ink in enumerate(pixels):
        Image.fromarray(255 - ink).save(path := tmp_path / f"{i}.png")
        paths.append(path)
    inputs = episodic.load(protonet).inputs
    for given in (
        paths,
        list(map(str, paths)),
        [Image.open(p) for p in paths],
        [p.read_bytes() for p in paths],
        pixels[:, None],
    ):
        assert (inputs(given) == episode.support_x[0]).all()


def test_the_predictions_of_an_ensemble_are_averaged(tmp_path):
    model = episodic.load(folder_of("maml", tmp_path / "run", members=3))
    episode = sampler("test")(torch.arange(1))
    adapted = model.adapt(episode.support_x[0], episode.support_y[0])
    each = [
        replace(adapted, thetas=[theta]).predict_proba(episode.query_x[0])
        for theta in adapted.thetas
    ]
    np.testing.assert_allclose(
        adapted.predict_proba(episode.query_x[0]), np.mean(each, 0), atol=1e-6
    )
    adapted.save(tmp_path / "adapted")
    assert len(episodic.load_adapted(tmp_path / "adapted").thetas) == 3


def test_evaluation_on_own_classes_is_that_of_the_library(protonet):
    """The same episodes from a sampler give the same scores; too few examples are an error."""
    model = episodic.load(protonet)
    images, _, counts = (sampler("test").examples, sampler("test").offsets, sampler("test").counts)
    x = images[-20 * 8 :]
    y = [f"c{i // 20}" for i in range(len(x))]
    result = model.evaluate(x, y, ways=4, shots=2, queries=3, episodes=7, seed=5)
    from episodic.data.sampling import ClassSampler

    drawn = ClassSampler(x, torch.arange(8) * 20, counts[:8], 5, "test", 4, 2, 3)(torch.arange(7))
    expected, _ = evaluation.episode_scores(
        replace(model.trained.learner, batch_norm="inductive"), model.trained.members[0], drawn, 0
    )
    np.testing.assert_allclose(result.scores, expected)
    assert (
        result.summary["accuracy"] == pytest.approx(expected.mean())
        and result.summary["chance"] == 0.25
    )
    for options, message in (
        ({"ways": 9}, "an episode has 9 classes, and there are only 8"),
        ({"shots": 18}, r"needs 18 \+ 5 examples, and 'c0' has 20"),
        ({"ways": 0}, "^ways is 0; it must be at least 2$"),
        ({"ways": 1}, "^ways is 1; it must be at least 2$"),
        ({"shots": -1}, "^shots is -1; it must be at least 1$"),
        ({"queries": 0}, "^queries is 0; it must be at least 1$"),
        ({"episodes": 1}, "^episodes is 1; it must be at least 2$"),
    ):
        with pytest.raises(AdaptError, match=message):
            model.evaluate(x, y, **options)


def test_unbalanced_query_sets_are_those_of_the_sampler(protonet):
    """The number of queries per episode is constant, and their classes are not equally frequent."""
    model = episodic.load(protonet)
    x = sampler("test").examples[-20 * 8 :]
    y = [f"c{i // 20}" for i in range(len(x))]
    result = model.evaluate(x, y, 4, 2, 3, 30, 5, query_balance=0.5)
    from episodic.data.sampling import ClassSampler

    counts = torch.full((8,), 20)
    drawn = ClassSampler(x, torch.arange(8) * 20, counts, 5, "test", 4, 2, 3, query_balance=0.5)(
        torch.arange(30)
    )
    assert drawn.query_y.shape == (30, 12)
    assert len({tuple(labels.bincount(minlength=4).tolist()) for labels in drawn.query_y}) > 5
    expected, _ = evaluation.episode_scores(
        replace(model.trained.learner, batch_norm="inductive"), model.trained.members[0], drawn, 0
    )
    np.testing.assert_allclose(result.scores, expected)
    assert abs(result.scores - model.evaluate(x, y, 4, 2, 3, 30, 5).scores).max() > 0


def test_a_curve_is_fitted(tmp_path):
    """Regression: the model of the sinusoid's shape, adapted to points, predicts numbers."""
    config = {
        "algorithm": {"name": "maml", "inner_lr": 0.01, "inner_steps": 1},
        "model": {"name": "mlp", "hidden": [40, 40]},
        "ways": 1,
        "shots": 10,
        "batch_norm": "transductive",
        "input": [1],
        "inputs": {"kind": "numbers"},
        "kind": "regression",
        "classes": 0,
    }
    model_folder.save(tmp_path / "run", [model_folder.build_learner(config).init(0)], config)
    model = episodic.load(tmp_path / "run")
    x = np.linspace(-5, 5, 10)[:, None]
    y = 2 * np.sin(x[:, 0])
    errors = [
        float(np.mean((model.adapt(x, y, steps).predict(x) - y) ** 2)) for steps in (0, 1, 20)
    ]
    assert errors[0] > errors[1] > errors[2]
    adapted = model.adapt(x, y)
    with pytest.raises(AdaptError, match="has no class probabilities"):
        adapted.predict_proba(x)
    adapted.save(tmp_path / "adapted")
    assert (episodic.load_adapted(tmp_path / "adapted").predict(x) == adapted.predict(x)).all()
    with pytest.raises(AdaptError, match="must contain 10 finite numbers"):
        model.adapt(x, y[:3])


# Corrupt folders.


def tampered(folder: Path, change) -> None:
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))


CONFIGS = {
    "has format 1, not 2": lambda c: c.update(format=1),
    "lacks 'algorithm'": lambda c: c.pop("algorithm"),
    "lacks 'ways'": lambda c: c.pop("ways"),
    "must be one of anil": lambda c: c["algorithm"].update(name="os.system"),
    "does not describe a model": lambda c: c["model"].update(filters="many"),
    "unexpected keyword": lambda c: c["model"].update(filter=3),
    "ensemble is 0": lambda c: c.update(ensemble=0),
    "the section `inputs` is invalid": lambda c: c.update(
        inputs={"kind": "image", "inverse": True}
    ),
    "kind is 'clustering'": lambda c: c.update(kind="clustering"),
    "has shape": lambda c: c["model"].update(filters=13),
}


@pytest.mark.parametrize("message", CONFIGS)
def test_untrusted_configs_are_rejected(message, tmp_path):
    folder = folder_of("protonet", tmp_path / "run")
    tampered(folder, CONFIGS[message])
    with pytest.raises(UserError) as caught:
        episodic.load(folder)
    assert message in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_untrusted_weights_are_rejected(tmp_path):
    folder = folder_of("protonet", tmp_path / "run")
    path = folder / "weights.safetensors"
    tensors, _ = checkpoint.load(path)
    first = next(iter(tensors))
    for changed, message in (
        ({name: t for name, t in tensors.items() if name != first}, f"lacks {first}"),
        (tensors | {"more": torch.ones(1)}, "contains more, which the model does not have"),
        (
            tensors | {first: torch.full_like(tensors[first], torch.nan)},
            f"{first} contains values that are not finite",
        ),
        (tensors | {first: torch.ones(3)}, r"has shape \[3\]"),
    ):
        checkpoint.save(path, changed, {})
        with pytest.raises(UserError, match=message) as caught:
            episodic.load(folder)
        assert len(str(caught.value).splitlines()) == 1
    path.write_bytes(b"not weights")
    with pytest.raises(UserError, match="is not a valid checkpoint"):
        episodic.load(folder)
    path.unlink()
    with pytest.raises(UserError, match=r"the checkpoint \S+ does not exist"):
        episodic.load(folder)
    for name, message in (
        ("nowhere", "does not exist: specify"),
        (".", "contains no model"),
    ):
        with pytest.raises(ModelFolderError, match=message):
            episodic.load(tmp_path / name)


def test_untrusted_adapted_models_are_rejected(protonet, tmp_path):
    x = sampler("test")(torch.arange(1)).support_x[0]
    folder = tmp_path / "adapted"
    adapted = episodic.load(protonet).adapt(x, NAMES)
    with pytest.raises(ModelFolderError, match="not adapted to a task yet"):
        episodic.load_adapted(protonet)
    adapted.save(folder)
    with pytest.raises(ModelFolderError, match="is already adapted to a task"):
        episodic.load(folder)
    good = {"x": x, "y": torch.arange(5)}
    for support in (
        {"x": x},
        good | {"y": torch.arange(1, 6)},
        good | {"y": torch.arange(5.0)},
        good | {"x": x[:, :, 1:]},
        good | {"x": x * torch.nan},
        good | {"x": x[:4]},
    ):
        checkpoint.save(folder / "support.safetensors", support, {})
        with pytest.raises(ModelFolderError, match="does not match the support set"):
            episodic.load_adapted(folder)
    checkpoint.save(folder / "support.safetensors", good, {})
    tampered(folder, lambda c: c["adapted"].update(classes=[NAMES[0], *NAMES[:4]]))
    with pytest.raises(ModelFolderError, match="does not match the support set"):
        episodic.load_adapted(folder)
    tampered(folder, lambda c: c["adapted"].update(classes=list(NAMES)))
    episodic.load_adapted(folder)
    tampered(folder, lambda c: c.update(adapted=3))
    with pytest.raises(ModelFolderError, match="does not match the support set"):
        episodic.load_adapted(folder)


def test_a_model_loads_without_the_pipeline(protonet, tmp_path):
    """It loads without Prefect, DVC, pandas, torchvision or the tasks."""
    Image.fromarray(np.full((40, 30), 255, np.uint8)).save(tmp_path / "white.png")
    program = f"""
import sys
for name in "prefect dvc pandas torchvision pydantic ruamel tasks flows typer".split():
    sys.modules[name] = None
import episodic
white = {str(tmp_path / "white.png")!r}
print(episodic.load({str(protonet)!r}).adapt([white, white], ["a", "b"]).predict([white]))
"""
    ended = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0 and ended.stdout.startswith("['"), ended.stderr


def test_devices_are_checked(protonet):
    with pytest.raises(UserError, match="must be one of auto, cpu, cuda, mps"):
        episodic.load(protonet, "tpu")
    if not torch.backends.mps.is_available():
        with pytest.raises(UserError, match="it needs an Apple GPU"):
            episodic.load(protonet, "mps")
    assert isinstance(episodic.load(protonet, "auto"), FewShotLearner)


def test_a_single_example_instead_of_a_list_is_an_error(protonet):
    for single in ("a.png", Path("a.png"), b"bytes", Image.new("L", (3, 3))):
        with pytest.raises(InputError, match="put a single image in a list"):
            episodic.load(protonet).inputs(single)
