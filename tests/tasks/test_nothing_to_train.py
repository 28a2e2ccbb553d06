"""Algorithms on feature vectors, through the stages: nothing to train, transductive inference."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from stages import CARD, EVALUATE, REPORT, TRAIN, prepare_sentences, read_text, run_stage, set_param

import episodic
from tasks import summary
from tasks.reports.kit import wording
from tasks.runtime.files import read_json


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    """N-gram vectors, a model without parameters, and unbalanced query sets."""
    changes = {"episodes.ways": "4", "episodes.query_balance": "2.0"}
    return prepare_sentences(tmp_path_factory.mktemp("vectors"), **changes)


def train_and_evaluate(folder, algorithm: str) -> list[dict]:
    """Return the events of the stage train."""
    set_param(folder, "algorithm.name", algorithm)
    output, _ = run_stage(folder, "train", *TRAIN)
    run_stage(folder, "evaluate", *EVALUATE)
    return [json.loads(line) for line in output.splitlines()]


def test_unbalanced_query_sets_through_the_stages(workspace):
    meta = read_json(workspace / "prepared/meta.json")
    assert meta["query_balance"] == 2.0
    for split in ("validation", "test"):
        table = pd.read_parquet(workspace / f"prepared/{split}.parquet")
        counts = np.stack(table["query_counts"].to_list())
        assert (counts.sum(1) == 16).all() and counts.max() > 6
        assert {len(query) for query in table["query"]} == {16}


@pytest.mark.parametrize("algorithm", ["protonet", "simpleshot", "bd_cspn"])
def test_a_model_without_learned_parameters(workspace, algorithm):
    events = train_and_evaluate(workspace, algorithm)
    estimated = {"estimated": "features.centre"} if algorithm == "simpleshot" else {}
    assert events == [{"event": "nothing to train", "stage": "train"} | estimated]
    run_facts = read_json(workspace / "run.json")
    assert run_facts["nothing_to_train"] is True and run_facts["iterations_per_second"] == 0
    config = read_json(workspace / "model/config.json")
    assert config["iterations"] == config["iteration"] == 0
    assert config["parameters"] == (512 if algorithm == "simpleshot" else 0)
    assert len(pd.read_csv(workspace / "history/train.csv")) == 0
    validation = pd.read_csv(workspace / "history/validation.csv")
    assert validation["iteration"].tolist() == [0]
    assert validation["accuracy"][0] == config["validation"]
    assert read_json(workspace / "metrics.json")["accuracy"] > 0.5, "chance is 0.25"
    learner = episodic.load(workspace / "model")
    adapted = learner.adapt(["play music", "book a trip"], ["music", "travel"])
    adapted.save(workspace / "adapted")
    again = episodic.load_adapted(workspace / "adapted")
    assert again.predict(["music"]).tolist() == adapted.predict(["music"]).tolist() == ["music"]

    run_stage(workspace, "report", *REPORT)
    page, shown, card = (
        read_text(workspace / name) for name in ("report.html", "summary/summary.md", CARD)
    )
    assert wording.NOTHING_TO_TRAIN in page and "best checkpoint" not in page
    assert "iterations none (nothing to train)" in shown
    assert wording.NOTHING_TO_TRAIN in card and "meta-trained" not in card
    assert "4-way 1-shot, 16 queries, unbalanced (Dirichlet 2)" in page
    check_transductive_results(workspace, algorithm == "bd_cspn", [page, shown, card])


def check_transductive_results(folder, transductive: bool, texts: list[str]) -> None:
    """Every result says whether queries were predicted together, and how balanced they were.

    Transductive batch norm is something else, which this model does not have.
    """
    metrics = read_json(folder / "metrics.json")
    rows = dict(summary.summarize(metrics))
    config = read_json(folder / "model/config.json")
    label = "transductive inference, queries together"
    for text in texts[1:]:
        assert "ransductive batch norm" not in text
    if not transductive:
        assert "transductive_inference" not in metrics and "transductive" not in config
        assert label not in rows
        assert all("ransductive inference" not in text for text in texts)
        return
    assert config["transductive"] is True and rows[label] == "16, Dirichlet 2"
    counts = np.stack(pd.read_parquet(folder / "prepared/test.parquet")["query_counts"])
    assert metrics["transductive_inference"] == {
        "queries": 16,
        "largest_share": pytest.approx(counts.max(1).mean() / 16),
        "query_balance": 2.0,
    }
    for text in texts:
        assert "Transductive inference: the algorithm sees the 16 queries of an episode" in text
        assert "Dirichlet distribution (concentration 2)" in text
        assert "transductive inference, 20 test episodes" in text


def test_predictions_are_scored_over_the_queries_as_they_are(workspace):
    """The accuracy of an episode, of a class and of a pair counts unbalanced queries."""
    train_and_evaluate(workspace, "protonet")
    predictions = pd.read_parquet(workspace / "scores/answers.parquet")
    episodes = pd.read_parquet(workspace / "scores/episodes.parquet")
    test = pd.read_parquet(workspace / "prepared/test.parquet")
    counts = np.stack(test["query_counts"])
    labels = predictions.groupby(["episode", "label"]).size()
    for (episode, label), number in labels.items():
        assert counts[episode, label] == number
    right = (predictions["label"] == predictions["after"]).groupby(predictions["episode"]).mean()
    scores = episodes[episodes["mode"] == "transductive"]["accuracy"]
    np.testing.assert_allclose(right, scores, atol=1e-6)
    class_of = np.stack(test["classes"])
    for pair in pd.read_parquet(workspace / "scores/pairs.parquet").to_dict("records"):
        expected = sum(
            counts[i][np.isin(class_of[i], [pair["first"], pair["second"]])].sum()
            for i in range(len(test))
            if {pair["first"], pair["second"]} <= set(class_of[i])
        )
        assert pair["queries"] == expected and pair["confused"] <= expected
