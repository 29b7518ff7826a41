"""One class is normal, the nine others are anomalous: MNIST, Fashion-MNIST, CIFAR-10, read from their official files.

Train: the training images of the normal class.  Test: all test images of all ten.  There are no masks.
"""

from __future__ import annotations

import gzip
import math
import pickle
import struct
import warnings
import zlib
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from anomaly_bench.errors import UserError
from anomaly_bench.loading.image_files import data_folders, is_file
from anomaly_bench.records import Dataset, Record

Split = Literal["train", "test"]
Digit = Literal["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
Garment = Literal[
    "t_shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle_boot"
]  # fmt: skip
Thing = Literal["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]

CATEGORIES = {"mnist": get_args(Digit), "fashion_mnist": get_args(Garment), "cifar10": get_args(Thing)}  # by label
FOLDERS = {"mnist": "MNIST/raw", "fashion_mnist": "FashionMNIST/raw", "cifar10": "cifar-10-batches-py"}  # torchvision's
ROWS = {"mnist": (60000, 10000), "fashion_mnist": (60000, 10000), "cifar10": (50000, 10000)}  # train, test
IDX = {
    "train": ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"],
    "test": ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"],
}
BATCHES = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}


class OneClass(Dataset):
    """A data set whose records of both splits are read together, once."""

    _both: Callable[[], dict[Split, list[Record]]]

    def records(self, split: Split) -> list[Record]:
        return list(self._both()[split])


class MNIST(OneClass):
    """`root`/MNIST/raw/{train,t10k}-{images-idx3,labels-idx1}-ubyte, plain or .gz, or these files in `root` itself."""

    def __init__(self, category: Digit, root: str | None) -> None:
        self._both = cache(partial(one_class, "mnist", category, root))


class FashionMNIST(OneClass):
    """Xiao, Rasul and Vollgraf, 2017: as MNIST, in `root`/FashionMNIST/raw or `root` itself."""

    def __init__(self, category: Garment, root: str | None) -> None:
        self._both = cache(partial(one_class, "fashion_mnist", category, root))


class CIFAR10(OneClass):
    """Krizhevsky, 2009: `root`/cifar-10-batches-py/{data_batch_1..5,test_batch}, or these files in `root` itself."""

    def __init__(self, category: Thing, root: str | None) -> None:
        self._both = cache(partial(one_class, "cifar10", category, root))


def one_class(name: str, category: str, root: str | None) -> dict[Split, list[Record]]:
    """Return the records of both splits; a path ends in the image's index in the official files ("test/00042").

    Raises UserError naming the file that is missing or damaged.  Warns where there are more or fewer images than there
    officially are: they are used as they are.
    """
    folder = find_folder(name, root)
    if folder is None:
        looked = " or ".join(map(str, data_folders(root, name)))
        way = f"bench data prepare {name}, or dataset.root=DIR or $ANOMALY_BENCH_DATA"
        raise UserError("dataset.root", f"none of the files of {FOLDERS[name]} in {looked}", way)
    (images, labels), (test_images, test_labels) = (read_split(name, folder, split) for split in get_args(Split))
    if (found := (len(labels), len(test_labels))) != ROWS[name]:
        text = "{} holds {} training and {} test images, the official files {} and {}; they are used as they are"
        warnings.warn(text.format(folder, *found, *ROWS[name]), stacklevel=3)
    normal = CATEGORIES[name].index(category)
    normal_rows = np.flatnonzero(labels == normal)
    kinds = [f"digit_{each}" if name == "mnist" else each for each in CATEGORIES[name]]
    kinds[normal] = "good"
    test = enumerate(zip(test_labels, test_images, strict=True))
    train = zip(normal_rows, images[normal_rows], strict=True)  # a copy: no other class's images stay in memory
    return {
        "train": [Record(f"train/{i:05}", "good", image) for i, image in train],
        "test": [Record(f"test/{i:05}", kinds[label], image) for i, (label, image) in test],
    }


def find_folder(name: str, root: str | None) -> Path | None:
    """Return the first place with any file of the data set, in torchvision's folder or in the place itself."""
    files = [file for split in get_args(Split) for file in (BATCHES if name == "cifar10" else IDX)[split]]
    folders = [folder for place in data_folders(root, name) for folder in (place / FOLDERS[name], place)]
    held = (f for f in folders if any(is_file(f / f"{file}{end}") for file in files for end in ("", ".gz")))
    return next(held, None)


def read_split(name: str, folder: Path, split: Split) -> tuple[np.ndarray, np.ndarray]:
    """Read images, uint8 [N, 28, 28] or [N, 32, 32, 3], and labels, [N] from 0 to 9.

    Raises UserError naming the file.
    """
    if name == "cifar10":
        batches = [read_batch(folder / file) for file in BATCHES[split]]
        return np.concatenate([images for images, _ in batches]), np.concatenate([labels for _, labels in batches])
    plain, zipped = ([folder / f"{file}{end}" for file in IDX[split]] for end in ("", ".gz"))
    first, second = (p if p.is_file() or not z.is_file() else z for p, z in zip(plain, zipped, strict=True))
    images, labels = read_idx(first, (28, 28)), read_idx(second, ())
    _check(second, images, labels)
    return images, labels


def read_idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read an idx file of bytes, plain or .gz, as uint8 [N, *shape].

    The format is big-endian: 0x0800 + number of axes, each axis, bytes.  Raises UserError where the file is missing,
    cut short or another one.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(str(path), f"cannot be read: {error}") from error
    axes = 1 + len(shape)
    start = 4 * (1 + axes)
    magic, *size = struct.unpack_from(f">{1 + axes}I", content.ljust(start, b"\0"))
    if magic != 0x0800 + axes:
        raise UserError(str(path), f"starts with {magic:#010x}, not with {0x0800 + axes:#010x}: another kind of file")
    if tuple(size[1:]) != shape:
        raise UserError(str(path), f"holds arrays of {size[1:]}; {list(shape)} is read")
    if len(content) != start + math.prod(size):
        raise UserError(str(path), f"has {len(content)} bytes, its header promises {start + math.prod(size)}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(size)


def read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Read a batch of CIFAR-10: images, uint8 [N, 32, 32, 3], and labels, [N].

    Of the names in the pickle only those that build an array of bytes are used.  Raises UserError where the file is
    missing, cut short or holds something else.
    """
    try:
        with path.open("rb") as file:
            content = _Batch(file, encoding="bytes").load()
        batch = {key.decode() if isinstance(key, bytes) else key: value for key, value in content.items()}
        images = batch["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # stored as planes of red, green, blue
        labels = np.array(batch["labels"])
    except OSError as error:
        raise UserError(str(path), f"cannot be read: {error}") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        what = f"is damaged or no batch of CIFAR-10: {type(error).__name__} {error}"
        raise UserError(str(path), what) from error
    if labels.ndim != 1 or labels.dtype.kind != "i":
        what = f"its labels are {labels.dtype} {list(labels.shape)}; a list of whole numbers is read"
        raise UserError(str(path), what)
    _check(path, images, labels)
    return np.ascontiguousarray(images), labels


def _check(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    if len(images) != len(labels):
        raise UserError(str(path), f"holds {len(labels)} labels for {len(images)} images")
    if wrong := sorted({int(label) for label in labels} - set(range(10))):
        raise UserError(str(path), f"holds the label {wrong[0]}; 0 to 9 are allowed")


class _Batch(pickle.Unpickler):
    """An unpickler that accepts the four names in a pickled array of bytes, made harmless, and refuses any other."""

    def find_class(self, module: str, name: str) -> Any:
        """Return one of the few classes that a CIFAR batch needs.  Raises UnpicklingError for any other."""
        known: dict[tuple[str, str], Any] = {
            ("multiarray", "_reconstruct"): np.zeros(0).__reduce__()[0],  # where it lies depends on NumPy's version
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): _bytes_only,
            ("_codecs", "encode"): lambda text, _: text.encode("latin1"),  # bytes of Python 3 in the old protocol
        }
        place = "multiarray" if module in ("numpy.core.multiarray", "numpy._core.multiarray") else module
        if (place, name) not in known:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return known[place, name]


def _bytes_only(code: str | bytes, *_: Any) -> np.dtype:
    if code not in ("u1", b"u1"):
        raise pickle.UnpicklingError(f"it holds an array of type {code!r}")
    return np.dtype("u1", copy=True)
