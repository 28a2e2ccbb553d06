"""Sine waves, the regression problem of the MAML paper.

Chelsea Finn, Pieter Abbeel, Sergey Levine: Model-Agnostic Meta-Learning for Fast Adaptation of Deep Networks, 2017, section 5.1.
https://arxiv.org/abs/1703.03400

    y = amplitude * sin(x - phase),   amplitude in [0.1, 5], phase in [0, pi], x in [-5, 5], all uniform.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from episodic.core.config import require
from episodic.datasets.base import Progress, Sinusoids, no_progress

LICENSE = "A formula (Finn et al. 2017); nothing to license."


@dataclass(frozen=True)
class Config:
    """amplitude, phase, x: (low, high) of the uniform draw; phase and x in radians."""

    amplitude: tuple[float, float] = (0.1, 5.0)
    phase: tuple[float, float] = (0.0, 3.141592653589793)
    x: tuple[float, float] = (-5.0, 5.0)

    __pydantic_config__ = {"extra": "forbid"}

    def __post_init__(self):
        for key, (low, high) in asdict(self).items():
            require(
                -1e6 <= low <= high <= 1e6,
                key,
                [low, high],
                "must be [low, high] with low <= high, both within 1e6",
            )


def shape(config: Config) -> tuple[int]:
    return (1,)


def fetch(
    raw: Path, config: Config, *, mirror: Path | None = None, progress: Progress = no_progress
) -> None:
    (raw / "family.json").write_text(json.dumps(asdict(config), indent=2, sort_keys=True) + "\n")


def prepare(raw: Path, config: Config, seed: int) -> Sinusoids:
    family = {
        key: tuple(value) for key, value in json.loads((raw / "family.json").read_text()).items()
    }
    return Sinusoids(**family, protocol="sine waves of the MAML paper")
