"""The test tasks as a distribution: a map of their classes in the learned space, and how hard they are by how alike their classes are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from episodic.analysis import embedding_space
from episodic.analysis.correlation import spearman
from episodic.core.model import Params
from episodic.core.statistics import mean_ci95
from episodic.data.similarity import class_means, cosine, neighbours
from episodic.engine.learner import MetaLearner
from episodic.engine.processes import Group
from episodic.training import evaluation
from tasks.prepared import Prepared

FIFTHS = 5
PAIRS = 100
"""Pairs of classes, the most confused ones, that are kept."""


@dataclass(frozen=True)
class Described:
    """tables: name -> what goes into reports/scores under it; metrics: into metrics.json"""

    tables: dict[str, pd.DataFrame]
    metrics: dict[str, Any]


def centroids(
    learner: MetaLearner, meta: Params, source: Prepared, test: pd.DataFrame, group: Group
) -> torch.Tensor | None:
    """Each test class's mean in the learned space, without adaptation `(classes, width)`; None for regression."""
    if source.kind == "regression":
        return None
    classes = _test(source)
    rows, of = embedding_space.mixed(
        torch.tensor(classes["offset"].to_numpy()),
        torch.tensor(classes["count"].to_numpy()),
        source.meta["seed"],
    )
    theta = next(iter(evaluation.adaptation_steps(learner, meta, source.fixed(test[:1]), 0)))
    examples, sizes = source.examples(), embedding_space.parts(len(rows))
    split = rows.split(sizes)
    found = group.rows(
        lambda i: embedding_space.features(learner, theta, examples, split[i]), sizes
    )
    return embedding_space.centroids(found, of, len(classes))


def described(
    source: Prepared,
    test: pd.DataFrame,
    headline: pd.DataFrame,
    answers: pd.DataFrame,
    means: torch.Tensor | None,
) -> Described:
    """headline: `episode` and its score; answers: as in answers.parquet (empty for regression); means: of `centroids`"""
    if means is None:
        return _parameters(source, test, headline)
    classes, seed = _test(source), source.meta["seed"]
    drawn, similarity = embedding_space.principal(means), cosine(means)
    offsets, counts = (torch.tensor(classes[column].to_numpy()) for column in ("offset", "count"))
    inputs = cosine(class_means(source.examples(), offsets, counts))
    nearest = neighbours(similarity, 2)[:, -1]
    to_nearest = similarity[torch.arange(len(nearest)), nearest]
    table = classes[["class", "group"]].assign(
        row=classes.index, nearest=classes.index.to_numpy()[nearest]
    )
    table[["x", "y"]], table["similarity"] = drawn.places.numpy(), to_nearest.numpy()
    place = torch.full((int(classes.index.max()) + 1,), -1)
    place[classes.index.tolist()] = torch.arange(len(classes))
    of = place[torch.tensor(np.stack(test["classes"].to_list()))]
    pairs = torch.combinations(torch.arange(of.shape[1]))
    first, second = of[:, pairs[:, 0]], of[:, pairs[:, 1]]
    tasks = pd.DataFrame(
        {
            "episode": test["episode"].to_numpy(),
            "x": drawn.places[of, 0].mean(1),
            "y": drawn.places[of, 1].mean(1),
            "similarity": similarity[first, second].mean(1),
            "closest": similarity[first, second].amax(1),
            "inputs": inputs[first, second].mean(1),
        }
    ).merge(headline[["episode", "accuracy"]], on="episode")
    fifths = _fifths(tasks, "similarity", "accuracy")
    figures = {
        key: _correlation(tasks[column], tasks["accuracy"], seed)
        for key, column in CORRELATED.items()
    }
    ends = {
        name: {"accuracy": float(line["accuracy"]), "accuracy_ci95": float(line["ci95"])}
        for name, line in (("least_alike", fifths.iloc[0]), ("most_alike", fifths.iloc[-1]))
    }
    tables = {
        "space": table,
        "tasks": tasks,
        "difficulty": fifths,
        "pairs": _pairs(similarity, of, answers, classes),
    }
    return Described(
        tables,
        {
            "tasks": figures
            | ends
            | {"map": dict(zip(("first", "second"), drawn.shares, strict=True))}
        },
    )


