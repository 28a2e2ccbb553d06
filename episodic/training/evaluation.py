"""Evaluation on fixed episodes: adaptation, scores per episode, adaptation curves."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from episodic.core import float64, random_numbers
from episodic.core.episode import Episode
from episodic.core.model import Params
from episodic.core.statistics import mean_ci95
from episodic.data.stored_episodes import Episodes
from episodic.engine import plan
from episodic.engine.inner import InnerLoop, adapted_parameters, graph_free_steps
from episodic.engine.learner import BATCH_NORM, MetaLearner
from episodic.engine.processes import ProcessGroup

__all__ = [
    "AdaptationCurve",
    "Evaluation",
    "ExactChunks",
    "adapt",
    "adaptation_curve",
    "adaptation_steps",
    "count_inner_steps",
    "curve_steps",
    "episode_scores",
    "episodes_per_chunk",
    "evaluate",
    "permuted_label_scores",
    "split_episodes",
]

CURVE_STEPS = 10
"""Number of inner steps up to which an adaptation curve has a point per step. Beyond, it has one
point per ten steps."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of a trained learner on fixed episodes.

    Args:
        score_name: `accuracy` (a fraction) or `mse`.
        scores: The score of each episode, `(episodes,)` float64.
        losses: The query loss of each episode, `(episodes,)` float64.
    """

    score_name: str
    scores: np.ndarray
    losses: np.ndarray

    @property
    def mean(self) -> float:
        """The mean score."""
        return float(self.scores.mean())

    @property
    def ci95(self) -> float:
        """Half-width of the 95 % confidence interval of the mean over episodes."""
        return mean_ci95(self.scores, share=self.score_name == "accuracy")[1]

    def __str__(self) -> str:
        episodes = len(self.scores)
        return f"{self.score_name} {self.mean:.4g} ± {self.ci95:.2g} ({episodes} episodes)"


def evaluate(
    learner: MetaLearner,
    params: Params,
    episodes: Episodes,
    steps: int | None = None,
    chunk: int | None = None,
) -> Evaluation:
    """Adapt to the support set of each episode and score the query set.

    Args:
        learner: The learner. Its batch-norm mode applies.
        params: Meta-parameters without a task axis, such as `TrainingResult.theta`.
        episodes: The episodes, on the device of the computation.
        steps: Number of inner steps. None: the number that the algorithm takes at test time.
        chunk: Episodes computed at once. None: chosen from the workload. It changes no score, and
            has no effect if padding would (see `ExactChunks`).

    Raises:
        ConfigError: The learner is not compatible with the episodes.
    """
    score, loss = episode_scores(
        learner, params, episodes, count_inner_steps(learner, steps), chunk
    )
    return Evaluation(learner.objective.score_name, score, loss)


def count_inner_steps(learner: MetaLearner, steps: int | None) -> int:
    """Return the number of inner steps at test time.

    It is `steps`, or the default of the algorithm if `steps` is None. Algorithms without an inner
    loop take none.
    """
    default = learner.test_variant.algorithm.inner_steps
    return default if default == 0 or steps is None else steps


def curve_steps(learner: MetaLearner, steps: int) -> list[int]:
    """List the numbers of inner steps of an adaptation curve.

    Args:
        learner: The learner. Without an inner loop, the only number is 0.
        steps: Number of inner steps of the headline score, which is included.
    """
    if learner.test_variant.algorithm.inner_steps == 0:
        return [0]
    return sorted({*range(CURVE_STEPS + 1), *range(CURVE_STEPS, steps, 10), steps})


def adapt(
    learner: MetaLearner, params: Params, episode: Episode, steps: int | None = None
) -> Params:
    """Adapt to the support set of each task. The query set is not used.

    `learner.test_variant.query_outputs(adapted, episode)` computes the predictions.

    Args:
        learner: The learner.
        params: Meta-parameters without a task axis.
        episode: The tasks.
        steps: Number of inner steps. None: the number that the algorithm takes at test time.

    Returns:
        The adapted parameters of each task, `(tasks, *shape)`.

    Raises:
        ConfigError: The learner is not compatible with the episode.
    """
    inner = _build_inner_loop(learner, params, episode)
    return adapted_parameters(inner, count_inner_steps(learner, steps))


def adaptation_steps(
    learner: MetaLearner, params: Params, episode: Episode, steps: int
) -> Iterator[Params]:
    """Yield the parameters theta_0, ..., theta_steps of the adaptation, without a graph.

    Arguments and errors are those of `adapt`.
    """
    return graph_free_steps(_build_inner_loop(learner, params, episode), steps)


def _build_inner_loop(learner: MetaLearner, params: Params, episode: Episode) -> InnerLoop:
    learner.test_variant.check_episode(episode)
    with torch.no_grad():
        return learner.test_variant.algorithm.inner_loop(learner, params, episode, progress=1.0)


@dataclass(frozen=True)
class AdaptationCurve:
    """Results of a batch of episodes after different numbers of inner steps, the points.

    Args:
        score: Scores `(tasks, points)` by batch-norm mode.
        loss: Query losses `(tasks, points)` by batch-norm mode.
        outputs: The query outputs in the mode of the learner, `(points, tasks, n, outputs)`.
    """

    score: dict[str, Tensor]
    loss: dict[str, Tensor]
    outputs: Tensor


def adaptation_curve(
    learner: MetaLearner,
    members: Sequence[Params],
    episode: Episode,
    points: Collection[int],
    modes: Iterable[str] = BATCH_NORM,
) -> AdaptationCurve:
    """Score each task after different numbers of inner steps.

    Args:
        learner: The learner.
        members: Meta-parameters without a task axis. More than one form an ensemble: members adapt
            independently, and their predictions are averaged.
        episode: The tasks.
        points: Numbers of inner steps.
        modes: Batch-norm modes to evaluate. They must include that of the learner.

    Raises:
        ConfigError: The learner is not compatible with the episode.
    """
    score: dict[str, list[Tensor]] = {mode: [] for mode in modes}
    loss: dict[str, list[Tensor]] = {mode: [] for mode in modes}
    mode_outputs = []
    learner = learner.test_variant
    objective, query_y, size = learner.objective, episode.query_y, episode.query_size
    paths = [adaptation_steps(learner, params, episode, max(points)) for params in members]
    for step, thetas in enumerate(zip(*paths, strict=True)):
        if step not in points:
            continue
        with torch.no_grad():
            for mode in score:
                outputs = objective.combine_outputs(
                    [learner.query_outputs(theta, episode, mode) for theta in thetas]
                )
                score[mode].append(objective.score(outputs, query_y, size))
                loss[mode].append(objective.loss(outputs, query_y, size))
                if mode == learner.batch_norm:
                    mode_outputs.append(outputs)
    return AdaptationCurve(
        {mode: torch.stack(values, 1) for mode, values in score.items()},
        {mode: torch.stack(values, 1) for mode, values in loss.items()},
        torch.stack(mode_outputs),
    )


def episode_scores(
    learner: MetaLearner,
    params: Params,
    episodes: Episodes,
    steps: int,
    chunk: int | None = None,
    group: ProcessGroup | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Score each episode after `steps` inner steps, in the batch-norm mode of the learner.

    Episodes of different sizes are computed one at a time, without padding, if padding would affect
    the scores.

    Args:
        learner: The learner.
        params: Meta-parameters without a task axis.
        episodes: The episodes.
        steps: Number of inner steps.
        chunk: Episodes computed at once, as for `ExactChunks`.
        group: The processes that share the work.

    Returns:
        The score and the query loss of each episode, `(episodes,)` float64.

    Raises:
        ConfigError: The learner is not compatible with the episodes.
    """
    learner = learner.test_variant
    chunks = ExactChunks(learner, episodes, chunk)
    objective = learner.objective

    def score_chunk(i: int) -> Tensor:
        episode = chunks[i]
        theta = adapted_parameters(_build_inner_loop(learner, params, episode), steps)
        with torch.no_grad():
            outputs = learner.query_outputs(theta, episode)
            query_y, size = episode.query_y, episode.query_size
            return torch.stack(
                [objective.score(outputs, query_y, size), objective.loss(outputs, query_y, size)], 1
            )

    table = (group or ProcessGroup()).gather_rows(score_chunk, chunks.sizes)
    score, loss = table.cpu().double().numpy().T
    return score, loss


