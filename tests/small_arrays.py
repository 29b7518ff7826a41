"""A few arrays in the official files of MNIST and CIFAR-10, written byte by byte."""

from __future__ import annotations

import gzip
import io
import pickle
import struct
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

TRAIN, TEST = [3, 7, 3, 0, 9, 3], [7, 3, 3, 9]  # labels


def digits(count: int, first: int) -> np.ndarray:
    """uint8 [count, 28, 28]: every image has its own number in all pixels but the first, which is 255."""
    images = np.repeat(np.arange(first, first + count, dtype=np.uint8), 784).reshape(count, 28, 28)
    images[:, 0, 0] = 255
    return images


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def write_mnist(folder: Path, zipped: bool = False) -> Path:
    """6 training images, numbered 10 to 15, and 4 test images, 20 to 23."""
    folder.mkdir(parents=True)
    for stem, labels, first in (("train", TRAIN, 10), ("t10k", TEST, 20)):
        arrays = {"images-idx3": digits(len(labels), first), "labels-idx1": np.array(labels, np.uint8)}
        for part, array in arrays.items():
            file = folder / f"{stem}-{part}-ubyte{'.gz' * zipped}"
            file.write_bytes(gzip.compress(idx(array), mtime=0) if zipped else idx(array))
    return folder


class Python2Pickler(pickle._Pickler):  # the one written in Python, which can be taught
    """Writes all text as the str of Python 2, which is bytes to Python 3, the way the official batches hold it."""

    dispatch: ClassVar[dict[type, Any]] = dict(pickle._Pickler.dispatch)

    def save_text(self, value: bytes | str) -> None:
        content = value.encode() if isinstance(value, str) else value
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)  # type: ignore[attr-defined]

    dispatch[bytes] = dispatch[str] = save_text


def python2(value: object) -> bytes:
    file = io.BytesIO()
    Python2Pickler(file, protocol=2).dump(value)
    return file.getvalue().replace(b"numpy._core.", b"numpy.core.")


def pictures(count: int, seed: int) -> np.ndarray:
    """uint8 [count, 3072]: a plane of red, one of green, one of blue, as stored."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), dtype=np.uint8)


def write_cifar10(folder: Path) -> Path:
    """Five batches of two training images, a cat and a dog, and a test batch of a cat, a ship and a dog."""
    folder.mkdir(parents=True)
    batches = {f"data_batch_{i}": (pictures(2, i), [3, 5]) for i in range(1, 6)}
    for name, (data, labels) in {**batches, "test_batch": (pictures(3, 6), [3, 8, 5])}.items():
        (folder / name).write_bytes(python2({"batch_label": "a batch", "labels": labels, "data": data}))
    return folder
