"""Honest evaluation: fixed episodes, every number of inner steps, both ways of normalising, and what puts it in proportion."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from episodic import ops
from episodic.core import float64, random_numbers
from episodic.core.config import require
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.core.objective import average
from episodic.engine import inner_optimizers, plan
from episodic.engine.inner import Inner, detached, trajectory
from episodic.engine.learner import BATCH_NORM, MetaLearner
from episodic.engine.processes import Group


@dataclass(frozen=True)
class Config:
    """steps: inner steps of the headline figure (None: the method's own at test, as in validation; a method without an inner loop takes
    none); chunk: episodes computed at once (None: chosen from the workload); compiled: on a CPU, by the kernels of the plan `compiled`."""

    steps: int | None = None
    chunk: int | None = None
    compiled: bool = False

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self):
        fits = self.steps is None or 0 <= self.steps <= MOST_STEPS
        require(fits, "steps", self.steps, f"must be null or between 0 and {MOST_STEPS}")
        require(
            self.chunk is None or self.chunk >= 1, "chunk", self.chunk, "must be null or at least 1"
        )


CURVE_STEPS, MOST_STEPS = 10, 1000
"""The adaptation curve looks after each of this many inner steps, then after every tenth; and the largest number of steps."""

FINE_TUNE_STEPS, FINE_TUNE_RATES = 20, (0.01, 0.1, 0.4)
"""The baseline from a random initialisation: gradient steps on the support set, at the rate that does best in validation."""


@dataclass(frozen=True)
class Curve:
    """One chunk of episodes after each of some numbers of inner steps, its points.

    score, loss: for each mode `(tasks, points)`
    outputs: the answers in the learner's own mode, `(points, tasks, n, outputs)`
    """

    score: dict[str, Tensor]
    loss: dict[str, Tensor]
    outputs: Tensor


def points(learner: MetaLearner, steps: int) -> list[int]:
    """The numbers of inner steps after which a curve looks, for a headline after `steps`: 0 alone for a method without an inner loop."""
    if learner.at_test.algorithm.inner_steps == 0:
        return [0]
    return sorted({*range(CURVE_STEPS + 1), *range(CURVE_STEPS, steps, 10), steps})


def headline(learner: MetaLearner, steps: int | None) -> int:
    """The number of inner steps of the headline figure where params say `steps`."""
    own = learner.at_test.algorithm.inner_steps
    return own if own == 0 or steps is None else steps


def adaptation(
    learner: MetaLearner, meta: Params, episode: Episode, steps: int
) -> Iterator[Params]:
    """theta_0 ... theta_steps as the trained learner adapts on the support set, graph-free; the query set is not looked at."""
    learner.at_test.accept(episode)
    with torch.no_grad():
        inner = learner.at_test.algorithm.inner(learner, meta, episode, progress=1.0)
    return _graph_free(inner, steps)


def _graph_free(inner: Inner, steps: int) -> Iterator[Params]:
    inner = inner._replace(theta=detached(inner.theta), second_order=False)
    yield inner.theta
    for step in trajectory(inner, steps):
        yield detached(step.after)


def curve(
    learner: MetaLearner,
    members: Sequence[Params],
    episode: Episode,
    at: Collection[int],
    modes: Iterable[str] = BATCH_NORM,
) -> Curve:
    """Scores of each task after each number of inner steps of `at`, in each mode of `modes` (which holds the learner's own).

    members: meta-parameters, each of which adapts for itself; if they are several, they answer together
    """
    score: dict[str, list[Tensor]] = {mode: [] for mode in modes}
    loss: dict[str, list[Tensor]] = {mode: [] for mode in modes}
    outputs = []
    learner = learner.at_test
    for step, thetas in enumerate(
        zip(*(adaptation(learner, meta, episode, max(at)) for meta in members), strict=True)
    ):
        if step not in at:
            continue
        with torch.no_grad():
            for mode in score:
                answer = learner.objective.together(
                    [learner.query_outputs(theta, episode, mode) for theta in thetas]
                )
                score[mode].append(
                    learner.objective.score(answer, episode.query_y, episode.query_size)
                )
                loss[mode].append(
                    learner.objective.loss(answer, episode.query_y, episode.query_size)
                )
                if mode == learner.batch_norm:
                    outputs.append(answer)
    return Curve(
        {m: torch.stack(s, 1) for m, s in score.items()},
        {m: torch.stack(s, 1) for m, s in loss.items()},
        torch.stack(outputs),
    )


def scores(
    learner: MetaLearner,
    meta: Params,
    episode: Episode,
    steps: int,
    chunk: int | None = None,
    group: Group | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Score and loss of each episode after `steps` inner steps, in the learner's own mode; `chunk` episodes at once (None:
    chosen from the workload), which the processes of `group` share."""
    chunk = chunk or at_once(episode)
    parts, learner = list(chunks(episode, chunk)), learner.at_test

    def one(i: int) -> Tensor:
        *_, theta = adaptation(learner, meta, parts[i], steps)
        with torch.no_grad():
            answer = learner.query_outputs(theta, parts[i])
            query_y, size = parts[i].query_y, parts[i].query_size
            return torch.stack(
                [
                    learner.objective.score(answer, query_y, size),
                    learner.objective.loss(answer, query_y, size),
                ],
                1,
            )

    score, loss = (
        (group or Group()).rows(one, [part.tasks for part in parts]).cpu().double().numpy().T
    )
    return score, loss


def relabelled(
    learner: MetaLearner,
    members: Sequence[Params],
    episode: Episode,
    steps: int,
    seed: int,
    number: int,
    first: int = 0,
) -> Tensor:
    """Score `(tasks,)` after `steps` inner steps where each task's classes have other numbers, the renaming `number`, and with them another
    place in the support set, which holds one class after the other.

    For a method that treats classes alike it is the score itself; others depend on which output a class happens to get, or on the order.
    members: as in `curve`; first: number of the first episode, so that a renaming does not depend on how episodes are grouped.
    """
    device = episode.support_y.device
    index = first + torch.arange(episode.tasks, device=float64.place(device))
    bits = random_numbers.draws(
        random_numbers.key(seed, f"renamed classes {number}"), index, episode.classes
    )
    names = random_numbers.choose(bits, episode.classes, episode.classes).to(device)
    support_y = names.gather(1, episode.support_y)
    order = support_y.argsort(dim=1, stable=True)
    tasks = torch.arange(episode.tasks, device=device)[:, None]
    renamed = episode._replace(
        support_x=episode.support_x[tasks, order],
        support_y=support_y.gather(1, order),
        query_y=names.gather(1, episode.query_y),
    )
    return curve(learner, members, renamed, [steps], [learner.batch_norm]).score[
        learner.batch_norm
    ][:, 0]


def at_once(episode: Episode) -> int:
    """How many episodes like these are computed at once."""
    return plan.episodes_at_once(
        episode.support_x[0].numel(), episode.query_x[0].numel(), episode.support_x.device.type
    )


def chunks(episode: Episode, size: int) -> Iterator[Episode]:
    for start in range(0, episode.tasks, size):
        yield episode.part(start, start + size)


def input_centroid(episode: Episode) -> Tensor:
    """Accuracy `(tasks,)` of naming the class whose mean support example is nearest as it is, such as in pixels (squared Euclidean
    distance)."""
    support, query = episode.support_x.flatten(2), episode.query_x.flatten(2)
    centroids = ops.class_means(support, episode.support_y, episode.classes)
    return float64.double(torch.cdist(query, centroids).argmin(-1) == episode.query_y).mean(1)


def fine_tune_rate(
    learner: MetaLearner, seed: int, validation: Episode, group: Group | None = None
) -> float:
    """The rate of FINE_TUNE_RATES with which `random_init` does best, so that the baseline is not made weak by a poor choice."""

    def one(i: int) -> Tensor:
        size = at_once(validation)
        parts = [
            random_init(learner, seed, part, FINE_TUNE_RATES[i], k * size)
            for k, part in enumerate(chunks(validation, size))
        ]
        return float64.double(torch.cat(parts)).mean().view(1, 1)

    best = FINE_TUNE_RATES[0], math.nan
    for rate, score in zip(
        FINE_TUNE_RATES,
        (group or Group()).rows(one, [1] * len(FINE_TUNE_RATES))[:, 0].tolist(),
        strict=True,
    ):
        if math.isfinite(score) and (
            math.isnan(best[1]) or learner.objective.better(score, best[1])
        ):
            best = rate, score
    return best[0]


def random_init(
    learner: MetaLearner, seed: int, episode: Episode, rate: float, first: int = 0
) -> Tensor:
    """Score `(tasks,)` of a network trained on the support set alone: each episode from its own random weights.

    learner: its model as it is, whatever its method
    rate: of the FINE_TUNE_STEPS gradient steps
    first: number of the first episode, so that an episode's weights do not depend on how episodes are grouped.
    """
    drawn = [
        learner.model.init(random_numbers.generator(seed, f"random initialisation {first + i}"))
        for i in range(episode.tasks)
    ]
    x = episode.support_x
    like = x if x.is_floating_point() else torch.empty(0, device=x.device)  # tokens are no weights
    theta = {name: torch.stack([d[name] for d in drawn]).to(like) for name in drawn[0]}
    inner = Inner(
        theta,
        lambda theta, step: learner.support_loss(theta, episode),
        inner_optimizers.sgd(rate),
        second_order=False,
    )
    *_, theta = _graph_free(inner, FINE_TUNE_STEPS)
    with torch.no_grad():
        answer = learner.on_query(learner.model, theta, episode, learner.batch_norm)
        return learner.objective.score(answer, episode.query_y, episode.query_size)


def constant(episode: Episode, value: Tensor) -> Tensor:
    """Regression: mean squared error `(tasks,)` of answering `value` (broadcast over the query set)."""
    return average((episode.query_y - value).square(), episode.query_size)
