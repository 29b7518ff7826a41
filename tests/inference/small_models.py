"""Finished runs of each method, trained in seconds with a quarter of the normal images held out, and odd images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from anomaly_bench.inference.predict import Model, Result
from anomaly_bench.nets.teachers import save_teacher
from anomaly_bench.runs.folder import RunFolder
from tests.methods.small_us import method as small_students
from tests.methods.small_us import scales
from tests.small_runs import make_images

PAPERS = ("rd", "us", "csflow", "glf")
METHODS = (*PAPERS, "stfpm", "simplenet", "padim", "patchcore", "us_shallow")
UNTRAINED = ("padim", "patchcore", "us_shallow")  # no epochs
FIXED = ("hardware=cpu", "hardware.threads=1", "dataset=folder", "save_heatmaps=false", "resamples=0")


def overrides(method: str, place: Path, weights: Path, *more: str) -> list[str]:
    """The overrides of a small run of a method; its images and its teacher are made in `place`."""
    side = 64 if method == "glf" else 32
    root, teacher = place / f"images{side}", place / "teacher.safetensors"
    if not root.exists():
        make_images(root, side)
        for path in [*root.glob("test/*/002.png"), *root.glob("ground_truth/*/002*"), root / "test/good/003.png"]:
            path.unlink()  # two of each kind are enough
        if method == "glf":  # it takes longest for an image
            for path in [*root.glob("*/*/001*"), *root.glob("train/good/01*")]:
                path.unlink()
    if not teacher.exists():
        (scale,) = scales(small_students(seed=3))
        save_teacher(scale.teacher, teacher, {})
    resnet = ["method.backbone=resnet18", f"method.weights={weights}"]
    own = {
        "rd": [*resnet, "method.image_size=32", "method.lr=0.0001"],
        "us": [
            f"method.teacher.file={teacher}",
            "method.patch_sizes=[17]",
            "method.students=2",
            "method.image_size=16",
        ],
        "csflow": [*resnet, "method.layer=layer3", "method.hidden=8", "method.image_size=64", "method.kernels=[3,1]"],
        "glf": ["method.steps=1", "method.windows=4", "method.image_size=243"],
        "padim": [*resnet, "method.image_size=32", "method.components=20"],
        "patchcore": [*resnet, "method.image_size=32", "method.coreset_share=0.2"],
        "us_shallow": ["method.weights=random", "method.image_size=32", "method.samples=100", "method.clusters=2"],
        "stfpm": [*resnet[1:], "method.image_size=32"],
        "simplenet": [*resnet, "method.image_size=32", "method.hidden=8"],
    }[method]
    name = "glf_fast" if method == "glf" else method
    epochs = [] if method in ("glf", *UNTRAINED) else ["method.epochs=1"]
    where = [f"dataset.root={root}", f"output_dir={place / 'outputs'}"]
    return [
        *(f"method={name}", *own, *epochs, "method.batch_size=5", "calibration_share=0.25", *FIXED, *where, *more),
    ]


def images_of(folder: RunFolder) -> list[Path]:
    """The files of a run's test images, in the order of its scores."""
    return [Path(folder.manifest["place"]) / row.path for row in folder.scores]


def predicted(model: Model, source: object, batch_size: int | None = None) -> list[Result]:
    return list(model.predict(source, batch_size))


def write_odd_images(place: Path) -> dict[str, tuple[int, int] | None]:
    """Write images that are unusual, and files that are no image; width and height of those that can be read."""
    place.mkdir(parents=True)
    draw = np.random.default_rng(1)
    grey, colour = draw.integers(0, 256, (20, 30), np.uint8), draw.integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(colour[:1, :1]).save(place / "one pixel.png")
    Image.fromarray(grey.astype(np.uint16) * 257).save(place / "16 bits.png")
    Image.fromarray(colour).convert("P").save(place / "palette.png")
    Image.fromarray(colour).convert("RGBA").save(place / "alpha.png")
    Image.fromarray(colour).convert("CMYK").save(place / "cmyk.jpg")
    Image.fromarray(np.zeros((2, 20_000, 3), np.uint8)).save(place / "strip.png")
    pages = [Image.fromarray(colour), Image.fromarray(colour)]
    pages[0].save(place / "pages.tiff", save_all=True, append_images=pages[1:])
    Image.fromarray(colour).save(place / "cut.jpg")
    (place / "cut.jpg").write_bytes((place / "cut.jpg").read_bytes()[:400])
    (place / "empty.png").touch()
    (place / "text.png").write_text("no image")
    read = dict.fromkeys(("16 bits.png", "palette.png", "alpha.png", "cmyk.jpg"), (30, 20))
    broken = dict.fromkeys(("pages.tiff", "cut.jpg", "empty.png", "text.png"))
    return {**read, "one pixel.png": (1, 1), "strip.png": (20_000, 2), **broken}
