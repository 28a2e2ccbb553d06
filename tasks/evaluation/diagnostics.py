"""Diagnostics: sensitivity to the permutation of labels."""

from __future__ import annotations

from typing import Any

import torch

from episodic.core import float64
from episodic.engine.processes import ProcessGroup
from episodic.training.evaluation import permuted_label_scores, split_episodes
from tasks.evaluation.evaluation import EvaluationSetup

LABEL_PERMUTATIONS, PERMUTED_EPISODES = 5, 50
"""Number of label permutations, and number of episodes whose labels are permuted."""


def measure_label_permutations(evaluation: EvaluationSetup, group: ProcessGroup) -> dict[str, Any]:
    """Measure how the accuracy varies over random permutations of class labels.

    Returns:
        The entry `labels` of metrics.json; empty for regression.
    """
    source, chunk = evaluation.source, evaluation.chunk
    if source.kind != "classification":
        return {}
    learner, members = evaluation.trained.learner, evaluation.trained.members
    permuted = evaluation.test[:PERMUTED_EPISODES]
    if evaluation.source.is_varied:  # only the classes of each episode are permuted
        episodes_alone = source.build_episodes(permuted)
        chunk, chunks = 1, [single.trim() for single in split_episodes(episodes_alone, 1)]
    else:
        chunks = list(split_episodes(evaluation.load_episodes(slice(PERMUTED_EPISODES)), chunk))

    def compute(i: int) -> torch.Tensor:
        permutation, number = divmod(i, len(chunks))
        score = permuted_label_scores(
            learner,
            members,
            chunks[number],
            evaluation.steps,
            source.meta["seed"],
            permutation,
            number * chunk,
        )
        return float64.to_float64(score).sum().view(1, 1)

    totals = group.gather_rows(compute, [1] * (LABEL_PERMUTATIONS * len(chunks)))
    episodes = sum(episode.tasks for episode in chunks)
    accuracy = totals.view(LABEL_PERMUTATIONS, -1).sum(1) / episodes
    labels = {
        "accuracy_sd": float(accuracy.std()),
        "renamings": LABEL_PERMUTATIONS,
        "episodes": episodes,
    }
    return {"labels": labels}
