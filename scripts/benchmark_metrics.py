"""CPU time, memory and values of the pixel metrics: ours, MVTec's script, scikit-learn, torchmetrics and ADEval.

Each implementation runs in a process of its own with one thread, on the same maps and masks; how it is measured stands
in benchmark_metrics_worker.py.  MVTec's script is restated step by step in tests/references/official_aupro.py;
tests/metrics/test_official.py compares that with values of the script itself.  ADEval is optional
(`pip install ADEval==1.1.0`, it needs OpenCV).  Linux only.

    python scripts/benchmark_metrics.py [--sizes 167x256 100x1024] [--write]

Ends with exit code 1 when a bar is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from benchmark_metrics_worker import IMPLEMENTATIONS, MOST_GB, PATIENCE, REPEATS, Array
from pages import provenance, write
from scipy import ndimage

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "metrics.md"
MOST_SECONDS = 300  # of one implementation
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")
PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "torchmetrics", "ADEval")
BARS = [  # how many times ours the others need at least
    ("167x256", "official", "seconds", 15),
    ("167x256", "roc_auc_score", "seconds", 20),
    ("167x256", "adeval", "seconds", 0.77),  # at most 1.3 times as long for exact values
    ("167x256", "official", "MB", 5),
    ("100x1024", "official", "seconds", 15),
    ("100x1024", "official", "MB", 12),
]
WHOLE = 2  # the bar for `measure`, in calls of `pixel_metrics`
STATE_MB = 10  # the bar for what the streaming metrics keep

Results = dict[str, dict[str, Any]]  # of the worker, for each implementation


class Bar(NamedTuple):
    what: str
    wanted: str
    measured: str
    held: bool


def make(images: int, size: int) -> tuple[Array, Array]:
    """Maps [N, H, W] float32, coarse noise enlarged and blurred and raised at the defects; masks [N, H, W] uint8.

    Every fourth image is good; in the others one to three ellipses cover about 3 %.
    """
    rng = np.random.default_rng(0)
    maps, masks = np.empty((images, size, size), np.float32), np.zeros((images, size, size), np.uint8)
    for i in range(images):
        coarse = ndimage.gaussian_filter(rng.standard_normal((64, 64), np.float32), 1)
        regions = rng.integers(1, 4) if i % 4 else 0
        for _ in range(regions):
            shape = (*rng.uniform(0.15, 0.85, 2), rng.uniform(0.5, 2), 0.03 / regions)
            coarse[ellipse(64, *shape)] += rng.uniform(0.2, 1)
            masks[i, ellipse(size, *shape)] = 1
        maps[i] = ndimage.gaussian_filter(ndimage.zoom(coarse, size / 64, order=1), 4)
    return maps, masks


def ellipse(side: int, y: float, x: float, stretch: float, share: float) -> Array:
    """[side, side] bool; centre and share of the image in units of the image."""
    at = (np.arange(side) + 0.5) / side
    return (at[:, None] - y) ** 2 * stretch + (at - x) ** 2 / stretch < share / np.pi


def measure(size: str) -> tuple[str, Results]:
    """A sentence about the maps, and what the worker says of each implementation on them."""
    results: Results = {}
    with tempfile.TemporaryDirectory() as folder:
        maps, masks = make(*map(int, size.split("x")))
        defective = masks.any(axis=(1, 2))
        about = f"{len(maps)} float32 maps of {maps.shape[1]} x {maps.shape[2]}: {maps.size / 1e6:.1f} million pixels, "
        about += f"{maps.nbytes / 1e6:.0f} MB, {len(np.unique(maps)) / maps.size:.0%} of the scores distinct.  "
        about += f"{np.sum(~defective)} images are good; in the others {masks[defective].mean():.1%} is anomalous."
        for name, array in (("maps", maps), ("masks", masks)):
            np.save(Path(folder) / f"{name}.npy", array)
        del maps, masks
        for name in IMPLEMENTATIONS:
            results[name] = child(name, folder)
            print(f"{size} {name}: {results[name]}", flush=True)
            if name == "ours" and "skipped" in results[name]:
                sys.exit(f"pixel_metrics: {results[name]['skipped']}")
    return about, results


def child(name: str, folder: str) -> dict[str, Any]:
    """The worker's answer; {"skipped": why} where it has none."""
    command = [sys.executable, str(Path(__file__).with_name("benchmark_metrics_worker.py")), name, folder]
    environment = os.environ | dict.fromkeys(THREADS, "1")
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=MOST_SECONDS)
    except subprocess.TimeoutExpired:
        return {"skipped": f"stopped after {MOST_SECONDS} s"}
    if done.returncode:
        return {"skipped": (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]}
    return json.loads(done.stdout.splitlines()[-1])


def bars(size: str, results: Results) -> list[Bar]:
    """Every bar of this size, and those of the streaming metrics."""
    found, mine = [], median(results["ours"]["seconds"])
    for at, name, field, least in BARS:
        if at == size:
            ratio = median(results[name].get("seconds", [np.nan])) / mine
            if field == "MB":
                ratio = results[name].get("MB", np.nan) / results["ours"]["MB"]
            what = f"{size}: {'peak memory' if field == 'MB' else 'CPU time'} of {title(name)} / ours"
            found.append(Bar(what, f">= {least}", f"{ratio:.3g}", ratio >= least))
    whole = median(results["measure"].get("seconds", [np.nan])) / mine
    found.append(Bar(f"{size}: CPU time of `measure` / ours", f"<= {WHOLE}", f"{whole:.1f}", whole <= WHOLE))
    values, exact = results["streaming"].get("values", {}), results["ours"]["values"]
    state = values.get("state_MB", np.nan)
    found.append(Bar(f"{size}: streaming, MB of state", f"<= {STATE_MB}", f"{state:.2f}", state <= STATE_MB))
    errors = {name: abs(values[name] - exact[name]) for name in exact if name in values}
    inside = bool(errors) and all(error <= values[f"{name}_bound"] for name, error in errors.items())
    worst = max(errors, key=lambda name: values[f"{name}_bound"], default="")
    measured = f"largest bound {values[f'{worst}_bound']:.1e} ({worst})" if errors else "not measured"
    return [*found, Bar(f"{size}: streaming, errors inside their bounds", "all", measured, inside)]


