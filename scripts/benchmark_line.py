"""Small runs on generated images, timed from the file to the decision by `bench time`: writes docs/benchmarks/line.md.

What a method scores with does not depend on how long it was trained, so that a few steps are enough for the time.  Each
run holds normal images out, so that it has a threshold to decide by.  A run that was timed on this machine is not timed
again.

    python scripts/benchmark_line.py [METHOD ...] [--seconds 10] [--runtime eager] [--outputs DIR] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pages

from anomaly_bench.commands.main import main as bench
from anomaly_bench.commands.timing import markdown
from anomaly_bench.inference.timing import TIMING, machine
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
    parser.add_argument("--runtime", default="eager", help="eager,compile,export,onnxruntime,openvino")
    parser.add_argument("--threads", default="1,all")
    parser.add_argument("--batch", default="1,best")
    parser.add_argument("--outputs", type=Path, default=Path("outputs/line"), help="the folder of the runs")
    parser.add_argument("--out", type=Path, default=PAGE)
    args = parser.parse_args()
    if unknown := sorted(set(args.methods) - set(METHODS)):
        parser.error(f"{unknown[0]} is none of {', '.join(METHODS)}")
    cells: list[dict[str, Any]] = []
    for name in args.methods or METHODS:
        place = args.outputs / name
        if code := bench(
            ["train", f"method={name}", "dataset=demo/brick", *METHODS[name], *FIXED, f"output_dir={place}"]
        ):
            return code
        (run,) = find(place)
        if not (run.path / TIMING).exists():
            options = {key: getattr(args, key) for key in ("seconds", "runtime", "threads", "batch")}
            bench(["time", str(run.path), *(word for key, value in options.items() for word in (f"--{key}", value))])
        timing = json.loads((run.path / TIMING).read_text())
        if timing["machine"] != {**machine(), "date": timing["machine"]["date"]}:
            parser.error(f"{run.path / TIMING} was measured elsewhere: remove it")
        cells += timing["cells"]
    pages.write(args.out, markdown(cells, machine()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
