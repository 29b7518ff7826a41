"""What keeping the shape of images is worth: squash, aspect, pad and tiles on MTD and on its oblong tiles.

rd_fast (ResNet-18, 128 x 128 pixels or as many) on the authors' split of MTD, whose tiles have any shape, and on a
folder of its tiles of 2.1 to 2.8 : 1, laid flat: 115 good ones to train on, 40 good and all defective ones as the test.
OUT keeps the runs, none is repeated.  --write: into docs/results.md.

    python scripts/compare_fits.py OUT --mtd DIR [--sets mtd,oblong] [--seeds 0,1,2] [--steps 200] [--write]
"""

from __future__ import annotations

import argparse
from itertools import product
from pathlib import Path

import numpy as np
import pages
from PIL import Image
from write_results import mean_text, replace_between

from anomaly_bench import train
from anomaly_bench.datasets.mtd import KINDS
from anomaly_bench.results.aggregate import MAIN

ASPECT = (2.1, 2.8)
TEST_GOOD = 40
WAYS = {
    "squash": ["dataset.fit=squash"],
    "aspect": ["dataset.fit=aspect"],
    "pad": ["dataset.fit=pad"],
    "tiles": [],  # TILES of the set
}
TILES = {"mtd": 192, "oblong": 112}  # pixels of the files: a bit more than half of MTD's median, nearly the height
FIXED = ["hardware=cpu", "hardware.threads=1", "save_heatmaps=false", "resamples=0", "calibration_share=0"]


def oblong_folder(mtd: Path, folder: Path) -> Path:
    """Make the folder of oblong tiles, if it is missing, and return it."""
    if folder.is_dir():
        return folder
    part = folder.with_suffix(".part")
    for kind in ("free", *KINDS):
        files = sorted((mtd / f"MT_{kind.capitalize()}" / "Imgs").glob("*.jpg"))
        kept = [file for file in files if is_oblong(file)]
        tested = set(np.random.default_rng(0).permutation(len(kept))[:TEST_GOOD].tolist())
        for i, file in enumerate(kept):
            name = "good" if kind == "free" else kind
            split = "test" if kind != "free" or i in tested else "train"
            laid_flat(file, part / split / name / f"{file.stem}.png")
            if kind != "free":
                laid_flat(file.with_suffix(".png"), part / "ground_truth" / kind / f"{file.stem}_mask.png")
    return part.rename(folder)


def is_oblong(file: Path) -> bool:
    """Return whether a tile has the shape; of defective ones, also whether its mask marks something."""
    with Image.open(file) as image:
        long = max(image.size) / min(image.size)
    mask = file.with_suffix(".png")
    marked = "MT_Free" in file.parts or bool(np.asarray(Image.open(mask)).any())
    return ASPECT[0] <= long <= ASPECT[1] and marked


def laid_flat(file: Path, target: Path) -> None:
    """Write an image turned such that it is wider than high."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with Image.open(file) as image:
        flat = image if image.width >= image.height else image.transpose(Image.Transpose.ROTATE_90)
        flat.save(target)


def measure(name: str, way: str, seed: int, args: argparse.Namespace) -> dict[str, float]:
    """Return the figures of a run, and what it took."""
    more = WAYS[way] or ["dataset.fit=squash", f"dataset.tiles.size={TILES[name]}"]
    if name == "mtd":
        place = [
            f"dataset.root={args.mtd.resolve()}",
            f"dataset.split_file={(args.mtd / 'train_filenames.txt').resolve()}",
        ]
    else:
        place = [f"dataset.root={oblong_folder(args.mtd, args.out / name).resolve()}"]
    words = [*place, *more, *FIXED, f"method.steps={args.steps}", f"output_dir={args.out / 'outputs'}"]
    run = train("rd_fast", "mtd" if name == "mtd" else "folder", seed, words)
    stages = run.manifest["stages"]
    costs = {
        "train": sum(s["seconds"] for n, s in stages.items() if n != "score"),
        "ms": stages["score"]["ms_per_image"],
    }
    return {**{metric: run.metrics[metric] for metric in MAIN}, **costs}


def table(found: dict[tuple[str, str], list[dict[str, float]]]) -> str:
    """Markdown: a line for each set and way."""
    lines = [f"| images | way | {' | '.join(MAIN)} | seconds of training | ms per image |", "|---|---|" + "---:|" * 5]
    for (name, way), runs in found.items():
        cells = [mean_text([run[metric] for run in runs]) for metric in MAIN]
        costs = [f"{np.mean([run[key] for run in runs]):.0f}" for key in ("train", "ms")]
        lines.append(f"| {name} | {way} | {' | '.join([*cells, *costs])} |")
    return "\n".join(lines)


def main() -> None:
    """Measure what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--mtd", type=Path, required=True, help="MTD with train_filenames.txt, its authors' split")
    parser.add_argument("--sets", default="mtd,oblong")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    seeds, asked = [int(seed) for seed in args.seeds.split(",")], product(args.sets.split(","), args.ways.split(","))
    asked = (each for each in asked if each != ("mtd", "aspect"))  # its tiles have no shape in common
    found = {(name, way): [measure(name, way, seed, args) for seed in seeds] for name, way in asked}
    text = f"{table(found)}\n\n{pages.provenance('torch')}"
    print(text)
    if args.write:
        replace_between("<!-- fits: begin -->", "<!-- fits: end -->", lambda _: text)


if __name__ == "__main__":
    main()
