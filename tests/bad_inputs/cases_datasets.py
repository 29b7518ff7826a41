"""MVTec AD and other published data sets, Magnetic Tile Defects and the one-class sets."""

from __future__ import annotations

import pickle
import struct

import numpy as np
from bad_inputs import harms as h
from bad_inputs.judge import Case, Outcome, refused, said, works
from bad_inputs.worlds import BOTTLE, MTD, TRAIN
from small_arrays import idx, pictures, python2

BASE = "data/mvtec/bottle"
IMGS = "mtd/MT_Crack/Imgs"
FREE = [f"Free{i}.jpg" for i in range(10)]


def _mvtec(name: str, harm: h.Harm | None, *outcomes: Outcome, more: tuple[str, ...] = ()) -> Case:
    return Case(f"mvtec: {name}", [*BOTTLE, *more], outcomes, "mvtec", harm)


def _set(data: str, name: str, harm: h.Harm | None, *outcomes: Outcome, more: tuple[str, ...] = ()) -> Case:
    words = [f"dataset={data}" if word == "dataset=folder" else word for word in TRAIN]
    return Case(f"{data}: {name}", [*words, "dataset.root=data", *more], outcomes, "sets", harm)


def _mtd(name: str, harm: h.Harm | None, *outcomes: Outcome, more: tuple[str, ...] = ()) -> Case:
    return Case(f"mtd: {name}", [*MTD, *more], outcomes, "mtd", harm)


def _split(name: str, lines: str | bytes, *outcomes: Outcome) -> Case:
    return _mtd(name, h.content("split.txt", lines), *outcomes, more=("dataset.split_file=split.txt",))


def _one(name: str, harm: h.Harm | None, *outcomes: Outcome, data: str = "mnist/3", more: tuple[str, ...] = ()) -> Case:
    words = [f"dataset={data}" if word == "dataset=folder" else word for word in TRAIN]
    return Case(f"{data}: {name}", [*words, "dataset.root=arrays", *more], outcomes, "arrays", harm)


def _digits(name: str, file: str, content: bytes, *names: str) -> Case:
    return _one(name, h.content(f"arrays/MNIST/raw/{file}", content), refused(*(names or (file,))))