class ExactChunks:
    """Episodes in chunks that can be computed at once. A chunk is built whenever it is read.

    Episodes of different sizes are separated and without padding if padding would affect their
    scores.

    Args:
        learner: The learner.
        episodes: The episodes.
        size: Episodes per chunk. None: chosen from the workload. Where padding would affect the
            scores, chunks have one episode, whatever the size.

    Attributes:
        sizes: Number of episodes of each chunk.
    """

    def __init__(self, learner: MetaLearner, episodes: Episodes, size: int | None = None):
        self._episodes = episodes
        self._separated = not learner.handles_padding and episodes.is_padded
        if self._separated:
            size = 1
        self._size = size or episodes_per_chunk(episodes.slice_tasks(0, 1))
        starts = range(0, episodes.tasks, self._size)
        self.sizes = [min(self._size, episodes.tasks - start) for start in starts]

    def __iter__(self) -> Iterator[Episode]:
        return (self[i] for i in range(len(self.sizes)))

    def __getitem__(self, i: int) -> Episode:
        start = i * self._size
        chunk = self._episodes.slice_tasks(start, start + self.sizes[i])
        return chunk.trim() if self._separated else chunk


def permuted_label_scores(
    learner: MetaLearner,
    members: Sequence[Params],
    episode: Episode,
    steps: int,
    seed: int,
    permutation: int,
    first: int = 0,
) -> Tensor:
    """Score each task after a random permutation of its class labels.

    The support set is reordered accordingly, because it is ordered by class. The scores of
    algorithms that treat all classes equally do not change.

    Args:
        learner: The learner.
        members: As for `adaptation_curve`.
        episode: The tasks.
        steps: Number of inner steps.
        seed: Seed of the permutations.
        permutation: Index of the permutation.
        first: Index of the first episode, so permutations do not depend on the chunks.

    Returns:
        The scores `(tasks,)`.
    """
    device = episode.support_y.device
    index = first + torch.arange(episode.tasks, device=float64.supporting_device(device))
    bits = random_numbers.random_bits(
        random_numbers.key(seed, f"renamed classes {permutation}"), index, episode.classes
    )
    labels = random_numbers.sample_distinct(bits, episode.classes, episode.classes).to(device)
    support_y = labels.gather(1, episode.support_y)
    order = support_y.argsort(dim=1, stable=True)
    tasks = torch.arange(episode.tasks, device=device)[:, None]
    permuted = episode._replace(
        support_x=episode.support_x[tasks, order],
        support_y=support_y.gather(1, order),
        query_y=labels.gather(1, episode.query_y),
    )
    mode = learner.batch_norm
    return adaptation_curve(learner, members, permuted, [steps], [mode]).score[mode][:, 0]


def episodes_per_chunk(episode: Episode) -> int:
    """Choose how many episodes of this size are computed at once."""
    return plan.choose_chunk_size(
        episode.support_x[0].numel(), episode.query_x[0].numel(), episode.support_x.device.type
    )


def split_episodes(episode: Episode, size: int) -> Iterator[Episode]:
    """Yield chunks of at most `size` episodes, in order."""
    for start in range(0, episode.tasks, size):
        yield episode.slice_tasks(start, start + size)
