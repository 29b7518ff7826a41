"""The report as one static folder that opens from disk: index.html, a page for each data set and for each category."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from anomaly_bench import __version__
from anomaly_bench.files import write_text
from anomaly_bench.html_report.charts import tick_label
from anomaly_bench.html_report.gallery import MOST, gallery, sample, script
from anomaly_bench.html_report.pages import DatasetResults, category_page, index_page, protocol_lines
from anomaly_bench.html_report.pareto import pareto_page
from anomaly_bench.html_report.run_data import by_setting, file_name, joined, runs_by_category
from anomaly_bench.html_report.tables import COSTS, mark_of, short_number, top_of_column, top_of_line
from anomaly_bench.html_report.thumbnails import colour_steps
from anomaly_bench.results.aggregate import Table, as_published, four
from anomaly_bench.results.collect import Collected
from anomaly_bench.results.comparisons import Comparison
from anomaly_bench.results.decisions import DECISIONS_NOTE, share_text
from anomaly_bench.results.grid import ABSENT
from anomaly_bench.results.oracle import CHOSEN_NOTE
from anomaly_bench.results.text import BASELINES_NOTE, PUBLISHED_NOTE
from anomaly_bench.runs.promise import WAYS, alarms_text, defects_found, exceeded, promise

STATIC = ("report.css", "report.js", "gallery.js")
PARETO = "pareto.html"
WORKERS = 2
FILTERS = (
    *(four, as_published, short_number, tick_label, joined, by_setting, protocol_lines),
    *(promise, exceeded, alarms_text, defects_found, share_text, mark_of, top_of_line, top_of_column),
)


def write_html(
    collected: Collected, tables: Sequence[Table], compared: Sequence[Comparison], notes: Sequence[str], target: Path
) -> Path:
    """Write target/index.html and what it needs: pareto.html, pages/, data/, static/, pictures/.  Returns index.html.

    Nothing in it needs a network or a server.  tables, compared, notes: as `summarise`, `compare_settings` and
    `skipped` return them.  Pictures that are there already are kept; pages and pictures of runs that are gone are
    removed.
    """
    earlier = (target / "static" / STATIC[0]).exists()
    for name in STATIC:
        write_text(target / "static" / name, (files("anomaly_bench.html_report") / "static" / name).read_text("utf-8"))
    datasets = [
        DatasetResults(name, runs, [t for t in tables if t.dataset == name], [c for c in compared if c.dataset == name])
        for name, runs in runs_by_category(collected.rows).items()
    ]
    written = {f"pages/{dataset.slug}.html" for dataset in datasets}
    with ThreadPoolExecutor(WORKERS) as pool:
        for dataset in datasets:
            for category in dataset.categories:
                written |= _write_category(dataset, category, target, pool)
            page = {"dataset": dataset, "styles": dataset.styles, "ranked": dataset.ranked}
            _write_page(target, f"pages/{dataset.slug}.html", "dataset.html", page)
    pareto = pareto_page([run for dataset in datasets for run in dataset.runs])
    if pareto["machines"]:
        _write_page(target, PARETO, PARETO, pareto)
        written.add(PARETO)
    page = index_page(collected, datasets, notes) | {"outputs": target.parent, "pareto": pareto}
    _write_page(target, "index.html", "index.html", page)
    if earlier:  # else nothing in this folder was written by a report
        _remove_others(target, written)
    return target / "index.html"


def _write_category(dataset: DatasetResults, category: str, target: Path, pool: Executor) -> set[str]:
    """Write the page of a category, its data and its pictures.  Returns their names: a run's pictures are a folder."""
    data, finish = gallery(dataset.categories[category], target / "pictures", pool)
    name = file_name(dataset.name, category)
    page = category_page(dataset, category) | {"gallery": data, "colours": colour_steps(), "most": MOST}
    _write_page(target, f"pages/{name}.html", "category.html", page, script=f"data/{name}.js")
    finish()
    dataset.samples[category] = sample(data, dataset.categories[category])
    write_text(target / "data" / f"{name}.js", script(data))
    maps = {f"pictures/{run['maps']}" for run in data["runs"] if run["maps"]}
    files = {f"pictures/images/{i['file']}{end}" for i in data["images"] for end in (".jpg", "_o.png")}
    return {f"pages/{name}.html", f"data/{name}.js", *maps, *files}


@cache
def _environment() -> Environment:
    """Return the templates, compiled once."""
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.loader = PackageLoader("anomaly_bench.html_report")
    for function in FILTERS:
        environment.filters[function.__name__] = function
    environment.globals.update(
        BASELINES_NOTE=BASELINES_NOTE,
        CHOSEN_NOTE=CHOSEN_NOTE,
        DECISIONS_NOTE=DECISIONS_NOTE,
        ABSENT=ABSENT,
        COSTS=COSTS,
        PUBLISHED_NOTE=PUBLISHED_NOTE,
        WAYS=WAYS,
        version=__version__,
    )
    return environment


def _write_page(target: Path, name: str, template: str, page: dict[str, Any], script: str = "") -> None:
    """Write a page.  script: a file with its data, from the report's folder."""
    top = "../" * name.count("/")
    text = _environment().get_template(template).render(page, top=top, script=script, contents=[])
    write_text(target / name, text)


def _remove_others(target: Path, written: set[str]) -> None:
    """Remove pages, data and pictures of earlier reports that this one does not show."""
    patterns = (PARETO, "pages/*.html", "data/*.js", "pictures/images/*")
    for file in [file for pattern in patterns for file in target.glob(pattern)]:
        if file.relative_to(target).as_posix() not in written:
            file.unlink(missing_ok=True)
    for folder in target.glob("pictures/*"):
        if re.fullmatch("[0-9a-f]{16}", folder.name) and f"pictures/{folder.name}" not in written:
            shutil.rmtree(folder, ignore_errors=True)
