"""Ratings: errors and ranked lists of the model and its baselines by number of ratings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from episodic.analysis import rating_metrics
from episodic.analysis.item_similarity import Ratings
from episodic.analysis.rating_baselines import RatingBaselines
from episodic.analysis.rating_metrics import LIST_METRICS, METRICS
from episodic.core import float64
from episodic.core.episode import Episode
from episodic.core.statistics import mean_ci95
from episodic.data import storage
from episodic.engine.processes import ProcessGroup
from episodic.training.evaluation import adaptation_curve
from tasks.evaluation.baselines import RowBaselines, stack_scores
from tasks.evaluation.evaluation import EvaluationSetup
from tasks.prepared import PreparedFolder

SHOTS = (1, 3, 5, 10, 20)
"""Numbers of first ratings of a user that a model adapts to, up to episodes.shots.

The predicted ratings are the same for all of them.
"""

AHEAD = {"mae": "ahead", "rmse": "ahead_rmse", "ndcg_10": "ahead_ndcg_10"}
"""Measures in which methods are compared by user, and the columns of the differences."""

LISTS, LIST_LENGTH = 4, 8
"""Number of users, from typical to worst, with a ranked list in the report, and its length."""

Users = list[tuple[Ratings, Ratings]]
"""Support and query set of each user."""


class RatingTable:
    """All ratings, row by row.

    Attributes:
        x: Numbers of features, int64 `(N, fields, features)`. The first is the rated item.
        value: The ratings `(N,)`.
        shots: The numbers of first ratings that are evaluated.
    """

    def __init__(self, source: PreparedFolder):
        self.source, shots = source, source.meta["shots"]
        self.shots = sorted({n for n in SHOTS if n < shots} | {shots})
        rows = torch.arange(len(source.examples))
        self.x = storage.read_examples(source.examples, rows).cpu().numpy().astype(np.int64)
        self.value = source.targets.cpu().numpy().astype(np.float64)

    def slice(self, first: int, size: int) -> Ratings:
        """Return consecutive ratings."""
        return Ratings(self.x[first : first + size], self.value[first : first + size])

    def users(self, episodes: pd.DataFrame) -> Users:
        """Return the support and query set of each fixed episode."""
        lines = episodes[["offset", "support", "skipped", "query"]].itertuples(index=False)
        return [(self.slice(o, s), self.slice(o + s + skipped, q)) for o, s, skipped, q in lines]

    def training_users(self) -> list[Ratings]:
        """Return all ratings of each training user."""
        lines = self.source.read_tasks("train")[["offset", "count"]].itertuples(index=False)
        return [self.slice(offset, count) for offset, count in lines]

    @cached_property
    def baselines(self) -> dict[int, RatingBaselines]:
        """The fitted baselines, by the number of first ratings."""
        validation = self.users(self.source.read_episodes("validation"))
        tokens = int(self.x.max()) + 1
        return RatingBaselines.fit(self.training_users(), validation, tokens, self.shots)


def fit_rating_baselines(table: RatingTable, test: pd.DataFrame) -> RowBaselines:
    """Fit the baselines that know which item was rated; their score is the squared error."""
    fitted, users = table.baselines[table.shots[-1]], table.users(test)

    def score(episode: Episode, first: int) -> dict[str, torch.Tensor]:
        scores = [
            {
                name: float(((prediction - query.values) ** 2).mean())
                for name, prediction in fitted.predict(support, query.x).items()
            }
            for support, query in users[first : first + episode.tasks]
        ]
        return stack_scores(scores, episode)

    return score


@dataclass(frozen=True)
class RatingResults:
    """Errors and ranked lists.

    Attributes:
        users: METRICS of each user: columns `method` (`model` or a baseline), `shots`, `episode`,
            and one per measure. Baselines that only rank items have no errors.
        lists: For a few users, from typical to worst, the ratings of the support set (part
            `support`) and the items that the model ranks first (part `list`).
    """

    users: pd.DataFrame
    lists: pd.DataFrame


def measure_ratings(
    evaluation: EvaluationSetup, table: RatingTable, group: ProcessGroup
) -> RatingResults | None:
    """Measure the model and the baselines for every number of first ratings.

    Returns:
        None in all processes of the group but the first.
    """
    users, learner = table.users(evaluation.test), evaluation.trained.learner
    fitted = table.baselines if group.rank == 0 else None
    lowest = min(float(user.values.min()) for user in table.training_users())
    rows: list[dict[str, Any]] = []
    outputs = np.empty((0, 0))
    for shots in table.shots:

        def compute(chunk: int, shots: int = shots) -> torch.Tensor:
            episode = evaluation.load_episodes(evaluation.chunks[chunk]).with_shots(shots)
            modes = [learner.batch_norm]
            members = evaluation.trained.members
            curve = adaptation_curve(learner, members, episode, [evaluation.steps], modes)
            return float64.to_float64(curve.outputs[0, :, :, 0])

        outputs = group.gather_rows(compute, evaluation.chunk_sizes).cpu().numpy()
        if fitted is None:
            continue
        for episode, ((support, query), output) in enumerate(zip(users, outputs, strict=True)):
            predictions = {"model": output[: len(query.values)]}
            known = support.first(shots)
            predictions |= fitted[shots].predict(known, query.x)
            scores = {
                method: rating_metrics.score_ratings(query.values, values, lowest)
                for method, values in predictions.items()
            }
            for method, values in fitted[shots].rank(known, query.x).items():
                scores[method] = rating_metrics.rank_ratings(query.values, values, lowest)
            rows += [
                {"method": method, "shots": shots, "episode": episode} | of_method
                for method, of_method in scores.items()
            ]
    if fitted is None:
        return None
    measured = pd.DataFrame(rows)
    of_model = (measured["method"] == "model") & (measured["shots"] == table.shots[-1])
    order = measured[of_model].sort_values(["rmse", "episode"])["episode"].to_numpy()
    places = np.linspace(len(order) // 2, len(order) - 1, LISTS).round().astype(int)
    lists = _ranked_lists(evaluation, outputs, dict.fromkeys(order[places].tolist()))
    return RatingResults(measured, lists)


def _ranked_lists(
    evaluation: EvaluationSetup, predictions: np.ndarray, episodes: Iterable[int]
) -> pd.DataFrame:
    source, test = evaluation.source, evaluation.test
    texts, targets = source.read_texts(), source.targets.cpu().numpy()
    rows: list[dict[str, Any]] = []
    for episode in episodes:
        offset, support, skipped, query = (
            int(test[column].iloc[episode]) for column in ("offset", "support", "skipped", "query")
        )
        first = offset + support + skipped
        order = np.argsort(-predictions[episode, :query], kind="stable")[:LIST_LENGTH]
        lines = [("support", row, np.nan) for row in range(offset, offset + support)]
        lines += [("list", first + place, predictions[episode, place]) for place in order.tolist()]
        rows += [
            {
                "episode": episode,
                "part": part,
                "item": texts[row],
                "rating": float(targets[row]),
                "answer": prediction,
            }
            for part, row, prediction in lines
        ]
    return pd.DataFrame(rows)


def summarize_users(users: pd.DataFrame) -> pd.DataFrame:
    """Summarize the measures by method and number of ratings, with 95 % intervals over users.

    `ahead` is how much better the model is for the same users: the absolute error of the method
    minus that of the model. So is `ahead_rmse`, and `ahead_ndcg_10` is the nDCG of the model minus
    that of the method.
    """
    rows = []
    model = users[users["method"] == "model"].set_index(["shots", "episode"])
    for (method, shots), errors in users.groupby(["method", "shots"], sort=True):
        line: dict[str, Any] = {"method": method, "shots": shots}
        for measure in METRICS:
            line[measure], line[f"{measure}_ci95"] = mean_ci95(errors[measure].to_numpy())
        by_user, of_model = errors.set_index("episode"), model.xs(shots, level="shots")
        for measure, column in AHEAD.items():
            gain = by_user[measure] - of_model[measure]
            sign = -1 if measure in LIST_METRICS else 1
            line[column], line[f"{column}_ci95"] = mean_ci95(sign * gain.to_numpy())
        rows.append(line)
    return pd.DataFrame(rows)


def build_rating_entry(summary: pd.DataFrame) -> dict[str, Any]:
    """Build the entry `ratings` of metrics.json: measures of the model by number of ratings."""
    names = [name for measure in METRICS for name in (measure, f"{measure}_ci95")]
    model = summary[summary["method"] == "model"]
    return {
        "ratings": {
            str(line["shots"]): {name: line[name] for name in names}
            for line in model.to_dict("records")
        }
    }
