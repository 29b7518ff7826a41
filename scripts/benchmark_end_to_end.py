"""What a whole run costs, phase by phase, and how that grows with the number of images and with their size.

A folder of generated images: half of N are normal ones to train on, a quarter each are good and defective test images.
Each run is a process of its own (benchmark_end_to_end_worker.py) with one epoch, or a few steps, of training.  Random
weights; the speed does not depend on them.

    python scripts/benchmark_end_to_end.py [--images 100,300,1000,3000,10000] [--sizes 128,256,512,1024]
        [--methods rd_fast,...] [--at-images 100] [--at-size 256] [--threads 1] [--keep FILE] [--write]

--keep: the measurements are kept in this file and none is repeated.  --write: into the page, where sections of other
methods stay as they are.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from log_log_chart import slope, svg
from pages import provenance, write
from PIL import Image

EPOCH = ["method.steps=null", "method.epochs=1"]
RANDOM = ["method.weights=random"]
METHODS = {  # overrides that shorten the training
    "rd_fast": [*RANDOM, *EPOCH],
    "csflow_fast": [*RANDOM, *EPOCH, "method.hidden=32"],
    "us_fast": EPOCH,
    "glf_fast": ["method.steps=20"],
    "padim_fast": [],
    "patchcore": [*RANDOM, "method.backbone=resnet18.tv_in1k"],
    "stfpm_fast": [*RANDOM, *EPOCH],
    "simplenet_fast": [*RANDOM, *EPOCH],
    "brightness": [],
}
PHASES = ("import", "plan", "decode", "step", "train", "score", "measure", "draw", "store", "report", "other")
STEEPEST = 1.05  # exponent of the CPU seconds in the number of images
SHORT = 1.0  # CPU seconds: a phase that never takes more has no exponent, it would be that of the noise
MORE_MB = 300  # that 10,000 images may take above 100
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "end_to_end.md"
HEAD = """# Whole runs, phase by phase

Written by `scripts/benchmark_end_to_end.py`: what a whole run costs, phase by phase, and how that grows with the number
of images and with their size.

