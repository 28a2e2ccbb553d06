"""Ratings through the stages: the preset beats all baselines, and the page reports the results."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import films
import numpy as np
import pandas as pd
import pytest
import torch
from stages import EVALUATE, TRAIN, run_stage, set_param
from support import ROOT
from typer.testing import CliRunner

import episodic
from episodic.analysis import rating_metrics
from episodic.cli import app
from episodic.core.errors import UserError
from episodic.training import model_folder
from tasks import initial_values, prepared, preset
from tasks.runtime.files import read_json

USERS, FILMS = 700, 500


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Outputs of the stages of a short training run."""
    folder = tmp_path_factory.mktemp("ratings")
    (folder / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    source = films.write_ml_100k(folder / "source", USERS, FILMS, min_ratings=35, max_ratings=200)
    preset.apply_preset("movielens", folder / "params.yaml", str(source))
    set_param(folder, "processes", "1")
    run_stage(folder, "download", "--out", "raw")
    run_stage(folder, "episodes", "--raw", "raw", "--out", "prepared")
    run_stage(folder, "train", *TRAIN)
    run_stage(folder, "evaluate", *EVALUATE)
    return folder


def test_the_preset_is_at_least_as_good_as_every_baseline(run):
    """On ratings that look like real ones, after every number of ratings, paired by user."""
    ratings = pd.read_csv(run / "scores/ratings.csv").set_index(["method", "shots"])
    mae = ratings["mae"]
    assert sorted(ratings.loc["model"].index) == [1, 3, 5, 10, 20]
    errors = ratings[ratings["mae"].notna()].drop(index="model")
    assert len(errors) == 5 * 7
    for (method, shots), gain in errors.iterrows():
        assert gain["ahead"] > -gain["ahead_ci95"], (method, shots)
        assert gain["ahead_rmse"] > -gain["ahead_rmse_ci95"], (method, shots)
        assert gain["ahead"] == pytest.approx(gain["mae"] - mae["model", shots])
    for shots, factor in ((5, 1), (10, 1), (20, 2)):
        gain = errors.loc[("shifted_item_mean", shots)]
        assert gain["ahead"] > factor * gain["ahead_ci95"] > 0, shots
    assert mae["model", 20] < mae["model", 5] - 0.01 and mae["model", 5] < mae["model", 1] - 0.005
    # Of a rating of standard deviation 1.1, noise of 0.8, moods and rounding cannot be predicted.
    assert mae["model", 20] > 0.68 and mae["shifted_item_mean", 20] < mae["global_mean", 20] - 0.05
    rankings = ratings["ndcg_10"]
    assert rankings["model", 20] > rankings["item_mean", 20] > rankings["global_mean", 20] + 0.03
    assert rankings["ease", 20] > rankings["global_mean", 20] + 0.03, "liked items are similar"


def test_training_starts_at_the_fold_in_and_improves_it(run):
    validation = pd.read_csv(run / "history/validation.csv")
    assert validation["iteration"].iloc[0] == 0
    ratings = pd.read_csv(run / "scores/ratings.csv").set_index(["method", "shots"])
    variance = read_json(run / "prepared/meta.json")["targets"]["variance"]
    assert validation["mse"].iloc[0] < 0.85 * variance, "the untrained model knows the items"
    assert validation["mse"].min() < validation["mse"].iloc[0]
    assert ratings.loc[("model", 20), "rmse"] < ratings.loc[("feature_ridge", 20), "rmse"]


def test_initial_values_are_fitted_to_training_users_only(run, tmp_path):
    learner = model_folder.build_learner(read_json(run / "model/config.json"))

    def fit(folder: Path):
        source = prepared.open_folder(folder, torch.device("cpu"))
        return initial_values.fit_initial_values(source, learner, 0)

    expected = fit(run / "prepared")
    assert expected.keys() == set(learner.model.tables)
    assert all(p.shape == learner.init(0)[name].shape for name, p in expected.items())
    tasks = pd.read_parquet(run / "prepared/tasks.parquet")
    of_training = np.repeat(tasks["split"] == "train", tasks["count"])
    for change, same in ((~of_training, True), (of_training, False)):
        changed = tmp_path / str(same)
        shutil.copytree(run / "prepared", changed)
        targets = np.load(changed / "targets.npy")
        targets[change] = 6 - targets[change]
        np.save(changed / "targets.npy", targets)
        values = fit(changed)
        assert all(torch.equal(values[name], expected[name]) == same for name in expected)
    plain = replace(learner.model.spec, additive=False).build((2, 8), 1)
    source = prepared.open_folder(run / "prepared", torch.device("cpu"))
    assert initial_values.fit_initial_values(source, replace(learner, model=plain), 0) is None


def test_metrics_are_as_documented(run):
    metrics, users = (
        read_json(run / "metrics.json"),
        pd.read_parquet(run / "scores/ratings.parquet"),
    )
    names = {
        f"{m}{end}" for m in ("mae", "rmse", *rating_metrics.LIST_METRICS) for end in ("", "_ci95")
    }
    assert (
        metrics["ratings"].keys() == {"1", "3", "5", "10", "20"}
        and metrics["ratings"]["5"].keys() == names
    )
    assert set(metrics["baselines"]) == {
        "global_mean",
        "item_mean",
        "shifted_item_mean",
        "factorization",
        "feature_ridge",
        "feature_factorization",
        "neighbours",
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
    for line in test.itertuples():
        assert line.support == 20 and line.query == min(counts[line.offset] - 20, 100)


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
        and "EASE, which only ranks" in page
        and "exponential gain" in page
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
    gain = adapted.predict(items[:4]) - other.predict(items[:4])
    assert gain[:2].mean() > gain[2:].mean() + 0.05, "what was liked"
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
