"""The comparison as a flow, from its command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from history import Repository

from tests.flows.toy import ROOT


def test_it_writes_where_it_is_told_and_over_nothing_else(tmp_path: Path, api: str):
    repository = Repository(tmp_path / "a repo", test=40)
    for name, skill in (("one", 0.0), ("two", 0.2)):
        repository.experiment(name, skill, algorithm__name="maml" if name == "one" else "protonet")
    (repository.path / "sub/thesis").mkdir(parents=True)
    (repository.path / "sub/thesis/thesis.txt").write_text("gold")
    environment = os.environ | {"PREFECT_API_URL": api, "PYTHONPATH": str(ROOT)}

    def compare(out: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flows.compare", "one", "two", "--out", out]
        return subprocess.run(
            command, cwd=repository.path / "sub", env=environment, capture_output=True, text=True
        )

    ended = compare("made")
    page = repository.path / "sub/made/comparison.html"
    assert (
        ended.returncode == 0 and ended.stdout.splitlines()[-1] == str(page) and page.is_file()
    ), ended.stderr
    assert not (repository.path / "reports").exists()
    ended = compare("thesis")
    said = f"error: {repository.path / 'sub/thesis'} holds something else than a comparison, which would be lost: name a new folder"
    assert ended.returncode == 1 and ended.stderr.splitlines()[-1] == said
    assert (repository.path / "sub/thesis/thesis.txt").read_text() == "gold"
