"""Write the figures of finished runs into docs/results.md: python scripts/write_results.py OUTPUTS...

For each setting and category: commands, versions, weights and dates from the manifests, a row for each run, then mean
and standard deviation, also for each kind of hardware where there were several.  A section of the page is replaced by
the runs of its title; those of other titles stay.
"""

from __future__ import annotations

import re
import sys
from itertools import groupby
from pathlib import Path
from typing import Any

from anomaly_bench.results.collect import Row, collect
from anomaly_bench.results.seed_means import mean_over_seeds
from anomaly_bench.runs.folder import RunFolder

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
BEGIN, END = "<!-- runs: begin -->", "<!-- runs: end -->"
PLACE = re.compile(r" (output_dir|hardware\.\S+)=\S+|(?<==)/\S*/")  # of one machine only
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


def main(*outputs: str) -> None:
    """Rewrite the marked part of the page; the words around it are left as they are."""
    rows = sorted((row for folder in outputs for row in collect(folder).rows), key=setting)
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    marked, _, after = rest.partition(END)
    sections = {part.partition("\n")[0]: part.strip() for part in re.split(r"^(?=### )", marked, flags=re.M)[1:]}
    sections |= {title(group[0]): section(group) for group in (list(g) for _, g in groupby(rows, key=setting))}
    body = "\n\n".join(sections[key] for key in sorted(sections))
    PAGE.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}", encoding="utf-8")
    sys.stdout.write(f"{len(rows)} runs written to {PAGE}\n")


if __name__ == "__main__":
    main(*sys.argv[1:] or ["outputs"])
