"""Methods, one module each. A module of the registry has `Config`, a frozen dataclass that is its section in params.yaml, and
`build(config) -> Algorithm`."""

from __future__ import annotations

from typing import Any, Protocol

from episodic.adapt import Inner
from episodic.ops import Params
from episodic.registry import Registry

registry = Registry(
    "method",
    {
        "fomaml": "episodic.algorithms.fomaml",
        "maml": "episodic.algorithms.maml",
    },
)


class Algorithm(Protocol):
    """What differs between methods."""

    @property
    def inner_steps(self) -> int:
        """Inner steps while training."""

    def init(self, theta: Params) -> Params:
        """The meta-parameters: the model's, and what else the method learns. No task axis."""

    def inner(self, meta: Params, tasks: int) -> Inner:
        """How each of `tasks` tasks adapts, from the meta-parameters."""


def build(name: str, config: Any) -> Algorithm:
    return registry[name].build(config)
