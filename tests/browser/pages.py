"""A demo server and its page in a browser, for the tests of this folder."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support import ROOT

CHROMIUM = next(
    (
        path
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (path := shutil.which(name))
    ),
    None,
)
needs_chromium = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here: the page was not looked at"
)


@contextmanager
def serve_demo(*options: str) -> Iterator[str]:
    """Run `episodic demo` with these options; provide the address of its page."""
    process = subprocess.Popen(
        [sys.executable, "-m", "episodic", "demo", *options, "--port", "0", "--no-browser"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process.stdout.readline().split()[0]
    finally:
        process.terminate()
        process.wait(20)


@contextmanager
def launch_browser(*arguments: str) -> Iterator[Any]:
    """Start the browser with these arguments."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", *arguments]
        )
        yield browser
        browser.close()


@contextmanager
def open_page(browser: Any, address: str) -> Iterator[Any]:
    """Open the page; check at the end for console errors and external requests."""
    complaints: list[str] = []

    def check_request(request: Any) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            complaints.append(request.url)

    page = browser.new_page(viewport={"width": 1100, "height": 900})
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", check_request)
    page.goto(address)
    yield page
    page.close()
    assert complaints == []
