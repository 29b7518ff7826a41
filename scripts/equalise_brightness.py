"""Copy a data set in MVTec AD's layout with every image as bright as the others: its median grey is the same in all.

Each image is multiplied by one number, target / its median grey, and rounded; masks are copied.  The target is the
least median of all images, so that nothing is cut off at 255.  On MVTec screw as it lies in some copies, the mean grey
value alone separates good from bad test images; after this it does not, and defects keep their contrast.

    python scripts/equalise_brightness.py IN OUT        IN/{train,test,ground_truth}, such as mvtec/screw
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

SUFFIXES = {".png", ".bmp", ".tif", ".tiff", ".jpg", ".jpeg"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, metavar="IN")
    parser.add_argument("target", type=Path, metavar="OUT", help="a new folder")
    arguments = parser.parse_args()
    print(f"median grey {equalise(arguments.source, arguments.target):.1f} in all images of {arguments.target}")


def equalise(source: Path, target: Path) -> float:
    """Write the copy and return the median grey that its images have.  Raises FileExistsError if `target` is there."""
    files = sorted(
        f for split in ("train", "test") for f in (source / split).rglob("*") if f.suffix.lower() in SUFFIXES
    )
    medians = [float(np.median(np.asarray(Image.open(file).convert("L")))) for file in files]
    target.mkdir(parents=True)
    if (source / "ground_truth").is_dir():
        shutil.copytree(source / "ground_truth", target / "ground_truth")
    for file, median in zip(files, medians, strict=True):
        copy = (target / file.relative_to(source)).with_suffix(".png")
        copy.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(file) as image:
            pixels = np.asarray(image) * (min(medians) / max(median, 1.0))
        Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8)).save(copy)
    return min(medians)


if __name__ == "__main__":
    main()
