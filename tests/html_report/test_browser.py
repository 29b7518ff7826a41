"""The report in a real browser, opened from disk: every link, sort, filter and key; no error, no request elsewhere.

`make test-browser` installs what this needs; without it, these tests are skipped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from synthetic import synthetic

from anomaly_bench.commands.report import write_report
from anomaly_bench.runs.calibration import CalibrationRow, threshold_entry
from anomaly_bench.runs.folder import RunFolder, find
from anomaly_bench.runs.promise import LEVELS

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make test-browser")
CHROMIUM = next((p for name in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(name))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: make test-browser")
CARDS = 24  # drawn at first
WIDTHS = [390, 768, 1440]
IMAGES = 40


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two categories, two methods, two seeds, 40 images each; in one category all runs have thresholds."""
    outputs = tmp_path_factory.mktemp("outputs")
    synthetic(outputs, categories=2, methods=2, seeds=2, images=IMAGES)
    for folder in find(outputs):
        if folder.manifest["category"] == "category00":
            normals = [CalibrationRow(f"{i}.png", "held out", i / 40, i / 20) for i in range(60)]
            request = (normals, "calibration.csv", 0.05, 0.95, folder.scores, folder.maps)
            folder.update(thresholds={level: threshold_entry(level, *request) for level in LEVELS})
    return write_report(outputs)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=["light", "dark"])
