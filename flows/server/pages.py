"""The reports in the browser, beside Prefect's pages: `make ui` serves the folder reports/ at /reports."""

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

from flows.environment import PAGES

FOLDER = "reports"
REPORT, TASKS = "report.html", "tasks.html"
"""Pages of a run, which name each other."""

KEPT = Path(FOLDER, "experiments")


class Protected(StaticFiles):
    """Files of a folder for whoever knows the server's password (user:password), if it has one."""

    def __init__(self, directory: Path, password: str | None):
        super().__init__(directory=directory, check_dir=False)
        self.expected = (
            "Basic " + base64.b64encode(password.encode()).decode() if password else None
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        said = Headers(scope=scope).get("authorization", "")
        if self.expected and not hmac.compare_digest(said.encode(), self.expected.encode()):
            refusal = PlainTextResponse(
                "a password is needed", 401, {"WWW-Authenticate": 'Basic realm="reports"'}
            )
            await refusal(scope, receive, send)
            return
        await super().__call__(scope, receive, send)


def serve(app: Any, root: Path, password: str | None) -> None:
    """Adds the reports of the checkout `root` to Prefect's server."""
    server: Starlette = app
    server.router.routes.insert(0, Mount(f"/{FOLDER}", app=Protected(root / FOLDER, password)))


def keep(root: Path, workspace: Path, experiment: str) -> None:
    """The pages of an experiment whose workspace goes, under reports/experiments/NAME of the checkout."""
    for name in (REPORT, TASKS):
        page = workspace / FOLDER / name
        if not page.is_file():
            continue
        target = kept(root, experiment).with_name(name)
        target.parent.mkdir(parents=True, exist_ok=True)
        draft = target.with_suffix(".part")
        draft.unlink(missing_ok=True)
        with suppress(OSError):  # another file system takes no link
            os.link(page, draft)
        if not draft.exists():
            shutil.copy(page, draft)
        draft.replace(target)


def kept(root: Path, experiment: str) -> Path:
    """Where `keep` leaves the report."""
    return root / KEPT / experiment / REPORT


def address(root: Path, page: Path) -> str:
    """Where a browser finds `page`: at the server of `make ui`, which has the reports of the checkout `root`, or as a file."""
    served = os.environ.get(PAGES)
    if served and page.is_relative_to(root / FOLDER):
        return f"{served}/{quote(page.relative_to(root).as_posix())}"
    return page.as_uri()
