"""Score a folder of any size with a file of `bench export RUN --format onnx`, in many processes or on many machines.

pip install 'ray[data]' onnxruntime pillow
python score_with_ray.py brick.onnx FOLDER scores.csv [--workers 8]

scores.csv gets one line for each image below FOLDER, though workers die in between: path, score, p_value, label (1:
anomalous, 0: normal, -1: no threshold), error (of a file that cannot be scored).  The same command goes on where it was
stopped.  Several machines: `ray start` on each, FOLDER at the same place on all of them, RAY_ADDRESS=auto.
"""

import argparse
import csv
import hashlib
import json
from pathlib import Path

import numpy as np
import onnxruntime
import ray
from PIL import Image, ImageOps

COLUMNS = ("path", "score", "p_value", "label", "error")
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
BLOCK = 256  # images that a worker scores before they are written, and once more where it dies


def opened(content: bytes) -> onnxruntime.InferenceSession:
    """Return an exported file's session on one thread: Ray gives each worker one core."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(content, options, ["CPUExecutionProvider"])


def read(file: Path) -> np.ndarray:
    """Return an image file as uint8 [1, H, W, 3]."""
    with Image.open(file) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise ValueError(f"holds {image.n_frames} images")
        if image.mode == "F" or (image.mode == "I" and image.format != "PNG"):
            raise ValueError("has 32-bit values")
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey
        image = Image.fromarray(((np.asarray(image).astype(np.uint32) + 128) // 257).astype(np.uint8))
    return np.asarray(image.convert("RGB"))[None]


class Scorer:
    """What each worker runs: one session for all of its images."""

    def __init__(self, content: bytes, folder: str) -> None:
        self.session, self.folder = opened(content), Path(folder)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the columns of scores.csv, as text, for a batch of paths."""
        rows = [(path, *self.row(self.folder / path)) for path in batch["path"]]
        return {name: np.array(column) for name, column in zip(COLUMNS, zip(*rows, strict=True), strict=True)}

    def row(self, file: Path) -> tuple[str, str, str, str]:
        """Return score, p_value, label and error of an image."""
        try:
            values = self.session.run(["score", "p_value", "label"], {"images": read(file)})
        except Exception as error:  # decoders raise nearly anything
            return "", "", "", " ".join(f"{type(error).__name__}: {error}".split())
        score, p_value, label = (value[0] for value in values)
        return repr(float(score)), repr(float(p_value)), str(label), ""


def scored_before(out: Path, about: dict[str, str]) -> set[str]:
    """Return the paths that `out` has already, without a line cut off in the middle; begin it where there is none.

    Raises ValueError where it was written with another file or for another folder.
    """
    noted = out.with_name(f"{out.name}.json")
    if not out.exists():
        noted.write_text(json.dumps(about))
    elif not noted.exists() or json.loads(noted.read_text()) != about:
        raise ValueError(f"{out} is of another exported file or folder: give another name, or delete it")
    with out.open("ab+") as file:
        file.seek(0)
        lines, end, _ = file.read().rpartition(b"\r\n")
        file.truncate(len(lines + end))
        file.write(b"" if end else (",".join(COLUMNS) + "\r\n").encode())
    with out.open(newline="", encoding="utf-8") as file:
        return {row["path"] for row in csv.DictReader(file)}


def main() -> None:
    """Score what is not scored yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("exported", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    try:
        content = given.exported.read_bytes()
        if opened(content).get_inputs()[0].type != "tensor(uint8)":
            raise ValueError("was exported with --no-preprocess: it takes no images")
    except Exception as error:  # ONNX Runtime raises kinds of its own
        parser.error(f"{given.exported}: {error}")
    about = {"sha256": hashlib.sha256(content).hexdigest(), "folder": str(given.folder.resolve())}
    try:
        before = scored_before(given.out, about)
    except ValueError as error:
        parser.error(str(error))
    found = (file for file in given.folder.rglob("*") if file.suffix.lower() in SUFFIXES and not file.is_dir())
    paths = sorted({file.relative_to(given.folder).as_posix() for file in found} - before)
    if not paths and not before:
        parser.error(f"{given.folder}: no image there")
    print(f"{len(before)} images were scored before, {len(paths)} to go", flush=True)
    if paths:
        blocks = -(-len(paths) // BLOCK)
        rows = ray.data.from_items([{"path": path} for path in paths], override_num_blocks=blocks).map_batches(
            *(Scorer,),
            fn_constructor_args=(content, about["folder"]),
            compute=ray.data.ActorPoolStrategy(size=given.workers),
            batch_size=None,
            num_cpus=1,
        )
        with given.out.open("a", newline="", encoding="utf-8") as file:
            for batch in rows.iter_batches(batch_size=None):
                csv.writer(file).writerows(zip(*(batch[name] for name in COLUMNS), strict=True))
                file.flush()
    with given.out.open(newline="", encoding="utf-8") as file:
        errors = [row["path"] for row in csv.DictReader(file) if row["error"]]
    print(f"{len(before) + len(paths)} images in {given.out}, {len(errors)} of them with an error")


if __name__ == "__main__":
    main()
