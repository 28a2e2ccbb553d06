"""The public API: names are complete, lazily imported and documented; the example runs."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from support import ROOT

import episodic

MODULES = sorted(
    module.name for module in pkgutil.walk_packages(episodic.__path__, prefix="episodic.")
)


def test_public_names_are_imported_lazily():
    program = "import sys, episodic; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT).returncode == 0
    assert set(episodic.__all__) <= set(dir(episodic))
    with pytest.raises(AttributeError, match="module 'episodic' has no attribute 'nothing'"):
        episodic.nothing  # noqa: B018


def test_type_checkers_see_the_names_that_exist():
    tree = ast.parse((ROOT / "episodic/__init__.py").read_text(encoding="utf-8"))
    imports = {
        alias.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    assert imports == episodic._MODULES


@pytest.mark.parametrize("name", episodic.__all__)
def test_public_name(name):
    """Every public name exists, is public in its module, and is documented."""
    value = getattr(episodic, name)
    if name == "__version__":
        assert re.fullmatch(r"\d+\.\d+\.\d+", value)
        return
    module = importlib.import_module(episodic._MODULES[name])
    assert getattr(module, name) is value
    if inspect.isclass(value) or inspect.isfunction(value):
        assert inspect.getdoc(value), f"{name} needs a docstring"


def public_objects(module: Any) -> Iterator[tuple[str, Any]]:
    """The public functions and classes of a module, and the public methods of the classes."""
    for name in getattr(module, "__all__", ()):
        value = getattr(module, name)
        if getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isclass(value) or inspect.isfunction(value):
            yield name, value
        if inspect.isclass(value):
            for method, member in vars(value).items():
                if isinstance(member, (staticmethod, classmethod)):
                    member = member.__func__
                if not method.startswith("_") and (
                    inspect.isfunction(member) or isinstance(member, property)
                ):
                    yield f"{name}.{method}", getattr(value, method)


def lacking(module: Any) -> Iterator[str]:
    """Missing items of a complete, documented public interface."""
    if not hasattr(module, "__all__") and not hasattr(module, "__path__"):
        yield "__all__"
    if not module.__doc__:
        yield "a docstring of the module"
    for name, value in public_objects(module):
        documentation = inspect.getdoc(value)  # that of the base class, if it has none of its own
        if not documentation:
            yield f"a docstring of {name}"
        elif inspect.isfunction(value) and "\nArgs:\n" in documentation:
            arguments = documentation.split("\nArgs:\n")[1].split("\n\n")[0]
            described = set(re.findall(r"^    (\w+):", arguments, re.M))
            parameters = set(inspect.signature(value).parameters) - {"self", "cls"}
            if described != parameters:
                yield f"Args of {name} that are its parameters: {described ^ parameters}"


@pytest.mark.parametrize("name", MODULES)
def test_modules_are_documented(name):
    assert list(lacking(importlib.import_module(name))) == []


def test_the_example_trains_maml_and_adapts_it():
    path = ROOT / "docs/examples/train_maml.py"
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    assert len(lines) <= 20
    ended = subprocess.run(
        [sys.executable, path],
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ended.returncode == 0, ended.stderr
    accuracy, half_width = map(float, re.findall(r"accuracy (\S+) ± (\S+)", ended.stdout)[0])
    assert accuracy - half_width > 0.6, "far above chance, which is 0.2"
    assert re.search(r"tensor\(\[\[\d(, +\d){24}\]\]\)", re.sub(r"\s+", " ", ended.stdout))
