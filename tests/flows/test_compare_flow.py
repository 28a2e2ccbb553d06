"""The comparison as a flow, from its command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from history import Repository

from tests.flows.toy import ROOT


def test_compare_flow_writes_only_to_the_requested_folder(tmp_path: Path, api: str):
    repository = Repository(tmp_path / "a repo", test=40)
    for name, skill in (("one", 0.0), ("two", 0.2)):
        repository.experiment(name, skill, algorithm__name="maml" if name == "one" else "protonet")
    folder = repository.path / "sub"
    (folder / "thesis").mkdir(parents=True)
    (folder / "thesis/thesis.txt").write_text("gold")
    environment = os.environ | {"PREFECT_API_URL": api, "PYTHONPATH": str(ROOT)}

    def start(out: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.compare", "one", "two", "--out", out],
            cwd=folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    written, refused = start("made"), start("thesis")
    output, errors = written.communicate(timeout=120)
    page = folder / "made/comparison.html"
    assert written.returncode == 0, errors
    assert output.splitlines()[-1] == str(page) and page.is_file()
    assert not (repository.path / "reports").exists()
    _, errors = refused.communicate(timeout=120)
    assert refused.returncode == 1
    last = errors.splitlines()[-1]
    assert last.startswith(f"error: {folder / 'thesis'} exists and is not a comparison")
    assert (folder / "thesis/thesis.txt").read_text() == "gold"
