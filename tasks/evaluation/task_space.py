"""The distribution of test tasks: a map of their classes, and accuracy by similarity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from episodic.analysis import embedding_space
from episodic.analysis.correlation import spearman
from episodic.core.episode_size import stack_lists
from episodic.core.statistics import mean_ci95
from episodic.data.similarity import cosine_similarity, mean_class_inputs, rank_neighbours
from episodic.engine.processes import ProcessGroup
from episodic.training.evaluation import adaptation_steps
from tasks.evaluation.evaluation import EvaluationSetup
from tasks.prepared import PreparedFolder

QUINTILES = 5
MAX_PAIRS = 100
"""Maximum number of confused pairs of classes that are listed."""

CORRELATED_COLUMNS = ("similarity", "closest", "inputs")
"""Columns of tasks.parquet whose rank correlation with accuracy is in metrics.json."""


@dataclass(frozen=True)
class TaskSpace:
    """The distribution of the test tasks.

    Attributes:
        tables: Tables of reports/scores, by file name without suffix.
        metrics: The entry `tasks` of metrics.json.
    """

    tables: dict[str, pd.DataFrame]
    metrics: dict[str, Any]


def embed_classes(evaluation: EvaluationSetup, group: ProcessGroup) -> torch.Tensor | None:
    """Compute the mean of each test class in the learned space, without adaptation.

    Returns:
        A tensor `(classes, width)`; None for regression.
    """
    source = evaluation.source
    if source.kind == "regression":
        return None
    classes = _test_classes(source)
    rows, class_of = embedding_space.shuffle_rows(
        torch.tensor(classes["offset"].to_numpy()),
        torch.tensor(classes["count"].to_numpy()),
        source.meta["seed"],
    )
    learner, members = evaluation.trained.learner, evaluation.trained.members
    first = evaluation.load_episodes(slice(1))
    theta = next(iter(adaptation_steps(learner, members[0], first, 0)))
    examples, sizes = source.examples, embedding_space.split_evenly(len(rows))
    chunks = rows.split(sizes)
    features = group.gather_rows(
        lambda chunk: embedding_space.embed_rows(
            learner, theta, examples, chunks[chunk], source.device
        ),
        sizes,
    )
    return embedding_space.class_centroids(features, class_of, len(classes))


def describe_tasks(
    source: PreparedFolder,
    test: pd.DataFrame,
    headline: pd.DataFrame,
    predictions: pd.DataFrame,
    class_embeddings: torch.Tensor | None,
) -> TaskSpace:
    """Describe the test tasks, and relate their properties to their scores.

    Args:
        source: The prepared data.
        test: The fixed test episodes.
        headline: Columns `episode` and the score.
        predictions: As in answers.parquet; empty for regression.
        class_embeddings: As from `embed_classes`.
    """
    if class_embeddings is None:
        return _describe_parameters(source, test, headline)
    classes, seed = _test_classes(source), source.meta["seed"]
    plane = embedding_space.principal_plane(class_embeddings)
    similarity = cosine_similarity(class_embeddings)
    offsets, counts = (torch.tensor(classes[column].to_numpy()) for column in ("offset", "count"))
    inputs = cosine_similarity(mean_class_inputs(source.examples, offsets, counts))
    nearest = rank_neighbours(similarity, 2)[:, -1]
    to_nearest = similarity[torch.arange(len(nearest)), nearest]
    table = classes[["class", "group"]].assign(
        row=classes.index, nearest=classes.index.to_numpy()[nearest]
    )
    table[["x", "y"]], table["similarity"] = plane.coordinates.numpy(), to_nearest.numpy()
    place = torch.full((int(classes.index.max()) + 1,), -1)
    place[classes.index.tolist()] = torch.arange(len(classes))
    rows_of = torch.tensor(stack_lists(test["classes"]))
    is_class = rows_of >= 0
    place_of = place[rows_of].where(is_class, 0)
    pairs = torch.combinations(torch.arange(place_of.shape[1]))
    first, second = place_of[:, pairs[:, 0]], place_of[:, pairs[:, 1]]
    is_pair = is_class[:, pairs[:, 0]] & is_class[:, pairs[:, 1]]
    tasks = pd.DataFrame(
        {
            "episode": test["episode"].to_numpy(),
            "x": _mean_of(plane.coordinates[place_of, 0], is_class),
            "y": _mean_of(plane.coordinates[place_of, 1], is_class),
            "similarity": _mean_of(similarity[first, second], is_pair),
            "closest": similarity[first, second].where(is_pair, -torch.inf).amax(1),
            "inputs": _mean_of(inputs[first, second], is_pair),
        }
    ).merge(headline[["episode", "accuracy"]], on="episode")
    quintiles = _group_quintiles(tasks, "similarity", "accuracy")
    correlations = {
        column: _correlate(tasks[column], tasks["accuracy"], seed) for column in CORRELATED_COLUMNS
    }
    ends = {
        name: {"accuracy": float(line["accuracy"]), "accuracy_ci95": float(line["ci95"])}
        for name, line in (("least_alike", quintiles.iloc[0]), ("most_alike", quintiles.iloc[-1]))
    }
    tables = {
        "space": table,
        "tasks": tasks,
        "difficulty": quintiles,
        "pairs": _count_confusions(similarity, place_of, is_pair, predictions, classes),
    }
    return TaskSpace(
        tables,
        {
            "tasks": correlations
            | ends
            | {"map": dict(zip(("first", "second"), plane.variance_fractions, strict=True))}
        },
    )


def _mean_of(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of the values `(episodes, n)` that `mask` selects."""
    if mask.all():
        return values.mean(1)
    return values.where(mask, 0).sum(1) / mask.sum(1)


