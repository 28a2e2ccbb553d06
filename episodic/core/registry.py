"""Registries of algorithms, models, datasets and preprocessors by name.

Each has a module of its own, which is imported when its name is looked up. A pipeline stage then
depends on the modules that it names and on no others.
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
    """End a message about an unknown name with the known name most similar to it, if any is."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" - did you mean {close[0]}?" if close else ""


class Registry(Mapping[str, Any]):
    """Maps a name to the class of that name: the only one that the `__all__` of its module lists.

    The names are those of the modules in `package`, so that a new file is found without being
    listed. A package of your own registers its modules, as in
    `ALGORITHMS.add("mine", "my_package.mine")`.

    Args:
        kind: What the entries are, for messages.
        package: The package that holds one module per entry.
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
            ValueError: The name is taken.
        """
        if name in self._modules:
            raise ValueError(
                f"there is already a {self.kind} named {name!r} ({self._modules[name]})"
            )
        self._modules[name] = module

    def __getitem__(self, name: str) -> Any:
        """Import the module of this name and return its entry.

        Raises:
            ConfigError: There is no such name.
        """
        if name not in self._modules:
            known = sorted(self._modules)
            raise ConfigError(
                "name", name, f"must be one of {', '.join(known)}{did_you_mean(str(name), known)}"
            )
        module = importlib.import_module(self._modules[name])
        if self._attribute:
            return getattr(module, self._attribute)
        (name_of_class,) = module.__all__
        return getattr(module, name_of_class)

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
