"""Every head of `--head` on support sets whose classes differ in their numbers of pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from photographs import write_photographs
from torch import Tensor
from typer.testing import CliRunner

import episodic
from episodic.cli import app
from episodic.inference.heads import DEFAULT_HEAD, HEADS, PARTIAL_FINETUNE
from episodic.inference.labels import AdaptError
from episodic.inference.sklearn import FewShotClassifier
from episodic.preprocessing.encoders.architectures import LITE0

pytestmark = pytest.mark.usefixtures("own_cache")

NAMES = ["a", "b", "c"]
PICTURES = 5
"""Pictures per class. The last one is a query, the others may be support examples."""

SHOTS = {
    "one picture each": (1, 1, 1),
    "a class with one picture": (3, 1, 2),
    "two or more each": (4, 2, 3),
    "two classes": (1, 4),
}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    return write_photographs(tmp_path_factory.mktemp("pictures"), NAMES, PICTURES, (48, 48))


@pytest.fixture(scope="module")
def examples(pictures) -> dict[str, Tensor]:
    """All pictures as each head takes them, `(classes, pictures, ...)`: features, or pixels."""
    found = {}
    for head in (DEFAULT_HEAD, PARTIAL_FINETUNE):
        x = episodic.from_encoder(LITE0, head).inputs(sorted(pictures.glob("*/*.png")))
        found[head] = x.unflatten(0, (len(NAMES), PICTURES))
    return {head: found.get(head, found[DEFAULT_HEAD]) for head in HEADS}


def take(features: Tensor, counts: tuple[int, ...]) -> tuple[Tensor, list[str]]:
    """Return the first pictures of each class, and their labels."""
    x = [features[k, :n] for k, n in enumerate(counts)]
    labels = [NAMES[k] for k, n in enumerate(counts) for _ in range(n)]
    return torch.cat(x), labels


@pytest.mark.parametrize("counts", SHOTS.values(), ids=list(SHOTS))
@pytest.mark.parametrize("head", HEADS)
def test_every_head_adapts_to_unequal_shots(head, counts, examples, tmp_path):
    """Each class is recognized in a new picture, also if it has one where others have four."""
    features = examples[head]
    x, labels = take(features, counts)
    names = NAMES[: len(counts)]
    query = features[: len(counts), -1]
    learner = episodic.from_encoder(LITE0, head)
    adapted = learner.adapt(x, labels)
    probabilities = adapted.predict_proba(query)
    assert np.isfinite(probabilities).all()
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-6)
    assert adapted.predict(query).tolist() == names
    adapted.save(tmp_path / "adapted")
    loaded = episodic.load_adapted(tmp_path / "adapted").predict_proba(query)
    np.testing.assert_allclose(loaded, probabilities, atol=1e-6)
    classifier = FewShotClassifier(learner).fit(x, labels)
    np.testing.assert_array_equal(classifier.predict(query), names)
    assert classifier.classes_.tolist() == names


@pytest.mark.parametrize("head", HEADS)
def test_every_head_is_evaluated_on_unequal_classes(head, examples):
    """Episodes have equal shots; a class that is too small for them is named."""
    features = examples[head]
    learner = episodic.from_encoder(LITE0, head)
    result = learner.evaluate(*take(features, (4, 2, 3)), ways=3, queries=1, episodes=3)
    assert result.accuracy > 0.6, "chance: 0.33"
    with pytest.raises(AdaptError, match=r"needs 1 \+ 1 examples, and 'b' has 1: add examples"):
        learner.evaluate(*take(features, (4, 1, 3)), queries=1)


def test_the_command_line_takes_a_class_with_one_picture(pictures, tmp_path):
    """From files to predictions, with a linear head that has fewer pictures of one class."""
    for name, count in zip(NAMES, (3, 1, 2), strict=True):
        (tmp_path / "support" / name).mkdir(parents=True)
        for i in range(count):
            (tmp_path / "support" / name / f"{i}.png").symlink_to(pictures / name / f"{i}.png")
    encoder, support = ["--encoder", LITE0, "--head", "ridge"], str(tmp_path / "support")

    def call(*args: str, code: int = 0) -> tuple[str, str]:
        ended = CliRunner().invoke(app, list(args))
        assert ended.exit_code == code, ended.output
        return ended.stdout, ended.stderr

    out, note = call("adapt", *encoder, support, "-o", str(tmp_path / "adapted"))
    assert "adapted to 3 classes from 6 examples (a 3, b 1, c 2)" in out
    assert "ridge has its default regularization, since b has one example: add a second" in note
    grown = ["--extend", str(tmp_path / "adapted"), "-o", str(tmp_path / "grown")]
    _, note = call("adapt", *grown, "--correct", f"{pictures / 'a' / '3.png'}=a")
    assert "ridge has its default regularization, since b has one example: add a second" in note
    _, note = call("adapt", *grown, "--correct", f"{pictures / 'b' / '3.png'}=b")
    assert note == ""
    queries = [str(pictures / name / "4.png") for name in NAMES]
    lines = call("predict", str(tmp_path / "adapted"), *queries)[0].splitlines()
    assert [line.split()[1] for line in lines] == NAMES
    _, error = call("evaluate", *encoder, support, "--queries", "1", code=1)
    assert error == (
        "error: every class needs 1 + 1 examples, and 'b' has 1: add examples, or use fewer shots"
        " or queries\n"
    )