A folder of generated images: half of N are normal ones to train on, a quarter each are good and defective test images.
Each run is a process of its own (`benchmark_end_to_end_worker.py`) with one epoch, or a few steps, of training.  Random
weights; the speed does not depend on them.  CPU seconds of all threads, in brackets seconds; `all` is without the
import.  Sections may come from different machines, whose absolute times are not comparable.
"""
WORKER = Path(__file__).with_name("benchmark_end_to_end_worker.py")
Result = Mapping[str, Any]  # what the worker prints, or {"error": its last line}
Results = dict[tuple[int, int], Result]  # by number of images and size


def make_images(root: Path, images: int, side: int) -> None:
    """Grey noise over a texture; a defect is a bright square, an eighth of the side."""
    texture = np.random.default_rng(0).integers(60, 160, (side // 8, side // 8)).repeat(8, 0).repeat(8, 1)
    cut = slice(side // 4, side // 4 + side // 8)
    mask = np.zeros((side, side), np.uint8)
    mask[cut, cut] = 255
    counts = {"train/good": images // 2, "test/good": images // 4, "test/cut": images - images // 2 - images // 4}
    for k, (kind, count) in enumerate(counts.items()):
        (root / kind).mkdir(parents=True)
        for i in range(count):
            draw = np.random.default_rng([k, i])
            pixels = (texture + draw.integers(-30, 30, (side, side))).astype(np.uint8)
            if kind == "test/cut":
                pixels[cut, cut] += 60
                (root / "ground_truth/cut").mkdir(parents=True, exist_ok=True)
                Image.fromarray(mask).save(root / f"ground_truth/cut/{i:05}_mask.png")
            Image.fromarray(pixels).save(root / kind / f"{i:05}.png", compress_level=1)


def measure(method: str, root: Path, size: int, threads: int) -> Result:
    with tempfile.TemporaryDirectory() as folder:
        words = [f"method={method}", *METHODS[method], f"method.image_size={size}", "dataset=folder"]
        words += [f"dataset.root={root}", f"output_dir={folder}/outputs", f"cache_dir={folder}/cache", "hardware=cpu"]
        command = [sys.executable, str(WORKER), str(time.time()), *words, f"hardware.threads={threads}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines() or ["killed"]
    return {"error": lines[-1]} if done.returncode else json.loads(lines[-1])


def measure_all(
    methods: Collection[str], points: Iterable[tuple[int, int]], threads: int, keep: Path | None
) -> dict[str, Results]:
    """What each method takes for each number of images and size, the same images for all of them."""
    kept = json.loads(keep.read_text()) if keep and keep.exists() else []
    found: dict[str, Results] = {method: {} for method in [*(row[0] for row in kept), *methods]}
    for method, images, size, result in kept:
        found[method][images, size] = result
    for images, size in points:
        missing = [method for method in methods if (images, size) not in found[method]]
        with tempfile.TemporaryDirectory() as folder:
            if missing:
                make_images(Path(folder), images, size)
            for method in missing:
                result = found[method][images, size] = measure(method, Path(folder), size, threads)
                print(f"{method}, {images} images of {size} px: {result.get('error') or line(result)}", flush=True)
                if keep:
                    rows = [(name, *at, each) for name, results in found.items() for at, each in results.items()]
                    keep.write_text(json.dumps(rows))
    return found


def line(result: Result) -> str:
    """Seconds (CPU seconds) of each phase, then the peak memory."""
    parts = [f"{name} {seconds:.1f} ({cpu:.1f})" for name, (seconds, cpu) in result["phases"].items()]
    return f"{', '.join(parts)}; {result['peak_mb']:.0f} MB, {max(result['anonymous_mb'].values()):.0f} without files"


def growth(results: Mapping[int, Result]) -> dict[str, float]:
    """The exponent of each phase's CPU seconds, and of `all` but the import, in the number of images or pixels.

    A least squares fit of the logarithms; nan for a phase that is never longer than SHORT.
    """
    found = {}
    for name, values in cpu_seconds(results).items():
        found[name] = slope(list(results), values) if max(values) > SHORT and len(values) > 1 else math.nan
    return found


def cpu_seconds(results: Mapping[int, Result]) -> dict[str, list[float]]:
    """Of each phase, and of `all` but the import, for each result."""
    rows = {name: [r["phases"].get(name, (0.0, 0.0))[1] for r in results.values()] for name in PHASES}
    return rows | {"all": [sum(each) - first for first, *each in zip(rows["import"], *rows.values(), strict=True)]}


def table(unit: str, results: Mapping[int, Result]) -> str:
    """Markdown: a line for each phase."""
    columns = [f"{count} {unit}" for count in results]
    lines = [f"| CPU s (s) | {' | '.join(columns)} | exponent |", f"|---|{'---:|' * (len(columns) + 1)}"]
    exponents, seconds = growth(results), cpu_seconds(results)
    for name, values in seconds.items():
        walls = [r["phases"][name][0] if name in r["phases"] else math.nan for r in results.values()]
        cells = [f"{v:.2f}" + ("" if math.isnan(w) else f" ({w:.2f})") for v, w in zip(values, walls, strict=True)]
        lines.append(f"| {name} | {' | '.join(cells)} | {'' if math.isnan(e := exponents[name]) else f'{e:.2f}'} |")
    lines.append(f"| peak MB | {' | '.join('{:.0f}'.format(r['peak_mb']) for r in results.values())} | |")
    for name in PHASES[1:]:
        cells = [f"{r['anonymous_mb'][name]:.0f}" if name in r["anonymous_mb"] else "" for r in results.values()]
        lines.append(f"| MB without pages of files: {name} | {' | '.join(cells)} | |")
    return "\n".join(lines)


def bars(method: str, results: Mapping[int, Result]) -> list[tuple[str, bool]]:
    """What is wanted of the growth with the number of images, and whether it holds."""
    steep = {name: e for name, e in growth(results).items() if e > STEEPEST}
    said = ", ".join(f"{name} {e:.2f}" for name, e in steep.items()) or "none"
    few, many = (results[pick(results)]["peak_mb"] for pick in (min, max))
    memory = f"{method}: {max(results)} images take {many - few:.0f} MB more than {min(results)}, at most {MORE_MB}"
    return [(f"{method}: exponents above {STEEPEST}: {said}", not steep), (memory, many - few <= MORE_MB)]


def section(method: str, found: Results, at: tuple[int, int]) -> tuple[str, list[tuple[str, bool]], str]:
    """A method's part of the page, its bars, and its plot.  at: images where sizes differ, and the other way round."""
    text, held, panels = f"![{method}](end_to_end_{method}.svg)\n", [], []
    for unit, results, other in (
        ("images", {n: found[n, side] for n, side in sorted(found) if side == at[1]}, f"{at[1]} px"),
        ("px", {side: found[n, side] for n, side in sorted(found) if n == at[0]}, f"{at[0]} images"),
    ):
        done = {n: r for n, r in results.items() if "error" not in r}
        text += "".join(f"\n{n} {unit}: {r['error']}\n" for n, r in results.items() if n not in done)
        if not done:
            continue
        text += f"\n{other}; the exponent is in the number of {'images' if unit == 'images' else 'pixels of a side'}.\n"
        text += f"\n{table(unit, done)}\n"
        held += bars(method, done) if unit == "images" and len(done) > 1 else []
        panels.append((f"{method}, {other}", unit, list(done), cpu_seconds(done)))
    lines = "\n".join(f"- {'held' if fine else '**missed**'}: {what}" for what, fine in held)
    return f"{method}\n\n{lines}\n\n{text}", held, svg(panels, "CPU seconds")


