from __future__ import annotations

import gzip
import os
import pickle
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_arrays import digits, idx, pictures, python2, write_cifar10, write_mnist

from anomaly_bench.datasets import one_class
from anomaly_bench.datasets.one_class import CIFAR10, MNIST, FashionMNIST, read_batch
from anomaly_bench.errors import UserError
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.records import Record

small = pytest.mark.filterwarnings("ignore:.*they are used as they are")
DATA = Path(os.environ.get("ANOMALY_BENCH_DATA", "nowhere"))


def shown(path: Path) -> str:
    """What a dataset says of a file that is wrong."""
    with pytest.raises(UserError) as error:
        (CIFAR10("cat", str(path.parent)) if "batch" in path.name else MNIST("3", str(path.parent))).records("train")
    assert error.value.where == str(path)
    return error.value.what


def number(record: Record) -> int:
    """What `small_arrays.digits` wrote into an image."""
    return int(np.asarray(record.image)[1, 1])


@small
@pytest.mark.parametrize("zipped", [False, True])
def test_one_digit_is_normal(tmp_path: Path, zipped: bool) -> None:
    data = MNIST("3", str(write_mnist(tmp_path / "MNIST/raw", zipped).parents[1]))
    train, test = data.records("train"), data.records("test")
    assert [(r.path, r.kind, number(r)) for r in train] == [
        ("train/00000", "good", 10),
        ("train/00002", "good", 12),
        ("train/00005", "good", 15),
    ]
    assert [(r.path, r.kind, r.label, number(r)) for r in test] == [
        ("test/00000", "digit_7", 1, 20),
        ("test/00001", "good", 0, 21),
        ("test/00002", "good", 0, 22),
        ("test/00003", "digit_9", 1, 23),
    ]
    assert all(r.mask is None for r in train + test)


@small
def test_one_garment_is_normal(tmp_path: Path) -> None:
    data = FashionMNIST("sneaker", str(write_mnist(tmp_path / "FashionMNIST/raw").parents[1]))
    assert [r.path for r in data.records("train")] == ["train/00001"]
    assert [r.kind for r in data.records("test")] == ["good", "dress", "dress", "ankle_boot"]


@small
def test_one_thing_is_normal(tmp_path: Path) -> None:
    data = CIFAR10("cat", str(write_cifar10(tmp_path / "cifar-10-batches-py").parent))
    train, test = data.records("train"), data.records("test")
    assert [r.path for r in train] == [f"train/0000{i}" for i in (0, 2, 4, 6, 8)]
    assert [r.kind for r in test] == ["good", "ship", "dog"]
    stored = pictures(2, 4)[0]  # the cat of the fourth batch
    image = train[3].image
    assert isinstance(image, np.ndarray)
    assert image.shape == (32, 32, 3)
    for y, x, channel in ((0, 0, 0), (1, 2, 0), (31, 5, 1), (30, 31, 2)):
        assert image[y, x, channel] == stored[1024 * channel + 32 * y + x]


@small
def test_arrays_become_samples(tmp_path: Path) -> None:
    grey = MNIST("3", str(write_mnist(tmp_path / "a"))).records("test")
    colour = CIFAR10("cat", str(write_cifar10(tmp_path / "b"))).records("test")
    for records in (grey, colour):
        images = ImageSet(records, 32, tmp_path / "cache")
        sample = images[1]
        assert images.masks is None
        assert sample["image"].shape == (3, 32, 32)
        assert not sample["mask"].any()
    assert np.array_equal(
        (ImageSet(colour, 32, tmp_path / "cache")[1]["image"] * 255).round(), as_planes(colour[1].image)
    )


def as_planes(image: np.ndarray | Path) -> np.ndarray:
    return np.asarray(image).transpose(2, 0, 1)


# --- where the files are looked for


