"""Further figures of the trained model: how it takes examples of no class, and other numbers for the same classes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import torch

from episodic.core import float64, random_numbers
from episodic.core.model import Params
from episodic.core.statistics import mean_ci95
from episodic.engine.learner import MetaLearner
from episodic.engine.processes import Group
from episodic.training import evaluation
from tasks.prepared import Prepared

RENAMINGS, RENAMED = 5, 50
"""Classification: how often classes are renumbered, in how many episodes, to see how much their numbers count."""


def rejection(
    meta_learner: MetaLearner,
    members: list[Params],
    source: Prepared,
    test: pd.DataFrame,
    curve: evaluation.AdaptationCurve,
    at: int,
    steps: int,
    chunk: int,
    group: Group,
) -> dict[str, Any]:
    """How well the probability of the answer tells an episode's queries from examples of no class at all: the area under the ROC curve."""
    number = source.meta.get("outside", 0)
    if not number:
        return {}
    examples = source.examples()
    first, queries = len(examples) - number, curve.outputs.shape[2]
    bits = random_numbers.draws(
        random_numbers.key(source.meta["seed"], "outside"), torch.arange(len(test)), queries
    )
    rows = (first + random_numbers.below(bits, number)).to(source.drawn_on)
    starts = range(0, len(test), chunk)

    def one(i: int) -> torch.Tensor:
        part = slice(starts[i], starts[i] + chunk)
        episode = source.fixed(test[part], examples)
        x = examples[rows[part].flatten()].unflatten(0, (episode.tasks, queries))
        strange = episode._replace(query_x=x, query_y=torch.zeros_like(rows[part])).to(
            source.device
        )
        answer = evaluation.adaptation_curve(
            meta_learner, members, strange, [steps], [meta_learner.batch_norm]
        ).outputs[0]
        return float64.double(answer.softmax(-1).amax(-1))

    strange = group.rows(one, [min(chunk, len(test) - start) for start in starts]).cpu().numpy()
    known = curve.outputs[at].softmax(-1).amax(-1).cpu().double().numpy()
    mean, ci95 = mean_ci95(np.array([_auroc(a, b) for a, b in zip(known, strange, strict=True)]))
    return {"rejection": {"auroc": mean, "auroc_ci95": ci95}}


def _auroc(above: np.ndarray, below: np.ndarray) -> float:
    """The probability that one of `above` is greater than one of `below`, ties counted half (Mann, Whitney 1947)."""
    greater, same = (above[:, None] > below).mean(), (above[:, None] == below).mean()
    return float(greater + same / 2)


def label_spread(
    meta_learner: MetaLearner,
    members: list[Params],
    source: Prepared,
    test: pd.DataFrame,
    steps: int,
    chunk: int,
    group: Group,
) -> dict[str, Any]:
    """How far the accuracy of some episodes spreads over random numberings of their classes."""
    if source.kind != "classification":
        return {}
    parts = list(evaluation.split_episodes(source.fixed(test[:RENAMED]), chunk))

    def one(i: int) -> torch.Tensor:
        number, part = divmod(i, len(parts))
        score = evaluation.permuted_label_scores(
            meta_learner, members, parts[part], steps, source.meta["seed"], number, part * chunk
        )
        return float64.double(score).sum().view(1, 1)

    rows = group.rows(one, [1] * (RENAMINGS * len(parts))).view(RENAMINGS, -1).sum(1) / sum(
        part.tasks for part in parts
    )
    return {
        "accuracy_sd": float(rows.std()),
        "renamings": RENAMINGS,
        "episodes": min(RENAMED, len(test)),
    }
