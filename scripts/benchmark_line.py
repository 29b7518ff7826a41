"""Small runs on generated images, timed from the file to the decision by `bench time`: writes docs/benchmarks/line.md.

What a method scores with does not depend on how long it was trained, so that a few steps are enough for the time.  Each
run holds normal images out, so that it has a threshold to decide by.

    python scripts/benchmark_line.py [METHOD ...] [--seconds 10] [--runtime eager] [--outputs DIR] [--out FILE]
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from anomaly_bench.commands.main import main as bench
from anomaly_bench.runs.folder import find

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "line.md"
METHODS = {  # overrides that shorten the training, and never what is scored with
    "rd_fast": ["method.steps=5"],
    "csflow_fast": ["method.steps=5"],
    "us_fast": ["method.steps=5"],
    "glf_fast": ["method.steps=5"],
    "patchcore": ["method.backbone=resnet18.tv_in1k"],
    "padim_fast": [],
}
FIXED = ["hardware=cpu", "calibration_share=0.2", "save_heatmaps=false", "save_maps=false", "resamples=0"]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("methods", nargs="*", metavar="METHOD", help=f"of {', '.join(METHODS)}; default: all")
    parser.add_argument("--seconds", default="10", help="for one measurement")
    parser.add_argument("--runtime", default="eager", help="eager,compile,export")
    parser.add_argument("--threads", default="1,all")
    parser.add_argument("--batch", default="1,best")
    parser.add_argument("--outputs", type=Path, default=Path("outputs/line"), help="the folder of the runs")
    parser.add_argument("--out", type=Path, default=PAGE)
    args = parser.parse_args()
    if unknown := sorted(set(args.methods) - set(METHODS)):
        parser.error(f"{unknown[0]} is none of {', '.join(METHODS)}")
    runs = []
    for name in args.methods or METHODS:
        place = args.outputs / name
        if code := bench(
            ["train", f"method={name}", "dataset=demo/brick", *METHODS[name], *FIXED, f"output_dir={place}"]
        ):
            return code
        runs += [str(folder.path) for folder in find(place)]
    options = {name: getattr(args, name) for name in ("seconds", "runtime", "threads", "batch", "out")}
    return bench(["time", *runs, *(word for name, value in options.items() for word in (f"--{name}", str(value)))])


if __name__ == "__main__":
    sys.exit(main())
