"""Honest evaluation: fixed episodes, every number of inner steps, both ways of normalising, and what puts it in proportion."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from episodic import counter, rules
from episodic.adapt import Inner, detached, trajectory
from episodic.config import require
from episodic.episode import Episode
from episodic.group import Group
from episodic.learner import BATCH_NORM, MetaLearner
from episodic.ops import Params


@dataclass(frozen=True)
class Config:
    """steps: inner steps of the headline figure; chunk: episodes computed at once."""

    steps: int = 3
    chunk: int = 5

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self):
        require(0 <= self.steps <= CURVE_STEPS, "steps", self.steps, f"must be between 0 and {CURVE_STEPS}")
        require(self.chunk >= 1, "chunk", self.chunk, "must be at least 1")


CURVE_STEPS = 10
"""The adaptation curve goes from 0 to this many inner steps."""

FINE_TUNE_STEPS, FINE_TUNE_RATES = 20, (0.01, 0.1, 0.4)
"""The baseline from a random initialisation: gradient steps on the support set, at the rate that does best in validation."""


@dataclass(frozen=True)
class Curve:
    """One chunk of episodes after 0, 1, ..., steps inner steps.

    score, loss: for each mode `(tasks, steps + 1)`
    outputs: the model's answers in the learner's own mode, `(steps + 1, tasks, n, outputs)`
    """

    score: dict[str, Tensor]
    loss: dict[str, Tensor]
    outputs: Tensor


def adaptation(learner: MetaLearner, meta: Params, episode: Episode, steps: int) -> Iterator[Params]:
    """theta_0 ... theta_steps as the learner's method adapts on the support set, graph-free; the query set is not looked at."""
    return _graph_free(learner, learner.algorithm.inner(meta, episode.tasks), episode, steps)


def _graph_free(learner: MetaLearner, inner: Inner, episode: Episode, steps: int) -> Iterator[Params]:
    inner = inner._replace(theta=detached(inner.theta), second_order=False)
    yield inner.theta
    for step in trajectory(lambda theta: learner.support_loss(theta, episode), inner, steps):
        yield detached(step.after)


def curve(learner: MetaLearner, meta: Params, episode: Episode, steps: int, modes: Iterable[str] = BATCH_NORM) -> Curve:
    """Scores of each task after each number of inner steps, in each mode of `modes` (which holds the learner's own)."""
    score: dict[str, list[Tensor]] = {mode: [] for mode in modes}
    loss: dict[str, list[Tensor]] = {mode: [] for mode in modes}
    outputs = []
    for theta in adaptation(learner, meta, episode, steps):
        with torch.no_grad():
            for mode in score:
                answer = learner.query_outputs(theta, episode, mode)
                score[mode].append(learner.objective.score(answer, episode.query_y))
                loss[mode].append(learner.objective.loss(answer, episode.query_y))
                if mode == learner.batch_norm:
                    outputs.append(answer)
    return Curve({m: torch.stack(s, 1) for m, s in score.items()}, {m: torch.stack(s, 1) for m, s in loss.items()}, torch.stack(outputs))


def scores(
    learner: MetaLearner, meta: Params, episode: Episode, steps: int, chunk: int, group: Group | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Score and loss of each episode after `steps` inner steps, in the learner's own mode; `chunk` episodes at once, which the
    processes of `group` share."""
    parts = list(chunks(episode, chunk))

    def one(i: int) -> Tensor:
        *_, theta = adaptation(learner, meta, parts[i], steps)
        with torch.no_grad():
            answer = learner.query_outputs(theta, parts[i])
            return torch.stack([learner.objective.score(answer, parts[i].query_y), learner.objective.loss(answer, parts[i].query_y)], 1)

    score, loss = (group or Group()).rows(one, [part.tasks for part in parts]).double().cpu().numpy().T
    return score, loss


def chunks(episode: Episode, size: int) -> Iterator[Episode]:
    for start in range(0, episode.tasks, size):
        yield episode.part(start, start + size)


def pixel_centroid(episode: Episode) -> Tensor:
    """Accuracy `(tasks,)` of naming the class whose mean support image is nearest in pixels (squared Euclidean distance)."""
    support, query = episode.support_x.flatten(2), episode.query_x.flatten(2)
    ways = int(episode.support_y.max()) + 1
    member = torch.nn.functional.one_hot(episode.support_y, ways).to(support.dtype)  # (tasks, n, ways)
    centroids = (member.mT @ support) / member.sum(1)[..., None]
    return (torch.cdist(query, centroids).argmin(-1) == episode.query_y).double().mean(1)


def fine_tune_rate(learner: MetaLearner, seed: int, validation: Episode, group: Group | None = None) -> float:
    """The rate of FINE_TUNE_RATES with which `random_init` does best, so that the baseline is not made weak by a poor choice."""

    def one(i: int) -> Tensor:
        return random_init(learner, seed, validation, FINE_TUNE_RATES[i]).double().mean().view(1, 1)

    best = FINE_TUNE_RATES[0], math.nan
    for rate, score in zip(FINE_TUNE_RATES, (group or Group()).rows(one, [1] * len(FINE_TUNE_RATES))[:, 0].tolist(), strict=True):
        if math.isfinite(score) and (math.isnan(best[1]) or learner.objective.better(score, best[1])):
            best = rate, score
    return best[0]


def random_init(learner: MetaLearner, seed: int, episode: Episode, rate: float, first: int = 0) -> Tensor:
    """Score `(tasks,)` of the same network trained on the support set alone: each episode from its own random weights.

    rate: of the FINE_TUNE_STEPS gradient steps
    first: number of the first episode, so that an episode's weights do not depend on how episodes are grouped.
    """
    drawn = [learner.model.init(counter.generator(seed, f"random initialisation {first + i}")) for i in range(episode.tasks)]
    theta = {name: torch.stack([d[name] for d in drawn]).to(episode.support_x) for name in drawn[0]}
    *_, theta = _graph_free(learner, Inner(theta, rules.sgd(rate), second_order=False), episode, FINE_TUNE_STEPS)
    with torch.no_grad():
        return learner.objective.score(learner.query_outputs(theta, episode), episode.query_y)


def constant(episode: Episode, value: Tensor) -> Tensor:
    """Regression: mean squared error `(tasks,)` of answering `value` (broadcast over the query set)."""
    return (episode.query_y - value).square().flatten(1).mean(1)
