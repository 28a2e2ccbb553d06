"""Registries of algorithms, models, datasets and preprocessors by name.

Each entry is defined in a separate module, which is imported when its name is looked up. A pipeline
stage therefore depends only on the modules that it uses.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from episodic.core.config import ConfigError

__all__ = ["ALGORITHMS", "DATASETS", "MODELS", "PREPROCESSORS", "Registry", "did_you_mean"]


def did_you_mean(name: str, known: list[str]) -> str:
    """Return a suggestion of the most similar known name, or an empty string if none is similar."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" - did you mean {close[0]}?" if close else ""


class Registry(Mapping[str, Any]):
    """A mapping from names to classes, each the only name in the `__all__` of its module.

    The names are those of the modules in `package`: a new file is registered automatically. Modules
    of other packages are added explicitly, as in `ALGORITHMS.add("mine", "my_package.mine")`.

    Args:
        kind: Kind of the entries, for error messages.
        package: The package with one module per entry.
        leave_out: Modules of the package that are not entries.
        attribute: Name of the entry in each module. None: the only name in `__all__`.
    """

    def __init__(
        self,
        kind: str,
        package: str,
        leave_out: tuple[str, ...] = (),
        attribute: str | None = None,
    ) -> None:
        folder = Path(__file__).parents[1] / package.split(".")[-1]
        names = sorted(
            path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", *leave_out)
        )
        self.kind, self._attribute = kind, attribute
        self._modules = {name: f"{package}.{name}" for name in names}

    def add(self, name: str, module: str) -> None:
        """Register the class of the module with this dotted name.

        Raises:
            ValueError: The name is already registered.
        """
        if name in self._modules:
            raise ValueError(
                f"there is already a {self.kind} named {name!r} ({self._modules[name]})"
            )
        self._modules[name] = module

    def __getitem__(self, name: str) -> Any:
        """Import the module of a name and return its entry.

        Raises:
            ConfigError: The name is unknown.
        """
        if name not in self._modules:
            known = sorted(self._modules)
            raise ConfigError(
                "name", name, f"must be one of {', '.join(known)}{did_you_mean(str(name), known)}"
            )
        module = importlib.import_module(self._modules[name])
        if self._attribute:
            return getattr(module, self._attribute)
        (class_name,) = module.__all__
        return getattr(module, class_name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


ALGORITHMS = Registry("algorithm", "episodic.algorithms")
MODELS = Registry("model", "episodic.models")
DATASETS = Registry("dataset", "episodic.datasets", leave_out=("base",))
PREPROCESSORS = Registry(
    "kind of input", "episodic.preprocessing", leave_out=("base",), attribute="build"
)
