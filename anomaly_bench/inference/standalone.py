"""Runs an exported file with ONNX Runtime or PyTorch alone: a script for a process of its own, without this package.

    python standalone.py FILE FOLDER

FOLDER/batches.json lists batches: {"images": [files of one size], "threshold": a number, or null for the file's own}.
Images are decoded with Pillow; .npy files are taken as they are.  The outputs of all images, one after the other, are
written to FOLDER/score.npy, map.npy, p_value.npy and label.npy; FOLDER/about.json gets versions and metadata.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps


def read(path: str) -> np.ndarray:
    """Return an image file as uint8 [H, W, 3]; .npy files hold one already."""
    if path.endswith(".npy"):
        return np.asarray(np.load(path))
    image = ImageOps.exif_transpose(Image.open(path))
    if image.mode.startswith("I"):  # 16-bit grey
        grey = (np.asarray(image).astype(np.uint32) + 128) // 257
        return np.repeat(grey.astype(np.uint8)[:, :, None], 3, 2)
    return np.asarray((image.convert("RGBA") if "transparency" in image.info else image).convert("RGB"))


class Onnx:
    """An ONNX file in ONNX Runtime, on as many threads as $OMP_NUM_THREADS says, else as there are cores."""

    def __init__(self, file: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = int(os.environ.get("OMP_NUM_THREADS") or 0)
        self.session = onnxruntime.InferenceSession(file, options, ["CPUExecutionProvider"])
        self.names = [each.name for each in self.session.get_outputs()]
        self.about = self.session.get_modelmeta().custom_metadata_map.get("anomaly_bench", "{}")
        self.versions = {"onnxruntime": onnxruntime.__version__}

    def __call__(self, images: np.ndarray, threshold: float | None) -> dict[str, np.ndarray]:
        """Return the outputs by name."""
        given = {} if threshold is None else {"threshold": np.array([threshold])}
        return dict(zip(self.names, self.session.run(None, {"images": images, **given}), strict=True))


class Torch:
    """A program of torch.export."""

    def __init__(self, file: str) -> None:
        import torch

        extra = {"anomaly_bench.json": ""}
        self.module: Any = torch.export.load(file, extra_files=extra).module()
        self.about = extra["anomaly_bench.json"] or "{}"
        described = json.loads(self.about)
        self.names = described.get("outputs", [])
        known = described.get("threshold")
        self.threshold = float("nan") if known is None else float(known)
        self.versions = {"torch": torch.__version__}

    def __call__(self, images: np.ndarray, threshold: float | None) -> dict[str, np.ndarray]:
        """Return the outputs by name."""
        import torch

        value = torch.tensor([self.threshold if threshold is None else threshold], dtype=torch.float64)
        with torch.inference_mode():
            found = self.module(torch.from_numpy(np.ascontiguousarray(images)), value)
        return dict(zip(self.names, (each.numpy() for each in found), strict=True))


def open_file(file: str) -> "Onnx | Torch":
    """Return what runs an exported file, by its suffix."""
    return Onnx(file) if file.endswith(".onnx") else Torch(file)


def main(file: str, folder: Path) -> None:
    """Run the file on every batch."""
    program, batches = open_file(file), json.loads((folder / "batches.json").read_text())
    outputs = [program(np.stack([read(path) for path in each["images"]]), each["threshold"]) for each in batches]
    for name in program.names:
        np.save(folder / f"{name}.npy", np.concatenate([each[name] for each in outputs]))
    (folder / "about.json").write_text(json.dumps({"versions": program.versions, "about": program.about}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
