"""Write the figures of finished runs into docs/results.md: python scripts/write_results.py [--side-by-side] OUTPUTS...

For each setting and category: commands, versions, weights and dates from the manifests, a row for each run, then mean
and standard deviation, also for each kind of hardware where there were several.  A section of the page is replaced by
the runs of its title; those of other titles stay.

--side-by-side: the page's first tables instead, with a line for each setting and a column for each category.  Their
runs are added to docs/benchmarks/side_by_side.csv, from which the tables are made.
"""

from __future__ import annotations

import argparse
import csv
import re
import sys
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any

from anomaly_bench.files import records_csv
from anomaly_bench.results.aggregate import BASELINE, MAIN
from anomaly_bench.results.collect import Row, collect
from anomaly_bench.results.seed_means import mean_over_seeds
from anomaly_bench.runs.folder import RunFolder

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
PLACE = re.compile(r" (output_dir|hardware\.\S+)=\S+|(?<==)/\S*/")  # of one machine only
SIDE_BY_SIDE = PAGE.parent / "benchmarks" / "side_by_side.csv"
KEYS = ("label", "dataset", "category", "seed")
COSTS = {"seconds of training": "train_s", "milliseconds to score an image": "ms_per_image"}
METRICS = ("image_auroc", "pixel_auroc", "aupro_0.3", "aupro_0.05", "pro_per_image")


def setting(row: Row) -> tuple[str, ...]:
    """What runs must share to stand in one table."""
    config = {**row.config, "backbone": str(row.config.get("backbone")).split(".")[0], "weights": ""}
    return row.method, row.dataset, row.category, str(sorted(config.items(), key=str))


def title(row: Row) -> str:
    """Of a setting's section."""
    return f"### {row.label} on {row.dataset}/{row.category}"


def hardware(row: Row) -> str:
    """Device, threads, memory layout and precision of a run."""
    manifest = RunFolder(row.path).manifest
    precision = manifest["hardware"]["precision"]
    named = f"{manifest['device']}, {manifest['hardware']['memory_format']}"
    return named if precision == "32-true" else f"{named}, {precision}"


def section(rows: list[Row]) -> str:
    """Markdown for the runs of one setting on one category."""
    manifests = [RunFolder(row.path).manifest for row in rows]
    first: dict[str, Any] = manifests[0]
    versions, images = first["versions"], first["images"]
    weights = [f"{name} {value[:12] if 'sha256' in name else value}" for name, value in first["provenance"].items()]
    metrics = [m for m in METRICS if m in rows[0].metrics]
    commands = dict.fromkeys(PLACE.sub("", m["command"]) for m in manifests)
    lines = [title(rows[0]), "", "```", *commands, "```", ""]
    lines += [
        f"torch {versions['torch']}, timm {versions['timm']}; {min(m['started'] for m in manifests)[:10]}; "
        f"{', '.join(weights)}; "
        f"{images['train']} training, {images['test_good']} good and {images['test_anomalous']} defective test images.",
        "",
        f"| seed | hardware | {' | '.join(metrics)} | seconds | peak MiB |",
        "|---|---|" + "---:|" * (len(metrics) + 2),
    ]
    by_hardware = {name: list(group) for name, group in groupby(sorted(rows, key=hardware), key=hardware)}
    for name, group in by_hardware.items():
        for row in sorted(group, key=lambda r: r.seed):
            values = " | ".join(f"{row.metrics[m]:.4f}" for m in metrics)
            lines.append(f"| {row.seed} | {name} | {values} | {row.seconds:.0f} | {row.peak_memory_mb:.0f} |")
            for part, found in RunFolder(row.path).manifest.get("parts", {}).items():
                lines.append(f"| {row.seed}, {part} alone | | {' | '.join(f'{found[m]:.4f}' for m in metrics)} | | |")
        if len(group) > 1:
            lines.append(summary(f"mean of {len(group)}", name, group, metrics))
    if len(by_hardware) > 1:
        lines.append(summary(f"mean of all {len(rows)}", "", rows, metrics))
    return "\n".join(lines)


def summary(title: str, name: str, rows: list[Row], metrics: list[str]) -> str:
    """Mean and standard deviation over runs, as a row of the table."""
    columns = [[row.metrics[m] for row in rows] for m in metrics]
    means = [mean_over_seeds(column) for column in columns]
    cells = [f"{mean.value:.4f} ± {mean.std:.4f}" for mean in means]
    return f"| **{title}** | {name} | {' | '.join(cells)} | | |"


