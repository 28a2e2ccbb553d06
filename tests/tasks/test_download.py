"""The stage `download`: a complete folder or the earlier one, and progress."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from episodic.core.progress import ProgressCallback, no_progress
from episodic.datasets.base import FetchError
from tasks import download
from tasks.params import DatasetChoice, Settings
from tasks.runtime.files import ROOT
from tasks.runtime.stage import PROGRESS


@dataclass
class Source:
    """A dataset that writes one file and then ends in `fault`, if there is one."""

    fault: BaseException | None = None
    mirror: Path | None = None

    def fetch(
        self,
        raw: Path,
        *,
        source: Path | None = None,
        mirror: Path | None = None,
        progress: ProgressCallback = no_progress,
    ) -> None:
        self.mirror = mirror
        for content in ("first", "second"):
            progress(content, 50, 100)
            progress(content, 100, 100)
        (raw / "file").write_text("new")
        if self.fault:
            raise self.fault


@pytest.fixture
def source() -> Source:
    return Source()


@pytest.fixture
def settings(source: Source) -> Settings:
    return Settings(raw={}, dataset=DatasetChoice("source", source))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_is_replaced_as_a_whole(source, settings, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "other").write_text("of an earlier dataset")
    download.run(settings, tmp_path / "raw", tmp_path)
    assert names(tmp_path) == ["raw"] and names(tmp_path / "raw") == ["file"]
    assert source.mirror == tmp_path


@pytest.mark.parametrize(
    "fault", [FetchError("no network"), KeyboardInterrupt()], ids=["failed", "interrupted"]
)
def test_a_failed_download_keeps_the_earlier_folder(source, settings, tmp_path, fault):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "file").write_text("earlier")
    source.fault = fault
    with pytest.raises(type(fault)):
        download.run(settings, tmp_path / "raw")
    assert names(tmp_path) == ["raw"] and (tmp_path / "raw" / "file").read_text() == "earlier"


def test_progress_is_reported_per_piece_of_work(source, settings, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv(PROGRESS, "json")
    download.run(settings, tmp_path / "raw")
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {event["event"] for event in events} == {"progress"} and {
        event["stage"] for event in events
    } == {"download"}
    finished = [
        (event["what"], event["done"], event["total"])
        for event in events
        if event["done"] == event["total"]
    ]
    assert finished == [("first", 100, 100), ("second", 100, 100)]


def test_the_program_ends_with_a_one_line_error(tmp_path):
    chosen = (
        (ROOT / "params.yaml")
        .read_text(encoding="utf-8")
        .replace("\n  name: glyphs ", "\n  name: omniglot ", 1)
    )
    (tmp_path / "params.yaml").write_text(chosen, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "tasks.download",
        "--params",
        str(tmp_path / "params.yaml"),
        "--out",
        str(tmp_path / "data" / "raw"),
    ]
    environment = {**os.environ, "EPISODIC_MIRROR": str(tmp_path / "nowhere")}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith(
        f"error: EPISODIC_MIRROR is {tmp_path / 'nowhere'}, which is not a folder"
    )
    assert len(ended.stderr.splitlines()) == 1
    assert names(tmp_path / "data") == []
