"""The data sets on which teachers are compared: folders in MVTec AD's layout, the same bytes for the same inputs.

CHOOSING, which a recipe may be chosen on: crops of photographs of scikit-image, train and test from disjoint parts,
with faint defects.  REPORTED, which no choice saw: the three textures of the demo data set, MVTec screw with brightness
equalised, MTD (its authors' split), and two woven and grained textures that are computed, with the same faint defects.
All have 20 training images; the demo textures, screw and MTD are thinned, so that many teachers can be compared.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from equalise_brightness import equalise
from PIL import Image
from scipy import ndimage
from skimage import data

from anomaly_bench.datasets import textures
from anomaly_bench.datasets.mtd import KINDS

CHOOSING = ("coins", "hubble", "ihc", "page")
REPORTED = ("brick", "grass", "gravel", "screw", "mtd", "weave", "grain")
PHOTOS: dict[str, Callable[[], np.ndarray]] = {
    "coins": data.coins, "hubble": data.hubble_deep_field, "ihc": data.immunohistochemistry, "page": data.page,
}  # fmt: skip
SIDE, TRAIN, GOOD, EACH = 128, 20, 12, 8  # pixels of an image; images: train, normal test, for each kind of defect
CROP = (90, 128)  # pixels of a square of a photograph, which is resized to SIDE
THIN = {"train": TRAIN, "good": 20, "defect": 8}  # images of a thinned set, of each kind of defect the last
Sampler = Callable[[np.random.Generator, bool], np.ndarray]  # of an image [SIDE, SIDE, 3], for the test or not


def make(name: str, root: Path, mvtec_screw: Path | None = None, mtd: Path | None = None) -> Path:
    """Return the folder of a set below `root`, after making it if it is missing."""
    folder, part = root / name, root / f".{name}.part"
    if folder.is_dir():
        return folder
    shutil.rmtree(part, ignore_errors=True)
    if name in textures.CATEGORIES:
        thin_mvtec(textures.generate(root / "demo", name, 0) / name, part)
    elif name in PHOTOS:
        draw(part, crops(PHOTOS[name]()), CHOOSING.index(name))
    elif name in TEXTURES:
        draw(part, TEXTURES[name], 100 + list(TEXTURES).index(name))
    elif name == "screw" and mvtec_screw:
        with TemporaryDirectory() as scratch:
            equalise(mvtec_screw, Path(scratch) / "screw")
            thin_mvtec(Path(scratch) / "screw", part)
    elif name == "mtd" and mtd:
        thin_mtd(mtd, part)
    else:
        raise SystemExit(f"{name}: its images are needed, --mvtec-screw or --mtd")
    return part.rename(folder)


def draw(folder: Path, sample: Sampler, seed: int) -> None:
    """Write a set of generated images with faint defects."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", TRAIN), ("test", GOOD)):
        for i in range(count):
            save(folder / split / "good" / f"{i:03}.png", sample(rng, split == "test"))
    for kind, paint in PAINTERS.items():
        for i in range(EACH):
            image, area = sample(rng, True), blob(rng)
            save(folder / "test" / kind / f"{i:03}.png", image + area[..., None] * (paint(image, rng) - image))
            save(folder / "ground_truth" / kind / f"{i:03}_mask.png", 255.0 * (area > 0.2))


def save(file: Path, image: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(np.rint(image), 0, 255).astype(np.uint8)).save(file)


def crops(photo: np.ndarray) -> Sampler:
    """Return what draws squares of a photograph: of its left 5/8 for the training, of the rest for the test."""
    colour = photo if photo.ndim == 3 else np.repeat(photo[..., None], 3, 2)
    split = colour.shape[1] * 5 // 8

    def sample(rng: np.random.Generator, is_test: bool) -> np.ndarray:
        area, side = colour[:, split:] if is_test else colour[:, :split], int(rng.integers(*CROP))
        top, left = (int(rng.integers(n - side + 1)) for n in area.shape[:2])
        square = Image.fromarray(area[top : top + side, left : left + side]).resize(
            (SIDE, SIDE), Image.Resampling.BICUBIC
        )
        return np.asarray(square, float)[:: int(rng.choice([-1, 1]))] * rng.uniform(0.95, 1.05)

    return sample


def weave(rng: np.random.Generator, is_test: bool) -> np.ndarray:
    """Return a plain weave of two colours: threads 7 to 8 pixels wide that waver, lit from one side."""
    y, x = np.mgrid[:SIDE, :SIDE] + rng.uniform(0, 99, (2, 1, 1))
    width, waver = rng.uniform(7, 8), ndimage.gaussian_filter(rng.normal(size=(2, SIDE, SIDE)), (0, 9, 9)) * 12
    u, v = (x + waver[0]) / width * np.pi, (y + waver[1]) / width * np.pi
    over = np.sin(u) * np.sin(v) > 0  # the thread from left to right lies above
    height = np.where(over, np.abs(np.sin(v)), np.abs(np.sin(u)))[..., None]
    colour = np.where(over[..., None], [176.0, 152, 120], [150.0, 128, 104])
    return colour * (0.55 + 0.45 * height) * rng.uniform(0.95, 1.05) + rng.normal(0, 4, (SIDE, SIDE, 1))