def main() -> int:
    def numbers(text: str) -> list[int]:
        return [int(each) for each in text.split(",")]

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--images", type=numbers, default=[100, 300, 1000, 3000, 10000])
    parser.add_argument("--sizes", type=numbers, default=[128, 256, 512, 1024])
    parser.add_argument("--methods", default="rd_fast,csflow_fast,us_fast,glf_fast", help=f"of {', '.join(METHODS)}")
    parser.add_argument("--at-images", type=int, default=100)
    parser.add_argument("--at-size", type=int, default=256)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--write", action="store_true", help=f"also write {PAGE.relative_to(PAGE.parents[2])}")
    args = parser.parse_args()
    methods = args.methods.split(",")
    if unknown := sorted(set(methods) - set(METHODS)):
        parser.error(f"{unknown[0]} is none of {', '.join(METHODS)}")
    points = dict.fromkeys([*((n, args.at_size) for n in args.images), *((args.at_images, s) for s in args.sizes)])
    found = measure_all(methods, points, args.threads, args.keep)
    others = PAGE.read_text("utf-8").split("\n## ")[1:] if PAGE.exists() else []
    sections, held = {text.partition("\n")[0]: text for text in others}, []
    for method in methods:
        text, more, plot = section(method, found[method], (args.at_images, args.at_size))
        sections[method] = f"{text}\n{provenance('torch', 'timm', 'pytorch-lightning', 'numpy', 'pillow')}"
        held += more
        if args.write:
            write(PAGE.with_name(f"end_to_end_{method}.svg"), plot)
    page = HEAD + "".join(f"\n## {sections[method].strip()}\n" for method in METHODS if method in sections)
    print(page)
    if args.write:
        write(PAGE, page)
    return 0 if all(fine for _, fine in held) else 1


if __name__ == "__main__":
    sys.exit(main())
