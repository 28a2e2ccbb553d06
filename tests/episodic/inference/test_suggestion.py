"""`suggest` of learners and adapted models, and the command."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import episodic
from episodic.inference import suggestion
from episodic.inference.labels import AdaptError
from episodic.inference.suggestion import STRATEGIES
from tests.episodic.algorithms.test_every_algorithm import sampler, trained
from tests.episodic.inference.test_few_shot import folder_of
from tests.episodic.test_cli import call, workspace  # noqa: F401


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    folder = folder_of(
        "protonet", tmp_path_factory.mktemp("model") / "run", theta=trained("protonet").theta
    )
    return episodic.load(folder)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    """20 drawings of each of five classes, class after class."""
    return sampler("test").examples[-100:].numpy()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_order_of_the_pool_does_not_matter(learner, images, strategy):
    adapted = learner.adapt(images[::20], list("abcde"))
    order = np.random.default_rng(0).permutation(100)
    models = [adapted] if strategy == "margin" else [adapted, learner]
    for model in models:
        chosen = model.suggest(images, 7, strategy).indices
        again = model.suggest(images, 7, strategy).indices
        shuffled = model.suggest(images[order], 7, strategy).indices
        assert chosen.tolist() == again.tolist() == order[shuffled].tolist()
        assert len(set(chosen.tolist())) == 7


def test_copies_and_labelled_examples_are_not_suggested(learner, images):
    adapted = learner.adapt(images[::20], list("abcde"))
    pool = np.concatenate([images[:40], images[:40]])
    for strategy in STRATEGIES:
        chosen = adapted.suggest(pool, 100, strategy).indices
        assert sorted(chosen.tolist()) == [i for i in range(40) if i not in (0, 20)]
    empty = adapted.suggest(images[::20], 3)
    assert len(empty) == 0 and empty.margins is None


def test_the_first_suggestions_discover_the_classes(learner, images):
    """Of 5 classes, 5 random examples hit 3.4 on average."""
    found = learner.suggest(images, 5)
    assert len({i // 20 for i in found.indices.tolist()}) >= 4
    assert found.represents.sum() == 100 and found.margins is None and found.labels is None
    assert np.array_equal(found.indices, learner.suggest(images, 5, "coverage").indices)


def test_margins_and_labels_are_those_of_the_prediction(learner, images):
    adapted = learner.adapt(images[::20], list("abcde"))
    pool = images[np.arange(100) % 20 != 0]
    p = np.sort(adapted.predict_proba(pool), 1)
    margins = p[:, -1] - p[:, -2]
    found = adapted.suggest(pool, 4, "margin")
    assert found.indices[0] == margins.argmin()
    np.testing.assert_allclose(found.margins, margins[found.indices], atol=1e-6)
    assert found.labels[:, 0].tolist() == adapted.predict(pool[found.indices]).tolist()
    assert (found.labels[:, 0] != found.labels[:, 1]).all()
    assert found.represents.sum() <= 95
    # The default is coverage weighted by 1 + (1 - margin), so it differs from both.
    default = adapted.suggest(pool, 10).indices.tolist()
    assert default != adapted.suggest(pool, 10, "coverage").indices.tolist()


def test_weights_of_the_default(monkeypatch):
    """An undecided example counts twice, a decided one once."""
    seen = []
    monkeypatch.setattr(
        suggestion.selection,
        "select_covering",
        lambda *args: seen.append(args[3]) or torch.tensor([0]),
    )
    p = np.array([[1.0, 0.0], [0.5, 0.5], [0.75, 0.25]])
    x = torch.tensor([[0.0, 1], [1, 0], [1, 1]])
    suggestion.suggest(x, 1, "margin_coverage", 0, lambda x: [x], x[:0], lambda x: p, ["a", "b"])
    torch.testing.assert_close(seen[0], torch.tensor([1.0, 2.0, 1.5]).double())


def test_errors(learner, images):
    for n, strategy, message in (
        (0, "coverage", "n is 0; it must be at least 1"),
        (3, "best", "strategy is 'best'; it must be one of margin_coverage, coverage"),
        (3, "margin", "margin needs a model that is adapted"),
    ):
        with pytest.raises(AdaptError, match=message):
            learner.suggest(images, n, strategy)
    adapted = learner.adapt(images[::20], list("abcde"))
    with pytest.raises(AdaptError, match="a regression model has no classes"):
        replace(adapted, classes_=()).suggest(images)


def test_command(workspace, tmp_path):  # noqa: F811
    files = sorted((workspace / "query").rglob("*.png"))
    names = [str(path.relative_to(workspace)) for path in files]
    expected = episodic.load_adapted(workspace / "adapted").suggest(files, 4)
    rows = [
        json.loads(line)
        for line in call(workspace, "suggest", "adapted", "query", "-n", "4", "--json").splitlines()
    ]
    assert [row["file"] for row in rows] == [names[i] for i in expected.indices]
    assert [row["represents"] for row in rows] == expected.represents.tolist()
    assert [row["margin"] for row in rows] == pytest.approx(expected.margins.tolist(), abs=1e-6)
    assert [[row["label"], row["runner_up"]] for row in rows] == expected.labels.tolist()
    text = call(workspace, "suggest", "adapted", "query", "-n", "4").splitlines()
    assert [line.split("\t")[0] for line in text] == [row["file"] for row in rows]
    assert f"{rows[0]['label']} or {rows[0]['runner_up']}? margin " in text[0]
    # A CSV file as pool, CSV as output, and a model before adaptation.
    (tmp_path / "pool.csv").write_text("file,kind\n" + "".join(f"{name},x\n" for name in names))
    cold = call(workspace, "suggest", "run", str(tmp_path / "pool.csv"), "-n", "3", "--csv")
    table = list(csv.DictReader(io.StringIO(cold)))
    first = episodic.load(workspace / "run").suggest(files, 3)
    assert list(table[0]) == ["file", "represents"]
    assert [row["file"] for row in table] == [names[i] for i in first.indices]
    piped = call(workspace, "suggest", "run", "-", "-n", "1", stdin="\n".join(names))
    assert piped.startswith(table[0]["file"] + "\trepresents ")
    (tmp_path / "other.csv").write_text("name\n1.png\n")
    for args, message in (
        (("adapted",), "specify MODEL and POOL, or only POOL with --encoder"),
        (("run", "query", "--strategy", "margin"), "margin needs a model that is adapted"),
        (("adapted", str(tmp_path / "other.csv")), "has no column file"),
        (("adapted", "query", "--json", "--csv"), "are mutually exclusive"),
        (("query", "query"), "contains no model"),
    ):
        assert message in call(workspace, "suggest", *args, code=1), args