CORRELATED = {"similarity": "similarity", "closest": "closest", "inputs": "inputs"}
"""Keys of metrics.json below `tasks` -> columns of tasks.parquet that are held against accuracy."""


def _test(source: Prepared) -> pd.DataFrame:
    return source.classes().query("split == 'test'")


def _correlation(x: pd.Series, y: pd.Series, seed: int) -> dict[str, float]:
    return dict(
        zip(
            ("spearman", "low", "high"),
            spearman(x.to_numpy(float), y.to_numpy(float), seed),
            strict=True,
        )
    )


def _fifths(tasks: pd.DataFrame, by: str, score: str) -> pd.DataFrame:
    """The score of fifths of the episodes, by rank in `by`; `low`, `high`: its range."""
    order = tasks.sort_values([by, "episode"], ignore_index=True)
    rows = []
    for i, part in enumerate(
        np.array_split(np.arange(len(order)), max(1, min(FIFTHS, len(order) // 2)))
    ):
        lines = order.iloc[part]
        mean, ci95 = mean_ci95(lines[score].to_numpy())
        ends = {"low": float(lines[by].iloc[0]), "high": float(lines[by].iloc[-1])}
        rows.append(
            {"fifth": i + 1}
            | ends
            | {"mean": float(lines[by].mean()), "episodes": len(lines), score: mean, "ci95": ci95}
        )
    return pd.DataFrame(rows)


def _pairs(
    similarity: torch.Tensor, of: torch.Tensor, answers: pd.DataFrame, classes: pd.DataFrame
) -> pd.DataFrame:
    """Which two classes are taken for each other: of the queries of both, in episodes that hold both, how many were answered by the other.

    of: the places of each episode's classes on the map `(episodes, ways)`
    """
    episodes, ways = of.shape
    n, queries = len(classes), len(answers) // (episodes * ways)
    pairs = torch.combinations(torch.arange(ways))
    a, b = of[:, pairs[:, 0]].flatten(), of[:, pairs[:, 1]].flatten()
    together = torch.bincount(torch.minimum(a, b) * n + torch.maximum(a, b), minlength=1)
    said = answers[answers["label"] != answers["after"]]
    episode = torch.tensor(said["episode"].to_numpy())
    true, taken = (
        of[episode, torch.tensor(said[column].to_numpy())] for column in ("label", "after")
    )
    confused = torch.bincount(
        torch.minimum(true, taken) * n + torch.maximum(true, taken), minlength=1
    )
    codes = confused.nonzero()[:, 0]
    first, second = codes // n, codes % n
    rows, seen = classes.index.to_numpy(), together[codes]
    table = pd.DataFrame(
        {
            "first": rows[first],
            "second": rows[second],
            "similarity": similarity[first, second],
            "episodes": seen,
            "queries": 2 * queries * seen,
            "confused": confused[codes],
        }
    )
    table["share"] = table["confused"] / table["queries"]
    return table.sort_values(
        ["confused", "share", "first", "second"],
        ascending=[False, False, True, True],
        ignore_index=True,
    )[:PAIRS]


def _parameters(source: Prepared, test: pd.DataFrame, headline: pd.DataFrame) -> Described:
    """Tasks without classes need no learned map: a sine wave has two parameters, a user a mean and a spread of ratings."""
    if source.given:
        targets = source.targets().cpu().double().numpy()
        rated = [
            np.concatenate(
                [
                    targets[first : first + n],
                    targets[first + n + skipped : first + n + skipped + queries],
                ]
            )
            for first, n, skipped, queries in zip(
                *(test[column] for column in ("offset", "support", "skipped", "query")), strict=True
            )
        ]
        x, y, names = (
            [part.mean() for part in rated],
            [part.std() for part in rated],
            ("mean", "spread"),
        )
    else:
        x, y, names = test["phase"].to_list(), test["amplitude"].to_list(), ("phase", "amplitude")
    tasks = pd.DataFrame({"episode": test["episode"].to_numpy(), "x": x, "y": y}).merge(
        headline[["episode", "mse"]], on="episode"
    )
    finite = tasks[np.isfinite(tasks["mse"])]
    figures = {
        name: _correlation(finite[column], finite["mse"], source.meta["seed"])
        for name, column in zip(names, ("x", "y"), strict=True)
    }
    return Described(
        {"tasks": tasks, "difficulty": _fifths(finite, "y", "mse")}, {"tasks": figures}
    )