@small
def test_the_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ANOMALY_BENCH_DATA", raising=False)
    with pytest.raises(UserError, match=r"dataset.root: none of the files of MNIST/raw in data/mnist .*prepare mnist"):
        MNIST("3", None).records("train")
    write_mnist(tmp_path / "data/mnist")
    assert len(MNIST("3", None).records("train")) == 3
    write_mnist(tmp_path / "shared/mnist/MNIST/raw", zipped=True)
    monkeypatch.setenv("ANOMALY_BENCH_DATA", "shared")
    (tmp_path / "data/mnist/train-images-idx3-ubyte").unlink()  # is not looked at any more
    assert len(MNIST("3", None).records("train")) == 3
    for root in ("shared", "shared/mnist", "shared/mnist/MNIST/raw"):
        assert len(MNIST("3", root).records("train")) == 3
    with pytest.raises(UserError, match=r"none of the files of cifar-10-batches-py in shared or shared/cifar10"):
        CIFAR10("cat", "shared").records("train")


# --- not as many images as there officially are


def test_other_numbers_are_said_once(tmp_path: Path) -> None:
    data = MNIST("3", str(write_mnist(tmp_path / "mnist")))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.records("train"), data.records("test"), data.records("train")
    assert [str(w.message) for w in caught] == [
        f"{tmp_path / 'mnist'} holds 6 training and 4 test images, the official files 60000 and 10000; "
        "they are used as they are"
    ]


def test_the_official_numbers_are_not_remarked_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(one_class.ROWS, "mnist", (6, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert MNIST("3", str(write_mnist(tmp_path / "mnist"))).records("train")


# --- damaged and other files


@pytest.mark.parametrize(
    ("file", "damage", "said"),
    [
        ("train-images-idx3-ubyte", lambda f: f.unlink(), "No such file"),
        ("t10k-labels-idx1-ubyte", lambda f: f.unlink(), "No such file"),
        (
            "train-images-idx3-ubyte",
            lambda f: f.write_bytes(f.read_bytes()[:-1]),
            "has 4719 bytes, its header promises 4720",
        ),
        ("train-images-idx3-ubyte", lambda f: f.write_bytes(f.read_bytes() + b"0"), "has 4721 bytes"),
        ("train-images-idx3-ubyte", lambda f: f.write_bytes(f.read_bytes()[:10]), "holds arrays of"),
        ("t10k-images-idx3-ubyte", lambda f: f.write_bytes(b""), "starts with 0x00000000, not with 0x00000803"),
        ("t10k-images-idx3-ubyte", lambda f: f.write_bytes(idx(np.zeros(4, np.uint8))), "starts with 0x00000801"),
        ("t10k-images-idx3-ubyte", lambda f: f.write_bytes(idx(np.zeros((4, 20, 28), np.uint8))), "arrays of [20, 28]"),
        ("t10k-labels-idx1-ubyte", lambda f: f.write_bytes(idx(np.zeros(3, np.uint8))), "3 labels for 4 images"),
        ("train-labels-idx1-ubyte", lambda f: f.write_bytes(idx(np.full(6, 10, np.uint8))), "the label 10; 0 to 9"),
    ],
)
def test_a_wrong_idx_file_is_named(tmp_path: Path, file: str, damage: Callable[[Path], object], said: str) -> None:
    damage(write_mnist(tmp_path / "mnist") / file)
    assert said in shown(tmp_path / "mnist" / file)


def test_a_wrong_gz_file_is_named(tmp_path: Path) -> None:
    file = write_mnist(tmp_path / "mnist", zipped=True) / "train-images-idx3-ubyte.gz"
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"not zipped", whole[:20] + b"xyz" + whole[23:]):
        file.write_bytes(content)
        assert "cannot be read" in shown(file)
    file.write_bytes(gzip.compress(idx(digits(6, 0))[:-1]))
    assert "its header promises" in shown(file)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "EOFError"),
        (python2({"data": pictures(2, 0), "labels": [3, 5]})[:-100], "is damaged or no batch of CIFAR-10"),
        (python2([1, 2]), "no batch of CIFAR-10"),
        (python2({"data": pictures(2, 0), "fine_labels": [3, 5]}), "KeyError 'labels'"),
        (python2({"data": "pixels", "labels": [3, 5]}), "no batch of CIFAR-10"),
        (python2({"data": pictures(2, 0)[:, 1:], "labels": [3, 5]}), "cannot reshape"),
        (python2({"data": pictures(2, 0).astype(np.float32), "labels": [3, 5]}), "holds an array of type b'f4'"),
        (python2({"data": pictures(2, 0), "labels": [3]}), "holds 1 labels for 2 images"),
        (python2({"data": pictures(2, 0), "labels": [3, 10]}), "holds the label 10; 0 to 9 are allowed"),
        (python2({"data": pictures(2, 0), "labels": [3, -1]}), "holds the label -1"),
        (python2({"data": pictures(2, 0), "labels": ["cat", "dog"]}), "a list of whole numbers is read"),
    ],
)
def test_a_wrong_batch_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    file = write_cifar10(tmp_path / "cifar10") / "data_batch_3"
    file.write_bytes(content)
    assert said in shown(file)
    file.unlink()
    assert "No such file" in shown(file)


