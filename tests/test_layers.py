"""Layers and packages: imports point downward, and there is no import circle."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import ROOT

LAYERS = ("episodic", "tasks", "flows")
"""From the bottom to the top; a layer imports itself and what is below it."""

PACKAGES = (
    # The library.
    "episodic.core",
    "episodic.ops",
    "episodic.models",
    "episodic.data",
    "episodic.preprocessing",
    "episodic.datasets",
    "episodic.engine",
    "episodic.algorithms",
    "episodic.training",
    "episodic.analysis",
    "episodic.inference",
    "episodic.cli",
    # The stages.
    "tasks.runtime",
    "tasks.params",
    "tasks.preset",
    "tasks.prepared",
    "tasks.evaluation",
    "tasks.reports.kit",
    "tasks.experiments",
    "tasks.reports.run",
    "tasks.reports.comparison",
    "tasks",
    # The flows.
    "flows.environment",
    "flows.workspace",
    "flows.dvc_worker",
    "flows.server",
    "flows.states",
    "flows.ui",
    "flows.stages",
    "flows.experiments",
    "flows",
)
"""The order of packages, from the bottom layer to the top.

A module imports its own package and those before it in this list.
A name includes every subpackage that is not listed itself.
"""

FORBIDDEN = {
    "episodic": {"prefect", "dvc", "pandas", "pydantic"},
    "tasks": {"prefect", "dvc"},
    "flows": set(),
}
EXCEPTIONS = {
    "tasks/experiments/history.py": {"dvc"},  # no stage: it reads revisions, which DVC keeps
    "episodic/inference/demo/__init__.py": {
        "pydantic"
    },  # a FastAPI service, whose requests are pydantic models
    "episodic/inference/service/app.py": {"pydantic"},  # another one
}


def modules() -> dict[str, Path]:
    """Every module of the three layers by its dotted name."""
    paths = {}
    for layer in LAYERS:
        for path in sorted((ROOT / layer).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return paths


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """The dotted names that a file imports: at the top, in functions, or for type checking only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


IMPORTS = {name: set(imports(path)) for name, path in MODULES.items()}


def package(module: str) -> str:
    """The longest name of PACKAGES that `module` belongs to."""
    fitting = [name for name in PACKAGES if module == name or module.startswith(f"{name}.")]
    assert fitting or module in ("episodic", "episodic.__main__"), (
        f"{module} is in no package of the list"
    )
    return max(fitting, key=len, default=PACKAGES[-1])


@pytest.mark.parametrize("module", MODULES)
def test_no_forbidden_import(module):
    layer, path = module.split(".")[0], MODULES[module]
    roots = {name.split(".")[0] for name in IMPORTS[module]}
    allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    assert not roots & (set(LAYERS) - allowed), "a layer imports a higher one"
    assert not roots & (FORBIDDEN[layer] - EXCEPTIONS.get(path.relative_to(ROOT).as_posix(), set()))
    assert "pickle" not in roots


@pytest.mark.parametrize("module", [name for name in MODULES if name.split(".")[0] != name])
def test_packages_import_downward_only(module):
    level = PACKAGES.index(package(module))
    upward = [
        name
        for name in IMPORTS[module] & MODULES.keys() - {*LAYERS}
        if PACKAGES.index(package(name)) > level
    ]
    assert upward == [], f"{module} imports a package above its own (see PACKAGES in this file)"


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Sets of modules that import each other, directly or through others."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        queue = [start]
        while queue:
            for name in graph.get(queue.pop(), set()) - seen:
                seen.add(name)
                queue.append(name)
        return seen

    reach = {name: reachable(name) for name in graph}
    groups = {
        frozenset({name} | {other for other in reach[name] if name in reach[other]})
        for name in graph
        if name in reach[name]
    }
    return sorted(sorted(circle) for circle in groups)


def test_circles_are_found():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]


def test_no_import_circle():
    graph = {name: (names & MODULES.keys()) - {name} for name, names in IMPORTS.items()}
    assert circles(graph) == []


BLOCKED = """
import importlib, importlib.abc, pkgutil, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {allowed_not}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
import episodic
for module in pkgutil.walk_packages(episodic.__path__, "episodic."):
    # These need extras of their own.
    if module.name not in (
        "episodic.cli",
        "episodic.inference.demo",
        "episodic.inference.service",
        "episodic.inference.sklearn",
    ) and not module.name.startswith("episodic.inference.service."):
        importlib.import_module(module.name)
import torch
from episodic.algorithms import maml
from episodic.data.sampling import SinusoidSampler
from episodic.engine.learner import MetaLearner
from episodic.engine.outer import meta_gradient
from episodic.models import mlp
from episodic.core.objective import Objective
learner = MetaLearner(mlp.MLP().build((1,), 1), maml.MAML(0.01), Objective("regression"))
episode = SinusoidSampler((1, 2), (0, 1), (-1, 1), 0, "train", 5, 5)(torch.arange(3))
print(float(meta_gradient(learner, learner.init(0), episode).loss))
"""


def test_the_library_and_its_engine_need_only_torch_and_numpy():
    blocked = [
        "prefect",
        "dvc",
        "pandas",
        "pydantic",
        "safetensors",
        "torchvision",
        "PIL",
        "rich",
        "ruamel",
        "pyarrow",
        "scipy",
        "tasks",
        "flows",
        "typer",
        "sklearn",
        "fastapi",
        "onnx",
    ]
    program = BLOCKED.replace("{allowed_not}", repr(set(blocked)))
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) > 0