def page(chromium: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A page that must not complain and must not ask for anything but files."""
    context = chromium.new_context(viewport={"width": 1440, "height": 800}, color_scheme=request.param)
    page, wrong = context.new_page(), []
    page.on("console", lambda message: wrong.append(f"console: {message.text}"))
    page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
    page.on("requestfailed", lambda request: wrong.append(f"{request.failure}: {request.url}"))
    page.on(
        "request", lambda request: None if request.url.startswith(("file:", "data:")) else wrong.append(request.url)
    )
    yield page
    context.close()
    assert [text for text in wrong if "ERR_ABORTED" not in text] == []  # a page that was left while it loaded


def go(page: Any, report: Path, name: str = "index.html") -> Any:
    page.goto((report / name).as_uri())
    return page


CATEGORY = "pages/synthetic.category00.html"


def focused(page: Any) -> str:
    """The path that the card with the focus shows."""
    return str(page.evaluate("document.activeElement.querySelector('.name')?.title"))


def test_every_link(page: Any, report: Path) -> None:
    todo, seen = [(report / "index.html").as_uri()], set()
    while todo:
        address = todo.pop()
        page.goto(address)
        seen.add(address)
        assert page.locator("h1").count() == 1
        anchor = address.partition("#")[2]
        assert not anchor or page.evaluate("a => document.getElementById(a) !== null", anchor), address
        links = page.evaluate("[...document.querySelectorAll('a[href]')].map(a => a.href)")
        files = {link for link in links if ".html" not in link}  # the tables, for programs
        assert all(Path(link.removeprefix("file://")).is_file() for link in files)
        links = [link for link in links if link not in files]
        todo += [link for link in dict.fromkeys(links) if link not in seen and link not in todo]
    assert {Path(a.partition("#")[0]).name for a in seen} == {f.name for f in report.rglob("*.html")}


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_page(page: Any, report: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 740})
    for file in sorted(report.rglob("*.html")):
        go(page, report, str(file.relative_to(report)))
        assert page.evaluate("document.documentElement.scrollWidth") <= width, file
        page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
        assert page.evaluate("document.documentElement.scrollWidth") <= width, file


def column(page: Any, table: Any, index: int) -> list[Any]:
    code = "(t, k) => [...t.tBodies[0].rows].map(r => r.cells[k].dataset.v ?? r.cells[k].textContent.trim())"
    return list(page.evaluate(f"([t, k]) => ({code})(t, k)", [table, index]))


def test_every_column_of_every_table_sorts(page: Any, report: Path) -> None:
    sorted_ = 0
    for name in ("index.html", "pages/synthetic.html", CATEGORY):
        go(page, report, name)
        page.evaluate("for (const d of document.querySelectorAll('details')) d.open = true")
        for table in page.query_selector_all("table.sortable"):
            if not table.is_visible():
                continue
            feet = table.evaluate("t => t.tFoot?.textContent")
            for k, button in enumerate(table.query_selector_all("thead button")):
                button.click()
                first = column(page, table, k)
                button.focus()
                page.keyboard.press("Enter")  # the other way round
                head = table.query_selector_all("thead th")[k]
                assert table.evaluate("t => t.querySelectorAll('[aria-sort]').length") == 1
                assert head.get_attribute("aria-sort") in ("ascending", "descending")
                second = column(page, table, k)
                try:
                    keys = [[float(v) for v in values if v] for values in (first, second)]
                except ValueError:
                    continue  # words, in the browser's order
                descending = head.get_attribute("aria-sort") == "descending"
                assert keys[1] == sorted(keys[1], reverse=descending)
                assert keys[0] == sorted(keys[0], reverse=not descending)
                sorted_ += 1
            assert table.evaluate("t => t.tFoot?.textContent") == feet
    assert sorted_ > 30


def test_one_matrix_at_a_time_and_all_on_paper(page: Any, report: Path) -> None:
    go(page, report, "pages/synthetic.html")
    matrices, radios = page.locator("[data-metric]"), page.locator("input[type=radio]")
    assert matrices.count() == radios.count() == 10
    for k in range(radios.count()):
        radios.nth(k).check()
        assert [matrices.nth(j).is_visible() for j in range(10)] == [j == k for j in range(10)]
    page.emulate_media(media="print")
    assert all(matrices.nth(j).is_visible() for j in range(10))


def test_light_and_dark(page: Any, report: Path) -> None:
    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    go(page, report)
    system = ground()
    page.click("#theme")
    other = ground()
    assert {system, other} == {"rgb(255, 255, 255)", "rgb(20, 23, 27)"}
    go(page, report, CATEGORY)
    assert ground() == other  # kept on the next page
    page.click("#theme")
    assert ground() == system


def test_the_gallery_draws_and_loads_what_is_seen(page: Any, report: Path) -> None:
    go(page, report, CATEGORY)
    assert page.locator(".card").count() == CARDS
    assert page.locator("#count").inner_text() == f"{IMAGES} of {IMAGES} images"
    loaded = "[...document.querySelectorAll('img')].filter(i => i.complete && i.naturalWidth).length"
    assert page.evaluate(loaded) < page.locator("img").count() / 2  # lazily
    page.locator(".card").first.scroll_into_view_if_needed()
    page.wait_for_function("[...document.querySelectorAll('.card:first-child img')].every(i => i.naturalWidth > 0)")
    page.click("#more")
    assert page.locator(".card").count() == IMAGES
    assert not page.locator("#more").is_visible()


SORTED = """([sort, of]) => {
  const { images, runs } = window.GALLERY, at = new Map(images.map((image, i) => [image.path, i]));
  const lowest = runs.filter(r => r.seed === 0 && (!of || r.head === of));
  return [...document.querySelectorAll('.card .name')].map(n => at.get(n.title)).map(i => {
    const label = images[i].label, shares = lowest.map(r => r.wrong[i] / r.scores[1 - label].length);
    if (sort === 'spread') return Math.max(...shares) - Math.min(...shares);
    return sort === 'miss' && !label || sort === 'alarm' && label ? -1 : Math.max(...shares);
  });
}"""


def test_every_sort_and_filter(page: Any, report: Path) -> None:
    go(page, report, CATEGORY)
    for method in ("", "rd", "csflow"):
        page.select_option("#of", method)
        for sort in ("mistake", "miss", "alarm"):
            page.select_option("#sort", sort)
            keys = page.evaluate(SORTED, [sort, method])
            assert len(keys) == CARDS
            assert keys == sorted(keys, reverse=True)
    page.select_option("#of", "")
    page.select_option("#sort", "spread")
    keys = page.evaluate(SORTED, ["spread", ""])
    assert keys == sorted(keys, reverse=True)
    page.select_option("#sort", "path")
    names = page.evaluate("[...document.querySelectorAll('.card .name')].map(n => n.title)")
    assert names == sorted(names)
    total = 0
    for kind in ("good", "crack", "hole", "scratch", "stain"):
        page.select_option("#kind", kind)
        kinds = page.evaluate("[...document.querySelectorAll('.card .kind')].map(n => n.textContent)")
        assert set(kinds) == {kind}
        total += len(kinds)
    assert total == IMAGES
    page.select_option("#kind", "")
    sources = []
    for seed in ("0", "1"):
        page.select_option("#seed", seed)
        sources.append(page.evaluate("document.querySelector('.card .cell:nth-of-type(3) .map').src"))
    assert sources[0] != sources[1]
    page.select_option("#category", "synthetic.category01.html")
    page.wait_for_url("**/synthetic.category01.html?*#gallery")
    assert page.locator("#category").input_value() == "synthetic.category01.html"


def test_the_gallery_by_keyboard(page: Any, report: Path) -> None:
    go(page, report, CATEGORY)
    page.select_option("#sort", "path")
    order = page.evaluate("[...document.querySelectorAll('.card .name')].map(n => n.title)")
    page.locator("[aria-label='false alarms and misses']").focus()
    page.keyboard.press("Tab")
    assert focused(page) == order[0]
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") != "none"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "more"  # all cards are one stop of the tab key
    page.keyboard.press("Shift+Tab")
    columns = page.evaluate("getComputedStyle(document.querySelector('#cards')).gridTemplateColumns.split(' ').length")
    at = 0
    for key, step in (("ArrowRight", 1), ("ArrowDown", columns), ("ArrowLeft", -1), ("ArrowUp", -columns), ("End", 39)):
        page.keyboard.press(key)
        at += step
        if at < CARDS:
            assert focused(page) == order[at], key
    assert page.locator(".card").count() == IMAGES  # End draws all
    page.keyboard.press("Home")
    assert focused(page) == order[0]
    page.keyboard.press("Enter")
    dialog = page.locator("dialog")
    assert dialog.is_visible()
    assert order[0] in dialog.inner_text()
    page.keyboard.press("ArrowRight")
    assert order[1] in dialog.inner_text()
    assert dialog.inner_text().count("normal images") == 2  # a verdict for each method
    page.keyboard.press("Escape")
    assert not dialog.is_visible()
    page.wait_for_function("path => document.activeElement.querySelector('.name')?.title === path", arg=order[1])


def test_the_outline_is_switched_and_the_place_is_kept(page: Any, report: Path) -> None:
    go(page, report, CATEGORY)
    page.select_option("#kind", "hole")
    page.locator(".card").nth(3).click()
    path, scrolled = page.locator(".card .name").nth(3).get_attribute("title"), page.evaluate("scrollY")
    outlines = page.locator("dialog .outline")
    assert outlines.count() == 3  # on the image and on both maps
    assert outlines.first.is_visible()
    page.keyboard.press("o")
    assert not outlines.first.is_visible()
    assert not page.locator(".card .outline").first.is_visible()
    assert path in page.locator("dialog").inner_text()
    page.keyboard.press("Escape")
    page.wait_for_function("path => document.activeElement.querySelector('.name')?.title === path", arg=path)
    assert page.evaluate("scrollY") == scrolled
    page.keyboard.press("o")
    assert page.locator(".card .outline").first.is_visible()
    assert focused(page) == path


def test_a_picture_is_shown_alone_in_full_size(page: Any, report: Path) -> None:
    go(page, report, CATEGORY)
    page.select_option("#kind", "stain")
    page.locator(".card").nth(2).click()
    dialog, cells = page.locator("dialog"), page.locator("dialog .cell")
    page.wait_for_function("[...document.querySelectorAll('dialog img')].every(i => i.naturalWidth > 0)")
    assert cells.count() == 3  # the image, two methods
    before = cells.nth(1).bounding_box()["width"]
    cells.nth(1).locator(".stack").click()
    assert [cell.is_visible() for cell in cells.all()] == [False, True, False]
    assert cells.nth(1).bounding_box()["width"] > 2 * before
    page.keyboard.press("ArrowRight")
    assert [cell.is_visible() for cell in cells.all()] == [False, True, False]
    page.keyboard.press("Escape")
    assert all(cell.is_visible() for cell in cells.all())
    dialog.locator(".close").click()
    assert not dialog.is_visible()


def test_the_map_lies_over_the_image(page: Any, report: Path) -> None:
    go(page, report, CATEGORY)
    cell = page.locator(".card").first.locator(".cell").nth(1)
    assert cell.locator("img").count() >= 2
    page.locator("#opacity").fill("40")
    assert page.evaluate("getComputedStyle(document.querySelector('.card .map')).opacity") == "0.4"
    boxes = [image.bounding_box() for image in cell.locator("img").all()]
    assert all(box == boxes[0] for box in boxes)


def test_each_map_on_its_own_scale(chromium: Any, page: Any, report: Path) -> None:
    go(page, report, CATEGORY)
    page.locator(".card").nth(2).focus()
    path, scales = focused(page), page.locator("#gallery .scale")
    maps = "[...document.querySelectorAll('#gallery img.map')].map(i => i.getAttribute('src').endsWith('_own.png'))"
    assert not any(page.evaluate(maps))
    page.select_option("#colours", "_own")
    assert all(page.evaluate(maps))
    assert [scale.is_visible() for scale in scales.all()] == [False, True]
    page.locator(".card").nth(2).click()
    page.wait_for_function("[...document.querySelectorAll('dialog img')].every(i => i.naturalWidth > 0)")
    assert all(page.evaluate(maps))
    assert path in page.locator("dialog").inner_text()
    _same_elsewhere(chromium, page, f"[document.querySelector('dialog[open]').textContent, ...{maps}]")


def test_the_threshold_slider_counts_false_alarms_and_misses(page: Any, report: Path) -> None:
    go(page, report, CATEGORY)
    folders = [f for f in find(report.parent) if f.manifest["category"] == "category00" and not f.manifest["seed"]]
    folders.sort(key=lambda folder: str(folder.manifest["method"]))
    assert "no promise" in page.locator("#decided").inner_text()
    for allowed in (0, 2, 5):
        page.select_option("#rule", "alarms")
        page.locator("#alarms").fill(str(allowed))
        for folder, row in zip(folders, page.locator("#decided tbody tr").all(), strict=True):
            normal = sorted(r.score for r in folder.scores if not r.label)
            anomalous = [r.score for r in folder.scores if r.label]
            threshold = normal[-1 - allowed]
            missed = sum(score <= threshold for score in anomalous)
            head, *cells = row.locator("th, td").all_inner_texts()
            assert folder.manifest["method"] in head
            assert float(cells[0]) == pytest.approx(threshold, rel=1e-5)
            assert cells[1].startswith(f"{allowed} of {len(normal)}")
            assert cells[2].startswith(f"{missed} of {len(anomalous)}")
    page.select_option("#decision", "alarm")
    wrong = {r.path for f in folders for r in f.scores if not r.label and r.score > _threshold(f, 5)}
    assert set(page.evaluate("[...document.querySelectorAll('.card .name')].map(n => n.title)")) == wrong
    page.select_option("#rule", "own")
    assert "at most 5 % false alarms" in page.locator("#decided").inner_text()


def _threshold(folder: RunFolder, allowed: int) -> float:
    return sorted(row.score for row in folder.scores if not row.label)[-1 - allowed]


def test_the_address_holds_what_was_chosen(chromium: Any, page: Any, report: Path) -> None:
    go(page, report, "pages/synthetic.html")
    page.click("#theme")
    page.locator("input[type=radio]").nth(3).check()
    page.locator("table.sortable").first.locator("thead button").nth(2).click()
    page.locator("table.sortable").first.locator("thead button").nth(2).click()
    shown = (
        "[document.querySelector('table.sortable tbody').textContent, getComputedStyle(document.body).backgroundColor,"
    )
    shown += "document.querySelector('input:checked').value]"
    _same_elsewhere(chromium, page, shown)
    page.locator(".tiles a").last.click()  # the theme goes along
    assert "theme=" in page.url
    page.select_option("#sort", "path")
    page.select_option("#kind", "hole")
    page.locator("#opacity").fill("35")
    page.locator("#outline").uncheck()
    page.locator(".card").nth(1).click()
    shown = "[document.querySelector('dialog[open]').textContent, document.querySelector('#cards').textContent,"
    shown += (
        "getComputedStyle(document.querySelector('.card .map')).opacity, document.querySelector('#gallery').className]"
    )
    _same_elsewhere(chromium, page, shown)


def _same_elsewhere(chromium: Any, page: Any, shown: str) -> None:
    """The address alone, in a browser that remembers nothing, must show the same."""
    context = chromium.new_context(viewport={"width": 1440, "height": 800})
    other = context.new_page()
    other.goto(page.url)
    assert other.evaluate(shown) == page.evaluate(shown)
    context.close()


def test_a_value_is_read_out_under_the_pointer(page: Any, report: Path) -> None:
    go(page, report, CATEGORY)
    (folder,) = [f for f in find(report.parent) if "csflow/synthetic/category00/s0" in f.path.as_posix()]
    curve = json.loads((folder.path / "curves.json").read_text())["pixel_roc"]
    line = page.locator("#curves .chart").nth(1).locator("polyline").first
    line.scroll_into_view_if_needed()
    k = len(curve["x"]) // 2
    place = "(l, k) => { const p = l.points[k], m = l.getScreenCTM(); return [p.x * m.a + m.e, p.y * m.d + m.f]; }"
    page.mouse.move(*line.evaluate(f"(l) => ({place})(l, {k})"))
    said = page.locator("#readout").inner_text()
    values = [float(text.rpartition(": ")[2]) for text in said.splitlines()[-2:]]
    assert values == pytest.approx([curve["x"][k], curve["y"][k]], abs=2e-3)  # a point is drawn to 0.1 units
    page.mouse.move(2, 2)
    assert not page.locator("#readout").is_visible()


def test_two_settings_stand_side_by_side(page: Any, report: Path) -> None:
    go(page, report, "pages/synthetic.html")
    part = page.locator(".compare")
    assert [text.strip() for text in part.locator("thead th:visible").all_inner_texts()] == ["entry", "csflow", "rd"]
    assert part.locator("tbody tr:visible").first.inner_text().split() == ["method.name", "csflow", "rd"]
    page.select_option("#second", "0")
    assert part.locator("tbody tr:visible").count() == 0


def test_a_setting_looks_the_same_on_all_pages(page: Any, report: Path) -> None:
    looks = set()
    for name in ("index.html", "pages/synthetic.html", CATEGORY, "pages/synthetic.category01.html"):
        go(page, report, name)
        code = r"""[...document.querySelectorAll('th, .cell, .legend li, summary')]
          .filter(e => /^\s*rd/.test(e.textContent))
          .map(e => [...e.querySelectorAll("svg path")].at(-1)).filter(Boolean)
          .map(path => path.getAttribute('d') + getComputedStyle(path).color)"""
        found = page.evaluate(code)
        assert len(found) > 2
        looks |= set(found)
    assert len(looks) == 1


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine methods, single runs."""
    outputs = tmp_path_factory.mktemp("wide")
    synthetic(outputs, categories=2, methods=9, seeds=1, images=IMAGES)
    return write_report(outputs)


@pytest.mark.parametrize("width", WIDTHS)
def test_nine_methods_fit(page: Any, wide: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    for file in sorted(wide.rglob("*.html")):
        go(page, wide, str(file.relative_to(wide)))
        code = "e => e.scrollWidth > e.clientWidth + 1"
        cut = [
            part.get_attribute("aria-label") for part in page.locator(".scroll:visible").all() if part.evaluate(code)
        ]
        assert not cut or width < 1440, (file, cut)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.documentElement.scrollHeight") < 10 * 844, file


@pytest.mark.parametrize("width", WIDTHS)
def test_no_text_of_a_chart_is_cut(page: Any, wide: Path, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 844})
    texts = 0
    for name in ("index.html", CATEGORY):
        go(page, wide, name)
        code = """[...document.querySelectorAll('.chart text')].map(t => {
          const a = t.getBoundingClientRect(), b = t.ownerSVGElement.getBoundingClientRect();
          const outside = [b.left - a.left, a.right - b.right, b.top - a.top, a.bottom - b.bottom];
          return [t.textContent, Math.max(...outside)]; })"""
        for text, outside in page.evaluate(code):
            assert outside <= 1, text
            texts += 1
    assert texts > 100


def test_without_javascript_all_but_the_gallery_is_there(chromium: Any, report: Path) -> None:
    context = chromium.new_context(java_script_enabled=False)
    page = go(context.new_page(), report, "pages/synthetic.html")
    assert page.locator("[data-metric]").count() == 10
    assert all(part.is_visible() for part in page.locator("[data-metric]").all())
    go(page, report, CATEGORY)
    assert page.locator("polyline").count() > 4
    assert "needs JavaScript" in page.locator("#gallery").inner_text()
    context.close()


def test_a_link_to_a_run_opens_it(page: Any, report: Path) -> None:
    go(page, report, CATEGORY)
    name = page.evaluate("document.querySelector('details[id]').id")
    assert not page.locator("details[id] dl").first.is_visible()
    page.goto(f"{(report / CATEGORY).as_uri()}#{name}")
    assert page.locator("details[id] dl").first.is_visible()
