"""Features of a frozen network on disk: what it says of an image is what a training gets, computed once."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from anomaly_bench.contracts import FrozenFeatures, Record
from anomaly_bench.errors import UserError
from anomaly_bench.loading.feature_cache import AT_ONCE, FeatureSet
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.loading.loaders import NormalLoaders
from anomaly_bench.loading.row_file import HEADER_BYTES

COUNT = 2 * AT_ONCE + 3
SIZE = 6
Dtype = Literal["float32", "float16"]


def records(count: int = COUNT, seed: int = 0) -> list[Record]:
    pixels = np.random.default_rng(seed).integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    return [Record(f"train/{i:05}", "good", image) for i, image in enumerate(pixels)]


class Network:
    """Two layers of elementwise arithmetic, so that an image gives the same to the bit in any batch."""

    def __init__(self) -> None:
        self.seen: list[int] = []  # images in each call

    def __call__(self, images: Tensor) -> list[Tensor]:
        assert images.dtype == torch.float32
        assert images.min() >= 0
        assert images.max() <= 1
        self.seen.append(len(images))
        return [images[:, :, ::2, ::3] * 37 - 0.1, images[:, :1].sqrt()]  # [B, 3, 3, 2], [B, 1, 6, 6]


def frozen(
    compute: Callable[[Tensor], list[Tensor]] | None = None, key: str = "net", dtype: Dtype = "float32"
) -> FrozenFeatures:
    return FrozenFeatures(compute or Network(), key, dtype, torch.device("cpu"))


def images(folder: Path, count: int = COUNT) -> ImageSet:
    return ImageSet(records(count), SIZE, folder)


def stored(folder: Path) -> list[Path]:
    assert not list(folder.glob("*.part"))
    return sorted(folder.glob("*.features"))


def assert_said(features: list[Tensor], image: Tensor, dtype: Dtype = "float32") -> None:
    expected = Network()(image[None])
    assert len(features) == 2
    for got, want in zip(features, expected, strict=True):
        assert got.dtype == torch.float32
        assert torch.equal(got, want[0].to(getattr(torch, dtype)).float())


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("count", [1, AT_ONCE, COUNT])
def test_each_image_has_the_networks_answer_in_its_place(tmp_path: Path, count: int, dtype: Dtype) -> None:
    data, network = images(tmp_path, count), Network()
    features = FeatureSet(data, frozen(network, dtype=dtype))
    assert len(features) == count
    assert sum(network.seen) == count + 1  # the first one once more, for the shapes
    for i in (*range(count), -1):
        maps, path = features[i]
        assert path == data[i]["path"]
        assert [tuple(m.shape) for m in maps] == [(3, 3, 2), (1, 6, 6)]
        assert_said(maps, data[i]["image"], dtype)
    with pytest.raises(IndexError):
        features[count]
    (file,) = stored(tmp_path)
    values = 3 * 3 * 2 + 6 * 6
    assert file.stat().st_size == HEADER_BYTES + 4 * count + count * values * np.dtype(dtype).itemsize


def test_features_can_be_changed_without_changing_the_file(tmp_path: Path) -> None:
    features = FeatureSet(images(tmp_path), frozen())
    for m in features[0][0]:
        m.zero_()
        assert not m.requires_grad
        assert not m.is_inference()
    assert_said(features[0][0], images(tmp_path)[0]["image"])


def test_a_network_of_lower_precision(tmp_path: Path) -> None:
    def compute(x: Tensor) -> list[Tensor]:
        return [x.bfloat16()]

    data = images(tmp_path)
    (got,), _ = FeatureSet(data, frozen(compute))[3]
    assert torch.equal(got, data[3]["image"].bfloat16().float())


def test_the_network_is_asked_once(tmp_path: Path) -> None:
    for seen in (4, 0):  # one image for the shapes and three batches
        network = Network()
        FeatureSet(images(tmp_path), frozen(network))
        assert len(network.seen) == seen
    assert len(stored(tmp_path)) == 1


def test_what_the_features_depend_on(tmp_path: Path) -> None:
    variants: list[tuple[list[Record], int, str, Dtype]] = [
        (records(), SIZE, "net", "float32"),
        (records(COUNT - 1), SIZE, "net", "float32"),
        (records(seed=1), SIZE, "net", "float32"),
        (records(), 12, "net", "float32"),
        (records(), SIZE, "another", "float32"),
        (records(), SIZE, "net", "float16"),
    ]
    for _ in range(2):  # the second time all are there
        for rows, size, key, dtype in variants:
            data = ImageSet(rows, size, tmp_path)
            assert_said(FeatureSet(data, frozen(key=key, dtype=dtype))[1][0], data[1]["image"], dtype)
        assert len(stored(tmp_path)) == len(variants)


@pytest.mark.parametrize("damage", ["a byte in the middle", "truncated", "another network's"])
def test_what_is_not_whole_is_computed_again(tmp_path: Path, damage: str) -> None:
    FeatureSet(images(tmp_path), frozen())
    (file,) = stored(tmp_path)
    whole = bytearray(file.read_bytes())
    if damage == "truncated":
        file.write_bytes(whole[:-1])
    elif damage == "a byte in the middle":
        whole[(HEADER_BYTES + len(whole)) // 2] ^= 1
        file.write_bytes(whole)
    else:
        FeatureSet(images(tmp_path / "other"), frozen(lambda x: [m + 1 for m in Network()(x)], key="other"))
        stored(tmp_path / "other")[0].replace(file)
    network = Network()
    features = FeatureSet(images(tmp_path), frozen(network))
    assert sum(network.seen) == COUNT + 1
    assert_said(features[COUNT // 2][0], images(tmp_path)[COUNT // 2]["image"])
    assert stored(tmp_path) == [file]


def spoiled(value: float, at: int) -> Callable[[Tensor], list[Tensor]]:
    """A network that says `value` once of the image `at`."""
    bright = torch.from_numpy(records()[at].image / 255).permute(2, 0, 1).float()

    def compute(x: Tensor) -> list[Tensor]:
        maps = Network()(x)
        maps[0][:, 1, 2, 1] = torch.where((x == bright).flatten(1).all(1), value, maps[0][:, 1, 2, 1])
        return maps

    return compute


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [
        (7e4, "float16", "a feature of 7e+04 is beyond float16 (65504) (method.feature_dtype=float32)"),
        (-7e4, "float16", "a feature of 7e+04 is beyond float16 (65504) (method.feature_dtype=float32)"),
        (float("nan"), "float16", "the network gives a feature that is not finite"),
        (float("nan"), "float32", "the network gives a feature that is not finite"),
        (float("-inf"), "float32", "the network gives a feature that is not finite"),
    ],
)
def test_a_feature_that_cannot_be_kept_names_the_image(tmp_path: Path, value: float, dtype: Dtype, said: str) -> None:
    with pytest.raises(UserError) as error:
        FeatureSet(images(tmp_path), frozen(spoiled(value, COUNT - 2), dtype=dtype))
    assert str(error.value) == f"train/{COUNT - 2:05}: {said}"
    assert stored(tmp_path) == []


def test_a_large_feature_fits_into_float32(tmp_path: Path) -> None:
    features = FeatureSet(images(tmp_path), frozen(spoiled(7e4, COUNT - 2)))
    assert [maps[0].max() > 6e4 for maps, _ in features] == [i == COUNT - 2 for i in range(COUNT)]


@pytest.mark.usefixtures("small_files_only")
def test_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^cache_dir: cannot write to .*: File too large"):
        FeatureSet(images(tmp_path), frozen(lambda x: [x.repeat(1, 20, 1, 1)]))  # 8640 bytes each
    assert stored(tmp_path) == []


def test_a_pickled_set_carries_no_features(tmp_path: Path) -> None:
    features = FeatureSet(images(tmp_path), frozen(lambda x: [x.repeat(1, 100, 1, 1)]))
    text = pickle.dumps(features)  # what a spawned worker gets; the network stays behind
    assert len(text) < 2000
    copy = pickle.loads(text)
    for i in range(COUNT):
        assert torch.equal(copy[i][0][0], features[i][0][0])
        assert copy[i][1] == features[i][1]


def test_a_file_that_is_removed_while_it_is_in_use(tmp_path: Path) -> None:
    features = FeatureSet(images(tmp_path), frozen())
    copy = pickle.loads(pickle.dumps(features))
    (file,) = stored(tmp_path)
    file.unlink()
    assert_said(features[2][0], images(tmp_path)[2]["image"])  # who has it open keeps it
    with pytest.raises(UserError, match=rf"^{file}: was removed or replaced while it was in use"):
        copy[2]


# --- loaders of a training


def loaders(folder: Path, workers: int = 0, val: int = 3, devices: int = 1) -> NormalLoaders:
    return NormalLoaders(records(), records(val, seed=1), SIZE, folder, workers, seed=5, devices=devices)


def paths(loader: Any) -> list[str]:
    return [path for batch in loader for path in batch["path"]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_batches_hold_features_and_paths_only(tmp_path: Path, workers: int, dtype: Dtype) -> None:
    data, whole = loaders(tmp_path, workers), images(tmp_path)
    loader = data.features("train", frozen(dtype=dtype), batch_size=4)
    for _ in range(2):  # workers stay
        batches = list(loader)
        assert [len(batch["path"]) for batch in batches] == [4, 4, 4, 4, COUNT - 16]
        assert all(set(batch) == {"features", "path"} for batch in batches)
        assert [tuple(m.shape) for m in batches[-1]["features"]] == [(COUNT - 16, 3, 3, 2), (COUNT - 16, 1, 6, 6)]
        assert paths(batches) == [record.path for record in whole.records]
        rows = [[m[i] for m in batch["features"]] for batch in batches for i in range(len(batch["path"]))]
        for maps, sample in zip(rows, whole, strict=True):  # type: ignore[call-overload]
            assert_said(maps, sample["image"], dtype)


def test_val_has_features_of_its_own(tmp_path: Path) -> None:
    data = loaders(tmp_path)
    (batch,) = data.features("val", frozen(), batch_size=8)
    for i, sample in enumerate(ImageSet(records(3, seed=1), SIZE, tmp_path)):  # type: ignore[arg-type, var-annotated]
        assert_said([m[i] for m in batch["features"]], sample["image"])


def test_shuffled_features_come_in_the_order_of_the_shuffled_images(tmp_path: Path) -> None:
    data = loaders(tmp_path)
    orders = []
    for epoch in range(3):
        both = [data.loader("train", 4, shuffle=True), data.features("train", frozen(), 4, shuffle=True)]
        for loader in both:
            loader.sampler.set_epoch(epoch)  # type: ignore[attr-defined]
        orders.append(paths(both[1]))
        assert orders[-1] == paths(both[0])
        for image, batch in zip(*both, strict=True):
            assert_said([m[0] for m in batch["features"]], image["image"][0])
    assert len({tuple(order) for order in orders}) == 3
    assert sorted(orders[0]) == [record.path for record in records()]


def test_what_cannot_be_trained_on_is_said_before_anything_is_computed(tmp_path: Path) -> None:
    network = Network()
    with pytest.raises(UserError, match=r"val_share: the method needs 'val' images, and there are none"):
        loaders(tmp_path, val=0).features("val", frozen(network), 4)
    with pytest.raises(UserError, match=r"method.batch_size: 3 cannot be shared evenly by 2 devices"):
        loaders(tmp_path, devices=2).features("train", frozen(network), 3)
    assert network.seen == []
    assert stored(tmp_path) == []
    assert loaders(tmp_path, devices=2).features("train", frozen(network), 4).batch_size == 2
