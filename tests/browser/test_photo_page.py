"""The page of `episodic demo --encoder` in a real browser: photographs from files and a camera.

The environment variable EPISODIC_SCREENSHOTS names a folder for a screenshot.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.browser.test_demo_page import CHROMIUM
from tests.support import ROOT

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium here: the page was not looked at"
)
COMMAND = ("episodic", "demo", "--encoder", "efficientnet_lite0")
FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> dict[str, list[Path]]:
    """Three large photographs of each of two things: stripes and blobs."""
    folder, result = tmp_path_factory.mktemp("photographs"), {}
    y, x = np.mgrid[:1500, :2000] / 100
    for name in ("stripes", "blobs"):
        result[name] = []
        for i in range(3):
            value = np.sin(3 * x + i) if name == "stripes" else np.sin(x + i) * np.sin(y + 2 * i)
            pixels = np.stack([127 + 100 * value, 90 + 40 * value, 200 - 60 * value], -1)
            path = folder / f"{name}{i}.png"
            Image.fromarray(pixels.astype(np.uint8)).save(path)
            result[name].append(path)
    return result


@pytest.fixture(scope="module")
def page() -> Iterator[Any]:
    """The page; checks on teardown for console errors and external requests."""
    from playwright.sync_api import sync_playwright

    process = subprocess.Popen(
        [sys.executable, "-m", *COMMAND, "--port", "0", "--no-browser"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    complaints: list[str] = []
    try:
        address = process.stdout.readline().split()[0]
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", *FAKE_CAMERA]
            )
            page = browser.new_page(viewport={"width": 1100, "height": 900})
            page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.on(
                "request",
                lambda r: (
                    None
                    if r.url.startswith((address, "data:", "blob:"))
                    else complaints.append(r.url)
                ),
            )
            page.goto(address)
            yield page
            browser.close()
    finally:
        process.terminate()
        process.wait(20)
    assert complaints == []


def test_photographs_are_told_apart(page, photographs):
    from playwright.sync_api import expect

    assert "Encoder efficientnet_lite0 with the head nearest_mean." in page.inner_text("#about")
    cards = page.locator("#classes .class")
    assert cards.count() == 3 and page.locator("canvas").count() == 0
    for i, (name, paths) in enumerate(photographs.items()):
        cards.nth(i).locator("input").first.fill(name)
        cards.nth(i).locator("input[type=file]").set_input_files(paths[:2])
        cards.nth(i).locator(".kept img").nth(1).wait_for()
    sizes = page.evaluate(
        "[...document.querySelectorAll('.kept img')].map(i => [i.naturalWidth, i.naturalHeight])"
    )
    assert sizes == [[1024, 768]] * 4, "photographs are made smaller before they are sent"
    page.click("#adapt")
    expect(page.locator("#adapted")).to_contain_text("Adapted to 2 classes from 4 examples")
    for name, paths in photographs.items():
        page.locator("#question input[type=file]").set_input_files(paths[2])
        expect(page.locator(".prediction.best span").first).to_have_text(name)
    if folder := os.environ.get("EPISODIC_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / "demo-photographs.png"), full_page=True)


def test_the_camera_takes_examples(page):
    from playwright.sync_api import expect

    card = page.locator("#classes .class").nth(2)
    card.get_by_role("button", name="photograph for class 3").click()
    shoot = page.get_by_role("button", name="Take photograph")
    expect(shoot).to_be_enabled()
    shoot.click()
    shoot.click()
    page.get_by_role("button", name="Done").click()
    page.locator("dialog").wait_for(state="detached")
    assert card.locator(".kept img").count() == 2
    card.locator("input").first.fill("camera")
    page.click("#adapt")
    expect(page.locator("#adapted")).to_contain_text("Adapted to 3 classes from 6 examples")
