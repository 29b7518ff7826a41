"""The report as one static folder that opens from disk: index.html, a page for each data set and for each category."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from importlib.resources import files
from itertools import groupby
from operator import methodcaller
from pathlib import Path

from anomaly_bench.files import write_atomic
from anomaly_bench.html_report import overview
from anomaly_bench.html_report.category import curves_section, histograms_section, training_section
from anomaly_bench.html_report.evidence import Run, opened
from anomaly_bench.html_report.gallery import gallery, gallery_section, script
from anomaly_bench.html_report.markup import Markup, el, file_name, page
from anomaly_bench.html_report.provenance import protocol_section, provenance_section
from anomaly_bench.html_report.result_tables import settings_table
from anomaly_bench.results.aggregate import Table, summarise
from anomaly_bench.results.collect import Collected
from anomaly_bench.results.comparisons import Comparison

STATIC = ("report.css", "report.js")
WORKERS = 2


def write_html(
    collected: Collected, tables: Sequence[Table], compared: Sequence[Comparison], notes: Sequence[str], target: Path
) -> Path:
    """target/index.html and what it needs: pages/, data/, static/, pictures/.  Returns index.html.

    Nothing in it asks a network or a server.  tables, compared, notes: as `summarise`, `comparisons` and `skipped` give
    them.  Pictures that are there already are kept; pages and pictures of runs that are no more are removed.
    """
    runs, earlier = opened(collected.rows), (target / "static" / STATIC[0]).exists()
    written = {f"static/{name}" for name in STATIC}
    for name in STATIC:
        _write(target / "static" / name, (files("anomaly_bench.html_report") / "static" / name).read_text("utf-8"))
    by_dataset = {dataset: list(group) for dataset, group in groupby(tables, key=lambda table: table.dataset)}
    with ThreadPoolExecutor(WORKERS) as pool:
        for dataset, of in by_dataset.items():
            found = {category: own for (owner, category), own in runs.items() if owner == dataset}
            pages = {category: f"{file_name(dataset, category)}.html" for category in found}
            content = overview.dataset_content(of, found, pages, [c for c in compared if c.dataset == dataset])
            name = f"pages/{file_name(dataset)}.html"
            _write(target / name, page(dataset, content, top="../", here=_crumbs(dataset)))
            written.add(name)
            for category in found:
                written |= _write_category(dataset, category, found[category], pages, target, pool)
    _write(target / "index.html", overview.index_page(collected, by_dataset, runs, compared, notes, target.parent))
    if earlier:  # else nothing in this folder is ours
        _remove_others(target, written)
    return target / "index.html"


def _write_category(
    dataset: str, category: str, runs: Sequence[Run], pages: dict[str, str], target: Path, pool: Executor
) -> set[str]:
    """The page of a category, its data and its pictures; their names.  Pictures of a run are one folder."""
    data, finish = gallery(runs, target / "pictures", pool)
    name = file_name(dataset, category)
    parts = [
        settings_table(summarise([run.row for run in runs]), runs, {}),
        curves_section(runs),
        histograms_section(runs),
        gallery_section(data, list(pages.items())),
        training_section(runs),
        provenance_section(runs),
        protocol_section(runs),
    ]
    here = _crumbs(dataset, category)
    title = category if category == dataset else f"{dataset} / {category}"
    _write(target / "pages" / f"{name}.html", page(title, parts, top="../", here=here, data=f"data/{name}.js"))
    finish()
    _write(target / "data" / f"{name}.js", script(data))
    drawn = {f"pictures/{run['maps']}" for run in data["runs"] if run["maps"]}
    return {f"pages/{name}.html", f"data/{name}.js", *drawn, *(f"pictures/images/{i['file']}" for i in data["images"])}


def _crumbs(dataset: str, category: str = "") -> Markup:
    """The way from the index to this page."""
    ways = [el("a", "overview", href="../index.html")]
    if category:
        ways.append(el("a", dataset, href=f"{file_name(dataset)}.html"))
    ways.append(el("span", category or dataset, aria_current="page"))
    return el("ol", [el("li", way) for way in ways])


def _write(file: Path, text: str) -> None:
    write_atomic(file, methodcaller("write", text.encode()))


def _remove_others(target: Path, written: set[str]) -> None:
    """Pages, data and pictures of earlier reports that this one does not show."""
    for file in [*target.glob("pages/*.html"), *target.glob("data/*.js"), *target.glob("pictures/images/*.jpg")]:
        name = file.relative_to(target).as_posix()
        if name.removesuffix(".jpg").removesuffix("_o") not in written:
            file.unlink(missing_ok=True)
    for folder in target.glob("pictures/*"):
        if re.fullmatch("[0-9a-f]{16}", folder.name) and f"pictures/{folder.name}" not in written:
            shutil.rmtree(folder, ignore_errors=True)