def title(name: str) -> str:
    """Who, out of the docstring of an implementation: "who: what it computes"."""
    return (IMPLEMENTATIONS[name].__doc__ or "").partition(": ")[0]


def table(results: Results) -> str:
    """Time and memory, a line for each implementation."""
    lines = [
        "| | what a call computes | CPU s, median (best) of n | x ours | peak MB | x ours |",
        "|---|---|---|---|---|---|",
    ]
    mine, least = median(results["ours"]["seconds"]), results["ours"]["MB"]
    for name, result in results.items():
        who, _, what = (IMPLEMENTATIONS[name].__doc__ or "").partition(": ")
        if reason := result.get("skipped"):
            lines.append(f"| {who} | {what} | not measured: {reason} | | | |")
            continue
        seconds = result["seconds"]
        time = f"{median(seconds):.3f} ({min(seconds):.3f}) of {len(seconds)} | {median(seconds) / mine:.1f}"
        lines.append(f"| {who} | {what} | {time} | {result['MB']:.0f} | {result['MB'] / least:.1f} |")
    return "\n".join(lines)


def profile(results: Results) -> str:
    """Where our time goes, and what sorting costs: most of the others' time is an argsort."""
    shares = ", ".join(f"`{name}` {share:.0%}" for name, share in results["ours"]["profile"].items())
    sort, argsort = (median(results[name].get("seconds", [np.nan])) for name in ("sort", "argsort"))
    script, mine = (median(results[name].get("seconds", [np.nan])) for name in ("official", "ours"))
    return (
        f"Own time inside a call of `pixel_metrics`: {shares}.  A bare sort of all scores costs {sort / mine:.0%} of a "
        f"call.  An argsort of them costs {argsort / sort:.1f} bare sorts with this NumPy on this CPU, and "
        f"{argsort / script:.0%} of MVTec's script: the ratio to the script hangs on it."
    )


def value_table(results: Results) -> str:
    """What each implementation gives, and how far that is from the exact value."""
    lines = ["| metric | | value | minus `pixel_metrics` | certified bound |", "|---|---|---|---|---|"]
    for metric, exact in results["ours"]["values"].items():
        for name, result in results.items():
            values = result.get("values", {})
            if metric in values and name != "measure":
                difference = "" if name == "ours" else f"{values[metric] - exact:.1e}"
                bound = f"{values[f'{metric}_bound']:.1e}" if f"{metric}_bound" in values else ""
                lines.append(f"| {metric} | {title(name)} | {values[metric]:.10f} | {difference} | {bound} |")
    return "\n".join(lines)


def write_page(sections: list[str], found: list[Bar], page: Path) -> None:
    verdicts = "\n".join(
        f"| {b.what} | {b.wanted} | {b.measured} | {'held' if b.held else '**missed**'} |" for b in found
    )
    text = f"""# Pixel metrics: CPU time, memory and values

Written by `scripts/benchmark_metrics.py`.  Each implementation runs in a process of its own with one thread, after a
call on a small part of the same maps.  CPU seconds are user and system time together; a call is repeated up to
{REPEATS} times, as long as {PATIENCE} s have not been used up.  Peak MB (10^6 bytes): how far the resident set grows
in a call; the inputs are there before.  One that takes over {MOST_SECONDS} s or {MOST_GB} GB is stopped.  The maps are
made up: coarse noise, enlarged and blurred as methods do it, raised at the defects, seed 0.

MVTec's script is a restatement with the same steps, types and arrays; on test cases it gives the script's own values.
Its rates are float32.  torchmetrics sends scores outside [0, 1] through a float32 sigmoid, so it gets scores that were
scaled before the clock started; scaling in float32 makes some of them equal.  ADEval counts in 1000 bins between the
lowest and the highest score, and its "pixel_ap" is an area under straight lines.

## Bars

| | wanted | measured | |
|---|---|---|---|
{verdicts}

{"".join(sections)}## How

One thread.

{provenance(*PACKAGES)}"""
    write(page, text)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sizes", nargs="+", default=["167x256", "100x1024"], help="images x pixels, a multiple of 64")
    parser.add_argument("--write", action="store_true", help="also write the page")
    parser.add_argument("--page", default=PAGE.name, help=f"its name, in {PAGE.parent.relative_to(PAGE.parents[2])}")
    args = parser.parse_args()
    sections, found = [], []
    for size in args.sizes:
        about, results = measure(size)
        sections.append(f"## {size}\n\n{about}\n\n{table(results)}\n\n{profile(results)}\n\n{value_table(results)}\n\n")
        found += bars(size, results)
    print("".join(sections))
    for bar in found:
        print(f"{'held  ' if bar.held else 'MISSED'} {bar.what}: {bar.measured} ({bar.wanted})")
    if args.write:
        write_page(sections, found, PAGE.with_name(args.page))
    return 0 if all(bar.held for bar in found) else 1


if __name__ == "__main__":
    sys.exit(main())
