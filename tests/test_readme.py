"""README: its length, its links, and output that equals that of the program."""

from __future__ import annotations

import re

import pytest
from support import ROOT

from tasks import summary
from tasks.runtime.files import read_json

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_readme_is_at_most_150_lines():
    lines = README.splitlines()
    assert len(lines) <= 150 and max(map(len, lines)) <= 100


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md"])
def test_files_that_are_linked_exist(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#]+)", text) + re.findall(r"^\[\w+\]: (\S+)", text, re.M)
    for link in links:
        assert link.startswith("http") or (ROOT / link).exists(), link
    assert set(re.findall(r"\]\[(\w+)\]", text)) <= set(re.findall(r"^\[(\w+)\]: ", text, re.M))


def test_the_commands_of_a_newcomer_are_there():
    assert {"make run", "make test", "make check", "make docs", "make ui"} <= set(
        re.findall(r"make [a-z]+", README)
    )
    for module in ("tasks.preset", "tasks.compare", "flows.sweep"):
        assert f"python -m {module}" in README


def test_the_output_is_that_of_the_committed_figures():
    metrics = read_json(ROOT / "reports/metrics.json")
    for name, figure in summary.summarize(metrics):
        assert re.search(rf"^  {re.escape(name)} +{re.escape(figure)}$", README, re.M), name


def test_the_library_example_is_the_file_that_is_tested():
    program = (ROOT / "docs/examples/train_maml.py").read_text(encoding="utf-8")
    assert f"```python\n{program.split(chr(10), 2)[2].strip()}\n```" in README
