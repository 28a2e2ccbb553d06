"""What a run sets in the environment, before Prefect and DVC are imported: they read it once. What the user set stays."""

from __future__ import annotations

import os
import sys
from pathlib import Path

QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # A first start makes the database and can take a long time on a busy machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}


RUNNER = "EPISODIC_RUNNER"
"""Holds the process that started this one and without which it must not go on."""

PAGES = "EPISODIC_PAGES"
"""The address at which `make ui` serves pages to browsers."""


def has_server() -> bool:
    """Whether the user named a Prefect server; if not, a run brings its own."""
    return bool(os.environ.get("PREFECT_API_URL") or os.environ.get("PREFECT_PROFILE"))


def prepare(root: Path) -> None:
    """No telemetry; without a server of the user's, a Prefect home inside the workspace `root`."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not has_server():
        os.environ.setdefault("PREFECT_HOME", str(root / ".prefect"))


def use_server(port: int) -> None:
    """Points Prefect at the run's own server on loopback, which has no web pages."""
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    os.environ["PREFECT_UI_URL"] = ""
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1"]))


def for_dvc(root: Path) -> dict[str, str]:
    """The environment of the DVC process and so of the stages: `python` is this one, output is live, DVC phones nobody.

    DVC's site cache (known hashes) is private to the workspace; its path must be absolute, DVC takes a relative one from the
    current folder.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    site_cache = os.environ.get("DVC_SITE_CACHE_DIR") or str(root / ".dvc" / "tmp" / "site-cache")
    quiet = {"DVC_NO_ANALYTICS": "1", "DVC_STUDIO_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    return {
        **os.environ,
        **quiet,
        "PATH": path,
        "DVC_SITE_CACHE_DIR": str(Path(site_cache).absolute()),
    }
