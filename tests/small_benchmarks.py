"""Published data sets in small: the folders, names and file types of their archives, with images of a few pixels.

Written from the descriptions in conf/download, not from what the loaders read.  Each function takes the folder to fill
and how many images of each split and kind there are, as conf/download has them, and returns the folder.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from itertools import count, product
from pathlib import Path

import numpy as np
from PIL import Image
from small_images import save

Counts = Mapping[str, Mapping[str, int]]
HEIGHT, WIDTH = 10, 16
COUNTS: dict[str, Counts] = {
    "visa": {name: {"train": 3, "good": 2, "defective": 2} for name in ("candle", "pcb1", "pipe_fryum")},
    "mvtec_ad2": {
        name: {"train": 3, "validation": 2, "good": 2, "bad": 4, "test_private": 3, "test_private_mixed": 3}
        for name in ("can", "rice", "walnuts")
    },
    "mvtec_loco": {
        name: {"train": 3, "validation": 2, "good": 2, "logical_anomalies": 2, "structural_anomalies": 3}
        for name in ("breakfast_box", "pushpins", "screw_bag")
    },
    "btad": {name: {"train": 3, "good": 2, "defective": 2} for name in ("01", "02", "03")},
    "mpdd": {name: {"train": 3, "good": 2, "defective": 4} for name in ("connector", "metal_plate", "tubes")},
    "ksdd2": {"train": {"good": 4, "defective": 2}, "test": {"good": 3, "defective": 2}},
    "autovi": {name: {"train": 3, "good": 2, "defective": 4} for name in ("engine_wiring", "pipe_clip", "tank_screw")},
}
DEFECTS = [
    {"defect_name": "missing_toast", "pixel_value": 255, "saturation_threshold": 4, "relative_saturation": False},
    {"defect_name": "stain", "pixel_value": 254, "saturation_threshold": 1.0, "relative_saturation": True},
]
LIGHTS = ("regular", "overexposed", "underexposed", "shift_1")


class Shell:
    """Leaves a file called `ran` where its pickle is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch ran",)


def picture(number: int, channels: int = 3) -> np.ndarray:
    """Noise, another one for each number; grey where there is one channel."""
    shape = (HEIGHT, WIDTH, channels) if channels > 1 else (HEIGHT, WIDTH)
    return np.random.default_rng(number).integers(0, 255, shape, dtype=np.uint8)


def region(value: int, corner: int = 2) -> np.ndarray:
    """A mask with a square of 4 x 4 pixels of one value, whose upper left corner is at (corner, corner)."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[corner : corner + 4, corner : corner + 4] = value
    return mask


def visa(root: Path, counts: Counts) -> Path:
    """The files of VisA_20220922.tar; the values of a mask are small numbers of its defects' classes."""
    lines, numbers = ["object,split,label,image,mask"], count()
    for name, each in counts.items():
        data = root / name / "Data"
        for i in range(each["train"] + each["good"]):
            file = save(data / f"Images/Normal/{i:04}.JPG", picture(next(numbers)))
            split = "train" if i < each["train"] else "test"
            lines.append(f"{name},{split},normal,{file.relative_to(root).as_posix()},")
        for i in range(each["defective"]):
            image = save(data / f"Images/Anomaly/{i:03}.JPG", picture(next(numbers)))
            mask = save(data / f"Masks/Anomaly/{i:03}.png", region(1 + i))
            lines.append(
                f"{name},test,anomaly,{image.relative_to(root).as_posix()},{mask.relative_to(root).as_posix()}"
            )
        (root / name / "image_anno.csv").write_text("image,label,mask\n")
    (root / "split_csv").mkdir()
    for split in ("1cls", "2cls_fewshot", "2cls_highshot"):
        (root / f"split_csv/{split}.csv").write_text("\r\n".join(lines) + "\r\n", newline="")
    return root


def mvtec_ad2(root: Path, counts: Counts) -> Path:
    """The files of mvtec_ad_2.tar.gz; images of `sheet_metal`, `vial` and `wallplugs` are grey there."""
    numbers = count(1000)
    for name, each in counts.items():
        channels = 1 if name in ("sheet_metal", "vial", "wallplugs") else 3
        scenes = [f"{i:03}_{light}" for i, light in product(range(99), LIGHTS)]
        plain = {"train": "train/good", "validation": "validation/good", "test_private": "test_private"}
        for key, folder in plain.items():
            for i in range(each[key]):
                save(root / name / folder / f"{i:03}_regular.png", picture(next(numbers), channels))
        for i in range(each["test_private_mixed"]):
            save(root / name / f"test_private_mixed/{i:03}_mixed.png", picture(next(numbers), channels))
        for scene in scenes[: each["good"]]:
            save(root / name / f"test_public/good/{scene}.png", picture(next(numbers), channels))
        for scene in scenes[: each["bad"]]:
            save(root / name / f"test_public/bad/{scene}.png", picture(next(numbers), channels))
            save(root / name / f"test_public/ground_truth/bad/{scene}_mask.png", region(255))
    for text in ("license.txt", "readme.txt"):
        (root / text).write_text("CC BY-NC-SA 4.0")
    return root