def _test_classes(source: PreparedFolder) -> pd.DataFrame:
    return source.read_classes().query("split == 'test'")


def _correlate(x: pd.Series, y: pd.Series, seed: int) -> dict[str, float]:
    return dict(
        zip(
            ("spearman", "low", "high"),
            spearman(x.to_numpy(float), y.to_numpy(float), seed),
            strict=True,
        )
    )


def _group_quintiles(tasks: pd.DataFrame, by: str, score: str) -> pd.DataFrame:
    """Compute the mean score by quintile of `by`; `low` and `high` are the range of `by`."""
    order = tasks.sort_values([by, "episode"], ignore_index=True)
    rows = []
    for i, members in enumerate(
        np.array_split(np.arange(len(order)), max(1, min(QUINTILES, len(order) // 2)))
    ):
        lines = order.iloc[members]
        mean, ci95 = mean_ci95(lines[score].to_numpy(), share=score == "accuracy")
        ends = {"low": float(lines[by].iloc[0]), "high": float(lines[by].iloc[-1])}
        rows.append(
            {"fifth": i + 1}
            | ends
            | {"mean": float(lines[by].mean()), "episodes": len(lines), score: mean, "ci95": ci95}
        )
    return pd.DataFrame(rows)


def _count_confusions(
    similarity: torch.Tensor,
    place_of: torch.Tensor,
    is_pair: torch.Tensor,
    predictions: pd.DataFrame,
    classes: pd.DataFrame,
) -> pd.DataFrame:
    """Count how often classes of a pair are confused.

    The queries of a pair are those of both classes in episodes that contain both. `confused` counts
    those that were classified as the other class.

    Args:
        similarity: Cosine similarity of the classes.
        place_of: Index of each episode's classes among the test classes `(episodes, ways)`.
        is_pair: Which pairs of these classes the episodes have `(episodes, pairs)`.
        predictions: As in answers.parquet.
        classes: The test classes.
    """
    (episodes, ways), n = place_of.shape, len(classes)
    query_of = torch.tensor((predictions["episode"] * ways + predictions["label"]).to_numpy())
    counts = torch.bincount(query_of, minlength=episodes * ways).view(episodes, ways)
    pairs = torch.combinations(torch.arange(ways))
    a, b = place_of[:, pairs[:, 0]][is_pair], place_of[:, pairs[:, 1]][is_pair]
    pair = torch.minimum(a, b) * n + torch.maximum(a, b)
    together = torch.bincount(pair, minlength=1)
    queries = torch.zeros_like(together).scatter_add_(0, pair, counts[:, pairs].sum(-1)[is_pair])
    wrong = predictions[predictions["label"] != predictions["after"]]
    episode = torch.tensor(wrong["episode"].to_numpy())
    true, predicted = (
        place_of[episode, torch.tensor(wrong[column].to_numpy())] for column in ("label", "after")
    )
    confused = torch.bincount(
        torch.minimum(true, predicted) * n + torch.maximum(true, predicted), minlength=1
    )
    codes = confused.nonzero()[:, 0]
    first, second = codes // n, codes % n
    rows, episodes_with_both = classes.index.to_numpy(), together[codes]
    table = pd.DataFrame(
        {
            "first": rows[first],
            "second": rows[second],
            "similarity": similarity[first, second],
            "episodes": episodes_with_both,
            "queries": queries[codes],
            "confused": confused[codes],
        }
    )
    table["share"] = table["confused"] / table["queries"]
    return table.sort_values(
        ["confused", "share", "first", "second"],
        ascending=[False, False, True, True],
        ignore_index=True,
    )[:MAX_PAIRS]


def _describe_parameters(
    source: PreparedFolder, test: pd.DataFrame, headline: pd.DataFrame
) -> TaskSpace:
    """Describe regression tasks by two parameters.

    A sine wave has a phase and an amplitude; a user has a mean and a spread of ratings.
    """
    if source.has_recorded_tasks:
        targets = source.targets.cpu().double().numpy()
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
            [values.mean() for values in rated],
            [values.std() for values in rated],
            ("mean", "spread"),
        )
    else:
        x, y, names = test["phase"].to_list(), test["amplitude"].to_list(), ("phase", "amplitude")
    tasks = pd.DataFrame({"episode": test["episode"].to_numpy(), "x": x, "y": y}).merge(
        headline[["episode", "mse"]], on="episode"
    )
    finite = tasks[np.isfinite(tasks["mse"])]
    correlations = {
        name: _correlate(finite[column], finite["mse"], source.meta["seed"])
        for name, column in zip(names, ("x", "y"), strict=True)
    }
    return TaskSpace(
        {"tasks": tasks, "difficulty": _group_quintiles(finite, "y", "mse")},
        {"tasks": correlations},
    )
