"""A toy repository for each test; one Prefect server for all tests that need not bring their own."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.server.server import Server
from tests.flows.toy import ROOT, Toy

# A job that a shell put into the background ignores Ctrl-C, and so would the programs that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Toy.make(tmp_path_factory.mktemp("template") / "toy").path


@pytest.fixture
def toy(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    for name in [name for name in os.environ if name.startswith(("PREFECT_", "DVC_", "EPISODIC_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # the toy holds no flows/ of its own
    return Toy(shutil.copytree(template, tmp_path / "a toy"))


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prefect server."""
    home = tmp_path_factory.mktemp("prefect")
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("PREFECT_")]:
            patch.delenv(name)
        patch.setenv("PREFECT_HOME", str(home))
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        patch.setenv("DO_NOT_TRACK", "1")
        server = Server(home)
    server.wait()
    yield f"http://127.0.0.1:{server.port}/api"
    server.stop()
