"""The page of `episodic demo --encoder` in a real browser: photographs from files and a camera.

The environment variable EPISODIC_SCREENSHOTS names a folder for a screenshot.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.browser.pages import launch_browser, needs_chromium, open_page, serve_demo

pytestmark = needs_chromium
ENCODER = ("--encoder", "efficientnet_lite0")
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
def browser() -> Iterator[Any]:
    with launch_browser(*FAKE_CAMERA) as browser:
        yield browser


@pytest.fixture(scope="module")
def page(browser) -> Iterator[Any]:
    """The page with the default head."""
    with serve_demo(*ENCODER) as address, open_page(browser, address) as page:
        yield page


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
    assert sizes == [[683, 512]] * 4, "photographs are made smaller before they are sent"
    page.click("#adapt")
    expect(page.locator("#adapted")).to_contain_text("Adapted to 2 classes from 4 examples")
    for name, paths in photographs.items():
        page.locator("#question input[type=file]").set_input_files(paths[2])
        expect(page.locator(".prediction.best span").first).to_have_text(name)
    assert "Answers depend" not in page.inner_text("#about"), "the head is inductive"
    labels = page.locator(".labels li b")
    page.locator("#question input[type=file]").set_input_files(
        [paths[i] for i in (0, 1, 2) for paths in photographs.values()]
    )
    expect(labels).to_have_text([*photographs] * 3)
    if folder := os.environ.get("EPISODIC_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / "demo-photographs.png"), full_page=True)


def test_files_that_are_no_images_are_named(page, tmp_path):
    from playwright.sync_api import expect

    for name, content in (("words.jpg", b"hello"), ("empty.png", b""), ("notes.txt", b"hello")):
        (tmp_path / name).write_bytes(content)
    for place, message in (
        ("#classes .class:nth-child(1)", "#adapted"),
        ("#question", "#predictions .error"),
    ):
        before = page.locator(f"{place} .kept > *").count()
        page.locator(f"{place} input[type=file]").set_input_files(sorted(tmp_path.iterdir()))
        expect(page.locator(message)).to_have_text(
            "Not readable as images: empty.png, notes.txt, words.jpg. Use JPEG or PNG files."
        )
        assert page.locator(f"{place} .kept > *").count() == before


def test_a_transductive_head_says_that_answers_depend_on_each_other(browser, photographs):
    from playwright.sync_api import expect

    options = (*ENCODER, "--head", "laplacian_shot")
    with serve_demo(*options) as address, open_page(browser, address) as page:
        assert (
            "Answers depend on the images that are asked together (transductive inference)."
        ) in page.inner_text("#about")
        for i, (name, paths) in enumerate(photographs.items()):
            card = page.locator("#classes .class").nth(i)
            card.locator("input").first.fill(name)
            card.locator("input[type=file]").set_input_files(paths[:2])
        expect(page.locator(".class .kept img")).to_have_count(4)
        page.click("#adapt")
        expect(page.locator("#adapted")).to_contain_text("Adapted to 2 classes")
        field, note = page.locator("#question input[type=file]"), page.locator("#predictions .note")
        with page.expect_response("**/predict") as response:
            field.set_input_files(photographs["blobs"][2])
        assert response.value.json()["transductive"] is True
        expect(note).to_have_text(re.compile("^Ask more images together, some of each class"))
        field.set_input_files([path for paths in photographs.values() for path in paths])
        expect(page.locator(".labels li b")).to_have_text(["stripes"] * 3 + ["blobs"] * 3)
        expect(note).to_have_count(0)


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
