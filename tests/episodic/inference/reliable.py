"""Models with given statements about the reliability of their predictions."""

from __future__ import annotations

import json
from pathlib import Path

from episodic.training.calibration import Calibration
from episodic.training.conformal import COVERAGES, PredictionSets
from episodic.training.model_folder import CONFIG
from episodic.training.reliability import Reliability
from episodic.training.unknown import UnknownDetector

SETS = PredictionSets(tuple(round(0.99 - coverage, 2) for coverage in COVERAGES), 100)
"""The minimum probability differs for each coverage."""


def reliability(
    score: str = "max_softmax", threshold: float = 0.5, ways: int = 5, shots: int = 2
) -> Reliability:
    detector = UnknownDetector(score, threshold)
    return Reliability(ways, shots, Calibration(3.0), SETS, detector)


def set_reliability(folder: Path, *entries: Reliability) -> Path:
    """Store the statements in the config.json of a model."""
    path = folder / CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    config["reliability"] = {"inductive": [entry.to_json() for entry in entries]}
    path.write_text(json.dumps(config), encoding="utf-8")
    return folder
