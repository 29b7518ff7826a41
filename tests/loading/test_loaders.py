from __future__ import annotations

import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.data import _is_dataloader_shuffled
from small_device import DEVICE, Waits
from small_images import grey, save, square
from torch.utils.data.distributed import DistributedSampler

from anomaly_bench.contracts import FrozenFeatures, Record
from anomaly_bench.datasets.mvtec import MVTec
from anomaly_bench.errors import UserError
from anomaly_bench.loading import image_cache as cache
from anomaly_bench.loading.device_loader import ahead
from anomaly_bench.loading.frame import Frame
from anomaly_bench.loading.image_dataset import ImageSet, to_floats, to_tensor
from anomaly_bench.loading.image_files import fingerprint
from anomaly_bench.loading.loaders import EpochSampler, NormalLoaders, split_val


@pytest.fixture
def screws(category: Path) -> list[Record]:
    """Two good images, then two bent and one cut."""
    return sorted(MVTec("screw", str(category.parent)).records("test"), key=lambda record: record.label)


def normal(count: int) -> list[Record]:
    return [Record(f"train/{i:05}", "good", grey(i)) for i in range(count)]


def paths(loader: Any) -> list[str]:
    return [path for batch in loader for path in batch["path"]]


def test_val_is_cut_by_the_seed_in_order() -> None:
    records = normal(20)
    train, val = split_val(records, 0.25, seed=3)
    assert len(val) == 5
    assert sorted(r.path for r in train + val) == [r.path for r in records]
    assert [r.path for r in val] == sorted(r.path for r in val)
    assert [r.path for r in split_val(records, 0.25, 3)[1]] == [r.path for r in val]
    assert [r.path for r in split_val(records, 0.25, 4)[1]] != [r.path for r in val]


def test_val_shares_at_the_edges() -> None:
    assert [len(part) for part in split_val(normal(4), 0, 0)] == [4, 0]
    assert [len(part) for part in split_val(normal(4), 0.01, 0)] == [3, 1]
    for count, share in ((1, 0.5), (4, 0.99), (4, 1.0), (4, -0.1)):
        with pytest.raises(UserError, match="val_share"):
            split_val(normal(count), share, 0)


def test_the_fingerprint_names_a_list_and_not_its_place(screws: list[Record], tmp_path: Path) -> None:
    moved = []
    for record in screws:
        copy = tmp_path / "elsewhere" / record.path
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(record.image.read_bytes())
        moved.append(Record(record.path, record.kind, copy))
    assert fingerprint(moved[::-1]) == fingerprint(screws)
    moved[0].image.write_bytes(b"another length")
    assert fingerprint(moved) != fingerprint(screws)
    assert fingerprint(normal(2)) == fingerprint(normal(2))
    assert fingerprint(normal(2)) != fingerprint([*normal(1), Record("train/00001", "good", grey(9))])


def test_samples(screws: list[Record], tmp_path: Path) -> None:
    images = ImageSet(screws, 8, tmp_path / "cache")
    assert len(images) == 5
    assert images.records == screws
    first, last = images[0], images[-1]
    assert (first["label"], first["kind"], first["path"]) == (0, "good", "screw/test/good/000.png")
    assert first["image"].dtype == torch.float32
    assert torch.equal(first["image"], torch.full((3, 8, 8), 10 / 255))
    assert not first["mask"].any()
    assert (last["label"], last["kind"], last["path"]) == (1, "cut", "screw/test/cut/000.png")
    assert torch.equal(last["mask"], torch.from_numpy(square() > 0))
    assert images[0]["image"].is_contiguous()
    assert [sample["path"] for sample in images] == [r.path for r in screws]


def test_without_masks_and_without_records(tmp_path: Path) -> None:
    sample = ImageSet(normal(3), 4, tmp_path)[2]
    assert torch.equal(sample["image"], torch.full((3, 4, 4), 2 / 255))
    assert sample["mask"].shape == (4, 4)
    assert not sample["mask"].any()
    assert len(ImageSet([], 4, tmp_path)) == 0


def test_masks_are_read_alone(screws: list[Record], tmp_path: Path) -> None:
    images = ImageSet(screws, 8, tmp_path / "cache")
    masks = images.masks
    assert masks is not None
    assert len(masks) == len(images) == 5
    for mask, sample in zip(masks, images, strict=True):  # type: ignore[call-overload]
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, sample["mask"].numpy())
    np.testing.assert_array_equal(masks[-1], square() > 0)
    with pytest.raises(IndexError):
        masks[5]
    for file in (tmp_path / "cache").iterdir():  # at any time
        file.unlink()
    np.testing.assert_array_equal(masks[-1], square() > 0)


