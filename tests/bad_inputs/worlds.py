"""What the cases start from: images, data sets, finished and unfinished runs, maps, weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from small_runs import TOY, make_images

QUICK = ["method.epochs=1", "method.kind=one", "resamples=0", "hardware.threads=1", "save_heatmaps=false"]
TRAIN = ["train", *TOY, *QUICK]  # the toy on the data set `folder`
WIDGETS, THINGS = [*TRAIN, "dataset.root=widgets"], [*TRAIN, "dataset.root=things"]
BOTTLE = [*("dataset=mvtec/bottle" if word == "dataset=folder" else word for word in TRAIN), "dataset.root=data/mvtec"]
MTD = [*("dataset=mtd" if word == "dataset=folder" else word for word in TRAIN), "dataset.root=mtd"]
SLOW = [word for word in BOTTLE if word not in QUICK[:2]]  # three epochs, two stages
UNFINISHED = [*SLOW, "checkpoint_seconds=0", "method.notes=notes"]


def noise(seed: int, side: int = 32) -> np.ndarray:
    """uint8 [side, side, 3], unlike any other."""
    return np.random.default_rng(1000 + seed).integers(90, 130, (side, side, 3), dtype=np.uint8)


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path, **options)
    return path


def flat(root: Path, masks: Callable[[str], str] | None) -> None:
    """good and bad of the widgets' pixels; masks: from an image's stem to its mask's place below `root`."""
    made = make_images(root.with_name("made"))
    for i, image in enumerate(sorted(made.glob("t*/good/*.png"))):
        save(root / "good" / f"{i:03}.png", np.asarray(Image.open(image)))
    for i, image in enumerate(sorted(made.glob("test/[!g]*/*.png"))):
        save(root / "bad" / f"{i:03}.png", np.asarray(Image.open(image)))
        if masks:
            mask = made / "ground_truth" / image.parent.name / f"{image.stem}_mask.png"
            save(root / masks(f"{i:03}"), np.asarray(Image.open(mask)))
    shutil.rmtree(made)


def grey(root: Path) -> None:
    for path in make_images(root).glob("t*/*/*.png"):
        save(path, np.repeat(np.asarray(Image.open(path).convert("L"))[..., None], 3, 2))


def tiles(root: Path) -> None:
    """Magnetic tiles of 32 x 32 pixels."""
    for kind, count in {"Free": 10, "Blowhole": 2, "Break": 2, "Crack": 2, "Fray": 2, "Uneven": 2}.items():
        for i in range(count):
            image, mask = noise(100 * count + 10 * len(kind) + i), np.zeros((32, 32), np.uint8)
            if kind != "Free":
                mask[4:12, 4 + i : 12 + i] = 255
                image[mask > 0] = 230
            save(root / f"MT_{kind}" / "Imgs" / f"{kind}{i}.jpg", image, quality=98)
            save(root / f"MT_{kind}" / "Imgs" / f"{kind}{i}.png", mask)


def arrays(root: Path) -> None:
    from small_arrays import write_cifar10, write_mnist

    write_mnist(root / "MNIST/raw")
    write_cifar10(root / "cifar-10-batches-py")


def sets(root: Path) -> None:
    """Published data sets in small, below data/."""
    from small_benchmarks import COUNTS, WRITERS

    for name, write in WRITERS.items():
        write(root / "data" / name, COUNTS[name])


def maps(root: Path) -> None:
    """maps/KIND/NNN.npy and masks/KIND/NNN_mask.png of 16 x 16 pixels."""
    for kind, count in {"good": 4, "hole": 3, "line": 3}.items():
        (root / "maps" / kind).mkdir(parents=True)
        for i in range(count):
            scores, mask = noise(i + len(kind) * 7, 16)[..., 0] / 200, np.zeros((16, 16), np.uint8)
            if kind != "good":
                mask[2:8, 2 + i : 8 + i] = 255
                scores[mask > 0] += 0.2
                save(root / "masks" / kind / f"{i:03}_mask.png", mask)
            np.save(root / "maps" / kind / f"{i:03}.npy", scores.astype(np.float32))


def own(root: Path) -> None:
    """A method and a data set outside the package."""
    from bad_inputs.own_files import DATASET, DATASET_YAML, METHOD, METHOD_YAML

    make_images(root / "widgets")
    for name, text in {
        "mine.py": METHOD, "flat.py": DATASET, "method/mine.yaml": METHOD_YAML, "dataset/flat.yaml": DATASET_YAML
    }.items():  # fmt: skip
        (root / "conf" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "conf" / name).write_text(text)


def weights(root: Path) -> None:
    import timm
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    make_images(root / "widgets")
    save_file(timm.create_model("resnet18", pretrained=False).state_dict(), root / "resnet18.safetensors")


def unfinished(root: Path) -> None:
    make_images(root / "data/mvtec/bottle")
    (root / "notes").mkdir()
    (root / "notes/raise").touch()


FILES: dict[str, Callable[[Path], object]] = {
    "empty": lambda root: root.mkdir(),
    "widgets": lambda root: make_images(root / "widgets"),
    "grey": lambda root: grey(root / "widgets"),
    "flat": lambda root: flat(root / "things", None),
    "masked": lambda root: flat(root / "things", lambda stem: f"ground_truth/bad/{stem}_mask.png"),
    "mvtec": lambda root: make_images(root / "data/mvtec/bottle"),
    "mtd": lambda root: tiles(root / "mtd"),
    "arrays": lambda root: arrays(root / "arrays"),
    "sets": sets,
    "maps": maps,
    "own": own,
    "weights": weights,
    "run": lambda root: make_images(root / "data/mvtec/bottle"),
    "calibrated": lambda root: make_images(root / "data/mvtec/bottle"),
    "slow": lambda root: make_images(root / "data/mvtec/bottle"),
    "unfinished": unfinished,
}
COMMANDS: dict[str, list[list[str]]] = {  # that are run in a world; of the first its metrics are kept
    "widgets": [WIDGETS],
    "grey": [WIDGETS],
    "flat": [THINGS],
    "masked": [THINGS],
    "mvtec": [BOTTLE],
    "mtd": [MTD],
    "run": [BOTTLE, [*BOTTLE, "seed=1"]],
    "calibrated": [[*BOTTLE, "calibration_share=0.25"]],
    "slow": [SLOW],
    "unfinished": [UNFINISHED],
}
KEPT = ("run", "calibrated", "unfinished")  # worlds whose runs stay there


def finish(name: str, worlds: Path) -> Iterator[str]:
    """Keep the metrics of a world's clean run.  Yields what went wrong."""
    root = worlds / name
    runs = sorted((root / "outputs").glob("*/*/*/s0-*/metrics.json"))
    if name == "unfinished":
        if not list((root / "outputs").glob("*/*/*/*/checkpoints/template/*.ckpt")):
            yield f"{name}: no checkpoint"
        (root / "notes/raise").unlink()
    elif len(runs) != 1:
        yield f"{name}: its clean run failed"
    else:
        (worlds / f"{name}.json").write_text(json.dumps(json.loads(runs[0].read_text())))
    if name not in KEPT:
        shutil.rmtree(root / "outputs", ignore_errors=True)
