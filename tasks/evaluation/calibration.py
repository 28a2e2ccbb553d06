"""How well the probabilities of the model agree with frequencies, on test episodes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from episodic.core import float64
from episodic.core.statistics import mean_ci95
from episodic.training.calibration import (
    Calibration,
    CalibrationError,
    brier_scores,
    measure_calibration_error,
    negative_log_likelihoods,
)
from episodic.training.reliability import read_reliability
from tasks.evaluation.evaluation import EvaluationSetup
from tasks.evaluation.results import EpisodeResults

SCORES = ("likelihood", "brier")
"""Columns of the scores of single predictions. `raw_` stands before those without calibration."""


def read_calibration(evaluation: EvaluationSetup) -> Calibration | None:
    """Return the calibration of the model in its own batch-norm mode; None without one."""
    fitted = read_reliability(evaluation.trained.config, evaluation.trained.learner.batch_norm)
    return fitted[0].calibration if fitted else None


def compute_probabilities(
    evaluation: EvaluationSetup, results: EpisodeResults, calibration: Calibration | None
) -> np.ndarray:
    """Compute the class probabilities of all queries `(episodes, n, ways)`, with padding.

    Args:
        evaluation: The model and the episodes.
        results: The results of the episodes.
        calibration: The scaling of the logits; None for the model's own probabilities.
    """
    logits = float64.to_float64(results.outputs[:, evaluation.step_counts.index(evaluation.steps)])
    if calibration is not None:
        logits = calibration(logits, evaluation.source.count_shots(evaluation.test))
    probabilities: np.ndarray = logits.softmax(-1).cpu().numpy()
    return probabilities


def score_predictions(probabilities: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return the confidence and the scores of single predictions `(n,)`.

    Args:
        probabilities: `(n, ways)`.
        labels: `(n,)`.
    """
    return {
        "confidence": probabilities.max(1),
        "likelihood": negative_log_likelihoods(probabilities, labels),
        "brier": brier_scores(probabilities, labels),
    }


def measure_calibration(
    predictions: pd.DataFrame, calibration: Calibration | None, seed: int
) -> tuple[dict[str, Any], pd.DataFrame]:
    """Measure the calibration before and after scaling.

    Args:
        predictions: As from `build_prediction_table`.
        calibration: The scaling; None if there is none.
        seed: Seed of the bootstrap.

    Returns:
        The entry `calibration` of metrics.json, and the table of the reliability diagram.
    """
    entry: dict[str, Any] = {}
    bins = []
    for prefix in ("raw_", "") if calibration else ("raw_",):
        error = measure_calibration_error(
            predictions[f"{prefix}confidence"].to_numpy(),
            (predictions["label"] == predictions["after"]).to_numpy(),
            predictions["episode"].to_numpy(),
            seed,
        )
        entry |= {f"{prefix}ece": error.error, f"{prefix}ece_ci95": error.ci95}
        by_episode = predictions.groupby("episode")
        for name in SCORES:
            scores = by_episode[f"{prefix}{name}"].mean().to_numpy()
            entry[f"{prefix}{name}"], entry[f"{prefix}{name}_ci95"] = mean_ci95(scores)
        bins.append(_tabulate_bins(error).assign(calibrated=not prefix))
    scaling = calibration.to_json() if calibration else {}
    return {"calibration": scaling | entry}, pd.concat(bins, ignore_index=True)


def _tabulate_bins(error: CalibrationError) -> pd.DataFrame:
    columns = ("confidence", "accuracy", "accuracy_low", "accuracy_high", "count")
    return pd.DataFrame({name: getattr(error, name) for name in columns})
