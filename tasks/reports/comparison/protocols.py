"""Groups of comparable experiments: those scored under the same protocol.

Experiments of a *protocol* were scored on the same test episodes in the same batch-norm mode, so
their differences are paired. Within a protocol, the experiments of a *configuration* differ only
in `train.seed`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np

from episodic.analysis.comparison import Estimate, PairedScores, holm
from episodic.core.episode_size import describe_sizes
from tasks.experiments import Experiment
from tasks.reports.comparison.naming import (
    SEED,
    build_settings_key,
    complete_params,
    find_differing_keys,
    name_configurations,
    select_effective_settings,
)
from tasks.reports.kit import wording
from tasks.reports.kit.results import find_other_mode
from tasks.runtime.stage import StageError

SIGNIFICANCE = 0.05
"""Corrected p-values below this threshold are significant."""

MAX_IN_MATRIX = 20
"""Number of configurations that are compared pairwise: the best ones."""


class Repetition(NamedTuple):
    """An experiment with the settings and the seed of another one, which counts instead.

    Attributes:
        name: Name of the experiment.
        original: Name of the experiment that counts.
        seed: `train.seed` of both.
        is_exact: Whether both have the same scores.
    """

    name: str
    original: str
    seed: int
    is_exact: bool


@dataclass(frozen=True)
class Configuration:
    """Experiments that differ only in their seed.

    Attributes:
        name: The settings in which it differs from others.
        experiments: One experiment per distinct seed.
        indices: Their indices among the experiments of the protocol.
        params: Values of the settings that differ within the protocol.
        score: The mean score.
        to_baseline: Its difference from the baseline; None for the baseline itself.
        p: p-value of the difference, corrected for the number of comparisons with the baseline.
    """

    name: str
    experiments: list[Experiment]
    indices: list[int]
    params: dict[str, Any]
    score: Estimate
    to_baseline: Estimate | None = None
    p: float = 1.0

    @property
    def first(self) -> Experiment:
        """The experiment with the first seed."""
        return self.experiments[0]

    @property
    def seconds(self) -> float:
        """Mean training time in seconds."""
        return float(np.mean([experiment.run["seconds"] for experiment in self.experiments]))

    @property
    def memory(self) -> float:
        """Peak memory of training in bytes."""
        return float(max(experiment.run["peak_memory_bytes"] for experiment in self.experiments))


@dataclass(frozen=True)
class Pair:
    """The difference of two configurations.

    Attributes:
        first: One configuration.
        second: The other one.
        difference: Score of the first minus score of the second.
        p: p-value, corrected for all pairs of the protocol.
    """

    first: Configuration
    second: Configuration
    difference: Estimate
    p: float


@dataclass(frozen=True)
class Protocol:
    """Comparable experiments.

    Attributes:
        description: Description of the protocol.
        score: `accuracy` or `mse`.
        configurations: The configurations, the best first.
        baseline: The configuration that all others are compared with.
        keys: Settings in which they differ.
        pairs: Pairwise differences of the best configurations.
        repetitions: Experiments that run the seed of another one again.
        edited: Experiments whose params.yaml was edited after the run.
    """

    description: str
    score: str
    configurations: list[Configuration]
    baseline: Configuration
    keys: list[str]
    pairs: list[Pair]
    repetitions: list[Repetition] = field(default_factory=list)
    edited: list[str] = field(default_factory=list)

    @property
    def experiments(self) -> list[Experiment]:
        """All experiments, by configuration."""
        return [e for c in self.configurations for e in c.experiments]

    @property
    def is_accuracy(self) -> bool:
        """Whether higher scores are better."""
        return self.score == "accuracy"

    @property
    def sign(self) -> int:
        """1 if higher scores are better, else -1."""
        return 1 if self.is_accuracy else -1

    @property
    def best(self) -> Configuration:
        """The best configuration."""
        return self.configurations[0]

    def find_pair(self, first: Configuration, second: Configuration) -> Pair | None:
        """Return the difference of two configurations in this order; None if not compared."""
        return next((p for p in self.pairs if p.first is first and p.second is second), None)


def group_protocols(
    experiments: Sequence[Experiment], baseline: str | None = None
) -> list[Protocol]:
    """Group experiments by protocol and by configuration.

    Args:
        experiments: The experiments to compare.
        baseline: Name of the experiment whose configuration is the baseline; None for the first
            experiment of each protocol.

    Returns:
        The protocols: that of the baseline first, then those with the most experiments.

    Raises:
        StageError: The baseline is not among the experiments, or scores are not finite.
    """
    if baseline is not None and baseline not in [e.name for e in experiments]:
        raise StageError(
            f"the baseline {baseline} is not among the compared experiments; choose one of them"
        )
    by_key: dict[tuple, list[Experiment]] = {}
    for experiment in experiments:
        by_key.setdefault(build_protocol_key(experiment), []).append(experiment)
    protocols = [_build_protocol(members, baseline) for members in by_key.values()]
    if len({p.description for p in protocols}) < len(protocols):
        digests = [members[0].episodes[:6] for members in by_key.values()]
        protocols = [
            replace(protocol, description=f"{protocol.description}, data {digest}")
            for protocol, digest in zip(protocols, digests, strict=True)
        ]

    def has_baseline(protocol: Protocol) -> bool:
        names = [e.name for e in protocol.experiments]
        return baseline in names + [repetition.name for repetition in protocol.repetitions]

    return sorted(protocols, key=lambda p: (not has_baseline(p), -len(p.experiments)))


def build_protocol_key(experiment: Experiment) -> tuple:
    """Return the key of a protocol: test episodes, mode, score and number of episodes.

    Differences are paired only between experiments with equal keys.
    """
    number = len(experiment.scores)
    return experiment.episodes, experiment.mode, experiment.score, number


def describe_protocol(experiments: Sequence[Experiment]) -> str:
    """Describe the protocol of comparable experiments.

    The batch-norm mode is omitted if it changes no score, because no model has batch norm. The
    pretrained encoder is omitted if not all of them use it.
    """
    experiment = experiments[0]
    meta = experiment.meta
    if experiment.score == "mse":
        queries = wording.format_count(meta["queries"], "query", "queries")
        task = f"{wording.format_count(meta['shots'], 'support point')}, {queries}"
    else:
        task = f"{describe_sizes(meta)}, {wording.describe_queries(meta)}"
    data = {wording.describe_data(e.meta) for e in experiments}
    parts = [task, data.pop() if len(data) == 1 else wording.describe_dataset(meta)]
    if any(e.curve["mode"].nunique() == 1 or _has_batch_norm(e) for e in experiments):
        parts.append(f"{experiment.mode} batch norm")
    parts.append(wording.format_count(len(experiment.scores), "test episode"))
    return ", ".join(parts)


def _has_batch_norm(experiment: Experiment) -> bool:
    return find_other_mode(experiment.curve, experiment.mode, experiment.score) is not None


def _build_protocol(members: list[Experiment], baseline: str | None) -> Protocol:
    unique, repetitions = _drop_repetitions(members)
    diverged = [e.name for e in unique if not np.isfinite(e.scores).all()]
    if diverged:
        raise StageError(
            f"the scores of {wording.join_words(diverged)} are not all finite: exclude these "
            "experiments, or train again with a lower learning rate"
        )
    scores = PairedScores(np.stack([e.scores for e in unique]), share=unique[0].score == "accuracy")
    configurations, keys = _group_configurations(unique, scores)
    name = baseline if baseline is not None else members[0].name
    name = {r.name: r.original for r in repetitions}.get(name, name)
    base = next(
        (c for c in configurations if name in [e.name for e in c.experiments]), configurations[0]
    )
    others = [c for c in configurations if c is not base]
    differences = [scores.difference(c.indices, base.indices) for c in others]
    corrected = holm([difference.p for difference in differences])
    measured = [base] + [
        replace(c, to_baseline=difference, p=p)
        for c, difference, p in zip(others, differences, corrected, strict=True)
    ]
    score = unique[0].score
    sign = -1 if score == "accuracy" else 1
    measured.sort(key=lambda c: (sign * c.score.mean, c.name))
    return Protocol(
        description=describe_protocol(unique),
        score=score,
        configurations=measured,
        baseline=base,
        keys=keys,
        pairs=_compare_pairs(measured[:MAX_IN_MATRIX], scores),
        repetitions=repetitions,
        edited=[
            e.name for e in members if complete_params(e.params_file) != complete_params(e.params)
        ],
    )


def _group_configurations(
    experiments: list[Experiment], scores: PairedScores
) -> tuple[list[Configuration], list[str]]:
    """Return the configurations, in order of their first experiments, and the differing keys."""
    settings = [select_effective_settings(experiment) for experiment in experiments]
    by_key: dict[str, list[int]] = {}
    for index, values in enumerate(settings):
        by_key.setdefault(build_settings_key(values, [SEED]), []).append(index)
    groups = list(by_key.values())
    firsts = [settings[indices[0]] for indices in groups]
    keys = find_differing_keys(firsts)
    names = name_configurations(firsts, keys, [experiments[indices[0]].name for indices in groups])
    configurations = [
        Configuration(
            name=name,
            experiments=[experiments[index] for index in indices],
            indices=indices,
            params={key: values.get(key) for key in keys},
            score=scores.mean(indices),
        )
        for name, indices, values in zip(names, groups, firsts, strict=True)
    ]
    return configurations, keys


def _drop_repetitions(
    experiments: list[Experiment],
) -> tuple[list[Experiment], list[Repetition]]:
    """Drop experiments that run a seed again, with the same settings as another one.

    Their scores may differ, such as those of another device. They say nothing about other seeds,
    so the first experiment of a seed counts.

    Returns:
        The other experiments, and the repetitions.
    """
    known: dict[str, Experiment] = {}
    repetitions = []
    for experiment in experiments:
        settings = select_effective_settings(experiment)
        original = known.setdefault(build_settings_key(settings, []), experiment)
        if original is not experiment:
            is_exact = np.array_equal(experiment.scores, original.scores)
            repetitions.append(Repetition(experiment.name, original.name, settings[SEED], is_exact))
    return list(known.values()), repetitions


def _compare_pairs(configurations: list[Configuration], scores: PairedScores) -> list[Pair]:
    pairs = list(combinations(configurations, 2))
    differences = [scores.difference(a.indices, b.indices) for a, b in pairs]
    corrected = holm([difference.p for difference in differences])
    return [
        Pair(a, b, difference, p)
        for (a, b), difference, p in zip(pairs, differences, corrected, strict=True)
    ]
