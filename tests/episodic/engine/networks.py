"""The golden vectors' networks and problems (float64; tests/golden)."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from episodic import ops
from episodic.core.episode import Episode
from episodic.core.model import Model, Params
from episodic.models import conv4
from episodic.ops.head import apply_head

GOLDEN = Path(__file__).parents[2] / "golden"
TOLERANCE = 1e-10
NETWORKS = ("mlp", "conv_strided", "conv_pooled")


class TanhMlp(NamedTuple):
    """The golden `mlp`: a model is any function of (parameters, x)."""

    width: int = 8
    outputs: int = 3
    norm_names: tuple[str, ...] = ()

    def init(self, generator: torch.Generator) -> Params:
        raise AssertionError("the golden parameters are used")

    def features(
        self, theta: Params, x: torch.Tensor, reference: int | None = None
    ) -> torch.Tensor:
        return torch.tanh(ops.linear(x, theta["hidden.weight"], theta["hidden.bias"]))

    def __call__(
        self, theta: Params, x: torch.Tensor, reference: int | None = None
    ) -> torch.Tensor:
        return apply_head(theta, self.features(theta, x))


MODELS: dict[str, Model] = {
    "mlp": TanhMlp(),
    "conv_strided": conv4.Conv4(4, 2, "stride", "flatten").build((1, 8, 8), 3),
    "conv_pooled": conv4.Conv4(4, 2, "max_pool", "flatten").build((1, 8, 8), 3),
}


def vectors(network: str) -> dict[str, torch.Tensor]:
    with np.load(GOLDEN / f"{network}.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def problem(network: str) -> tuple[dict[str, torch.Tensor], Params, Episode]:
    golden = vectors(network)
    theta = {
        name.removeprefix("param/"): value
        for name, value in golden.items()
        if name.startswith("param/")
    }
    return (
        golden,
        theta,
        Episode(*(golden[name] for name in ("support_x", "support_y", "query_x", "query_y"))),
    )


def error(gradient: Params, golden: dict[str, torch.Tensor], case: str) -> float:
    return max(
        (gradient[name] - golden[f"{case}/grad/{name}"]).abs().max().item() for name in gradient
    )