class Mkdir:
    """Makes a folder when it is unpickled by the usual means."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.path,)


def test_nothing_in_a_pickle_is_run(tmp_path: Path) -> None:
    content = python2({"data": Mkdir(tmp_path / "made"), "labels": []})
    file = write_cifar10(tmp_path / "cifar10") / "data_batch_1"
    file.write_bytes(content)
    assert f"it asks for {os.mkdir.__module__}.mkdir" in shown(file)
    assert not (tmp_path / "made").exists()
    pickle.loads(content)  # the trap works
    assert (tmp_path / "made").exists()


@pytest.mark.parametrize("content", ["python2", "python3"])
def test_both_pythons_write_batches(tmp_path: Path, content: str) -> None:
    batch = {"data": pictures(2, 0), "labels": [3, 5], "filenames": ["a.png", "b.png"]}
    file = tmp_path / "test_batch"
    file.write_bytes(python2(batch) if content == "python2" else pickle.dumps(batch, 2))
    assert (b"_codecs" in file.read_bytes()) == (content == "python3")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, labels = read_batch(file)
    assert labels.tolist() == [3, 5]
    assert np.array_equal(images[1], pictures(2, 0)[1].reshape(3, 32, 32).transpose(1, 2, 0))


# --- real files


@pytest.mark.realdata
@pytest.mark.skipif(not (DATA / "mnist").is_dir(), reason="no mnist in $ANOMALY_BENCH_DATA")
def test_real_digits() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = MNIST("3", None)
        train, test = data.records("train"), data.records("test")
    assert len(train) == 6131
    kinds = Counter(r.kind for r in test)
    assert (len(test), kinds["good"], kinds["digit_1"], len(kinds)) == (10000, 1010, 1135, 10)
    assert 30 < np.mean([np.asarray(r.image) for r in train]) < 40  # 33.3 over all digits


@pytest.mark.realdata
@pytest.mark.skipif(not (DATA / "cifar10_subset").is_dir(), reason="no cifar10_subset in $ANOMALY_BENCH_DATA")
def test_a_real_subset_of_things() -> None:
    data = CIFAR10("frog", str(DATA / "cifar10_subset"))
    with pytest.warns(UserWarning, match="holds 3000 training and 600 test images, the official files 50000 and 10000"):
        train = data.records("train")
    assert len(train) == 300
    others = [thing for thing in one_class.CATEGORIES["cifar10"] if thing != "frog"]
    assert Counter(r.kind for r in data.records("test")) == dict.fromkeys(["good", *others], 60)


def test_a_place_whose_name_is_too_long_is_no_place() -> None:
    with pytest.raises(UserError, match=r"dataset.root: none of the files of MNIST/raw in x+ or x+/mnist"):
        MNIST("3", "x" * 300).records("train")