def mvtec_loco(root: Path, counts: Counts) -> Path:
    """The files of mvtec_loco_anomaly_detection.tar.xz; every second anomalous image has a second channel."""
    numbers = count(2000)
    for name, each in counts.items():
        base = root / name
        for key in ("train", "validation", "good"):
            folder = f"{key}/good" if key != "good" else "test/good"
            for i in range(each[key]):
                save(base / folder / f"{i:03}.png", picture(next(numbers)))
        for kind in ("logical_anomalies", "structural_anomalies"):
            for i in range(each[kind]):
                save(base / f"test/{kind}/{i:03}.png", picture(next(numbers)))
                for channel in range(1 + i % 2):
                    save(base / f"ground_truth/{kind}/{i:03}/{channel:03}.png", region(255 - channel, 2 + 3 * channel))
        (base / "defects_config.json").write_text(json.dumps(DEFECTS, indent=4))
    (root / "license.txt").write_text("CC BY-NC-SA 4.0")
    return root


def btad(root: Path, counts: Counts) -> Path:
    """The files of btad.zip; images and masks are bmp and png in 01, png in 02, bmp in 03; values of masks differ."""
    numbers = count(3000)
    for name, each in counts.items():
        ends = {"01": ("bmp", "png"), "02": ("png", "png"), "03": ("bmp", "bmp")}[name]
        for key, folder in (("train", "train/ok"), ("good", "test/ok"), ("defective", "test/ko")):
            for i in range(each[key]):
                save(root / name / folder / f"{i:04}.{ends[0]}", picture(next(numbers)))
        for i in range(each["defective"]):
            save(root / name / f"ground_truth/ko/{i:04}.{ends[1]}", region(255 if name != "02" else 1))
    return root


def mpdd(root: Path, counts: Counts) -> Path:
    """The files of MPDD, in MVTec AD's layout; its kinds differ from part to part."""
    numbers = count(4000)
    kinds = {"connector": ["parts_mismatch"], "metal_plate": ["major_rust", "scratches"], "tubes": ["anomalous"]}
    for name, each in counts.items():
        for key, folder in (("train", "train/good"), ("good", "test/good")):
            for i in range(each[key]):
                save(root / name / folder / f"{i:03}.png", picture(next(numbers)))
        for i in range(each["defective"]):
            kind = kinds[name][i % len(kinds[name])]
            save(root / name / f"test/{kind}/{i:03}.png", picture(next(numbers)))
            save(root / name / f"ground_truth/{kind}/{i:03}_mask.png", region(255))
    return root


def ksdd2(root: Path, counts: Counts) -> Path:
    """The files of KolektorSDD2.zip: images of several sizes, a mask beside each, a copy of a pair, and pickles."""
    first = {"train": 10000, "test": 20000}
    for part, each in counts.items():
        for i in range(each["good"] + each["defective"]):
            size = (WIDTH - i % 2, HEIGHT + i)  # width, height
            number = first[part] + i
            image = Image.fromarray(picture(number)).resize(size)
            mask = np.zeros(size[::-1], np.uint8)
            mask[4, 3:6] = 255 if i % 2 and i // 2 < each["defective"] else 0
            (root / part).mkdir(parents=True, exist_ok=True)
            image.save(root / part / f"{number}.png")
            Image.fromarray(mask).save(root / part / f"{number}_GT.png")
    for end in ("", "_GT"):
        (root / f"train/10000{end} (copy).png").write_bytes((root / f"train/10000{end}.png").read_bytes())
    for number in (0, 16, 53, 126, 246):
        (root / f"split_weakly_{number}.pyb").write_bytes(pickle.dumps(Shell()))
    return root


def autovi(root: Path, counts: Counts) -> Path:
    """The files of the six zips; a channel is grey, stored as RGB or RGBA."""
    numbers = count(5000)
    for name, each in counts.items():
        base = root / name
        for key, folder in (("train", "train/good"), ("good", "test/good")):
            for i in range(each[key]):
                save(base / folder / f"{i:04}.png", picture(next(numbers)))
        for i in range(each["defective"]):
            kind = ("blue_hoop", "fastening")[i % 2]
            save(base / f"test/{kind}/{i:04}.png", picture(next(numbers)))
            colours = np.repeat(region(255 - i % 2)[:, :, None], 3, axis=2)
            alpha = np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
            channel = np.concatenate([colours, alpha], axis=2) if i % 2 else colours
            save(base / f"ground_truth/{kind}/{i:04}/0000.png", channel)
        (base / "defects_config.json").write_text(json.dumps(DEFECTS))
    return root


WRITERS = {f.__name__: f for f in (visa, mvtec_ad2, mvtec_loco, btad, mpdd, ksdd2, autovi)}
