"""The pictures of docs/report.md, from a report: python scripts/report_pictures.py OUTPUTS/report PAGE TARGET

PAGE: of a category, without its ending, as in OUTPUTS/report/pages.  Needs what `make test-browser` installs.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

SIZE = {"width": 1200, "height": 800}  # pixels


def shoot(page: Page, address: str, part: str, target: Path) -> None:
    """Write what a window shows, scrolled to a part of the page."""
    page.goto(address)
    page.locator(part).first.evaluate("part => part.scrollIntoView()")
    page.wait_for_timeout(500)  # pictures load as they come into sight
    page.screenshot(path=target)
    with Image.open(target) as picture:
        picture.convert("RGB").quantize(256).save(target, optimize=True)


def main(report: str, name: str, target: str) -> None:
    """Write report_overview.png, report_curves.png and report_gallery.png."""
    place, category = Path(target), (Path(report) / "pages" / f"{name}.html").resolve().as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        shoot(page, (Path(report) / "index.html").resolve().as_uri(), "h1", place / "report_overview.png")
        shoot(page, category, "#curves", place / "report_curves.png")
        shoot(page, f"{category}?opacity=70&kind=", "#gallery", place / "report_gallery.png")
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
