"""The distribution of test tasks: tables and values of synthetic classes with known results."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import synthetic
import torch
from stages import EVALUATE, TRAIN, prepare_folder, run_stage, set_param

from tasks import prepared
from tasks.evaluation import task_space
from tasks.runtime.files import compute_digest, read_json


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    root = synthetic.write(tmp_path_factory.mktemp("space") / "run")
    source = prepared.open_folder(root / "data/prepared", torch.device("cpu"))
    return (
        source,
        pd.read_parquet(root / "reports/scores/answers.parquet"),
        pd.read_parquet(root / "reports/scores/episodes.parquet"),
    )


def described(evaluated, means, accuracy=None):
    source, predictions, episodes = evaluated
    test = source.read_episodes("test")
    headline = episodes[(episodes["mode"] == "transductive") & (episodes["step"] == 3)]
    if accuracy is not None:
        headline = headline.assign(accuracy=accuracy(test))
    return task_space.describe_tasks(source, test, headline, predictions, means)


def line(source):
    """Test classes on a line, one after the other."""
    return torch.arange(len(source.read_classes().query("split == 'test'")), dtype=torch.float64)[
        :, None
    ] * torch.tensor([[1.0, 0.5]])


def test_map_of_points_on_a_line_is_a_line(evaluated):
    table = described(evaluated, line(evaluated[0])).tables["space"]
    assert table["y"].abs().max() < 1e-6
    steps = table.sort_values("x")["x"].diff().dropna()
    assert np.allclose(steps, math.hypot(1, 0.5)), "distances are preserved"


def test_correlation_with_class_similarity_is_found(evaluated):
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(20, 6, generator=generator, dtype=torch.float64)
    first = described(evaluated, means)
    alike = first.tables["tasks"].set_index("episode")["similarity"]

    result = described(evaluated, means, lambda test: 0.8 - 0.5 * alike[test["episode"]].to_numpy())
    figures = result.metrics["tasks"]
    assert (
        figures["similarity"]["spearman"] == pytest.approx(-1)
        and figures["similarity"]["high"] < -0.99
    )
    assert abs(first.metrics["tasks"]["similarity"]["spearman"]) < 0.5, (
        "random means are uncorrelated with the scores"
    )
    fifths = result.tables["difficulty"]
    assert (
        fifths["accuracy"].is_monotonic_decreasing
        and fifths["episodes"].sum() == 60
        and fifths["low"].is_monotonic_increasing
    )
    assert (
        figures["most_alike"]["accuracy"]
        == fifths["accuracy"].iloc[-1]
        < figures["least_alike"]["accuracy"]
    )
    constant = described(evaluated, means, lambda test: np.ones(len(test)))
    assert math.isnan(constant.metrics["tasks"]["similarity"]["spearman"])


def test_episode_properties_follow_from_its_classes(evaluated):
    source, test = evaluated[0], evaluated[0].read_episodes("test")
    means = torch.randn(20, 6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    tables = described(evaluated, means).tables
    positions = tables["space"].set_index("row")
    apart = means - means.mean(0)
    rows = source.read_classes().query("split == 'test'").index.get_indexer(test["classes"].iloc[7])
    unit = torch.nn.functional.normalize(apart[rows], dim=1)
    cosines = (unit @ unit.T)[tuple(torch.triu_indices(5, 5, 1))]
    episode = tables["tasks"].set_index("episode").loc[7]
    assert episode["similarity"] == pytest.approx(float(cosines.mean())) and episode[
        "closest"
    ] == pytest.approx(float(cosines.max()))
    assert episode["x"] == pytest.approx(positions.loc[test["classes"].iloc[7], "x"].mean())


def test_confusions_are_counted_in_both_directions(evaluated):
    source, predictions, _ = evaluated
    pairs = described(evaluated, line(source)).tables["pairs"]
    class_of = np.stack(source.read_episodes("test")["classes"].to_list())
    true, predicted = (
        class_of[predictions["episode"], predictions[column]] for column in ("label", "after")
    )
    top = pairs.iloc[0]
    a, b = int(top["first"]), int(top["second"])
    together = [(a in row) and (b in row) for row in class_of.tolist()]
    assert top["episodes"] == sum(together) and top["queries"] == 2 * 15 * sum(together)
    assert (
        top["confused"]
        == (((true == a) & (predicted == b)) | ((true == b) & (predicted == a))).sum()
    )
    assert pairs["confused"].is_monotonic_decreasing and (pairs["first"] < pairs["second"]).all()


def test_waves_are_described_by_their_parameters(tmp_path):
    root = synthetic.write(tmp_path / "run", "regression")
    metrics = read_json(root / "reports/metrics.json")["tasks"]
    assert metrics["amplitude"]["low"] > 0.5 > abs(metrics["phase"]["spearman"]), (
        "errors were made of the amplitude"
    )
    fifths = pd.read_parquet(root / "reports/scores/difficulty.parquet")
    assert fifths["mse"].iloc[-1] > 3 * fifths["mse"].iloc[0]


@pytest.mark.parametrize("method", ["maml_plus_plus", "finetune"])
def test_map_does_not_depend_on_the_number_of_processes(tmp_path, method):
    root = prepare_folder(tmp_path)
    set_param(root, "algorithm.name", method)
    run_stage(root, "train", *TRAIN)
    result = []
    for processes in ("1", "2"):
        set_param(root, "processes", processes)
        run_stage(root, "evaluate", *EVALUATE)
        result.append(compute_digest(root / "scores"))
    assert result[0] == result[1]
    assert (
        len(pd.read_parquet(root / "scores/space.parquet"))
        == read_json(root / "prepared/meta.json")["classes"]["test"]
    )
