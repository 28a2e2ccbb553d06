"""Ratings: errors and lists for every number of a user's ratings, of the model and of what people had before."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch

from episodic.analysis import rating_metrics
from episodic.analysis.rating_metrics import MEASURES, Baselines, Ratings
from episodic.core import float64
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.core.statistics import mean_ci95
from episodic.engine.learner import MetaLearner
from episodic.engine.processes import Group
from episodic.training import evaluation
from tasks.evaluation.baselines import Readers
from tasks.prepared import Prepared

SHOTS = (1, 3, 5, 10, 20)
"""Numbers of a user's first ratings that are looked at, up to episodes.shots. The ratings to be told are the same for all."""

LISTS, TOP = 4, 8
"""How many users, from typical to worst, are kept for the report, and how long their lists are."""

Users = list[tuple[Ratings, Ratings]]
"""Support and query of each."""


class Known:
    """All ratings, row by row: `item` (the number of the first feature) and `value`."""

    def __init__(self, source: Prepared):
        examples: Any = source.examples()
        self.source, most = source, source.meta["shots"]
        self.shots = sorted({n for n in SHOTS if n < most} | {most})
        self.item, self.value = (
            examples[:, 0, 0].cpu().numpy().astype(np.int64),
            source.targets().cpu().numpy().astype(np.float64),
        )

    def run(self, first: int, size: int) -> Ratings:
        return Ratings(self.item[first : first + size], self.value[first : first + size])

    def users(self, table: pd.DataFrame) -> Users:
        """Of fixed episodes, a line each."""
        lines = table[["offset", "support", "skipped", "query"]].itertuples(index=False)
        return [(self.run(o, s), self.run(o + s + skipped, q)) for o, s, skipped, q in lines]

    def training(self) -> list[Ratings]:
        """All ratings of each training user."""
        return [
            self.run(o, n)
            for o, n in self.source.tasks("train")[["offset", "count"]].itertuples(index=False)
        ]

    @cached_property
    def baselines(self) -> dict[int, Baselines]:
        """For each number of first ratings."""
        return Baselines.fit(
            self.training(),
            self.users(self.source.table("validation")),
            int(self.item.max()) + 1,
            self.shots,
        )


def readers(known: Known, test: pd.DataFrame) -> Readers:
    """The squared error of what knows which item was rated."""
    fitted, users = known.baselines[known.shots[-1]], known.users(test)

    def score(episode: Episode, first: int) -> dict[str, torch.Tensor]:
        some = users[first : first + episode.tasks]
        found = [
            {
                name: float(((a - query.values) ** 2).mean())
                for name, a in fitted.answers(support, query.items).items()
            }
            for support, query in some
        ]
        return {
            name: torch.tensor([one[name] for one in found], device=episode.query_y.device)
            for name in found[0]
        }

    return score


@dataclass(frozen=True)
class Rated:
    """users: MEASURES of each user: columns method (`model` and baselines), shots, episode, and a column a measure
    lists: of a few users, from typical to worst, what was rated (part `support`) and what the model would put first (part `list`)"""

    users: pd.DataFrame
    lists: pd.DataFrame


def table(
    meta_learner: MetaLearner,
    members: Sequence[Params],
    known: Known,
    test: pd.DataFrame,
    steps: int,
    chunk: int,
    group: Group,
) -> Rated | None:
    """None for all processes of the group but the first."""
    source, examples, users = known.source, known.source.examples(), known.users(test)
    parts = [test[start : start + chunk] for start in range(0, len(test), chunk)]
    fitted = known.baselines if group.rank == 0 else None
    lowest = min(float(user.values.min()) for user in known.training())
    rows: list[dict[str, Any]] = []
    said = np.empty((0, 0))
    for shots in known.shots:

        def one(i: int, shots: int = shots) -> torch.Tensor:
            episode = source.fixed(parts[i], examples).fewer(shots)
            curve = evaluation.adaptation_curve(
                meta_learner, members, episode, [steps], [meta_learner.batch_norm]
            )
            return float64.double(curve.outputs[0, :, :, 0])

        said = group.rows(one, [len(part) for part in parts]).cpu().numpy()
        if fitted is None:
            continue
        for episode, ((support, query), answer) in enumerate(zip(users, said, strict=True)):
            simpler = fitted[shots].answers(support.first(shots), query.items)
            for method, values in {"model": answer[: len(query.values)], **simpler}.items():
                rows.append(
                    {"method": method, "shots": shots, "episode": episode}
                    | rating_metrics.measures(query.values, values, lowest)
                )
    if fitted is None:
        return None
    found = pd.DataFrame(rows)
    errors = (
        found[(found["method"] == "model") & (found["shots"] == known.shots[-1])]
        .sort_values(["rmse", "episode"])["episode"]
        .to_numpy()
    )
    picked = errors[np.linspace(len(errors) // 2, len(errors) - 1, LISTS).round().astype(int)]
    return Rated(found, _lists(source, test, said, dict.fromkeys(picked.tolist())))


def _lists(
    source: Prepared, test: pd.DataFrame, answers: np.ndarray, episodes: Iterable[int]
) -> pd.DataFrame:
    texts, targets = source.texts(), source.targets().cpu().numpy()
    rows: list[dict[str, Any]] = []
    for episode in episodes:
        offset, support, skipped, query = (
            int(test[column].iloc[episode]) for column in ("offset", "support", "skipped", "query")
        )
        first = offset + support + skipped
        order = np.argsort(-answers[episode, :query], kind="stable")[:TOP]
        lines = [("support", row, np.nan) for row in range(offset, offset + support)]
        lines += [("list", first + place, answers[episode, place]) for place in order.tolist()]
        rows += [
            {
                "episode": episode,
                "part": part,
                "item": texts[row],
                "rating": float(targets[row]),
                "answer": answer,
            }
            for part, row, answer in lines
        ]
    return pd.DataFrame(rows)


def summary(users: pd.DataFrame) -> pd.DataFrame:
    """A line for each method and number of ratings: each measure with its 95 % interval over users, and `ahead`, by how much the model's
    absolute error is smaller for the same users."""
    rows = []
    model = users[users["method"] == "model"].set_index(["shots", "episode"])["mae"]
    for (method, shots), part in users.groupby(["method", "shots"], sort=True):
        line: dict[str, Any] = {"method": method, "shots": shots}
        for measure in MEASURES:
            line[measure], line[f"{measure}_ci95"] = mean_ci95(part[measure].to_numpy())
        gain = part.set_index("episode")["mae"] - model.xs(shots, level="shots")
        line["ahead"], line["ahead_ci95"] = mean_ci95(gain.to_numpy())
        rows.append(line)
    return pd.DataFrame(rows)


def figures(summary: pd.DataFrame) -> dict[str, Any]:
    """For metrics.json: the model's measures by the number of ratings."""
    wanted = [name for measure in MEASURES for name in (measure, f"{measure}_ci95")]
    model = summary[summary["method"] == "model"]
    return {
        "ratings": {
            str(line["shots"]): {name: line[name] for name in wanted}
            for line in model.to_dict("records")
        }
    }
