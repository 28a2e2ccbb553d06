"""What README says is there to type, is there."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys

from support import ROOT

from tasks import preset

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_modules_and_make_targets_exist():
    modules = set(re.findall(r"python -m ([\w.]+)", README))
    assert {"flows.pipeline", "tasks.params", "tasks.preset", "tasks.train"} <= modules
    for module in modules:
        assert importlib.util.find_spec(module), module
    targets = set(re.findall(r"(?:^|`)make (\w+)", README, re.M))
    assert {"run", "test", "check"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.M), target


def test_presets_that_are_named_exist():
    named = set(re.findall(r"tasks\.preset (\w+)", README))
    assert named and named <= set(preset.names())


def test_files_that_are_linked_exist():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link


def test_the_python_example_runs():
    (program,) = re.findall(r"```python\n(.*?)```", README, re.S)
    answer = subprocess.run(
        [sys.executable, "-c", program + "print(float(loss))"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert answer.returncode == 0, answer.stderr
    assert float(answer.stdout) > 0
