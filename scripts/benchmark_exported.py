"""The exported file of a run beside the bare network, and its resizing beside Pillow's.

A run of `rd_fast` at 256 x 256 pixels is exported whole and without preprocessing, and both are run by ONNX Runtime on
images of three sizes, the smallest that of the network.  Resizing alone is the difference of the two; beside it stands
what `bench predict` does with Pillow.  Milliseconds of the wall clock, medians; the turns alternate.

    python scripts/benchmark_exported.py [--threads 1] [--repeat 50] [--write]
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import pages
import torch
from PIL import Image

from anomaly_bench.commands.main import main as bench
from anomaly_bench.inference.export import ExportRequest, write_file
from anomaly_bench.inference.load import load
from anomaly_bench.inference.standalone import Onnx, read
from anomaly_bench.loading.frame import Frame
from anomaly_bench.loading.image_dataset import to_tensor
from anomaly_bench.runs.folder import find

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "exported.md"
SIDES = (256, 384, 1024)
FRAME = Frame((256, 256), "squash")
TRAINING = "method=rd_fast method.image_size=256 method.steps=5 dataset=demo/brick hardware=cpu calibration_share=0.2"


def milliseconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1000 * (time.perf_counter() - began)


def files(folder: Path) -> tuple[Onnx, Onnx]:
    """Train a run in a folder, and return its exported file, and the one without preprocessing."""
    if code := bench(["train", *TRAINING.split(), "save_heatmaps=false", "resamples=0", f"output_dir={folder}"]):
        sys.exit(code)
    (run,) = find(folder)
    model, made = load(run.path, "cpu"), []
    for preprocess in (True, False):
        file = folder / f"{preprocess}.onnx"
        write_file(model, ExportRequest("onnx", preprocess), file)
        made.append(Onnx(str(file)))
    return made[0], made[1]


def picture(side: int, folder: Path) -> Path:
    """Write a PNG file of a smooth picture with some noise, as a camera gives it."""
    rng = np.random.default_rng(0)
    smooth = np.asarray(Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((side, side)))
    file = folder / f"{side}.png"
    Image.fromarray((smooth // 2 + rng.integers(0, 16, smooth.shape)).astype(np.uint8)).save(file)
    return file


def measured(file: Path, whole: Onnx, bare: Onnx, repeat: int) -> str:
    """Return a row of the table."""
    image = read(str(file))
    seen = to_tensor(FRAME.image(image))[None].numpy()
    works: dict[str, Callable[[], object]] = {
        "all": lambda: whole(read(str(file))[None], None),
        "network": lambda: bare(seen, None),
        "with": lambda: whole(image[None], None),
        "pillow": lambda: FRAME.image(image),
    }
    assert whole(image[None], None)["score"] == bare(seen, None)["score"]
    turns = [{name: milliseconds(work) for name, work in works.items()} for _ in range(repeat + 5)][5:]
    ms = {name: median(turn[name] for turn in turns) for name in works}
    inside = median(turn["with"] - turn["network"] for turn in turns)
    figures = (ms["all"], ms["network"], ms["all"] / ms["network"], inside, ms["pillow"], inside / ms["pillow"])
    row = f"| {len(image)} | " + " | ".join(f"{figure:.{2 - (i % 3 < 2)}f}" for i, figure in enumerate(figures)) + " |"
    print(row)
    return row


def main() -> None:
    args = pages.parser(__doc__, PAGE, repeat=50).parse_args()
    torch.set_num_threads(args.threads)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)  # of ONNX Runtime too
    with tempfile.TemporaryDirectory() as folder:
        whole, bare = files(Path(folder))
        rows = [measured(picture(side, Path(folder)), whole, bare, args.repeat) for side in SIDES]
    table = "\n".join(rows)
    text = f"""# The exported file

`rd_fast` at 256 x 256 pixels (ResNet-18) in ONNX Runtime, one image at a time, {args.threads} thread(s), ms, medians of
{args.repeat} turns. A PNG file of each size goes from the file to score, map, p-value and label; beside it the network
alone (`--no-preprocess`). Resizing inside the file, to Pillow's pixels to the bit, is the difference that it makes;
beside it Pillow as `bench predict` uses it. The score is the same to the bit.

| side of the image | file to decision | network alone | ratio | resizing inside | Pillow | ratio |
|---:|---:|---:|---:|---:|---:|---:|
{table}

{pages.provenance("onnxruntime", "torch", "pillow", "numpy")}"""
    if args.write:
        pages.write(PAGE, text)


if __name__ == "__main__":
    main()