class Shell:
    """Leaves a file called `ran` where its pickle is loaded."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch ran",)


def _cifar(name: str, batch: object, *outcomes: Outcome) -> Case:
    content = batch if isinstance(batch, bytes) else python2(batch)
    harm = h.content("arrays/cifar-10-batches-py/data_batch_2", content)
    return _one(name, harm, *(outcomes or (refused("data_batch_2"),)), data="cifar10/cat")


MVTEC = [
    _mvtec("the category is not there", None, refused("cable"), more=("dataset=mvtec/cable",)),
    _mvtec("a category that is none", None, refused("nix"), more=("dataset.category=nix",)),
    _mvtec("the root is the category", None, refused("bottle"), more=(f"dataset.root={BASE}",)),
    _mvtec("the folder above the root", None, works("mvtec"), more=("dataset.root=data",)),
    _mvtec("no name of a category", None, refused("mvtec/all", "mvtec/bottle"), more=("dataset=mvtec",)),
    _mvtec("all categories in one run", None, refused("--multirun"), more=("dataset=mvtec/all",)),
    _mvtec("misspelt", None, refused("mvtec/bottle"), more=("dataset=mvtec/botle",)),
    _mvtec("in capitals", None, refused("mvtec/bottle"), more=("dataset=MVTec/Bottle",)),
    _mvtec("a mask is missing", h.remove(f"{BASE}/ground_truth/hole/001_mask.png"), refused("001.png")),
    _mvtec("a mask too many", h.copy(f"{BASE}/ground_truth/hole/001_mask.png", f"{BASE}/ground_truth/hole/9_mask.png"), said("9_mask", same="mvtec"), refused("9_mask")),
    _mvtec("an empty category", h.empty(BASE), refused("bottle")),
    _mvtec("the category is a file", h.both(h.remove(BASE), h.content(BASE, "x")), refused("bottle")),
    _mvtec("an archive beside the images", h.content(f"{BASE}/train/good/x.zip", "x"), said("x.zip", same="mvtec")),
]  # fmt: skip
SETS = [
    _set("visa/candle", "a line that names a missing file", h.remove("data/visa/candle/Data/Images/Anomaly/001.JPG"), refused("1cls.csv:8", "001.JPG")),
    _set("visa/candle", "no split file", h.remove("data/visa/split_csv/1cls.csv"), refused("1cls.csv")),
    _set("visa/pcb2", "the object is not there", None, refused("pcb2")),
    _set("mvtec_ad2/can", "no validation images", h.remove("data/mvtec_ad2/can/validation"), refused("validation/good")),
    _set("mvtec_ad2/can", "a mask is missing", h.remove("data/mvtec_ad2/can/test_public/ground_truth/bad/000_regular_mask.png"), refused("000_regular.png")),
    _set("mvtec_loco/pushpins", "no logical anomalies", h.remove("data/mvtec_loco/pushpins/test/logical_anomalies"), refused("logical_anomalies")),
    _set("mvtec_loco/pushpins", "a folder of masks without a mask", h.empty("data/mvtec_loco/pushpins/ground_truth/logical_anomalies/001"), refused("logical_anomalies/001")),
    _set("mvtec_loco/pushpins", "one channel of another size", h.on("data/mvtec_loco/pushpins/ground_truth/logical_anomalies/001/001.png", h.pixels(lambda a: a[:5])), refused("001.png", "16 x 5", failed=True)),
    _set("btad/01", "half a mask file", h.on("data/btad/01/ground_truth/ko/0001.png", h.cut), refused("0001.png", failed=True)),
    _set("ksdd2", "a mask is missing", h.remove("data/ksdd2/train/10002_GT.png"), refused("10002.png")),
    _set("ksdd2", "its root is another set", None, refused("dataset.root"), more=("dataset.root=data/btad",)),
    _set("autovi/pipe_clip", "an empty folder of images", h.empty("data/autovi/pipe_clip/test/fastening"), refused("fastening")),
]  # fmt: skip
TILES = [
    _mtd("a kind is missing", h.remove("mtd/MT_Crack"), refused("MT_Crack")),
    _mtd("no free tile", h.remove("mtd/MT_Free"), refused("MT_Free")),
    _mtd("an empty kind", h.empty(IMGS), refused("MT_Crack")),
    _mtd("a mask is missing", h.remove(f"{IMGS}/Crack1.png"), refused("Crack1")),
    _mtd("a mask too many", h.copy(f"{IMGS}/Crack1.png", f"{IMGS}/x.png"), said("x.png", same="mtd"), refused("x.png")),
    _mtd("another suffix", h.move(f"{IMGS}/Crack1.jpg", f"{IMGS}/Crack1.jpeg"), said("Crack1.jpeg"), refused("Crack1")),
    _mtd("a mask is empty", h.on(f"{IMGS}/Crack1.png", h.pixels(lambda a: a * 0)), said("empty mask")),
    _mtd("train_share=1", None, refused("dataset.train_share"), more=("dataset.train_share=1",)),
    _mtd("train_share=0.01", None, refused("train_share"), more=("dataset.train_share=0.01",)),
    _mtd("no such split file", None, refused("nix.txt"), more=("dataset.split_file=nix.txt",)),
    _mtd("the split file is a folder", None, refused("mtd"), more=("dataset.split_file=mtd",)),
    _split("split file without content", "", refused("split.txt")),
    _split("split file of bytes", bytes(range(256)), refused("split.txt")),
    _split("split file with an unknown name", "\n".join([*FREE[:6], "Free99.jpg"]), refused("Free99.jpg")),
    _split("split file with a defect", "\n".join([*FREE[:6], "Crack1.jpg"]), refused("Crack1.jpg")),
    _split("split file with a line twice", "\n".join([*FREE[:6], FREE[0]]), said("Free0.jpg"), refused("Free0.jpg")),
    _split("split file of Windows", "\ufeff" + "\r\n".join(FREE[:6]) + "\r\n", works()),
    _split("split file of all free tiles", "\n".join(FREE), said("normal"), said("good"), refused("free"), refused("good")),
]  # fmt: skip
ONE_CLASS = [
    _one("small files", None, said("they are used as they are")),
    _one("no files", h.remove("arrays/MNIST"), refused("MNIST")),
    _one("a file is missing", h.remove("arrays/MNIST/raw/t10k-labels-idx1-ubyte"), refused("t10k-labels")),
    _one("half a file", h.on("arrays/MNIST/raw/train-images-idx3-ubyte", h.cut), refused("train-images")),
    _one("a file is a folder", h.both(h.remove("arrays/MNIST/raw/train-images-idx3-ubyte"), h.folder("arrays/MNIST/raw/train-images-idx3-ubyte")), refused("train-images")),
    _digits("without content", "train-images-idx3-ubyte", b""),
    _digits("another kind of file", "train-images-idx3-ubyte", struct.pack(">4I", 0x801, 6, 28, 28) + bytes(6 * 784)),
    _digits("images of 32 pixels", "train-images-idx3-ubyte", idx(np.zeros((6, 32, 32), np.uint8))),
    _digits("more labels than images", "train-labels-idx1-ubyte", idx(np.full(7, 3, np.uint8))),
    _digits("the label 11", "train-labels-idx1-ubyte", idx(np.array([3, 7, 3, 0, 11, 3], np.uint8))),
    _digits("no image of the class", "train-labels-idx1-ubyte", idx(np.array([1, 7, 1, 0, 1, 1], np.uint8)), "train"),
    _one("a category that is none", None, refused("11"), more=("dataset.category='11'",)),
    _one("the digit as a number", None, said(), refused("category"), more=("dataset.category=4",)),
    _one("small batches", None, said("they are used as they are"), data="cifar10/cat"),
    _one("a batch is missing", h.remove("arrays/cifar-10-batches-py/data_batch_3"), refused("data_batch_3"), data="cifar10/cat"),
    _one("half a batch", h.on("arrays/cifar-10-batches-py/test_batch", h.cut), refused("test_batch"), data="cifar10/cat"),
    _cifar("pickle with os.system", pickle.dumps(Shell())),
    _cifar("pickle with os.system as labels", pickle.dumps({"data": 1, "labels": Shell()})),
    _cifar("text", b"hello"),
    _cifar("no dictionary", [1, 2]),
    _cifar("fewer labels", {"labels": [3], "data": pictures(2, 2)}),
    _cifar("labels of text", {"labels": ["cat", "dog"], "data": pictures(2, 2)}),
    _cifar("the label -1", {"labels": [3, -1], "data": pictures(2, 2)}),
    _cifar("rows of another length", {"labels": [3, 5], "data": pictures(2, 2)[:, :3000]}),
    _cifar("floating-point pixels", pickle.dumps({"labels": [3, 5], "data": pictures(2, 2).astype(float)})),
]  # fmt: skip
CASES = [*MVTEC, *SETS, *TILES, *ONE_CLASS]
