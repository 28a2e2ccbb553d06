"""A toy repository per test, and a Prefect server that tests share."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from flows.environment import PREFECT_DEFAULTS
from flows.server.server import Server
from tests.flows.toy import ROOT, Toy, without_settings

# A job that a shell put into the background ignores Ctrl-C, and so would the programs it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Toy.make(tmp_path_factory.mktemp("template") / "toy").path


@pytest.fixture
def toy(tmp_path: Path, template: Path, monkeypatch: pytest.MonkeyPatch) -> Toy:
    for name in os.environ.keys() - without_settings(os.environ).keys():
        monkeypatch.delenv(name)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Toy(shutil.copytree(template, tmp_path / "a toy"))


@pytest.fixture(scope="session")
def prefect_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prefect's home of the server below, whose first start creates the database."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="session")
def api(prefect_home: Path) -> Iterator[str]:
    """The address of a Prefect server."""
    with pytest.MonkeyPatch.context() as patch:
        for name in os.environ.keys() - without_settings(os.environ).keys():
            patch.delenv(name)
        patch.setenv("PREFECT_HOME", str(prefect_home))
        for name, value in PREFECT_DEFAULTS.items():
            patch.setenv(name, value)
        server = Server(prefect_home)
    server.wait()
    with closing(sqlite3.connect(prefect_home / "prefect.db")) as database:
        database.execute("VACUUM INTO ?", [str(prefect_home / "empty.db")])
    yield f"http://127.0.0.1:{server.port}/api"
    server.stop()


@pytest.fixture(scope="session")
def empty_database(api: str, prefect_home: Path) -> Path:
    """The database of a new server. With a copy of it, servers start in half the time."""
    return prefect_home / "empty.db"
