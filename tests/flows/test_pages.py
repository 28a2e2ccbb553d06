"""Reports at Prefect's server: access, served files, and the reports of experiments."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from flows.environment import PAGES_URL
from flows.server import pages


def served(root: Path, password: str | None) -> Callable[..., httpx.Response]:
    """Return `get` of a server that responds to all other paths, like Prefect's."""
    app = Starlette(
        routes=[Route("/{rest:path}", lambda request: PlainTextResponse("Prefect's own"))]
    )
    pages.mount_reports(app, root, password)

    def get(path: str, **options: Any) -> httpx.Response:
        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app), base_url="http://here"
            ) as client:
                return await client.get(path, **options)

        return asyncio.run(ask())

    return get


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/report.html").write_text("<p>a report")
    (tmp_path / "params.yaml").write_text("not for others")
    return tmp_path


def test_reports_are_served_and_nothing_else(root):
    get = served(root, None)
    assert get("/reports/report.html").text == "<p>a report"
    for path in (
        "/reports/%2e%2e/params.yaml",
        "/reports//../params.yaml",
        "/reports/",
        "/reports/none.html",
    ):
        assert "not for others" not in get(path).text
    assert (
        get("/reports/%2e%2e/params.yaml").status_code
        == get("/reports/none.html").status_code
        == 404
    )
    assert get("/runs").text == "Prefect's own"


def test_a_server_with_a_password_asks_for_it(root):
    get = served(root, "admin:secret")
    refused = get("/reports/report.html")
    assert refused.status_code == 401 and refused.headers["www-authenticate"].startswith("Basic")
    for credentials, status in (("admin:secret", 200), ("admin:wrong", 401), ("", 401)):
        header = {"Authorization": "Basic " + base64.b64encode(credentials.encode()).decode()}
        assert get("/reports/report.html", headers=header).status_code == status


def test_the_report_of_an_experiment_outlives_its_workspace(root, tmp_path, monkeypatch):
    workspace = tmp_path / "elsewhere"
    pages.copy_pages(root, workspace, "none")
    assert not (root / pages.EXPERIMENTS).exists()
    (workspace / "reports").mkdir(parents=True)
    for text in ("<p>first", "<p>second"):
        for name in ("report.html", "tasks.html"):
            (workspace / "reports" / name).unlink(missing_ok=True)
            (workspace / "reports" / name).write_text(text + name)
        pages.copy_pages(root, workspace, "maml s1")
        assert {
            p.name: p.read_text() for p in (root / pages.EXPERIMENTS / "maml s1").iterdir()
        } == {name: text + name for name in ("report.html", "tasks.html")}
    page = pages.report_path(root, "maml s1")
    monkeypatch.delenv(PAGES_URL, raising=False)
    assert pages.page_url(root, page) == page.as_uri()
    monkeypatch.setenv(PAGES_URL, "http://127.0.0.1:4200")
    assert (
        pages.page_url(root, page)
        == "http://127.0.0.1:4200/reports/experiments/maml%20s1/report.html"
    )
    assert pages.page_url(root, workspace / "a.html").startswith("file:///"), (
        "a page that is not served has a file URL"
    )
