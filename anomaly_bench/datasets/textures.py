"""The images of the demo data set: crops of three photographs of scikit-image (CC0), some with a defect.

Imports no torch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from skimage import data

from anomaly_bench.datasets import drawn, matched
from anomaly_bench.errors import UserError
from anomaly_bench.files import new_folder

VERSION = 1  # of the images: part of the folder's name
CATEGORIES = ("brick", "grass", "gravel", "brick_matched", "grass_matched", "gravel_matched")  # their order is a seed
TRAIN, GOOD, EACH, KINDS = 40, 16, 6, 4  # images: train, test without a defect, test for each kind of defect; kinds


def generated(root: Path, seed: int) -> Path:
    """Return the folder for the images of this seed."""
    return root / f"v{VERSION}-seed{seed}"


def generate(root: Path, category: str, seed: int) -> Path:
    """Return `generated(root, seed)`, after drawing <category>/{train,test,ground_truth} in it if that is missing.

    The same seed gives the same bytes.  Raises UserError when `root` cannot be written.
    """
    base = generated(root, seed)
    if (base / category).is_dir():
        return base
    try:
        with new_folder(base / category, keep=True) as folder:
            _write(folder, category, np.random.default_rng([seed, CATEGORIES.index(category)]))
    except OSError as error:
        if not (base / category).is_dir():
            what = f"cannot write the demo images to {base}: {error.strerror}"
            raise UserError("dataset.root", what, "another folder: dataset.root=DIR or cache_dir=DIR") from error
    return base


def _write(folder: Path, category: str, rng: np.random.Generator) -> None:
    texture, _, style = category.partition("_")
    photo = getattr(data, texture)()  # uint8 [512, 512]
    crop, painters = (matched.crop, matched.PAINTERS) if style else (drawn.crop, drawn.PAINTERS)
    for split, count in (("train", TRAIN), ("test", GOOD)):
        for i in range(count):
            _save(folder / split / "good" / f"{i:03}.png", crop(photo, rng, split))
    for kind, paint in painters.items():
        for i in range(EACH):
            image, opacity = paint(crop(photo, rng, "test"), rng, texture)
            _save(folder / "test" / kind / f"{i:03}.png", image)
            _save(folder / "ground_truth" / kind / f"{i:03}_mask.png", (opacity > 0) * 255.0)


def _save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.rint(image), 0, 255).astype(np.uint8)).save(path)
