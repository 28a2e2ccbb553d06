"""Adding, removing and correcting examples of adapted models, and what they forget."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from photographs import write_photographs

import episodic
from episodic.core import checkpoint
from episodic.inference.forgetting import Forgetting, measure_forgetting
from episodic.inference.heads import HEADS
from episodic.inference.labels import AdaptError
from episodic.preprocessing.encoders.architectures import LITE0
from episodic.preprocessing.sentences.ngrams import fit_idf
from episodic.training import model_folder
from episodic.training.model_folder import ModelFolderError
from tests.episodic.algorithms.test_every_algorithm import CASES, sampler, trained
from tests.episodic.inference.test_few_shot import folder_of, tampered

pytestmark = pytest.mark.usefixtures("own_cache")


def content(folder: Path) -> dict[str, Any]:
    """All bytes of a folder; of config.json, all but the history."""
    files: dict[str, Any] = {path.name: path.read_bytes() for path in folder.iterdir()}
    config = json.loads(files["config.json"])
    del config["adapted"]["history"]
    return files | {"config.json": config}


def images() -> tuple[torch.Tensor, np.ndarray]:
    """Five classes of twenty images."""
    return sampler("test").examples[-100:].float() / 255, np.repeat(list("abcde"), 20)


def assert_grown(learner, x, y, old: list[int], new: list[int], folder: Path) -> None:
    """A model that is extended in memory, or from its folder, is one that is adapted anew."""
    adapted = learner.adapt([x[i] for i in old], [y[i] for i in old])
    adapted.save(folder / "adapted")
    loaded = episodic.load_adapted(folder / "adapted")
    more = [x[i] for i in new], [y[i] for i in new]
    adapted.add(*more).save(folder / "grown")
    loaded.add(*more).save(folder / "grown from its folder")
    learner.adapt([x[i] for i in old + new], [y[i] for i in old + new]).save(folder / "anew")
    anew = content(folder / "anew")
    assert content(folder / "grown") == anew == content(folder / "grown from its folder")
    assert anew["support.safetensors"] != content(folder / "adapted")["support.safetensors"]
    loaded.save(folder / "again")
    assert content(folder / "again") == content(folder / "adapted"), "the old model is unchanged"


@pytest.mark.parametrize("name", CASES)
def test_a_grown_model_has_the_bytes_of_one_adapted_anew(name, tmp_path):
    """With a new class, if the algorithm can have one."""
    learner = episodic.load(folder_of(name, tmp_path / "run", members=2))
    x, y = images()
    old = [0, 1, 20, 21, 40, 41, 42]
    if not learner.any_ways:
        old += [60, 80]
    assert_grown(learner, list(x), y.tolist(), old, [2, 22, 61, 62, 23], tmp_path)


@pytest.mark.parametrize("head", HEADS)
def test_photographs_grow_with_every_head(head, tmp_path):
    folder = write_photographs(tmp_path / "photographs", "abc", per_class=3, size=(48, 48))
    files = sorted(folder.glob("*/*.png"))
    learner = episodic.from_encoder(LITE0, head)
    labels = [path.parent.name for path in files]
    assert_grown(learner, files, labels, [0, 1, 3, 4], [6, 2, 7], tmp_path)


def test_sentences_grow(tmp_path):
    greetings, others = ["good morning", "good evening", "hello you"], ["buy milk", "buy bread"]
    x, y = greetings + others + ["how are you"], ["greet"] * 3 + ["shop"] * 2 + ["ask"]
    config = {
        "algorithm": {"name": "protonet"},
        "model": {"name": "bag"},
        "batch_norm": "transductive",
        "input": [256],
        "inputs": {"kind": "text", "features": "ngrams", "idf": fit_idf(x, 256)},
        "kind": "classification",
        "ways": 2,
        "shots": 1,
        "classes": 3,
    }
    model_folder.save(tmp_path / "run", [model_folder.build_learner(config).init(0)], config)
    assert_grown(episodic.load(tmp_path / "run"), x, y, [0, 1, 3], [5, 4, 2], tmp_path)


def test_a_regression_model_grows_and_is_corrected(tmp_path):
    config = {
        "algorithm": {"name": "maml", "inner_lr": 0.01, "inner_steps": 1},
        "model": {"name": "mlp", "hidden": [20]},
        "ways": 1,
        "shots": 10,
        "batch_norm": "transductive",
        "input": [1],
        "inputs": {"kind": "numbers"},
        "kind": "regression",
        "classes": 0,
    }
    model_folder.save(tmp_path / "run", [model_folder.build_learner(config).init(0)], config)
    learner = episodic.load(tmp_path / "run")
    x = [[0.1 * i] for i in range(8)]
    y = [0.3 * i for i in range(8)]
    assert_grown(learner, x, y, [0, 1, 2, 3], [4, 5], tmp_path)
    adapted = learner.adapt(x, y)
    corrected = adapted.correct([x[2]], 5.0)
    expected = learner.adapt(x[:2] + x[3:] + [x[2]], y[:2] + y[3:] + [5.0])
    assert (corrected.predict(x) == expected.predict(x)).all()
    with pytest.raises(AdaptError, match=r"row of numbers 0: it is an example of 0\.0 already"):
        adapted.add([x[0]], [1.0])
    with pytest.raises(AdaptError, match="a regression model has no classes to remove"):
        adapted.remove(0.0)
    with pytest.raises(AdaptError, match="a regression model has no classes whose accuracy"):
        measure_forgetting(adapted, corrected, x, y)


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "run"
    return episodic.load(folder_of("protonet", folder, theta=trained("protonet").theta))


@pytest.fixture(scope="module")
def adapted(learner):
    """Two images of each of the classes a, b and c."""
    x, y = images()
    rows = [0, 1, 20, 21, 40, 41]
    return learner.adapt(x[rows], y[rows])


def assert_adapted_to(model, learner, rows: list[int], labels: str, folder: Path) -> None:
    x, _ = images()
    model.save(folder / "changed")
    learner.adapt(x[rows], list(labels)).save(folder / "anew")
    assert content(folder / "changed") == content(folder / "anew")


def test_a_removed_class_leaves_no_trace(adapted, learner, tmp_path):
    assert_adapted_to(adapted.remove("b"), learner, [0, 1, 40, 41], "aacc", tmp_path)
    assert adapted.classes_ == ("a", "b", "c")
    with pytest.raises(AdaptError, match="of the classes, only 'c' would be left: an adapted"):
        adapted.remove("b").remove("a")
    with pytest.raises(
        AdaptError, match=r"no class 'bb'; its classes are a, b, c - did you mean b\?$"
    ):
        adapted.remove("bb")


def test_a_correction_moves_an_example_that_the_model_has(adapted, learner, tmp_path):
    """It was labelled wrongly."""
    x, _ = images()
    corrected = adapted.correct(x[[20]], "c")
    assert_adapted_to(corrected, learner, [0, 1, 21, 40, 41, 20], "aabccc", tmp_path)
    change = corrected.history[-1]
    assert (change.action, change.classes, change.previous) == ("correct", {"c": 1}, {"b": 1})
    back = corrected.correct(x[[20]], "b")
    assert_adapted_to(back, learner, [0, 1, 21, 20, 40, 41], "aabbcc", tmp_path)


def test_a_correction_adds_an_example_that_the_model_does_not_have(adapted, learner, tmp_path):
    """It was predicted wrongly."""
    x, _ = images()
    corrected = adapted.correct(x[[22, 0]], ["b", "a"])
    assert_adapted_to(corrected, learner, [0, 1, 20, 21, 22, 40, 41], "aabbbcc", tmp_path)
    change = corrected.history[-1]
    assert (change.classes, change.previous) == ({"b": 1}, {}), "the first image of a is known"
    assert adapted.correct(x[[0]], "a") is adapted


def test_invalid_corrections(adapted):
    x, _ = images()
    with pytest.raises(AdaptError, match=r"no class 'z'; its classes are a, b, c \(add examples"):
        adapted.correct(x[[22]], "z")
    with pytest.raises(AdaptError, match="'b' would have no example left: add another example"):
        adapted.correct(x[[20, 21]], "a")
    with pytest.raises(AdaptError, match="there are 2 examples and 3 labels"):
        adapted.correct(x[[20, 21]], ["a", "b", "c"])


def test_an_example_has_one_label(adapted):
    x, _ = images()
    with pytest.raises(AdaptError) as caught:
        adapted.add(x[[50, 20, 0, 50]], ["d", "c", "a", "c"])
    assert str(caught.value).splitlines() == [
        "image 1: it is an example of 'b' already, not of 'c': correct its label, or leave it out",
        "image 3: it is an example of 'd' already, not of 'c': correct its label, or leave it out",
    ]


def test_labels_of_one_or_all(adapted, learner):
    x, _ = images()
    one, each = adapted.add(x[60:63], "d"), adapted.add(x[60:63], np.array(["d"] * 3))
    assert one.history == each.history and one.classes_ == ("a", "b", "c", "d")
    numbers = learner.adapt(x[[0, 20]], [1, 2]).add(x[[40, 60]], np.int64(3))
    assert numbers.classes_ == (1, 2, 3) and numbers.shots.tolist() == [1, 1, 2]


def test_algorithms_with_fixed_ways(tmp_path):
    """A class cannot be added or removed; examples can be added and corrected."""
    x, y = images()
    rows = [0, 1, 20, 21, 40, 60, 80]
    learner = episodic.load(folder_of("maml", tmp_path / "run"))
    adapted = learner.adapt(x[rows], y[rows], steps=3)
    sixth = sampler("test").examples[:1].float() / 255
    for change in (lambda: adapted.add(sixth, "f"), lambda: adapted.remove("a")):
        with pytest.raises(AdaptError, match=r"has [64] classes: maml was trained for 5 classes"):
            change()
    adapted.save(tmp_path / "adapted")
    loaded = episodic.load_adapted(tmp_path / "adapted")
    loaded.correct(x[[1, 61]], ["b", "d"]).save(tmp_path / "changed")
    expected = learner.adapt(x[[0, 20, 21, 1, 40, 60, 61, 80]], list("abbbcdde"), steps=3)
    expected.save(tmp_path / "anew")
    assert content(tmp_path / "changed") == content(tmp_path / "anew")
    assert content(tmp_path / "anew")["config.json"]["adapted"]["steps"] == 3


def test_the_history_survives_saving_and_depends_on_content(adapted, tmp_path):
    x, _ = images()
    grown = adapted.add(x[60:63], "d").remove("a").correct(x[[22]], "b")
    grown.save(tmp_path / "grown")
    loaded = episodic.load_adapted(tmp_path / "grown")
    assert loaded.history == grown.history
    assert [(change.action, change.classes) for change in loaded.history] == [
        ("adapt", {"a": 2, "b": 2, "c": 2}),
        ("add", {"d": 3}),
        ("remove", {"a": 2}),
        ("correct", {"b": 1}),
    ]
    first = adapted.add(x[60:63], "d").history[-1].digest
    assert first == grown.history[1].digest
    others = [(x[61:64], "d"), (x[60:63], "e"), (x[60:62], "d")]
    assert first not in {adapted.add(*other).history[-1].digest for other in others}


def test_folders_of_earlier_versions_predict_and_do_not_grow(adapted, tmp_path):
    x, _ = images()
    adapted.save(tmp_path / "old")
    tampered(tmp_path / "old", lambda c: c["adapted"].pop("history"))
    old = episodic.load_adapted(tmp_path / "old")
    assert (old.predict(x) == adapted.predict(x)).all() and old.history == ()
    for change in (lambda: old.add(x[:1], "a"), lambda: old.remove("a")):
        with pytest.raises(AdaptError, match="lacks the meta-parameters that a change of its"):
            change()
    old.save(tmp_path / "again")
    assert episodic.load_adapted(tmp_path / "again").learner is None


def test_untrusted_folders_are_rejected(tmp_path):
    x, y = images()
    folder = tmp_path / "adapted"
    learner = episodic.load(folder_of("maml", tmp_path / "run"))
    adapted = learner.adapt(x[::20], y[::20], steps=1)
    for change, message in (
        (lambda c: c.update(history=3), "the history is invalid"),
        (lambda c: c.update(history=[{"action": "adopt"}]), "the history is invalid"),
        (lambda c: c["history"][0].update(examples="5"), "the history is invalid"),
        (lambda c: c["history"][0].update(when="today"), "the history is invalid"),
        (lambda c: c.update(steps=-1), "steps is -1; it must be between 0 and"),
        (lambda c: c.update(meta_parameters=3), "adapt again"),
        (lambda c: c.update(meta_parameters=0), "adapt again"),
    ):
        adapted.save(folder)
        tampered(folder, lambda c, change=change: change(c["adapted"]))
        with pytest.raises(ModelFolderError, match=message):
            episodic.load_adapted(folder)
    adapted.save(folder)
    path = folder / "meta_parameters.safetensors"
    tensors, _ = checkpoint.load(path)
    first = min(tensors)
    for changed, message in (
        ({**{n: t for n, t in tensors.items() if n != first}, "x": torch.ones(1)}, "contains x"),
        (tensors | {first: tensors[first] * torch.nan}, "values that are not finite"),
        (tensors | {first: torch.ones(1)}, "has shape"),
    ):
        checkpoint.save(path, changed, {})
        with pytest.raises(episodic.UserError, match=message):
            episodic.load_adapted(folder)
    path.unlink()
    with pytest.raises(episodic.UserError, match=r"meta_parameters.safetensors does not exist"):
        episodic.load_adapted(folder)


# What is forgotten.


def test_forgetting_is_the_paired_difference_on_old_classes(adapted):
    x, y = images()
    grown = adapted.add(x[60:61], "d").remove("c")
    held_out = [i for i in range(100) if i < 80 and i % 20 > 4]
    result = measure_forgetting(adapted, grown, x[held_out], y[held_out])
    old = [i for i in held_out if i < 40]
    before, after = (model.predict(x[old]) == y[old] for model in (adapted, grown))
    assert result.summary["before"] == before.mean() and result.summary["after"] == after.mean()
    assert result.summary["examples"] == 30 and result.classes == ("a", "b", "d")
    assert result.is_new == (False, False, True)
    new = [i for i in held_out if i >= 60]
    scores = result.summary["classes"]["d"]
    assert scores == {
        "examples": 15,
        "before": None,
        "after": (grown.predict(x[new]) == "d").mean(),
    }
    low, high = result.interval
    assert low <= result.change <= high
    assert "held-out examples of old classes: " in str(result) and "  d  new " in str(result)


def test_the_interval_is_that_of_agresti_and_min():
    """40 pairs, of which 6 are lost and 1 is gained: computed by hand with 0.5 per cell."""
    before = np.repeat([True, True, False, False], [30, 6, 1, 3])
    after = np.repeat([True, False, True, False], [30, 6, 1, 3])
    zeros = np.zeros(40, int)
    result = Forgetting(("a",), (False,), zeros, before, after)
    assert result.change == pytest.approx(-5 / 40)
    centre, half = -5 / 42, 1.96 * np.sqrt(8 - 25 / 42) / 42
    assert result.interval == pytest.approx((centre - half, centre + half))
    same = replace(result, after=before).interval
    assert same == pytest.approx((-1.96 / 42, 1.96 / 42)), "no difference is no certainty"
    few = Forgetting(("a",), (False,), zeros[:9], before[:9], after[:9])
    assert few.interval is None and "interval" not in str(few)


def test_invalid_held_out_sets(adapted):
    x, _ = images()
    grown = adapted.add(x[60:61], "d")
    with pytest.raises(AdaptError, match=r"no model has the class 'dd' .* - did you mean d\?"):
        measure_forgetting(adapted, grown, x[:2], ["a", "dd"])
    with pytest.raises(AdaptError, match="no held-out example is of a class that the model has"):
        measure_forgetting(adapted, grown, x[61:62], ["d"])