def add_runs(rows: list[Row]) -> list[dict[str, str]]:
    """Add runs to side_by_side.csv, in place of those of the same setting, category and seed; return all its lines."""
    columns = [*KEYS, *MAIN, "train_s", "ms_per_image", "device", "torch", "date"]
    lines = {}
    if SIDE_BY_SIDE.exists():
        with SIDE_BY_SIDE.open(newline="", encoding="utf-8") as file:
            lines = {tuple(line[key] for key in KEYS): line for line in csv.DictReader(file)}
    for row in rows:
        manifest = RunFolder(row.path).manifest
        label = PLACE.sub("", row.label) + BASELINE * row.baseline
        values = [label, row.dataset, row.category, str(row.seed), *(f"{row.metrics[m]:.4f}" for m in MAIN)]
        values += [f"{row.train_s:.1f}", f"{row.ms_per_image:.1f}", manifest["device"], manifest["versions"]["torch"]]
        lines[tuple(values[: len(KEYS)])] = dict(zip(columns, [*values, manifest["started"][:10]], strict=True))
    found = [lines[key] for key in sorted(lines)]
    SIDE_BY_SIDE.write_text(records_csv(found), encoding="utf-8")
    return found


def side_by_side(lines: list[dict[str, str]]) -> str:
    """Markdown for all settings side by side: the main metrics, mean and deviation over seeds, then what it took."""
    places = list(dict.fromkeys((line["dataset"], line["category"]) for line in lines))
    names = [category if dataset in {"demo", category} else f"{dataset}/{category}" for dataset, category in places]
    text = []
    for name, key in {**{metric: metric for metric in MAIN}, **COSTS}.items():
        said = mean_text if key in MAIN else cost_text
        text += [f"| {name} | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
        for label in dict.fromkeys(line["label"] for line in lines):
            each = [line for line in lines if line["label"] == label]
            cells = [[e[key] for e in each if (e["dataset"], e["category"]) == place] for place in places]
            values = [[float(cell) for cell in of_place if cell] for of_place in cells]  # costs of one machine only
            text.append(f"| {label} | {' | '.join(said(v) if v else '' for v in values)} |")
        text.append("")
    devices = sorted({f"{line['device']}, torch {line['torch']}, {line['date']}" for line in lines})
    return "\n".join([*text, *(f"- {device}" for device in devices)])


def cost_text(values: list[float]) -> str:
    """Mean of what runs took."""
    return f"{fmean(values):.0f}"


def mean_text(values: list[float]) -> str:
    """Mean over seeds, and their deviation and number where they differ."""
    mean = mean_over_seeds(values)
    return f"{mean.value:.3f}" + (f" ± {mean.std:.3f} ({mean.seeds})" if mean.std > 0 else "")


def replace_between(begin: str, end: str, change: Callable[[str], str]) -> None:
    """Rewrite a marked part of the page; the words around it are left as they are."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    marked, _, after = rest.partition(end)
    PAGE.write_text(f"{before}{begin}\n\n{change(marked).strip()}\n\n{end}{after}", encoding="utf-8")


def with_sections(marked: str, rows: list[Row]) -> str:
    """The part of the page that has a section for each setting, with those of the rows' settings anew."""
    sections = {part.partition("\n")[0]: part.strip() for part in re.split(r"^(?=### )", marked, flags=re.M)[1:]}
    sections |= {title(group[0]): section(group) for group in (list(g) for _, g in groupby(rows, key=setting))}
    return "\n\n".join(sections[key] for key in sorted(sections))


def main() -> None:
    """Collect the runs and rewrite a part of the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("outputs", nargs="*", default=["outputs"])
    parser.add_argument("--side-by-side", action="store_true", help="the first table of the page, of these runs alone")
    arguments = parser.parse_args()
    rows = sorted((row for folder in arguments.outputs for row in collect(folder).rows), key=setting)
    if arguments.side_by_side:
        lines = add_runs(rows)
        replace_between("<!-- side by side: begin -->", "<!-- side by side: end -->", lambda _: side_by_side(lines))
    else:
        replace_between("<!-- runs: begin -->", "<!-- runs: end -->", lambda marked: with_sections(marked, rows))
    sys.stdout.write(f"{len(rows)} runs written to {PAGE}\n")


if __name__ == "__main__":
    main()
