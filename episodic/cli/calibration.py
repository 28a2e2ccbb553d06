"""What the commands say about the probabilities of a model."""

from __future__ import annotations

from typing import Any

from episodic.inference.heads import CALIBRATED

__all__ = ["describe_probabilities"]


def describe_probabilities(config: dict[str, Any]) -> str:
    """Say on what the probabilities of a classifier are calibrated, or why they are not.

    Args:
        config: The content of the config.json of a trained or an adapted model.
    """
    from episodic.inference.adapted import describe_calibration
    from episodic.training.reliability import read_reliability

    if examples := describe_calibration(config):
        calibrations = [fitted.calibration for fitted in read_reliability(config)]
        values = sorted(found.temperature for found in calibrations if found)
        bounds = dict.fromkeys(f"{value:.2f}" for value in (values[0], values[-1]))
        return f"calibrated on {examples}, temperature {' to '.join(bounds)}"
    head = config.get("head")
    if head is None:
        reason = "the model was trained without train.calibration"
    elif head in CALIBRATED:
        reason = "a class has one example, and calibration needs two of each"
    else:
        reason = f"of the heads, only {', '.join(CALIBRATED)} are"
    return f"not calibrated: {reason}"
