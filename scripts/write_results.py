"""Write the figures of finished runs into docs/results.md: python scripts/write_results.py OUTPUTS

For each setting and data set: commands, hardware, versions and dates from the manifests, a row for each seed, the mean.
"""

from __future__ import annotations

import re
import statistics
import sys
from itertools import groupby
from pathlib import Path

from anomaly_bench.report.collect import Row, collect
from anomaly_bench.store import RunFolder

PAGE = Path(__file__).parents[1] / "docs" / "results.md"
BEGIN, END = "<!-- runs: begin -->", "<!-- runs: end -->"
PLACE = re.compile(r" output_dir=\S+|(?<==)/\S*/")  # where things lie on one machine is of no use on another
METRICS = ("image_auroc", "pixel_auroc", "aupro_0.3", "aupro_0.05", "pro_per_image")


def section(rows: list[Row]) -> str:
    """Markdown for the runs of one setting on one category."""
    manifests = [RunFolder(row.path).manifest for row in rows]
    first = manifests[0]
    backbone = first["provenance"]
    weights = f"{backbone.get('backbone', '-')} sha256 {backbone.get('backbone_sha256', '-')[:12]}"
    lines = [f"### `{rows[0].label}` on {rows[0].dataset}/{rows[0].category}", "", "```"]
    lines += [PLACE.sub("", m["command"]) for m in manifests] + ["```", ""]
    lines += [
        f"{first['device']}; torch {first['versions']['torch']}, timm {first['versions']['timm']}; "
        f"{min(m['started'] for m in manifests)[:10]}; weights {weights}; "
        f"{first['images']['train']} training images, {first['images']['test_good']} good and "
        f"{first['images']['test_anomalous']} defective test images.",
        "",
        f"| seed | {' | '.join(METRICS)} | seconds | peak MiB |",
        "|---|" + "---:|" * (len(METRICS) + 2),
    ]
    for row in rows:
        values = " | ".join(f"{row.metrics[m]:.4f}" for m in METRICS)
        lines.append(f"| {row.seed} | {values} | {row.seconds:.0f} | {row.peak_memory_mb:.0f} |")
    if len(rows) > 1:
        means = " | ".join(f"{statistics.fmean(row.metrics[m] for row in rows):.4f}" for m in METRICS)
        lines.append(f"| mean | {means} | | |")
    return "\n".join(lines)


def main(outputs: str) -> None:
    """Rewrite the marked part of the page; the words around it are left as they are."""
    rows = sorted(collect(outputs).rows, key=lambda r: (r.method, r.dataset, r.category, r.setting, r.seed))
    groups = groupby(rows, key=lambda r: (r.setting, r.category))
    text = PAGE.read_text(encoding="utf-8")
    before, after = text.partition(BEGIN)[0], text.partition(END)[2]
    body = "\n\n".join(section(list(group)) for _, group in groups)
    PAGE.write_text(f"{before}{BEGIN}\n\n{body}\n\n{END}{after}", encoding="utf-8")
    sys.stdout.write(f"{len(rows)} runs written to {PAGE}\n")


if __name__ == "__main__":
    main(sys.argv[1] if sys.argv[1:] else "outputs")
