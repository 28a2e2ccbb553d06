"""Diagnostics: out-of-scope detection, and sensitivity to the permutation of labels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from episodic.core import float64, random_numbers
from episodic.core.statistics import mean_ci95
from episodic.engine.processes import ProcessGroup
from episodic.training.evaluation import adaptation_curve, permuted_label_scores, split_episodes
from tasks.evaluation.evaluation import EvaluationSetup
from tasks.evaluation.results import EpisodeResults

LABEL_PERMUTATIONS, PERMUTED_EPISODES = 5, 50
"""Number of label permutations, and number of episodes whose labels are permuted."""


def measure_rejection(
    evaluation: EvaluationSetup, results: EpisodeResults, group: ProcessGroup
) -> dict[str, Any]:
    """Measure how well confidence separates an episode's queries from out-of-scope examples.

    The confidence is the largest class probability. The measure is the area under the ROC curve.

    Returns:
        The entry `rejection` of metrics.json; empty for a dataset without such examples.
    """
    source, test = evaluation.source, evaluation.test
    unknown_count = source.meta.get("outside", 0)
    if not unknown_count:
        return {}
    learner, members, steps = (
        evaluation.trained.learner,
        evaluation.trained.members,
        evaluation.steps,
    )
    outputs = results.outputs[:, evaluation.step_counts.index(steps)]
    first, queries = len(source.examples) - unknown_count, outputs.shape[1]
    counts = source.count_queries(test).sum(1)
    key = random_numbers.key(source.meta["seed"], "outside")
    bits = random_numbers.random_bits(key, torch.arange(len(test)), queries)
    unknown_rows = (first + random_numbers.integers_below(bits, unknown_count)).to(
        source.sampling_device
    )

    def compute(chunk: int) -> torch.Tensor:
        rows = evaluation.chunks[chunk]
        episode = evaluation.load_episodes(rows)
        width = episode.query_x.shape[1]
        rows_of_chunk = unknown_rows[rows][:, :width]
        x = source.examples[rows_of_chunk.flatten()].unflatten(0, (episode.tasks, width))
        y = torch.zeros_like(rows_of_chunk)
        unknown = episode._replace(query_x=x, query_y=y).to(source.device)
        curve = adaptation_curve(learner, members, unknown, [steps], [learner.batch_norm])
        confidence = float64.to_float64(curve.outputs[0].softmax(-1).amax(-1))
        return F.pad(confidence, (0, queries - width))

    unknown = group.gather_rows(compute, evaluation.chunk_sizes).cpu().numpy()
    known = outputs.softmax(-1).amax(-1).cpu().double().numpy()
    areas = [
        _auroc(above[:n], below[:n]) for above, below, n in zip(known, unknown, counts, strict=True)
    ]
    mean, ci95 = mean_ci95(np.array(areas))
    return {"rejection": {"auroc": mean, "auroc_ci95": ci95}}


def _auroc(above: np.ndarray, below: np.ndarray) -> float:
    """Return the probability that one of `above` exceeds one of `below`; ties count half.

    Source: Mann and Whitney (1947), On a test of whether one of two random variables is
    stochastically larger than the other.
    """
    greater, equal = (above[:, None] > below).mean(), (above[:, None] == below).mean()
    return float(greater + equal / 2)


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