def test_channels_keep_their_order(tmp_path: Path) -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[0, 1] = (51, 102, 255)
    sample = ImageSet([Record("a", "good", image)], 4, tmp_path)[0]
    assert torch.allclose(sample["image"][:, 0, 1], torch.tensor([0.2, 0.4, 1.0]))


def test_no_file_is_decoded_twice(screws: list[Record], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def decoded_again(*_: Any) -> None:
        raise AssertionError

    before = [sample["image"] for sample in ImageSet(screws, 8, tmp_path / "c")]
    monkeypatch.setattr(Frame, "read", decoded_again)
    again = ImageSet(screws, 8, tmp_path / "c")
    assert all(torch.equal(a, b["image"]) for a, b in zip(before, again, strict=True))
    with pytest.raises(AssertionError):  # another size is another cache
        ImageSet(screws, 6, tmp_path / "c")
    monkeypatch.setattr(cache, "RESIZE_RULE", 1)
    with pytest.raises(AssertionError):  # as are pixels of another rule
        ImageSet(screws, 8, tmp_path / "c")


def test_a_changed_image_is_seen(screws: list[Record], tmp_path: Path) -> None:
    ImageSet(screws, 8, tmp_path / "c")
    before = screws[0].image.stat()
    save(screws[0].image, grey(99))
    os.utime(screws[0].image, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert screws[0].image.stat().st_size == before.st_size  # only the time tells
    assert ImageSet(screws, 8, tmp_path / "c")[0]["image"][0, 0, 0] == 99 / 255


def test_a_changed_mask_is_seen(screws: list[Record], tmp_path: Path) -> None:
    ImageSet(screws, 8, tmp_path / "c")
    save(screws[-1].mask, grey(255))
    assert ImageSet(screws, 8, tmp_path / "c")[-1]["mask"].all()


@pytest.mark.parametrize("damage", ["truncate", "foreign", "empty", "longer"])
def test_a_damaged_cache_is_built_again(screws: list[Record], tmp_path: Path, damage: str) -> None:
    ImageSet(screws, 8, tmp_path / "c")
    (file,) = (tmp_path / "c").iterdir()
    whole = file.read_bytes()
    wrong = {
        "truncate": whole[:-1],
        "foreign": b"?" * len(whole),
        "empty": b"",
        "longer": whole + b"\0",
    }[damage]
    file.write_bytes(wrong)
    assert ImageSet(screws, 8, tmp_path / "c")[0]["image"][0, 0, 0] == 10 / 255
    assert file.read_bytes() == whole


def test_two_at_once_do_not_hurt_each_other(tmp_path: Path) -> None:
    records = normal(100)
    with ThreadPoolExecutor(4) as pool:
        sets = list(pool.map(lambda _: ImageSet(records, 64, tmp_path), range(4)))
    assert all(images[i]["image"][0, 0, 0] == i / 255 for images in sets for i in range(100))
    assert len(list(tmp_path.iterdir())) == 1  # no part file is left


def test_a_pickled_set_carries_no_pixels(tmp_path: Path) -> None:
    images = ImageSet([Record("a", "good", save(tmp_path / "a.png", grey(3)))], 256, tmp_path / "c")
    assert images[0]["image"].shape == (3, 256, 256)
    text = pickle.dumps(images)
    assert len(text) < 2000
    assert torch.equal(pickle.loads(text)[0]["image"], images[0]["image"])


def test_a_cache_dir_that_cannot_be_written(screws: list[Record], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cache_dir: cannot write .*file/c: Not a directory .*cache_dir="):
        ImageSet(screws, 8, tmp_path / "file" / "c")


@pytest.mark.usefixtures("small_files_only")
def test_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cache_dir: cannot write to .*: File too large"):
        ImageSet(normal(4), 256, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_cannot_be_used_is_named(screws: list[Record], tmp_path: Path) -> None:
    screws[1].image.write_bytes(b"broken")
    with pytest.raises(UserError, match=r"good/001.png: cannot be read"):
        ImageSet(screws, 8, tmp_path / "c")
    screws[1].image.unlink()
    with pytest.raises(UserError, match=r"good/001.png: cannot be read: No such file"):
        ImageSet(screws, 8, tmp_path / "c")
    assert list((tmp_path / "c").iterdir()) == []


def test_a_mask_of_another_size_is_named(screws: list[Record], tmp_path: Path) -> None:
    save(screws[-1].mask, grey(0, 9))
    with pytest.raises(UserError, match=r"cut/000_mask.png: the mask has 9 x 9 pixels, its image 8 x 8"):
        ImageSet(screws, 8, tmp_path / "c")


def test_empty_masks_are_counted_aloud(screws: list[Record], tmp_path: Path) -> None:
    save(screws[-1].mask, grey(0))
    for _ in ("built", "from the cache"):
        with pytest.warns(UserWarning, match=r"1 of 3 defective images have an empty mask \(first: screw/test/cut/000"):
            images = ImageSet(screws, 8, tmp_path / "c")
    assert images[-1]["label"] == 1
    assert not images[-1]["mask"].any()


def loaders(tmp_path: Path, workers: int = 0, seed: int = 0) -> NormalLoaders:
    return NormalLoaders(normal(10), normal(3), 4, tmp_path, workers, seed)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_hold_images_and_paths_only(tmp_path: Path, workers: int) -> None:
    data = loaders(tmp_path, workers)
    assert data.sizes == {"train": 10, "val": 3}
    loader = data.loader("train", batch_size=4)
    assert loader.persistent_workers == (workers > 0)
    batches = list(loader)
    assert [len(batch["path"]) for batch in batches] == [4, 4, 2]
    assert all(set(batch) == {"image", "path"} for batch in batches)
    assert batches[0]["image"].shape == (4, 3, 4, 4)
    assert batches[0]["image"].dtype == torch.float32
    assert paths(loader) == [r.path for r in normal(10)]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_value_becomes_the_same_number_as_in_numpy(dtype: type[np.unsignedinteger[Any]]) -> None:
    white = np.iinfo(dtype).max
    values = np.arange(white + 1, dtype=dtype).reshape(1, -1, 16, 1).repeat(3, 3)  # [1, H, 16, 3]
    found = to_floats(torch.from_numpy(values))
    assert found.is_contiguous()
    assert np.array_equal(found.numpy(), values.transpose(0, 3, 1, 2).astype(np.float32) / np.float32(white))
    assert torch.equal(to_tensor(values[0]), found[0])


def test_images_and_features_cross_to_the_device_as_they_are_stored(tmp_path: Path) -> None:
    data = NormalLoaders(normal(10), normal(3), 4, tmp_path, 0, 0, device=DEVICE)
    frozen = FrozenFeatures(lambda x: [x, x[:, :, ::2, ::2]], "as they are", "float16", torch.device("cpu"))
    crossed = []
    for loader in (data.loader("train", 4, shuffle=True, min_samples=12), data.features("train", frozen, 4)):
        batches = iter(loader)
        with Waits() as waits:
            batch = next(batches)
        crossed.append([each.partition(" between")[0] for each in waits.found])
        for tensor in (batch["image"],) if "image" in batch else batch["features"]:
            assert tensor.device == DEVICE
            assert tensor.dtype == torch.float32
            assert tensor.is_contiguous()
    assert crossed == [["_to_copy of torch.uint8"], ["_to_copy of torch.float16"]]
    assert [tuple(tensor.shape) for tensor in batch["features"]] == [(4, 3, 4, 4), (4, 3, 2, 2)]


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_unusable_file_is_named_before_any_loader_is_asked_for(split: str, tmp_path: Path) -> None:
    absent = [Record("absent.png", "good", tmp_path / "absent.png")]
    train, val = (absent, []) if split == "train" else ([], absent)
    with pytest.raises(UserError, match=r"absent\.png: cannot be read"):
        NormalLoaders(train, val, 8, tmp_path / "cache", workers=0, seed=0)


def test_an_empty_split_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'val'"):
        NormalLoaders(normal(2), [], 4, tmp_path, workers=0, seed=0).loader("val", 1)


def test_the_order_depends_on_seed_and_epoch_alone(tmp_path: Path) -> None:
    def order(seed: int, epoch: int) -> list[str]:
        loader = loaders(tmp_path, seed=seed).loader("train", 4, shuffle=True)
        loader.sampler.set_epoch(epoch)
        return paths(loader)

    orders = [order(seed, epoch) for seed in (0, 1, 2**32 - 1) for epoch in (0, 1)]
    torch.rand(7)
    assert order(1, 1) == orders[3]
    assert len({tuple(o) for o in orders}) == 6
    assert all(sorted(o) == [r.path for r in normal(10)] for o in orders)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("min_samples", [1, 7, 10, 24, 60])
def test_an_epoch_goes_through_all_images_until_there_are_enough(
    tmp_path: Path, workers: int, min_samples: int
) -> None:
    loader = loaders(tmp_path, workers).loader("train", 4, shuffle=True, min_samples=min_samples)
    batches = list(loader)
    drawn, rounds = [path for batch in batches for path in batch["path"]], -(-min_samples // 10)
    assert [len(batch["path"]) for batch in batches] == [4] * (10 * rounds // 4) + [2] * (10 * rounds % 4 > 0)
    orders = [drawn[start : start + 10] for start in range(0, len(drawn), 10)]
    assert [sorted(order) for order in orders] == [[record.path for record in normal(10)]] * rounds
    assert len({tuple(order) for order in orders}) == rounds
    assert all(
        torch.equal(image, torch.full((3, 4, 4), int(path[-5:]) / 255))
        for batch in batches
        for image, path in zip(batch["image"], batch["path"], strict=True)
    )


def test_the_order_of_draws_depends_on_seed_and_epoch_alone(tmp_path: Path) -> None:
    def order(seed: int, epoch: int, workers: int = 0) -> list[str]:
        loader = loaders(tmp_path, workers, seed).loader("train", 4, shuffle=True, min_samples=24)
        loader.sampler.set_epoch(epoch)
        return paths(loader)

    orders = [order(seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    torch.rand(7)
    assert order(1, 0) == order(1, 0, workers=2) == orders[2]
    assert len({tuple(o) for o in orders}) == 4
    assert len({tuple(sorted(o)) for o in orders}) == 1
    assert paths(loaders(tmp_path).loader("train", 4, min_samples=12)) == [r.path for r in [*normal(10), *normal(10)]]


@pytest.mark.parametrize("min_samples", [1, 24])
def test_a_loader_can_go_to_a_spawned_process(tmp_path: Path, min_samples: int) -> None:
    loader = loaders(tmp_path).loader("train", 4, shuffle=True, min_samples=min_samples)
    assert loader.generator is None  # a torch.Generator in it does not survive Lightning's ddp_spawn
    assert paths(pickle.loads(pickle.dumps(loader))) == paths(loader)


def test_lightning_will_shuffle_on_several_devices(tmp_path: Path) -> None:
    data = loaders(tmp_path)
    assert _is_dataloader_shuffled(data.loader("train", 4, shuffle=True))
    assert _is_dataloader_shuffled(data.loader("train", 4, shuffle=True, min_samples=24))
    assert not _is_dataloader_shuffled(data.loader("train", 4))
    assert not issubclass(EpochSampler, DistributedSampler)


class Recorder(pl.LightningModule):
    """Writes down what it is shown."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen: list[str] = []

    def training_step(self, batch: Any, _: int) -> torch.Tensor:
        self.seen += batch["path"]
        return (self.weight * batch["image"].mean()).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning.*")
def test_a_resumed_training_sees_what_it_would_have_seen(tmp_path: Path) -> None:
    def fit(epochs: int, checkpoint: Path | None = None) -> tuple[Recorder, pl.Trainer]:
        module, quiet = Recorder(), {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = pl.Trainer(
            max_epochs=epochs, accelerator="cpu", enable_checkpointing=False, default_root_dir=tmp_path, **quiet
        )
        loader = loaders(tmp_path / "c").loader("train", 4, shuffle=True)
        trainer.fit(module, loader, ckpt_path=checkpoint, **({"weights_only": True} if checkpoint else {}))
        return module, trainer

    whole, _ = fit(3)
    half, trainer = fit(2)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    rest, _ = fit(3, tmp_path / "last.ckpt")
    assert len(whole.seen) == 30
    assert whole.seen[:10] != whole.seen[10:20]
    assert half.seen + rest.seen == whole.seen


def test_the_next_item_is_got_while_this_one_is_worked_on() -> None:
    second = threading.Event()

    def items() -> Any:
        yield 1
        second.set()
        yield 2
        raise ValueError("the third")

    got = ahead(items())
    assert next(got) == 1
    assert second.wait(10)
    assert next(got) == 2
    with pytest.raises(ValueError, match="the third"):
        next(got)
    assert list(ahead([])) == []
