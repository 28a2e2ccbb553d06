"""Report pages in the browser: `make ui` serves the folder reports/ together with Prefect's UI."""

from __future__ import annotations

import base64
import hmac
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Receive, Scope, Send

from flows.environment import PAGES_URL

FOLDER = "reports"
REPORT, TASKS = "report.html", "tasks.html"
"""The two pages of a run."""

EXPERIMENTS = Path(FOLDER, "experiments")


class ProtectedFiles(StaticFiles):
    """Static files, protected by HTTP basic authentication if there are credentials.

    Args:
        directory: Folder to serve.
        credentials: USER:PASSWORD, or None for public files.
    """

    def __init__(self, directory: Path, credentials: str | None):
        super().__init__(directory=directory, check_dir=False)
        self.expected_header = (
            f"Basic {base64.b64encode(credentials.encode()).decode()}" if credentials else None
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = Headers(scope=scope).get("authorization", "")
        if self.expected_header and not hmac.compare_digest(
            received.encode(), self.expected_header.encode()
        ):
            refusal = PlainTextResponse(
                "password required", 401, {"WWW-Authenticate": 'Basic realm="reports"'}
            )
            await refusal(scope, receive, send)
            return
        await super().__call__(scope, receive, send)


def mount_reports(app: Any, root: Path, credentials: str | None) -> None:
    """Add the reports of the checkout `root` to Prefect's server application."""
    server: Starlette = app
    files = ProtectedFiles(root / FOLDER, credentials)
    server.router.routes.insert(0, Mount(f"/{FOLDER}", app=files))


def copy_pages(root: Path, workspace: Path, experiment: str) -> None:
    """Copy an experiment's pages to the checkout before its workspace is removed."""
    for name in (REPORT, TASKS):
        page = workspace / FOLDER / name
        if not page.is_file():
            continue
        target = report_path(root, experiment).with_name(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_suffix(".part")
        draft.unlink(missing_ok=True)
        with suppress(OSError):  # hard links do not work across file systems
            os.link(page, draft)
        if not draft.exists():
            shutil.copy(page, draft)
        draft.replace(target)


def report_path(root: Path, experiment: str) -> Path:
    """Return the path of an experiment's report in the checkout."""
    return root / EXPERIMENTS / experiment / REPORT


def page_url(root: Path, page: Path) -> str:
    """Return the URL of a page, which is a file URL if `make ui` does not serve the page."""
    server = os.environ.get(PAGES_URL)
    if server and page.is_relative_to(root / FOLDER):
        return f"{server}/{quote(page.relative_to(root).as_posix())}"
    return page.as_uri()
