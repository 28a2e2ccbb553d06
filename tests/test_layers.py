"""flows -> tasks -> episodic, never upward; the library needs torch and numpy alone."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from support import ROOT

ALLOWED = {"episodic": {"episodic"}, "tasks": {"tasks", "episodic"}, "flows": {"flows", "tasks", "episodic"}}
FORBIDDEN = {"episodic": {"prefect", "dvc", "pandas", "pydantic"}, "tasks": {"prefect", "dvc"}, "flows": set()}
ALSO = {"tasks/experiments.py": {"dvc"}, "episodic/demo/__init__.py": {"pydantic"}}
"""No stage: what it reads are revisions, which DVC keeps; and a service of FastAPI, whose requests are pydantic's."""
FILES = [(layer, path) for layer in ALLOWED for path in sorted((ROOT / layer).rglob("*.py"))]


def imported(path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize(("layer", "path"), FILES, ids=[str(path.relative_to(ROOT)) for _, path in FILES])
def test_imports_never_go_upward(layer, path):
    names = imported(path)
    assert not names & (ALLOWED.keys() - ALLOWED[layer]), "a layer imports a higher one"
    assert not names & (FORBIDDEN[layer] - ALSO.get(path.relative_to(ROOT).as_posix(), set()))
    assert "pickle" not in names


BLOCKED = """
import importlib.abc, importlib.util, pkgutil, sys
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {allowed_not}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
import episodic
for module in pkgutil.walk_packages(episodic.__path__, "episodic."):
    if module.name not in ("episodic.cli", "episodic.demo", "episodic.sklearn"):  # extras of their own
        importlib.import_module(module.name)
import torch
from episodic.algorithms import maml
from episodic.learner import MetaLearner
from episodic.models import mlp
from episodic.objective import Objective
from episodic.outer import meta_gradient
from episodic.sampling import SinusoidSampler
learner = MetaLearner(mlp.build(mlp.Config(), (1,), 1), maml.build(maml.Config(0.01)), Objective("regression"))
episode = SinusoidSampler((1, 2), (0, 1), (-1, 1), 0, "train", 5, 5)(torch.arange(3))
print(float(meta_gradient(learner, learner.init(0), episode).loss))
"""


def test_the_library_and_its_engine_need_torch_and_numpy_alone():
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
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert float(answer.stdout) > 0
