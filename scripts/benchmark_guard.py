"""Whether small fixed workloads have become slower: their CPU time as a multiple of a fixed one of NumPy alone.

    python scripts/benchmark_guard.py [--tolerance 0.2] [--repeat 7] [--write]

All take turns in one process with one thread; the least of several turns counts.  The baseline, docs/benchmarks/
guard.json, holds the multiples for each kind of machine: processor, and versions of what computes.  Exit code 1 where a
workload is slower than its baseline by more than the tolerance, 2 where there is none for this kind of machine.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ |= dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")  # before NumPy

import numpy as np
import torch
from pages import cpu_flags, write

from anomaly_bench.config import build, compose, validate
from anomaly_bench.loading.resize import resize_image
from anomaly_bench.methods.cs_flow import CSFlow, negative_log_likelihood
from anomaly_bench.methods.reverse_distillation import ReverseDistillation
from anomaly_bench.metrics import measure, pixel_metrics
from anomaly_bench.runs.heatmaps import write_heatmaps
from anomaly_bench.runs.manifest import cpu_model, version
from anomaly_bench.runs.stored_run import ScoreRow

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "guard.json"
CALIBRATION = "calibration"
Work = Callable[[], object]


def workloads(scratch: Path) -> dict[str, Work]:
    """Return the calibration, which imports nothing of this package, and the workloads."""
    draw = np.random.default_rng(0)
    matrix, values = draw.random((600, 600)), draw.random(1_000_000)
    maps = draw.random((12, 256, 256), dtype=np.float32)
    masks = np.zeros(maps.shape, bool)
    masks[:6, 100:140, 60:90] = True
    scores, labels = maps.max((1, 2)), masks.any((1, 2)).astype(int)
    photos = [draw.integers(0, 255, (300, 400, 3), dtype=np.uint8) for _ in range(50)]
    rows = [ScoreRow(f"test/{i}.png", "cut" if label else "good", int(label), float(scores[i]))
            for i, label in enumerate(labels)]  # fmt: skip
    return {
        CALIBRATION: lambda: (matrix @ matrix @ matrix @ matrix, np.sort(values)),
        "pixel metrics": lambda: pixel_metrics(maps, masks),
        "metrics with intervals": lambda: measure(scores, labels, maps, masks, memory_mb=1000, resamples=100),
        "resizing of 50 images": lambda: [resize_image(photo, 256) for photo in photos],
        "heat maps": lambda: write_heatmaps(scratch, rows, maps, lambda i: (photos[i][:256, :256], masks[i])),
        "rd, a step": rd_step(),
        "csflow, a step": csflow_step(),
    }


def rd_step() -> Work:
    rd: ReverseDistillation = build("method", validate(compose(["method=rd_fast", "dataset=mtd"])).method)
    optimiser, images = rd.configure_optimizers(), torch.rand(4, 3, 128, 128)

    def step() -> None:
        optimiser.zero_grad()
        rd.training_step({"image": images, "path": []}, 0).backward()
        optimiser.step()

    return step


def csflow_step() -> Work:
    cs: CSFlow = build("method", validate(compose(["method=csflow_fast", "dataset=mtd"])).method)
    optimiser = torch.optim.Adam(cs.flow.parameters(), **cs.adam)
    with torch.no_grad():
        features = [f.clone() for f in cs.features(torch.rand(4, 3, 256, 256))]

    def step() -> None:
        optimiser.zero_grad()
        negative_log_likelihood(*cs.flow(features)).backward()
        optimiser.step()

    return step


def multiples(repeat: int) -> dict[str, float]:
    """The least CPU seconds of each workload in those of the calibration, after one turn of all to warm up."""
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        work = workloads(Path(scratch))
        for _ in range(repeat + 1):
            for name, part in work.items():
                began = time.process_time()
                part()
                times.setdefault(name, []).append(time.process_time() - began)
    least = {name: min(seconds[1:]) for name, seconds in times.items()}
    unit = least.pop(CALIBRATION)
    print(f"{CALIBRATION}: {unit:.3f} CPU s")
    return {name: round(seconds / unit, 4) for name, seconds in least.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--tolerance", type=float, default=0.2, help="0.2: a fifth slower than the baseline")
    parser.add_argument("--repeat", type=int, default=7)
    parser.add_argument(
        "--write", action="store_true", help=f"store the baseline in {PAGE.relative_to(PAGE.parents[2])}"
    )
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    machine = f"{cpu_model()}, {cpu_flags()}; torch {version('torch')}, numpy {version('numpy')}"
    stored = json.loads(PAGE.read_text()) if PAGE.exists() else {}
    found, baseline = multiples(args.repeat), stored.get(machine, {})
    slower = [name for name, value in found.items() if value > baseline.get(name, np.inf) * (1 + args.tolerance)]
    for name, value in found.items():
        change = f"{value / baseline[name] - 1:+.0%}" if name in baseline else "no baseline"
        print(f"{name:24} {value:8.3f} x {CALIBRATION}  {change}{'  SLOWER' if name in slower else ''}")
    if args.write:
        write(PAGE, json.dumps(stored | {machine: found}, indent=2) + "\n")
        return 0
    if set(found) - set(baseline):
        print(f"no baseline for this kind of machine ({machine}): --write stores one")
        return 2
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
