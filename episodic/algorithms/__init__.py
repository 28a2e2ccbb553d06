"""Methods, one module each. A module of the registry has `Config`, a frozen dataclass that is its section in params.yaml, and
`build(config) -> Algorithm`."""

from __future__ import annotations

from typing import Any

from episodic.algorithms.base import Algorithm
from episodic.registry import Registry

__all__ = ["Algorithm", "build", "registry"]

registry = Registry(
    "method",
    {
        name: f"episodic.algorithms.{name}"
        for name in (
            "anil", "baseline_plus_plus", "boil", "finetune", "fomaml", "imaml", "maml", "maml_plus_plus", "matching_net", "meta_curvature",
            "melu", "meta_lstm", "meta_sgd", "metaoptnet", "protonet", "reptile", "ridge",
        )
    },
)  # fmt: skip


def build(name: str, config: Any) -> Algorithm:
    return registry[name].build(config)
