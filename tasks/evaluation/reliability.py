"""How far the predictions of adapted models can be trusted, on test episodes of every size.

Batch norm is inductive and the number of inner steps is the default, as in use.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch

from episodic.core.statistics import mean_ci95
from episodic.data.unknown_queries import OTHER_CLASS, OUT_OF_SCOPE
from episodic.engine.processes import ProcessGroup
from episodic.training.calibration import (
    brier_scores,
    measure_calibration_error,
    negative_log_likelihoods,
)
from episodic.training.reliability import (
    QueryTable,
    Reliability,
    read_reliability,
    tabulate_queries,
)
from episodic.training.unknown import SCORES, measure_detection, measure_selective_accuracy
from tasks.evaluation.evaluation import EvaluationSetup

POPULATIONS = {"other_classes": OTHER_CLASS, "out_of_scope": OUT_OF_SCOPE}
"""Queries of unknown classes: of other test classes, and of no class at all."""

REPORTED_COVERAGES = (0.8, 0.9, 0.95, 0.99)
HEADLINE_COVERAGE = 0.9


@dataclass(frozen=True)
class SizeResults:
    """Predictions for the test episodes of one size.

    Attributes:
        fitted: What was learned on validation episodes of this size.
        table: The predictions.
    """

    fitted: Reliability
    table: QueryTable

    @property
    def probabilities(self) -> torch.Tensor:
        """Calibrated probabilities `(episodes, n, ways)`."""
        return self.table.scaled_logits(self.fitted.calibration).softmax(-1)


def measure_sizes(evaluation: EvaluationSetup, group: ProcessGroup) -> list[SizeResults]:
    """Predict the test episodes of every size for which predictions are calibrated.

    Returns:
        The results of the main size first; empty for regression.
    """
    source, trained = evaluation.source, evaluation.trained
    if source.kind != "classification":
        return []
    learner = replace(trained.learner, batch_norm="inductive")
    by_size = {(entry.ways, entry.shots): entry for entry in read_reliability(trained.config)}
    main = source.meta["ways"], source.meta["shots"]
    results = []
    for size in (main, *source.other_sizes):
        if size not in by_size:
            continue
        sized = source if size == main else source.at_size(size)
        table = tabulate_queries(
            learner,
            trained.members,
            sized.load_episodes("test"),
            sized.open_queries("test", out_of_scope=size == main),
            group,
        )
        results.append(SizeResults(by_size[size], table))
    return results


def summarize_sets(results: SizeResults) -> dict[str, Any]:
    """Measure the prediction sets: how many contain the true class, and how large they are.

    Returns:
        Entries of metrics.json by coverage, such as `coverage_90`.
    """
    sets, is_known = results.fitted.sets, results.table.is_known
    if sets is None:
        return {}
    probabilities = results.probabilities
    entries: dict[str, Any] = {}
    for promised in REPORTED_COVERAGES:
        members = sets(probabilities, promised) & results.table.logits.isfinite()
        covered = members.gather(-1, results.table.y.clamp_min(0)[..., None])[..., 0]
        size = members.sum(-1)
        entry: dict[str, float] = {}
        for name, values in (("coverage", covered), ("size", size), ("empty", size == 0)):
            by_episode = (values * is_known).double().sum(1) / is_known.sum(1)
            entry[name], entry[f"{name}_ci95"] = mean_ci95(by_episode.numpy(), share=name != "size")
        entries[f"coverage_{round(100 * promised)}"] = entry
    return entries


def build_open_table(results: SizeResults) -> pd.DataFrame:
    """Build a table with one row per query: its label, its prediction and its scores.

    Labels of unknown classes are negative.
    """
    table, rows = results.table, results.table.is_query
    columns: dict[str, torch.Tensor] = {
        "episode": torch.arange(len(rows))[:, None].expand_as(rows),
        "label": table.y,
        "prediction": table.logits.argmax(-1),
        **table.familiarity(results.fitted.calibration),
    }
    return pd.DataFrame({name: values[rows].numpy() for name, values in columns.items()})


def measure_unknown(
    queries: pd.DataFrame, fitted: Reliability, seed: int
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Measure the detection of unknown classes.

    Args:
        queries: As from `build_open_table`.
        fitted: What was learned on validation episodes of this size.
        seed: Seed of the bootstrap.

    Returns:
        The entry `unknown` of metrics.json, and a table of all scores. Empty without unknown
        queries.
    """
    if fitted.unknown is None:
        return {}, pd.DataFrame()
    chosen, threshold = fitted.unknown.score, fitted.unknown.threshold
    entry: dict[str, Any] = fitted.unknown.to_json()
    rows = []
    for population, label in POPULATIONS.items():
        if not (queries["label"] == label).any():
            continue
        some = queries[(queries["label"] >= 0) | (queries["label"] == label)]
        is_known, episode = (some["label"] >= 0).to_numpy(), some["episode"].to_numpy()
        measured = {
            name: measure_detection(some[name].to_numpy(), is_known, episode, seed)
            for name in SCORES
        }
        for name, result in measured.items():
            values = result._asdict()
            del values["auroc_samples"]
            rows.append({"population": population, "score": name} | values)
            if name == chosen:
                entry[population] = values
        difference = measured[chosen].auroc_samples - measured[SCORES[0]].auroc_samples
        entry[population]["auroc_gain"] = measured[chosen].auroc - measured[SCORES[0]].auroc
        entry[population]["auroc_gain_ci95"] = float(1.96 * difference.std(ddof=1))
        accepted = some.assign(accepted=some[chosen] >= threshold)
        for name, part in (("known", accepted[is_known]), ("unknown", accepted[~is_known])):
            by_episode = part.groupby("episode")["accepted"].mean().to_numpy()
            mean, ci95 = mean_ci95(by_episode, share=True)
            entry[population] |= {f"accepted_{name}": mean, f"accepted_{name}_ci95": ci95}
    return entry, pd.DataFrame(rows)


