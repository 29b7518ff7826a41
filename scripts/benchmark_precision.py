"""What lower precision, channels last and stored features gain in time, and what they do to the results.

    python scripts/benchmark_precision.py OUT [--methods rd_fast,...] [--datasets mtd:10,demo/gravel] [--seeds 6]
        [--repeat 3] [--timed 12] [--accelerator gpu] [--write]

Of each method: the time of a training step and of scoring an image, the ways taking turns in one process, each as a
ratio to plain float32 (above 1: faster), CPU time and wall time; then the image AUROC, pixel AUROC and AUPRO of whole
runs with each way and seed, paired by seed with those of plain float32, and the verdict of the comparison of settings.
Six seeds are the fewest of which the verdict can be anything but "too few runs".  OUT keeps the runs, none is repeated.
mtd:10: every tenth image of mtd.  --timed: steps, and batches, that are timed each time.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import product
from pathlib import Path

import pages
import torch
from bfloat16_by_hand import Bfloat16ByHand
from precision_times import (
    METHODS,
    PLAIN,
    UNTRAINED,
    Ratios,
    faster,
    scoring_turns,
    settings_of,
    training_turns,
    ways,
    words,
)

from anomaly_bench import config, image_metrics, load, pixel_metrics
from anomaly_bench.loading.device_loader import device_loader
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.results.aggregate import MAIN
from anomaly_bench.results.collect import Row, collect
from anomaly_bench.results.comparisons import Comparison, compare_settings
from anomaly_bench.runs.callbacks import quiet
from anomaly_bench.runs.find import find_data
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.precision import has_bfloat16, scoring
from anomaly_bench.runs.runner import run
from anomaly_bench.runs.stored_run import ScoreRow

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "precision.md"
FASTER = 1.2  # from here on a way is worth it


def main() -> None:
    """Measure what is missing, then print the page with all methods whose sections OUT holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--methods", default="rd_fast,csflow_fast,us_fast,glf_fast")
    parser.add_argument("--datasets", default="mtd:10,demo/gravel")
    parser.add_argument("--seeds", type=int, default=6)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--timed", type=int, default=12)
    parser.add_argument("--accelerator", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    quiet()
    for method in args.methods.split(","):
        (args.out / f"section_{method}.md").write_text(method_part(method, args))
    sections = [args.out / f"section_{method}.md" for method in METHODS]
    parts = [section.read_text() for section in sections if section.exists()]
    text = "\n".join([INTRODUCTION, *parts, pages.provenance("torch", "pytorch-lightning", "timm")])
    sys.stdout.write(text)
    if args.write:
        pages.write(PAGE, text)


INTRODUCTION = """# Lower precision, channels last, stored features

Written by `scripts/benchmark_precision.py`, which says what is compared.  Times faster than plain float32, CPU time and
wall time; differences of metrics from plain float32 over all seeds, with their 95 % interval.  **Worth it**: at least
1.2 times faster in training or scoring, in CPU time or on a GPU in wall time, and no metric of any data set
distinguishably different.  `no stored features`: the inverse of its ratio is what the store gains.  What is worth it
for every method becomes a default (docs/hardware.md).

On a CPU without instructions for bfloat16 its products are computed in float32 and rounded
(`scripts/bfloat16_by_hand.py`): the metrics then say what bfloat16 does, and there is no time.  Uninformed Students
computes in channels last either way (`nets/patch_descriptors.py`), hence its equal bits.
"""


def method_part(method: str, args: argparse.Namespace) -> str:
    """Return the section of a method."""
    rows = {way: trained(method, way, args) for way in ways(method)}
    places = [dataset for dataset in args.datasets.split(",") for _ in range(args.seeds)]
    rows["bf16 scoring"] = [rescored(row, method, at, args) for row, at in zip(rows[PLAIN], places, strict=True)]
    found = {way: compared(rows[PLAIN], rows[way], way) for way in rows if way != PLAIN}
    steps, images = timed(method, rows[PLAIN][0].path, args)
    lines = [
        f"## {method}\n",
        f"`method={method} {METHODS[method]}`, {args.seeds} seeds, `--datasets {args.datasets}`.\n",
        f"| way | training step | scoring | data set | {' | '.join(MAIN)} | |",
        f"|---|---:|---:|---|{'---:|' * len(MAIN)}---|",
    ]
    for way, comparisons in found.items():
        times = [f"{ratio[0]:.2f}, {ratio[1]:.2f}" if (ratio := each.get(way)) else "" for each in (steps, images)]
        clock = 0 if args.accelerator == "cpu" else 1
        gain = max((each[way][clock] for each in (steps, images) if way in each), default=math.nan)
        for dataset, each in comparisons.items():
            cells = [way, *times, dataset, *(difference(c, way) for c in each), conclusion(dataset, comparisons, gain)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def timed(method: str, run: Path, args: argparse.Namespace) -> tuple[Ratios, Ratios]:
    """Return how many times faster than plain float32 each way trains and scores."""
    file = args.out / f"times_{method}.json"
    if not file.exists():
        place = args.datasets.split(",")[0]
        steps = {} if method in UNTRAINED else faster(training_turns(method, place, args), args.repeat)
        images = faster(scoring_turns(run, method, place, args), args.repeat)
        file.write_text(json.dumps([steps, images]))
    steps, images = json.loads(file.read_text())
    return steps, images


def conclusion(dataset: str, comparisons: dict[str, list[Comparison]], gain: float) -> str:
    """Return whether a way is worth it, or what differs on this data set."""
    worse = [c for each in comparisons.values() for c in each if c.distinguishable]
    if here := [f"{c.metric}: {c.verdict}" for c in worse if c.dataset == dataset]:
        return "; ".join(here)
    if any(c.verdict.startswith("too few runs") for each in comparisons.values() for c in each):
        return "too few runs"
    if worse or math.isnan(gain):
        return "not distinguishable, not timed" if math.isnan(gain) else "not distinguishable here"
    return "**worth it**" if gain >= FASTER else "not distinguishable, not faster"


def difference(found: Comparison, way: str) -> str:
    """Return a metric's mean difference from plain float32 with its interval."""
    sign = 1 if found.first == way else -1
    low, high = sorted((sign * found.low, sign * found.high))
    return f"{sign * found.difference:+.4f} [{low:+.4f}, {high:+.4f}]"


def trained(method: str, way: str, args: argparse.Namespace) -> list[Row]:
    """Train what is missing, and return a row for each data set and seed."""
    paths = []
    for dataset, seed in product(args.datasets.split(","), range(args.seeds)):
        cfg = config.compose([*words(method, dataset, way, args), f"seed={seed}"])
        with products(way == "bf16 training"):
            paths.append(run(cfg, []).path.resolve())
    rows = {row.path.resolve(): row for row in collect(args.out / way.replace(" ", "_")).rows}
    return [rows[path] for path in paths]


def products(low: bool) -> AbstractContextManager[object]:
    """Return the context for computing in bfloat16, or not: by hand where the processor has no instructions for it."""
    return Bfloat16ByHand() if low and not has_bfloat16() else nullcontext()


def rescored(row: Row, method: str, dataset: str, args: argparse.Namespace) -> Row:
    """Return a run of plain float32 as it would be with its networks in bfloat16 when it scores."""
    folder = args.out / "bf16_scoring" / row.path.relative_to(args.out / PLAIN)
    file = folder / "metrics.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        settings = settings_of(method, dataset, args)
        model = load(row.path)
        model.method.scoring_precision = "bf16-mixed"
        images = ImageSet(find_data(settings).test, model.view.frame, settings.cache_dir)
        with torch.inference_mode(), scoring(model.method), products(True):
            loader = device_loader(images, model.batch_size, model.method.device)
            found = [model.method.score(batch["image"]) for batch in loader]
        scores = torch.cat([each.image.float() for each in found]).cpu().numpy()
        maps = torch.cat([each.map.float() for each in found if each.map is not None]).cpu().numpy()
        records = images.records
        measured = image_metrics(scores, [r.label for r in records]) | pixel_metrics(maps, list(images.masks or []))
        lines = (ScoreRow(r.path, r.kind, r.label, float(s)) for r, s in zip(records, scores, strict=True))
        RunFolder(folder).write_scores(lines)
        file.write_text(json.dumps({name: measured[name] for name in MAIN}))
    return replace(row, metrics=json.loads(file.read_text()), path=folder)


def compared(plain: Sequence[Row], other: Sequence[Row], way: str) -> dict[str, list[Comparison]]:
    """Return the comparisons of a way with plain float32: data set -> one for each main metric."""
    rows = [replace(row, setting=name, label=name) for name, each in ((PLAIN, plain), (way, other)) for row in each]
    found: dict[str, list[Comparison]] = defaultdict(list)
    for comparison in compare_settings(rows):
        if not comparison.check:
            found[comparison.dataset].append(comparison)
    return found


if __name__ == "__main__":
    main()
