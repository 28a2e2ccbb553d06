"""Sine waves, the regression problem of the MAML paper."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from annotated_types import Ge, Le

from episodic.core.config import require
from episodic.core.progress import ProgressCallback, no_progress
from episodic.datasets.base import RegressionDataset, Sinusoids

if TYPE_CHECKING:
    from episodic.core.model import ExampleKind

__all__ = ["Sinusoid"]

Bound = Annotated[float, Ge(-1e6), Le(1e6)]


@dataclass(frozen=True)
class Sinusoid(RegressionDataset):
    """Sine waves y = amplitude * sin(x - phase), each drawn uniformly from [low, high].

    Args:
        amplitude: Bounds of the amplitude.
        phase: Bounds of the phase, in radians.
        x: Bounds of x, in radians.

    Training, validation and test tasks come from the same family. There is no data and no licence.

    Chelsea Finn, Pieter Abbeel, Sergey Levine: Model-Agnostic Meta-Learning for Fast Adaptation of
    Deep Networks, 2017, section 5.1. https://arxiv.org/abs/1703.03400
    """

    amplitude: tuple[Bound, Bound] = (0.1, 5.0)
    phase: tuple[Bound, Bound] = (0.0, 3.141592653589793)
    x: tuple[Bound, Bound] = (-5.0, 5.0)

    license = "Synthetic functions (Finn et al. 2017); no licence applies."

    def __post_init__(self) -> None:
        super().__post_init__()
        for key, (low, high) in asdict(self).items():
            require(low <= high, key, [low, high], "must be [low, high] with low <= high")

    @property
    def produces(self) -> ExampleKind:
        return "vector"

    def shape(self, source: Path | None = None) -> tuple[int]:
        return (1,)

    def fetch(
        self,
        raw: Path,
        *,
        source: Path | None = None,
        mirror: Path | None = None,
        progress: ProgressCallback = no_progress,
    ) -> None:
        """Write `family.json`, the bounds."""
        content = json.dumps(asdict(self), indent=2, sort_keys=True)
        (raw / "family.json").write_text(content + "\n", encoding="utf-8")

    def prepare(self, raw: Path, seed: int) -> Sinusoids:
        content = json.loads((raw / "family.json").read_text(encoding="utf-8"))
        family = {key: tuple(value) for key, value in content.items()}
        return Sinusoids(**family, protocol="sine waves of the MAML paper")