def build_selective_table(queries: pd.DataFrame, chosen: str, seed: int) -> pd.DataFrame:
    """Compute the accuracy of the most familiar queries, with those of other classes among them.

    Args:
        queries: As from `build_open_table`.
        chosen: The chosen score. The largest probability is the other one.
        seed: Seed of the bootstrap.
    """
    some = queries[queries["label"] >= OTHER_CLASS]
    correct = (some["label"] == some["prediction"]).to_numpy()
    curves = []
    for name in dict.fromkeys((SCORES[0], chosen)):
        curve = measure_selective_accuracy(
            some[name].to_numpy(), correct, some["episode"].to_numpy(), seed
        )
        curves.append(pd.DataFrame(curve._asdict()).assign(score=name))
    return pd.concat(curves, ignore_index=True)


def build_size_table(
    results: Sequence[SizeResults], unknown: Sequence[dict[str, Any]], seed: int
) -> pd.DataFrame:
    """Build a table with one row per size of the episodes, all with inductive batch norm.

    Args:
        results: Predictions of each size.
        unknown: The entry of `measure_unknown` of each size.
        seed: Seed of the bootstrap.
    """
    rows = []
    for of_size, detection in zip(results, unknown, strict=True):
        table, known = of_size.table, of_size.table.is_known
        y = table.y[known].numpy()
        episode = torch.arange(len(known))[:, None].expand_as(known)[known].numpy()
        correct = table.logits.argmax(-1)[known].numpy() == y
        row: dict[str, Any] = {"ways": of_size.fitted.ways, "shots": of_size.fitted.shots}
        row |= _average("accuracy", correct, episode)
        if of_size.fitted.calibration is not None:
            row["temperature"] = of_size.fitted.calibration.temperature
        for prefix, logits in (
            ("raw_", table.logits),
            ("", table.scaled_logits(of_size.fitted.calibration)),
        ):
            probabilities = logits.softmax(-1)[known].numpy()
            error = measure_calibration_error(probabilities.max(1), correct, episode, seed)
            row |= {f"{prefix}ece": error.error, f"{prefix}ece_ci95": error.ci95}
            likelihoods = negative_log_likelihoods(probabilities, y)
            row |= _average(f"{prefix}likelihood", likelihoods, episode)
            row |= _average(f"{prefix}brier", brier_scores(probabilities, y), episode)
        headline = summarize_sets(of_size).get(f"coverage_{round(100 * HEADLINE_COVERAGE)}", {})
        row |= {f"set_{name}": value for name, value in headline.items()}
        if detection:
            row["score"] = detection["score"]
            others = detection["other_classes"]
            row |= {f"unknown_{name}": value for name, value in others.items()}
        rows.append(row)
    return pd.DataFrame(rows)


def _average(name: str, values: np.ndarray, episode: np.ndarray) -> dict[str, float]:
    """Return the mean over episodes and the half-width of its interval."""
    counts = np.bincount(episode)
    mean, ci95 = mean_ci95(np.bincount(episode, values) / counts, share=name == "accuracy")
    return {name: mean, f"{name}_ci95": ci95}
