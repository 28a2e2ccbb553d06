"""Report pages in the browser: `make ui` serves the folder reports/ next to Prefect's own pages."""

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
"""Pages of a run, which link to each other."""

EXPERIMENTS = Path(FOLDER, "experiments")


class ProtectedFiles(StaticFiles):
    """Files of a folder; `credentials` (USER:PASSWORD) turn on HTTP basic authentication."""

    def __init__(self, directory: Path, credentials: str | None):
        super().__init__(directory=directory, check_dir=False)
        self.expected = (
            f"Basic {base64.b64encode(credentials.encode()).decode()}" if credentials else None
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        received = Headers(scope=scope).get("authorization", "")
        if self.expected and not hmac.compare_digest(received.encode(), self.expected.encode()):
            refusal = PlainTextResponse(
                "password required", 401, {"WWW-Authenticate": 'Basic realm="reports"'}
            )
            await refusal(scope, receive, send)
            return
        await super().__call__(scope, receive, send)


def mount_reports(app: Any, root: Path, credentials: str | None) -> None:
    """Adds the reports of the checkout `root` to the application of Prefect's server."""
    server: Starlette = app
    files = ProtectedFiles(root / FOLDER, credentials)
    server.router.routes.insert(0, Mount(f"/{FOLDER}", app=files))


def keep_pages(root: Path, workspace: Path, experiment: str) -> None:
    """Copy an experiment's pages to the checkout, since its workspace will be removed."""
    for name in (REPORT, TASKS):
        page = workspace / FOLDER / name
        if not page.is_file():
            continue
        target = kept_report(root, experiment).with_name(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_suffix(".part")
        draft.unlink(missing_ok=True)
        with suppress(OSError):  # no hard link across file systems
            os.link(page, draft)
        if not draft.exists():
            shutil.copy(page, draft)
        draft.replace(target)


def kept_report(root: Path, experiment: str) -> Path:
    """Return where `keep_pages` puts the report of an experiment."""
    return root / EXPERIMENTS / experiment / REPORT


def page_url(root: Path, page: Path) -> str:
    """Return a page's address at the server of `make ui`, or its file URL if none serves it."""
    server = os.environ.get(PAGES_URL)
    if server and page.is_relative_to(root / FOLDER):
        return f"{server}/{quote(page.relative_to(root).as_posix())}"
    return page.as_uri()
