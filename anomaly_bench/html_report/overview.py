"""The index, and the page of a data set: matrices, costs, comparisons, what was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from anomaly_bench.html_report.evidence import Run
from anomaly_bench.html_report.markup import Markup, el, file_name, page, section, setting, table
from anomaly_bench.html_report.provenance import left_out_section, protocol_section, sources_section, summary_section
from anomaly_bench.html_report.result_tables import categories_table, cell, cost_charts, settings_table
from anomaly_bench.results.aggregate import MAIN, Table, in_order
from anomaly_bench.results.collect import Collected
from anomaly_bench.results.comparisons import Comparison
from anomaly_bench.runs.folder import now

MARKED = "A dot marks a setting that is distinguishably better than each of the others."
COMPARED = (
    "First minus second, on the categories and seeds that both have. p: Wilcoxon signed-rank, two-sided, "
    "Holm-corrected; distinguishable: p below 0.05 and an interval without 0. Seeds of one setting against each other "
    "are a check."
)


def index_page(
    collected: Collected,
    tables: Mapping[str, Sequence[Table]],
    runs: Mapping[tuple[str, str], Sequence[Run]],
    compared: Sequence[Comparison],
    notes: Sequence[str],
    outputs: Path,
) -> Markup:
    """All data sets on one page."""
    every = [run for of in runs.values() for run in of]
    left: object = collected.left_out_line()
    left = el("a", left, href="#left-out") if collected.left_out else left
    count = f"{len(collected.rows)} finished runs of {len({run.head for run in every})} settings; left out: "
    parts: list[object] = [el("p", count, left, f". {now()[:16].replace('T', ' ')} UTC. {MARKED}", class_="note")]
    parts.append(_all_datasets(tables) if len(tables) > 1 else None)
    for dataset, of in tables.items():
        here = {category: own for (owner, category), own in runs.items() if owner == dataset}
        parts.append(_dataset_section(dataset, of, here, [c for c in compared if c.dataset == dataset]))
    parts += [el("p", text, class_="note") for text in notes]
    parts += [left_out_section(collected.left_out, outputs), summary_section(every), protocol_section(every)]
    return page("Report", parts)


def _all_datasets(tables: Mapping[str, Sequence[Table]]) -> Markup:
    """Settings x data sets for each main metric."""
    shown = []
    for metric in MAIN:
        of = {dataset: t for dataset, every in tables.items() for t in every if t.metric == metric}
        cells = {(c.head, dataset): c.cells[-1] for dataset, t in of.items() for c in t.columns if c.ours}
        heads = sorted({head for head, _ in cells})
        lines = [[setting(head), *(cell(cells.get((head, dataset))) for dataset in of)] for head in heads]
        if lines:
            shown.append((metric, table(["setting", *of], lines, caption=f"{metric}, mean over categories")))
    return section("All data sets", _switched("all", shown))


def _switched(group: str, shown: Sequence[tuple[str, Markup]]) -> Markup:
    """Tables of which one is seen at a time; all of them without JavaScript, and on paper."""
    choices = [
        el("label", el("input", type="radio", name=f"metric-{group}", value=metric, checked=not i), metric)
        for i, (metric, _) in enumerate(shown)
    ]
    switch = el("fieldset", el("legend", "metric"), choices, class_="tools", hidden=len(shown) == 1)
    return el("div", switch, [el("div", made, data_metric=metric) for metric, made in shown], class_="switched")


def _dataset_section(
    dataset: str, tables: Sequence[Table], runs: Mapping[str, Sequence[Run]], compared: Sequence[Comparison]
) -> Markup:
    """The main metrics: settings and their costs, then categories; which differences are real; where to read on."""
    pages = {category: f"pages/{file_name(dataset, category)}.html" for category in runs}
    best, mine = marks(tables, compared), [run for own in runs.values() for run in own]
    main = [t for t in tables if t.metric in MAIN] or list(tables)[:1]
    costs = cost_charts(main, mine) if len({run.head for run in mine}) > 1 else None
    links = {f"all metrics, costs of {dataset}": f"pages/{file_name(dataset)}.html"}
    if len(pages) == 1:
        links |= {f"gallery, curves, runs of {category}": href for category, href in pages.items()}
    return section(
        dataset,
        settings_table(main, mine, best),
        el("div", matrices(main, pages, best) if len(pages) > 1 else None, costs, class_="beside"),
        comparisons_details(compared),
        el("ul", [el("li", el("a", text, href=href)) for text, href in links.items()], class_="links"),
        name=f"data-{file_name(dataset)}",
    )


def dataset_content(
    tables: Sequence[Table],
    runs: Mapping[str, Sequence[Run]],
    pages: Mapping[str, str],
    compared: Sequence[Comparison],
) -> list[Markup | None]:
    """Every metric, costs, comparisons, and where published figures come from."""
    mine, best = [run for own in runs.values() for run in own], marks(tables, compared)
    links = el("ul", [el("li", el("a", name, href=href)) for name, href in pages.items()], class_="links")
    figures = [figure for t in tables for column in t.columns for figure in column.quoted]
    return [
        section("Categories", links),
        section("Settings", settings_table(tables, mine, best), note=MARKED),
        section("Cost", costs) if (costs := cost_charts(tables, mine)) else None,
        section("By category", matrices(tables, pages, best)),
        section("Comparisons", comparisons_details(compared)) if compared else None,
        sources_section(figures),
        summary_section(mine),
        protocol_section(mine),
    ]


def matrices(tables: Sequence[Table], pages: Mapping[str, str], best: Mapping[str, frozenset[str]]) -> Markup:
    """A matrix of categories and settings for each metric."""
    none = frozenset[str]()
    shown = [(t.metric, categories_table(t, best.get(t.metric, none), pages)) for t in tables]
    return _switched(file_name(tables[0].dataset), shown)


def marks(tables: Sequence[Table], compared: Sequence[Comparison]) -> dict[str, frozenset[str]]:
    """Metric -> the setting that is distinguishably better than each of the others, if there is one."""
    found = {}
    for t in tables:
        heads = {column.head for column in t.columns if column.ours and column.cells[-1]}
        beaten: dict[str, set[str]] = {head: set() for head in heads}
        for c in compared:
            if c.metric == t.metric and c.distinguishable and not c.check:
                better, worse = (c.first, c.second) if c.difference > 0 else (c.second, c.first)
                beaten.setdefault(better, set()).add(worse)
        found[t.metric] = frozenset(head for head in heads if len(heads) > 1 and beaten[head] >= heads - {head})
    return found


def comparisons_details(compared: Sequence[Comparison]) -> Markup | None:
    """Each pair of settings, and each setting against itself."""
    if not compared:
        return None
    heads = ["metric", "first", "second", "pairs", "categories", "difference", "95 % interval", "p", "verdict"]
    lines = []
    for metric in in_order({c.metric for c in compared}):
        for c in (c for c in compared if c.metric == metric):
            figures = [_figure(c.difference, f"{c.difference:+.4f}"), _figure(c.low, f"{c.low:+.4f} to {c.high:+.4f}")]
            names = [el("td", setting(name), class_="text") for name in (c.first, c.second)]
            verdict = el("td", c.verdict, class_="yes" if c.distinguishable else "no")
            lines.append([c.metric, *names, c.pairs, c.categories, *figures, _figure(c.p, f"{c.p:.3f}"), verdict])
    pairs = [c for c in compared if not c.check]
    differ, odd = sum(c.distinguishable for c in pairs), sum(c.distinguishable for c in compared if c.check)
    text = f"Comparisons: {differ} of {len(pairs)} distinguishable"
    text += f"; {odd} settings differ from themselves" if odd else ""
    return el("details", el("summary", text), el("p", COMPARED, class_="note"), table(heads, lines))


def _figure(value: float, text: str) -> Markup:
    return el("td", text, data_v=repr(value)) if value == value else el("td", "–", data_v="")
