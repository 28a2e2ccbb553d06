"""What the commands say about the probabilities of a model."""

from __future__ import annotations

from typing import Any

from episodic.inference.heads import CALIBRATED

__all__ = ["describe_probabilities", "describe_reliability"]


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


def describe_reliability(config: dict[str, Any]) -> dict[str, str]:
    """Say which prediction sets and which detection of unknown classes a classifier has.

    Args:
        config: The content of the config.json of a trained or an adapted model.

    Returns:
        `sets` and `unknown`; without what the model does not have.
    """
    from episodic.training.reliability import Reliability, read_reliability

    def list_sizes(entries: list[Reliability]) -> str:
        return ", ".join(f"{entry.ways}-way {entry.shots}-shot" for entry in entries)

    facts, fitted = {}, read_reliability(config)
    if "head" in config:
        source = "learned from left-out support examples"
        names = {"sets": "--coverage", "unknown": "--unknown"}
        return {
            part: f"{option}, {source}"
            for part, option in names.items()
            if any(getattr(entry, part) for entry in fitted)
        }
    if with_sets := [entry for entry in fitted if entry.sets]:
        facts["sets"] = f"--coverage, for {list_sizes(with_sets)} episodes"
    if with_unknown := [entry for entry in fitted if entry.unknown]:
        scores = dict.fromkeys(entry.unknown.score for entry in fitted if entry.unknown)
        facts["unknown"] = (
            f"--unknown by {' or '.join(scores)}, for {list_sizes(with_unknown)} episodes"
        )
    return facts
