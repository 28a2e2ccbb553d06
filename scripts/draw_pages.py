"""Update the screenshots of report pages in docs/images.

    python scripts/draw_pages.py reports                  report.png and tasks.png, of `make run`
    python scripts/draw_pages.py comparison FOLDER        comparison.png, of `tasks.compare`
    python scripts/draw_pages.py transfer FOLDER          transfer.png, of `tasks.compare`

Requires chromium. Run in the root of the repository.
"""

from __future__ import annotations

import argparse
import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

IMAGES = Path(__file__).parents[1] / "docs/images"
COLOURS = 128


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", choices=["reports", "comparison", "transfer"])
    parser.add_argument("folder", nargs="?", type=Path, default=Path("reports"))
    options = parser.parse_args()
    with open_browser() as browser:
        if options.page == "reports":
            for name, height in (("report", 760), ("tasks", 1010)):
                page = open_page(browser, options.folder / f"{name}.html", 1280, height)
                save(page.screenshot(), f"{name}.png")
        elif options.page == "comparison":
            page = open_page(browser, options.folder / "comparison.html", 1280, 830)
            save(page.screenshot(), "comparison.png")
        else:
            page = open_page(browser, options.folder / "comparison.html", 1280, 1000)
            save(page.locator("section#transfer").screenshot(), "transfer.png")


@contextmanager
def open_browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        yield playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )


def open_page(browser: Any, path: Path, width: int, height: int) -> Any:
    page = browser.new_page(viewport={"width": width, "height": height}, color_scheme="light")
    page.goto(path.resolve().as_uri())
    page.wait_for_timeout(500)  # until the charts are drawn
    return page


def save(screenshot: bytes, name: str) -> None:
    """Save an image with few colours, for a small file."""
    image = Image.open(io.BytesIO(screenshot)).convert("RGB")
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(IMAGES / name, optimize=True)
    print(IMAGES / name)


if __name__ == "__main__":
    main()
