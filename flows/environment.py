"""Environment variables that Prefect and DVC read when they are imported.

Commands call `set_defaults` and `use_server` before the first import of Prefect. Variables that the
user has set are never overwritten.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from tasks.runtime.stage import PROGRESS

PREFECT_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # The first start creates the database, which can take long on a busy machine.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}

PARENT_PID = "EPISODIC_RUNNER"
"""Variable with the id of the process that serves deployments. Flow runs end when it ends."""

PAGES_URL = "EPISODIC_PAGES"
"""Variable with the URL at which `make ui` serves reports."""

ORIGINS = "PREFECT_SERVER_CORS_ALLOWED_ORIGINS"
"""Prefect's variable with the allowed origins: URLs at which browsers open the pages."""


def has_server() -> bool:
    """Whether the user has configured a Prefect server. Otherwise every run starts its own."""
    return bool(os.environ.get("PREFECT_API_URL") or os.environ.get("PREFECT_PROFILE"))


def set_defaults(root: Path) -> None:
    """Turn telemetry off, and set Prefect's home to `root/.prefect` unless there is a server."""
    for name, value in PREFECT_DEFAULTS.items():
        os.environ.setdefault(name, value)
    if not has_server():
        os.environ.setdefault("PREFECT_HOME", str(root / ".prefect"))


def use_server(port: int) -> None:
    """Connect Prefect to the run's own server on loopback, which has no UI."""
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    os.environ["PREFECT_UI_URL"] = ""
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1"]))


def dvc_environment(root: Path) -> dict[str, str]:
    """Return the environment of DVC processes in `root` and of the stages that they run.

    `python` is this interpreter. Stages print unbuffered progress as JSON. DVC sends no analytics.
    DVC's site cache (known hashes) is kept in the workspace. Its path is absolute, because DVC
    resolves a relative path against the current folder.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    site_cache = os.environ.get("DVC_SITE_CACHE_DIR") or str(root / ".dvc" / "tmp" / "site-cache")
    return {
        **os.environ,
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
        PROGRESS: "json",
        "DVC_NO_ANALYTICS": "1",
        "DVC_STUDIO_OFFLINE": "1",
        "DVC_SITE_CACHE_DIR": str(Path(site_cache).absolute()),
    }