def grain(rng: np.random.Generator, is_test: bool) -> np.ndarray:
    """Return a wooden board: noise drawn out along the fibres, with pores and a slow change of colour."""
    noise = rng.normal(size=(3, SIDE, SIDE))
    fibre, slow = ndimage.gaussian_filter(noise[0], (1.2, 25)), ndimage.gaussian_filter(noise[1], (6, 60))
    pores = ndimage.gaussian_filter(noise[2], (0.8, 5)) > 0.42
    shade = 1 + 1.6 * fibre + 6 * slow - 0.25 * ndimage.gaussian_filter(pores.astype(float), 0.7)
    return np.array([172.0, 128, 84]) * shade[..., None] * rng.uniform(0.95, 1.05) + rng.normal(0, 2, (SIDE, SIDE, 1))


TEXTURES: dict[str, Sampler] = {"weave": weave, "grain": grain}


def blob(rng: np.random.Generator) -> np.ndarray:
    """Return a round area with an uneven, soft edge at a random place: [SIDE, SIDE], 0 to 1."""
    radius = rng.uniform(7, 15)
    cy, cx = rng.uniform(radius, SIDE - radius, size=2)
    y, x = np.mgrid[:SIDE, :SIDE]
    angle, distance = np.arctan2(y - cy, x - cx), np.hypot(y - cy, x - cx)
    waves = sum(rng.uniform(-0.3, 0.3) / n * np.sin(n * angle + rng.uniform(0, 6.28)) for n in (2, 3, 4))
    return np.clip((radius * (1 + waves) - distance) / 2 + 0.5, 0, 1)


def shaded(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the image a little darker or brighter."""
    return image * rng.choice([0.72, 0.8, 1.2, 1.28])


def blurred(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the image without its finest structure."""
    return ndimage.gaussian_filter(image, (2.5, 2.5, 0))


def turned(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the image turned by 90 degrees: the right material in the wrong direction, or the wrong place."""
    return np.rot90(image, int(rng.choice([1, 3])))


def scraped(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the image with fine parallel scratches."""
    y, x = np.mgrid[:SIDE, :SIDE]
    direction = rng.uniform(0, np.pi)
    waves = np.sin((x * np.cos(direction) + y * np.sin(direction)) * 2 * np.pi / rng.uniform(3, 5))
    return image + rng.uniform(16, 26) * waves[..., None]


PAINTERS = {"blurred": blurred, "scraped": scraped, "shaded": shaded, "turned": turned}


def thin_mvtec(whole: Path, folder: Path) -> None:
    """Copy evenly spaced images of a set in MVTec AD's layout, and their masks."""
    for images in sorted(p for p in whole.glob("t*/*") if p.is_dir()):
        split, kind = images.parts[-2:]
        for image in spaced(sorted(images.iterdir()), THIN.get("train" if split == "train" else kind, THIN["defect"])):
            copy(image, folder / split / kind / image.name)
            if kind != "good":
                copy(whole / "ground_truth" / kind / f"{image.stem}_mask.png", folder / "ground_truth" / kind)


def thin_mtd(mtd: Path, folder: Path) -> None:
    """Copy evenly spaced tiles of MTD, and their masks; `train_filenames.txt` in its folder says what is trained on."""
    names = set((mtd / "train_filenames.txt").read_text("utf-8").split())
    free = sorted((mtd / "MT_Free" / "Imgs").glob("*.jpg"))
    for split in ("train", "test"):
        tiles = [image for image in free if (image.name in names) is (split == "train")]
        for image in spaced(tiles, THIN["train" if split == "train" else "good"]):
            copy(image, folder / split / "good" / image.name)
    for kind in KINDS:
        tiles = sorted((mtd / f"MT_{kind.capitalize()}" / "Imgs").glob("*.jpg"))
        marked = [image for image in tiles if np.asarray(Image.open(image.with_suffix(".png"))).any()]
        for image in spaced(marked, THIN["defect"]):
            copy(image, folder / "test" / kind / image.name)
            copy(image.with_suffix(".png"), folder / "ground_truth" / kind / f"{image.stem}_mask.png")


def copy(file: Path, target: Path) -> None:
    (target.parent if target.suffix else target).mkdir(parents=True, exist_ok=True)
    shutil.copy(file, target)


def spaced(files: list[Path], count: int) -> list[Path]:
    """Return `count` of the files, evenly spaced; all where there are fewer."""
    return [files[i] for i in np.unique(np.linspace(0, len(files) - 1, min(count, len(files))).round().astype(int))]
