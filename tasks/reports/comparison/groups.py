"""What may be compared with what, and what is a repetition of what.

Experiments of one *protocol* were scored on the same episodes in the same mode: their differences are paired. Within a protocol those
of one *configuration* differ in `train.seed` alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations
from typing import Any

import numpy as np

from episodic.analysis.comparison import Estimate, Resamples, holm
from tasks.experiments import Experiment
from tasks.preset import defaults, merge
from tasks.reports.kit import wording
from tasks.reports.kit.results import flat, in_use
from tasks.runtime.stage import StageError

CODE = "code of train"
"""Differs like a param: the same params with other code are another configuration."""

ASIDE = ("report.", "processes", "device")
"""Params that change no figure."""

SEED = "train.seed"

MOST_IN_MATRIX = 20
"""Configurations in the matrix of who beats whom: the best ones."""


@dataclass(frozen=True)
class Configuration:
    """Experiments that differ in their seed alone, and what they score.

    rows: of its experiments among those of the protocol; to_baseline: its difference to the baseline, None for that itself;
    p: corrected for the number of comparisons with the baseline
    """

    name: str
    experiments: list[Experiment]
    rows: list[int]
    params: dict[str, Any]
    score: Estimate
    to_baseline: Estimate | None = None
    p: float = 1.0

    @property
    def first(self) -> Experiment:
        return self.experiments[0]

    @property
    def seconds(self) -> float:
        """Mean training time."""
        return float(np.mean([e.run["seconds"] for e in self.experiments]))

    @property
    def memory(self) -> float:
        return float(max(e.run["peak_memory_bytes"] for e in self.experiments))


@dataclass(frozen=True)
class Pair:
    """One cell of who beats whom: `first` minus `second`; p: corrected for all pairs of the matrix."""

    first: Configuration
    second: Configuration
    difference: Estimate
    p: float


@dataclass(frozen=True)
class Protocol:
    """Comparable experiments.

    said: the protocol in words; configurations: the best first; keys: params that differ among them; same: who repeats whom
    edited: experiments whose params.yaml says something else than what ran
    """

    said: str
    score: str
    configurations: list[Configuration]
    baseline: Configuration
    keys: list[str]
    pairs: list[Pair]
    same: list[tuple[str, str]] = field(default_factory=list)
    edited: list[str] = field(default_factory=list)

    @property
    def experiments(self) -> list[Experiment]:
        return [e for c in self.configurations for e in c.experiments]

    @property
    def higher(self) -> bool:
        return self.score == "accuracy"

    @property
    def best(self) -> Configuration:
        return self.configurations[0]

    def pair(self, first: Configuration, second: Configuration) -> Pair | None:
        return next((p for p in self.pairs if p.first is first and p.second is second), None)


def protocols(experiments: Sequence[Experiment], baseline: str | None = None) -> list[Protocol]:
    """The protocols among the experiments, that of the baseline (or of most experiments) first.

    baseline: name of the experiment whose configuration all others of its protocol are measured against (None: the first one of each)
    """
    found: dict[tuple, list[Experiment]] = {}
    for experiment in experiments:
        found.setdefault(protocol_key(experiment), []).append(experiment)
    if baseline is not None and baseline not in [e.name for e in experiments]:
        raise StageError(f"the baseline {baseline} is none of the experiments compared")
    made = [_made(members, baseline) for members in found.values()]
    if len({p.said for p in made}) < len(made):  # which they differ in, the words do not say
        digests = [members[0].meta["data_digest"][:6] for members in found.values()]
        made = [
            replace(p, said=f"{p.said} of data {digest}")
            for p, digest in zip(made, digests, strict=True)
        ]
    chosen = [
        baseline in [e.name for e in p.experiments] + [name for name, _ in p.same] for p in made
    ]
    order = sorted(range(len(made)), key=lambda i: (not chosen[i], -len(made[i].experiments), i))
    return [made[i] for i in order]


def protocol_key(experiment: Experiment) -> tuple:
    """What has to be equal for pairing: the same episodes of the same data (the digest says so), the mode, and what is counted."""
    return experiment.meta["data_digest"], experiment.mode, experiment.score, len(experiment.scores)


def said(experiment: Experiment) -> str:
    """The protocol in words."""
    meta = experiment.meta
    if experiment.score == "mse":
        shape = f"{wording.count(meta['shots'], 'support point')}, {wording.count(meta['queries'], 'query', 'queries')}"
    else:
        shape = f"{meta['ways']}-way {meta['shots']}-shot, {wording.count(meta['queries'], 'query', 'queries')} a class"
    return f"{shape}, {meta['dataset']} ({meta['protocol']}), {experiment.mode}, {wording.count(len(experiment.scores), 'test episode')}"


def settings(experiment: Experiment) -> dict[str, Any]:
    """The params that count and can make a difference, by dotted key, and the code that trained."""
    return _counting(experiment.params) | {CODE: experiment.config.get("code_digest", "")}


def _counting(params: dict[str, Any]) -> dict[str, Any]:
    """By dotted key, with the code's defaults where an older file lacks a key: that is what a run takes."""
    whole = deepcopy(_defaults())
    merge(whole, params)
    return {key: value for key, value in flat(in_use(whole)).items() if not key.startswith(ASIDE)}


