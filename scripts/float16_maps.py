"""How far maps that are stored as float16 (`save_maps=float16`) move the pixel metrics of finished runs.

    python scripts/float16_maps.py RUN... [--write]

Each RUN has float32 maps, whose data set lies where it did.  Its maps are measured as they are, as `Rounding` stores
them, and by a plain conversion to float16; then the same maps 1,000,000 times as large,
and raised by 100 times their range.  --write: docs/benchmarks/float16_maps.md.
"""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path

import numpy as np

from anomaly_bench.evaluation.options import EvalOptions
from anomaly_bench.evaluation.stored_runs import Stored, open_run
from anomaly_bench.loading.anomaly_maps import RoundedMaps, Rounding
from anomaly_bench.metrics import measure
from anomaly_bench.runs.manifest import cpu_model

FILE = Path(__file__).parents[1] / "docs/benchmarks/float16_maps.md"
SHOWN = ("image_auroc", "pixel_auroc", "pixel_ap", "aupro_0.3", "aupro_0.05", "aupimo")
LARGER, RAISED = 1e6, 100  # times


def main() -> None:
    """Measure each run and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    lines = [f"| run | maps | range | {' | '.join(SHOWN)} |", f"|---|---|---|{'---:|' * len(SHOWN)}"]
    for path in arguments.runs:
        lines += rows(open_run(path, EvalOptions(runs=[path], overrides={})))
    text = HEAD.format(date=date.today(), cpu=cpu_model()) + "\n".join(lines) + "\n"
    sys.stdout.write(text)
    if arguments.write:
        FILE.write_text(text, encoding="utf-8")


def rows(stored: Stored) -> list[str]:
    """Return the lines of one run: largest differences from the metrics of its float32 maps."""
    assert stored.maps is not None
    maps = np.stack(list(stored.maps))
    about = stored.folder.manifest
    name = f"{about['label']}, {'/'.join(dict.fromkeys((about['dataset'], about['category'])))}"
    span = float(maps.max()) - float(maps.min())
    found = []
    for title, changed in {
        "as they are": maps,
        f"times {LARGER:,.0f}": maps * np.float32(LARGER),
        f"plus {RAISED} ranges": maps + np.float32(RAISED * span),
    }.items():
        exact, limits = metrics_of(stored, changed), f"{changed.min():.4g} to {changed.max():.4g}"
        for way, store in {"float16, as stored": as_stored, "plain float16": plain}.items():
            rounded = store(changed)
            if not np.isfinite(rounded).all():
                cells = [f"{np.mean(~np.isfinite(rounded)):.1%} of the pixels are infinite"] + [""] * (len(SHOWN) - 1)
            else:
                values = metrics_of(stored, rounded)
                cells = [f"{abs(values[m] - exact[m]):.1g}" for m in SHOWN]
            found.append(f"| {name} | {title}; {way} | {limits} | {' | '.join(cells)} |")
    return found


def metrics_of(stored: Stored, maps: np.ndarray) -> dict[str, float]:
    """Return all metrics of maps [N, H, W] of the run's test images."""
    scores = np.array([row.score for row in stored.folder.scores], np.float32)
    labels = np.array([record.label for record in stored.records])
    return dict(measure(scores, labels, maps, stored.masks, stored.ignored, memory_mb=8192, resamples=0).metrics)


def as_stored(maps: np.ndarray) -> np.ndarray:
    """Return float32 maps as they are read back from a run with `save_maps=float16`."""
    rounding = Rounding.of(maps)
    return np.asarray(RoundedMaps(np.stack([rounding.store(each) for each in maps]), rounding))


def plain(maps: np.ndarray) -> np.ndarray:
    """Return float32 maps converted to float16 and back."""
    with np.errstate(over="ignore"):
        return maps.astype(np.float16).astype(np.float32)


HEAD = """# Maps stored as float16

By how much the metrics of finished runs change when their maps are stored as float16 (`save_maps=float16`), against
float32. `as stored`: with the offset and the scale that such a run keeps. `plain float16`: a conversion without them,
for comparison. Image metrics are of scores.csv, which is not rounded.
`python scripts/float16_maps.py RUN... --write`, {date}, {cpu}.

"""


if __name__ == "__main__":
    main()
