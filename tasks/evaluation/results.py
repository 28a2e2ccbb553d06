"""Scores of the model and of its baselines on every test episode."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from episodic.engine.learner import BATCH_NORM
from episodic.engine.processes import ProcessGroup
from episodic.training.evaluation import adaptation_curve
from tasks.evaluation.baselines import EpisodeBaselines
from tasks.evaluation.evaluation import EvaluationSetup
from tasks.runtime.stage import ProgressReporter


@dataclass(frozen=True)
class EpisodeResults:
    """Results by episode. A point is a number of inner steps.

    Attributes:
        score: Accuracy or mean squared error `(episodes, step_counts)` by batch-norm mode.
        loss: Loss `(episodes, step_counts)` by mode of batch normalization.
        outputs: Outputs on the query sets in the learner's own mode,
            `(episodes, points, queries, outputs)`.
        baselines: Score `(episodes,)` by name of the baseline; `random_init` may be scored only on
            the first episodes.
    """

    score: dict[str, Tensor]
    loss: dict[str, Tensor]
    outputs: Tensor
    baselines: dict[str, Tensor]

    @classmethod
    def gather(
        cls, compute: Callable[[int], EpisodeResults], sizes: Sequence[int], group: ProcessGroup
    ) -> EpisodeResults:
        """Compute chunks of episodes in several processes; every process gets all results.

        Args:
            compute: Index of a chunk -> results of its episodes.
            sizes: The number of episodes in each chunk.
            group: The processes that share the chunks.
        """
        compute = cache(compute)
        names = compute(group.rank if group.rank < len(sizes) else 0).baselines

        def gather(field: str, key: str | None = None) -> Tensor:
            def read(chunk: int) -> Tensor:
                value = getattr(compute(chunk), field)
                return value if key is None else value[key]

            return group.gather_rows(read, sizes)

        return cls(
            score={mode: gather("score", mode) for mode in BATCH_NORM},
            loss={mode: gather("loss", mode) for mode in BATCH_NORM},
            outputs=gather("outputs"),
            baselines={name: gather("baselines", name) for name in names},
        )


def _pad_outputs(outputs: Tensor, evaluation: EvaluationSetup) -> Tensor:
    """Pad logits `(tasks, points, n, ways)` of one episode to the size of the largest one."""
    ways, queries = (evaluation.source.meta[key] for key in ("ways", "queries"))
    outputs = F.pad(outputs, (0, ways - outputs.shape[3]), value=-torch.inf)
    return F.pad(outputs, (0, 0, 0, ways * queries - outputs.shape[2]))


def measure_episodes(
    evaluation: EvaluationSetup, baselines: EpisodeBaselines, group: ProcessGroup
) -> EpisodeResults:
    """Score the model after each number of inner steps, and its baselines, on all test episodes."""
    learner, members = evaluation.trained.learner, evaluation.trained.members
    count = len(evaluation.test)
    with ProgressReporter("evaluate", "episodes", count, silent=group.rank > 0) as progress:

        def compute(chunk: int) -> EpisodeResults:
            rows = evaluation.chunks[chunk]
            episode = evaluation.load_episodes(rows)
            curve = adaptation_curve(learner, members, episode, evaluation.step_counts)
            scores = baselines.score(episode, rows.start)
            progress.update(min(count, progress.done + episode.tasks * group.size))
            outputs = curve.outputs.transpose(0, 1)
            if evaluation.source.is_varied:
                outputs = _pad_outputs(outputs, evaluation)
            return EpisodeResults(curve.score, curve.loss, outputs, scores)

        results = EpisodeResults.gather(compute, evaluation.chunk_sizes, group)
    scored = slice(baselines.random_init_episodes)
    random_init = {"random_init": results.baselines["random_init"][scored]}
    return replace(results, baselines=results.baselines | random_init)
