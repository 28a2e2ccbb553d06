"""Ratings through the stages: planted groups are found, and the page reports the results."""

from __future__ import annotations

import re
from pathlib import Path

import films
import numpy as np
import pandas as pd
import pytest
from stages import EVALUATE, TRAIN, run_stage, set_param
from support import ROOT
from typer.testing import CliRunner

import episodic
from episodic.cli import app
from episodic.core.errors import UserError
from tasks import preset
from tasks.runtime.files import read_json

CHANGES = {
    "iterations": "250",
    "validate_every": "50",
    "hidden": "[]",
    "embedding": "16",
    "processes": "1",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Outputs of the stages of a short training run."""
    folder = tmp_path_factory.mktemp("ratings")
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    source = films.write_ml_100k(folder / "source", users=200, min_ratings=40, max_ratings=60)
    preset.apply_preset("movielens", folder / "params.yaml", str(source))
    for key, value in CHANGES.items():
        set_param(folder, f"embeddings.{key}" if key in ("hidden", "embedding") else key, value)
    run_stage(folder, "download", "--out", "raw")
    run_stage(folder, "episodes", "--raw", "raw", "--out", "prepared")
    run_stage(folder, "train", *TRAIN)
    run_stage(folder, "evaluate", *EVALUATE)
    return folder


def test_planted_groups_are_found(run):
    ratings = pd.read_csv(run / "scores/ratings.csv").set_index(["method", "shots"])
    mae = ratings["mae"]
    assert sorted(ratings.loc["model"].index) == [1, 3, 5, 10, 20]
    # The noise of a rating (0.4, and rounding) results in an error of about 0.4.
    assert 0.3 < mae["model", 20] < mae["shifted_item_mean", 20] - 0.1
    assert mae["model", 20] < mae["model", 5] < mae["model", 1] - 0.1, "more ratings help"
    assert mae["shifted_item_mean", 20] < mae["item_mean", 20] < mae["global_mean", 20]
    # A factorization is the true model of these ratings, so it is hard to beat.
    # A model that has learned the groups comes close.
    assert (
        mae["factorisation", 20] < mae["shifted_item_mean", 20] - 0.1
        and mae["model", 20] < mae["factorisation", 20] + 0.05
    )
    gain = ratings.loc[("shifted_item_mean", 20)]
    assert gain["ahead"] > 2 * gain["ahead_ci95"] and gain["ahead"] == pytest.approx(
        gain["mae"] - mae["model", 20]
    )
    assert (
        ratings.loc[("model", 20), "ndcg_10"]
        > ratings.loc[("item_mean", 20), "ndcg_10"]
        > ratings.loc[("global_mean", 20), "ndcg_10"]
    )


def test_metrics_are_as_documented(run):
    metrics, users = (
        read_json(run / "metrics.json"),
        pd.read_parquet(run / "scores/ratings.parquet"),
    )
    names = {
        f"{m}{end}" for m in ("mae", "rmse", "ndcg_1", "ndcg_3", "ndcg_10") for end in ("", "_ci95")
    }
    assert (
        metrics["ratings"].keys() == {"1", "3", "5", "10", "20"}
        and metrics["ratings"]["5"].keys() == names
    )
    assert set(metrics["baselines"]) == {
        "global_mean",
        "item_mean",
        "shifted_item_mean",
        "factorisation",
        "support_mean",
        "random_init",
    }
    of_model = users.query("method == 'model' and shots == 20")
    assert metrics["ratings"]["20"]["mae"] == pytest.approx(of_model["mae"].mean())
    assert metrics["mse"] == pytest.approx((of_model["rmse"] ** 2).mean(), rel=1e-5), (
        "both are scores of the same model"
    )
    test, targets = (
        pd.read_parquet(run / "prepared/test.parquet"),
        np.load(run / "prepared/targets.npy"),
    )
    lists = pd.read_parquet(run / "scores/lists.parquet")
    episode = int(lists["episode"].iloc[0])
    mine, line = lists[lists["episode"] == episode], test.iloc[episode]
    first = targets[line["offset"] : line["offset"] + 20]
    assert mine[mine["part"] == "support"]["rating"].tolist() == first.tolist()
    predictions = mine[mine["part"] == "list"]["answer"]
    assert len(predictions) == 8 and predictions.is_monotonic_decreasing


def test_training_starts_at_the_mean_rating(run):
    meta, config = read_json(run / "prepared/meta.json"), read_json(run / "model/config.json")
    tasks, targets = (
        pd.read_parquet(run / "prepared/tasks.parquet"),
        np.load(run / "prepared/targets.npy"),
    )
    known = targets[np.repeat(tasks["split"] == "train", tasks["count"])]
    assert (
        config["model"]["start"] == meta["targets"]["mean"] == pytest.approx(known.mean(), abs=1e-5)
    )
    assert meta["targets"]["variance"] == pytest.approx(known.var(), abs=1e-4)


def test_support_and_queries_of_test_users(run):
    test, tasks = (
        pd.read_parquet(run / "prepared/test.parquet"),
        pd.read_parquet(run / "prepared/tasks.parquet"),
    )
    offset = tasks["count"].cumsum() - tasks["count"]
    mine = tasks[tasks["split"] == "test"]
    assert sorted(test["offset"]) == sorted(offset[mine.index]), "every test user once"
    counts = dict(zip(offset, tasks["count"], strict=True))
    assert all(
        line.support == 20 and line.query == counts[line.offset] - 20 for line in test.itertuples()
    )


def test_more_processes_change_no_byte(run):
    expected = {path.name: path.read_bytes() for path in (run / "scores").iterdir()}
    set_param(run, "processes", "2")
    run_stage(run, "evaluate", *EVALUATE[:4], "--scores", "again", "--metrics", "again.json")
    set_param(run, "processes", "1")
    assert {path.name: path.read_bytes() for path in (run / "again").iterdir()} == expected
    assert (run / "again.json").read_bytes() == (run / "metrics.json").read_bytes()


def read_plain_text(path: Path) -> str:
    return path.read_text().replace("\xa0", " ")


def test_report_contains_the_errors(run):
    written = [
        "--html",
        "report.html",
        "--tasks",
        "tasks.html",
        "--summary",
        "summary",
        "--card",
        "card.md",
    ]
    run_stage(run, "report", *EVALUATE, "--history", "history", *written)
    page, metrics = read_plain_text(run / "report.html"), read_json(run / "metrics.json")
    assert (
        f"After 20 ratings the mean absolute error is {metrics['ratings']['20']['mae']:.3f}" in page
    )
    assert (
        "Error by number of ratings" in page
        and "matrix factorization with fold-in" in page
        and "Typical user" in page
    )
    assert len(re.findall("First ratings", page)) == 4
    assert "standard deviation of the ratings" in read_plain_text(run / "tasks.html")
    card = read_plain_text(run / "card.md")
    assert "to adapt to new users from 20 ratings or fewer" in card and "episodic adapt" not in card
    assert "Error by number of ratings" in (run / "summary/summary.md").read_text()


def test_a_new_user_in_python(run, tmp_path):
    learner = episodic.load(run / "model")
    items = list(learner.config["inputs"]["items"])
    adapted = learner.adapt(items[:4], [5, 5, 1, 1])
    other = learner.adapt(items[:4], [1, 1, 5, 5])
    assert (adapted.predict(items[:2]) > other.predict(items[:2])).all(), "what was liked"
    assert 0 < adapted.predict(items).mean() < 6
    adapted.save(tmp_path / "adapted")
    np.testing.assert_allclose(
        episodic.load_adapted(tmp_path / "adapted").predict(items),
        adapted.predict(items),
        rtol=0,
        atol=1e-6,
    )
    assert learner.adapt([(items[0], {"age": 25, "gender": "F"})], [4]).predict(
        [items[1]]
    ).shape == (1,)
    for command in (
        ["adapt", "MODEL", "x", "-o", str(tmp_path / "out")],
        ["evaluate", "MODEL", "x"],
        ["demo", "MODEL"],
    ):
        args = [str(run / "model") if word == "MODEL" else word for word in command]
        result = CliRunner().invoke(app, args)
        assert (
            result.exit_code == 1
            and "is a regression model, which the command line does not support: use it from Python"
            in result.output
        )
    with pytest.raises(UserError, match="the model knows no item"):
        adapted.predict(["no such film"])