@cache
def _defaults() -> dict[str, Any]:
    return json.loads(json.dumps(defaults()))  # lists where the code has tuples, as in a file


def _made(members: list[Experiment], baseline: str | None) -> Protocol:
    higher = members[0].score == "accuracy"
    unique, same = _unique(members)
    if not all(np.isfinite(e.scores).all() for e in unique):
        bad = wording.joined([e.name for e in unique if not np.isfinite(e.scores).all()])
        raise StageError(
            f"the scores of {bad} are not all finite: leave it out, or train it so that it does not diverge"
        )
    known = [settings(e) for e in unique]
    alike: dict[str, list[int]] = {}
    for row, values in enumerate(known):
        alike.setdefault(
            repr(sorted((k, repr(v)) for k, v in values.items() if k != SEED)), []
        ).append(row)
    keys = differing([known[rows[0]] for rows in alike.values()])
    resamples = Resamples(np.stack([e.scores for e in unique]))
    configurations = []
    for rows, name in zip(
        alike.values(),
        _names([known[r[0]] for r in alike.values()], keys, [unique[r[0]] for r in alike.values()]),
        strict=True,
    ):
        params = {key: known[rows[0]].get(key) for key in keys}
        configurations.append(
            Configuration(name, [unique[r] for r in rows], rows, params, resamples.mean(rows))
        )
    chosen = baseline if baseline is not None else members[0].name
    chosen = dict(same).get(chosen, chosen)
    base = next(
        (c for c in configurations if chosen in [e.name for e in c.experiments]), configurations[0]
    )
    others = [c for c in configurations if c is not base]
    differences = [resamples.difference(c.rows, base.rows) for c in others]
    corrected = dict(
        zip(
            [id(c) for c in others],
            zip(differences, holm([d.p for d in differences]), strict=True),
            strict=True,
        )
    )
    measured = [
        c if c is base else replace(c, to_baseline=corrected[id(c)][0], p=corrected[id(c)][1])
        for c in configurations
    ]
    measured.sort(key=lambda c: (-c.score.mean if higher else c.score.mean, c.name))
    base = next(c for c in measured if c.to_baseline is None)
    edited = [e.name for e in members if _counting(e.stated) != _counting(e.params)]
    return Protocol(
        said(unique[0]),
        unique[0].score,
        measured,
        base,
        keys,
        _pairs(measured[:MOST_IN_MATRIX], resamples),
        same,
        edited,
    )


def _unique(members: list[Experiment]) -> tuple[list[Experiment], list[tuple[str, str]]]:
    """Without those that are another one over again (same seed, same scores), and what they are: (name, of whom)."""
    seen: dict[tuple, Experiment] = {}
    same = []
    for experiment in members:
        key = (
            repr(sorted((k, repr(v)) for k, v in settings(experiment).items())),
            experiment.scores.tobytes(),
        )
        if key in seen:
            same.append((experiment.name, seen[key].name))
        else:
            seen[key] = experiment
    return list(seen.values()), same


def _pairs(configurations: list[Configuration], resamples: Resamples) -> list[Pair]:
    found = [
        (a, b, resamples.difference(a.rows, b.rows)) for a, b in combinations(configurations, 2)
    ]
    return [
        Pair(a, b, d, p) for (a, b, d), p in zip(found, holm([d.p for *_, d in found]), strict=True)
    ]


def differing(params: Sequence[dict[str, Any]]) -> list[str]:
    """Keys with two values among those that have them at all, the seed aside: what only one method has follows from its name.

    The code counts where it is all that sets two of them apart: every method has its own.
    """
    keys = list(
        dict.fromkeys(key for values in params for key in values if key not in (SEED, CODE))
    )
    keys = [
        key for key in keys if len({repr(values[key]) for values in params if key in values}) > 1
    ]
    labels = [_label(values, keys) for values in params]
    return keys + [CODE] * (len(set(labels)) < len(labels))


def _names(params: list[dict[str, Any]], keys: list[str], first: list[Experiment]) -> list[str]:
    """A readable name for each configuration: the values that differ, or the experiment's own name where there is but one."""
    if len(params) == 1:
        return [first[0].name]
    names = [_label(values, [key for key in keys if key != CODE]) for values in params]
    return [
        (f"{name}, code {values[CODE][:7]}" if name else f"{experiment.name}")
        if names.count(name) > 1 or not name
        else name
        for name, values, experiment in zip(names, params, first, strict=True)
    ]


def _label(values: dict[str, Any], keys: list[str]) -> str:
    """`protonet, meta_lr=0.01`: a name by itself, another value with the last part of its key."""
    parts = []
    for key in keys:
        if key in values:
            last = key.rpartition(".")[2]
            parts.append(str(values[key]) if last == "name" else f"{last}={_short(values[key])}")
    return ", ".join(parts)


def _short(value: Any) -> str:
    return (
        "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    )
