"""The page of `episodic demo` in a real browser: adapt, draw, choose a file.

The environment variable EPISODIC_SCREENSHOTS names a folder for a screenshot.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from tests.browser.pages import launch_browser, needs_chromium, open_page, serve_demo
from tests.episodic.algorithms.test_every_algorithm import trained
from tests.episodic.inference.reliable import reliability, set_reliability
from tests.episodic.inference.test_few_shot import folder_of

pytestmark = needs_chromium
ZIGZAG = [(0.24, 0.33), (0.77, 0.29), (0.23, 0.72), (0.79, 0.74)]


@pytest.fixture(scope="module")
def address(tmp_path_factory) -> Iterator[str]:
    folder = folder_of(
        "protonet", tmp_path_factory.mktemp("model") / "run", theta=trained("protonet").theta
    )
    with serve_demo(str(folder)) as address:
        yield address


@pytest.fixture
def page(address) -> Iterator[Any]:
    """The demo page in a new browser."""
    with launch_browser() as browser, open_page(browser, address) as page:
        yield page


def draw(page: Any, canvas: Any, points: list[tuple[float, float]]) -> None:
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    positions = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*positions[0])
    page.mouse.down()
    for position in positions[1:]:
        page.mouse.move(*position, steps=8)
    page.mouse.up()


def best(page: Any) -> str:
    return page.locator(".prediction.best span").first.inner_text()


def test_shapes_are_told_apart_by_one_example_each(page, tmp_path):
    page.click("#shapes")
    page.click("#adapt")
    page.locator("#adapted", has_text="Adapted to 5 classes from 5 examples in").wait_for()
    draw(page, page.locator("#question canvas"), ZIGZAG)
    page.locator(".prediction.best").wait_for()
    assert best(page) == "zigzag"
    shares = [
        float(text.removesuffix(" %"))
        for text in page.locator(".prediction span:last-child").all_inner_texts()
    ]
    assert (
        len(shares) == 5 and abs(sum(shares) - 100) < 0.5 and shares == sorted(shares, reverse=True)
    )
    if folder := os.environ.get("EPISODIC_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / "demo.png"), full_page=True)
    # An image file instead of the drawing.
    image = Image.new("L", (90, 90), 255)
    ImageDraw.Draw(image).ellipse((20, 20, 70, 70), outline=0, width=6)
    image.save(tmp_path / "ring.png")
    page.set_input_files("#question input[type=file]", str(tmp_path / "ring.png"))
    page.locator(".prediction.best", has_text="circle").wait_for()


def test_unknown_classes_are_none_of_these(tmp_path):
    folder = folder_of("protonet", tmp_path / "run", theta=trained("protonet").theta)
    set_reliability(folder, reliability("mean_distance", -0.4, 5, 1))
    scribble = [(0.2, 0.5), (0.8, 0.52), (0.25, 0.56), (0.75, 0.6), (0.2, 0.65)]
    with (
        serve_demo(str(folder)) as address,
        launch_browser() as browser,
        open_page(browser, address) as page,
    ):
        page.click("#shapes")
        page.click("#adapt")
        page.locator("#adapted", has_text="Adapted to 5 classes").wait_for()
        assert page.locator("#limits").is_hidden()
        canvas = page.locator("#question canvas")
        draw(page, canvas, scribble)
        page.locator(".prediction.none", has_text="none of these").wait_for()
        assert page.locator(".prediction").count() == 6
        assert page.locator(".prediction.best").count() == 0
        page.locator("#question").get_by_text("Erase").click()
        draw(page, canvas, ZIGZAG)
        page.locator(".prediction.best", has_text="zigzag").wait_for()
        assert page.locator(".prediction.none").count() == 0
        images = []
        for i, points in enumerate((scribble, ZIGZAG)):
            image = Image.new("L", (90, 90), 255)
            ImageDraw.Draw(image).line([(90 * x, 90 * y) for x, y in points], 0, 6)
            image.save(tmp_path / f"{i}.png")
            images.append(str(tmp_path / f"{i}.png"))
        page.set_input_files("#question input[type=file]", images)
        page.locator(".labels li.none", has_text="none of these").wait_for()
        assert page.locator(".labels li").locator("b").all_inner_texts() == [
            "none of these",
            "zigzag",
        ]
        if shots := os.environ.get("EPISODIC_SCREENSHOTS"):
            page.screenshot(path=str(Path(shots) / "unknown.png"), full_page=True)


def choose(scope, label: str, name: str) -> None:
    """Choose a class in a list without a pointer, and confirm it."""
    classes = scope.get_by_label(label, exact=True)
    classes.focus()
    classes.select_option(name)
    scope.get_by_label(f"confirm {label}").click()


def test_a_wrong_prediction_is_corrected(page):
    """The example joins the class that the user chooses, and the model adapts again."""
    from playwright.sync_api import expect

    page.click("#shapes")
    page.click("#adapt")
    draw(page, page.locator("#question canvas"), ZIGZAG)
    expect(page.locator(".prediction.best span").first).to_have_text("zigzag")
    choose(page, "correct class", "hook")
    expect(page.locator("#adapted")).to_contain_text("Adapted to 5 classes from 6 examples")
    expect(page.locator("#limits")).to_contain_text("Nothing is called “none of these”: the model")
    hook = page.locator(".class").nth(4)
    expect(hook.locator(".kept img")).to_have_count(1)
    choose(page, "correct class", "a new class")
    expect(page.locator("#adapted")).to_have_text("Name the new class, then adapt again.")
    expect(page.locator(".class input[aria-label='name of class 6']")).to_be_focused()
    page.keyboard.type("slash")
    page.click("#adapt")
    expect(page.locator("#adapted")).to_contain_text("Adapted to 6 classes from 6 examples")
    expect(hook.locator(".kept img")).to_have_count(0)  # an example has one class
    expect(page.locator(".class").nth(5).locator(".kept img")).to_have_count(1)
    expect(page.locator(".prediction.best span").first).to_have_text("slash")


def test_a_class_is_chosen_with_the_keyboard(page):
    """Arrow keys change a list at once, so that Enter or a button confirms."""
    from playwright.sync_api import expect

    page.click("#shapes")
    names = page.locator(".class input[aria-label^=name]")
    for number, name in enumerate(("constructor", "__proto__")):  # of JavaScript's own objects
        names.nth(number).fill(name)
    page.click("#adapt")
    draw(page, page.locator("#question canvas"), ZIGZAG)
    expect(page.locator(".prediction.best span").first).to_have_text("__proto__")
    classes = page.get_by_label("correct class", exact=True)
    classes.focus()
    for _ in range(3):
        page.keyboard.press("ArrowDown")
    expect(page.get_by_label("confirm correct class")).to_be_visible()
    expect(page.locator("#adapted")).to_contain_text("Adapted to 5 classes from 5 examples")
    page.keyboard.press("Enter")
    expect(page.locator("#adapted")).to_contain_text("Adapted to 5 classes from 6 examples")
    expect(page.locator(".class").nth(2).locator(".kept img")).to_have_count(1)


def test_suggested_images_are_labelled(page, tmp_path):
    from playwright.sync_api import expect

    pool = []
    for i in range(9):
        image = Image.new("L", (90, 90), 255)
        pen = ImageDraw.Draw(image)
        if i < 3:
            pen.ellipse((15 + i, 20, 70 - i, 70), outline=0, width=6)
        elif i < 6:
            pen.line([(90 * x + i, 90 * y) for x, y in ZIGZAG], 0, 6)
        else:
            pen.rectangle((20, 20 + i, 70 - i, 75), outline=0, width=6)
        image.save(tmp_path / f"{i}.png")
        pool.append(str(tmp_path / f"{i}.png"))
    page.locator("#pool input[type=file]").set_input_files(pool)
    items = page.locator("#suggestions li")
    expect(items).to_have_count(6)
    expect(page.locator("#suggestions .note")).to_have_text("6 of 9 images without a label.")
    page.click("#shapes")
    page.click("#adapt")
    expect(items.first.locator("span").first).to_contain_text(" or ")
    if folder := os.environ.get("EPISODIC_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / "demo-suggestions.png"), full_page=True)
    page.locator(".class input[aria-label='name of class 3']").fill("roof")
    for count in range(5, 0, -1):
        if count % 2:
            choose(items.first, "class", "roof")
        else:  # a pointer needs no confirmation
            items.first.get_by_label("class", exact=True).focus()
            items.first.get_by_label("class", exact=True).dispatch_event("pointerdown")
            items.first.get_by_label("class", exact=True).select_option("roof")
        expect(items).to_have_count(count)
        note = f"{count} of {count + 3} images without a label. Adapt again after labelling them."
        expect(page.locator("#suggestions .note")).to_have_text(note)
    expect(page.locator("#adapted")).to_have_text("The examples have changed. Adapt again.")
    expect(page.locator(".class").nth(2).locator(".kept img")).to_have_count(5)
    page.click("#adapt")
    expect(page.locator("#adapted")).to_contain_text("Adapted to 5 classes from 10 examples")
    expect(items).to_have_count(4)
    draw(page, page.locator("#question canvas"), ZIGZAG)
    expect(page.locator(".prediction.best")).to_have_count(1)
    page.click("#clear")
    expect(items).to_have_count(0)
    expect(page.locator("#predictions")).to_have_text("Adapt the model first.")
    draw(page, page.locator("#question canvas"), ZIGZAG)  # no model answers
    expect(page.locator("#predictions")).to_have_text("Adapt the model first.")


def test_input_errors_are_shown_and_recoverable(page):
    status = page.locator("#adapted")
    page.click("#adapt")
    status.filter(has_text="Add examples of at least two classes.").wait_for()
    cards = page.locator(".class")
    draw(page, cards.nth(0).locator("canvas"), ZIGZAG)
    draw(page, cards.nth(1).locator("canvas"), ZIGZAG[:2])
    cards.nth(1).locator("input").first.fill("class 1")
    page.click("#adapt")
    status.filter(has_text="Two classes are named class 1.").wait_for()
    cards.nth(1).locator("input").first.fill("<b>line</b>")
    cards.nth(1).get_by_text("Draw another").click()
    draw(page, cards.nth(1).locator("canvas"), [(0.2, 0.5), (0.8, 0.52)])
    page.click("#more")
    assert cards.count() == 6
    page.click("#adapt")
    status.filter(has_text="Adapted to 2 classes from 3 examples").wait_for()
    draw(page, page.locator("#question canvas"), [(0.2, 0.45), (0.8, 0.5)])
    page.locator(".prediction.best", has_text="<b>line</b>").wait_for()
    cards.nth(1).get_by_title("Remove").click()
    status.filter(has_text="The examples have changed. Adapt again.").wait_for()
    page.click("#clear")
    assert page.locator(".kept img").count() == 0


def test_the_description_for_programs_needs_no_network(page, address):
    page.goto(f"{address}/docs")
    page.locator(".opblock", has_text="/predict").wait_for()


def test_nothing_is_wider_than_the_page(page, tmp_path):
    """Also with names that have no place to break, in answers, suggestions, lists and messages."""
    from playwright.sync_api import expect

    page.set_viewport_size({"width": 380, "height": 800})
    page.click("#shapes")
    width = page.locator("html").evaluate("e => e.scrollWidth")
    assert width <= 380
    for i in range(5):
        page.locator(f".class input[aria-label='name of class {i + 1}']").fill(f"{i}" + 99 * "w")
    page.click("#adapt")
    expect(page.locator("#adapted")).to_contain_text("Adapted to 5 classes")
    files = []
    for i in range(3):
        image = Image.new("L", (90, 90), 255)
        ImageDraw.Draw(image).ellipse((15 + i, 20, 70 - i, 70), outline=0, width=6)
        image.save(tmp_path / f"{i}.png")
        files.append(str(tmp_path / f"{i}.png"))
    page.locator("#question input[type=file]").set_input_files(files)
    expect(page.locator("#predictions li")).to_have_count(3)
    page.locator("#pool input[type=file]").set_input_files(files)
    expect(page.locator("#suggestions li")).to_have_count(3)
    assert page.locator("html").evaluate("e => e.scrollWidth") <= 380
    page.locator("#question input[type=file]").set_input_files(files[:1])
    expect(page.locator(".prediction.best")).to_have_count(1)
    page.locator(".class input[aria-label='name of class 2']").fill("0" + 99 * "w")
    page.click("#adapt")
    expect(page.locator("#adapted")).to_contain_text("Two classes are named 0ww")
    assert page.locator("html").evaluate("e => e.scrollWidth") <= 380
    if folder := os.environ.get("EPISODIC_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / "demo-narrow.png"), full_page=True)
