"""Things found by name: one module each, imported only when it is asked for.

A pipeline stage then depends on the module that it names and on no other.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from episodic.core.config import ConfigError


def did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f" - did you mean {close[0]}?" if close else ""


class Registry(Mapping[str, ModuleType]):
    """Maps the name of each module of `package` to that module; a new file is found without being listed.

    A package of your own registers its modules: `registry.ALGORITHMS.add("mine", "my_package.mine")`.
    """

    def __init__(self, what: str, package: str, leave_out: tuple[str, ...] = ()):
        folder = Path(__file__).parents[1] / package.split(".")[-1]
        names = sorted(
            path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", *leave_out)
        )
        self.what, self._modules = what, {name: f"{package}.{name}" for name in names}

    def add(self, name: str, module: str) -> None:
        if name in self._modules:
            raise ValueError(
                f"there is already a {self.what} named {name!r} ({self._modules[name]})"
            )
        self._modules[name] = module

    def __getitem__(self, name: str) -> ModuleType:
        if name not in self._modules:
            known = sorted(self._modules)
            raise ConfigError(
                "name", name, f"must be one of {', '.join(known)}{did_you_mean(str(name), known)}"
            )
        return importlib.import_module(self._modules[name])

    def __iter__(self):
        return iter(self._modules)

    def __len__(self) -> int:
        return len(self._modules)


ALGORITHMS = Registry("algorithm", "episodic.algorithms")
MODELS = Registry("model", "episodic.models")
DATASETS = Registry("data set", "episodic.datasets", leave_out=("base",))
PREPROCESSORS = Registry("kind of input", "episodic.preprocessing", leave_out=("base", "encoder"))
