"""Which teacher is loaded, when one must be distilled, under what name it is kept, and what is refused."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_training import fit

from anomaly_bench.errors import UserError
from anomaly_bench.nets import teachers as module
from anomaly_bench.nets.distillation_config import DistillationConfig
from anomaly_bench.nets.patch_descriptors import PATCH_SIZES, PatchDescriptor
from anomaly_bench.nets.teachers import Teachers, save_teacher
from tests.nets.small_teachers import teachers


@pytest.fixture(scope="module", autouse=True)
def backbones() -> Iterator[None]:
    """An ImageNet network is built once for all tests; its weights are loaded each time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "Backbone", cache(module.Backbone))
        yield


@pytest.fixture(autouse=True)
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANOMALY_BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Four images."""
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for i, name in enumerate(["0.png", "1.png", "2.png", "more/3.png"]):
        pixels = np.random.default_rng(i).integers(0, 256, (30 + i, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / name)
    return tmp_path / "photos"


Source = Callable[..., Teachers]


@pytest.fixture
def source(weights: Path) -> Source:
    """Teachers whose ImageNet network has weights; what differs from `small_teachers.BLOCK` is given by name."""
    return partial(teachers, weights=weights)


def network(seed: int = 0, patch_size: int = 17) -> PatchDescriptor:
    torch.manual_seed(seed)
    return PatchDescriptor(patch_size)


def equal(one: PatchDescriptor, other: PatchDescriptor) -> bool:
    a, b = one.state_dict(), other.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# Which one


def test_what_is_given_comes_before_what_is_stored_and_that_before_what_is_shipped(
    tmp_path: Path, photos: Path, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "files", lambda _: tmp_path)  # the package's folder
    of = {name: network(seed) for seed, name in enumerate(["file", "folder", "stored", "shipped"])}
    given, folder = tmp_path / "mine.safetensors", tmp_path / "mine"
    save_teacher(of["file"], given, {})
    save_teacher(of["folder"], folder / "p17.safetensors", {})
    save_teacher(network(9, 33), folder / "p33.safetensors", {})
    save_teacher(of["shipped"], tmp_path / "teachers" / "p17.safetensors", {})
    net, images = network(5), str(photos)
    assert source(images=images).load(net) is None  # to be distilled; the shipped one is another
    assert equal(net, network(5))
    sha256 = source(images=images).store(of["stored"])
    for (path, natural), name, file in (
        ((str(given), images), "file", given),
        ((str(folder), images), "folder", folder / "p17.safetensors"),
        ((None, images), "stored", source(images=photos).path(net)),
        ((None, None), "shipped", tmp_path / "teachers" / "p17.safetensors"),
    ):
        assert source(file=path, images=natural).load(net) == digest(file), name
        assert equal(net, of[name]), name
    assert sha256 == digest(source(images=photos).path(net))


@pytest.mark.parametrize("p", PATCH_SIZES)
def test_what_the_package_ships(p: int, source: Source) -> None:
    file, net = Path(str(files("anomaly_bench.nets"))) / "teachers" / f"p{p}.safetensors", network(0, p)
    if file.exists():
        assert source().load(net) == digest(file)
        assert not equal(net, network(0, p))
        assert all(value.isfinite().all() for value in net.state_dict().values())
        return
    with pytest.raises(UserError) as refused:
        source().load(net)
    assert str(refused.value) == (
        f"method.teacher.file: no teacher for patches of {p} pixels is shipped "
        "(17 and 33 are; method.teacher.file=FILE, or distil one: method.teacher.images=FOLDER)"
    )


def test_a_home_folder_is_found(tmp_path: Path, photos: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_teacher(network(3), tmp_path / "mine.safetensors", {})
    assert source(file="~/mine.safetensors").load(network())
    assert source(images="~/photos").load(network()) is None
    source(images="~/photos").store(network(3))
    assert source(images=photos).load(network())


# Refused


def test_files_that_are_no_teacher(tmp_path: Path, source: Source) -> None:
    net = network()
    save_teacher(network(1, 33), tmp_path / "p33.safetensors", {})
    (tmp_path / "garbage.safetensors").write_bytes(b"not a teacher" * 9)
    state = network(1).state_dict()
    save_file({key: value for key, value in state.items() if key != "convs.3.bias"}, tmp_path / "less.safetensors")
    save_file({**state, "more": torch.zeros(1)}, tmp_path / "more.safetensors")
    other = "holds no teacher for patches of 17 pixels, or one of another architecture"
    for name, said in (
        ("none.safetensors", "no such file: "),
        (".", "p17.safetensors"),  # the folder holds one for 33 pixels only
        ("garbage.safetensors", "cannot be read: "),
        ("p33.safetensors", other),
        ("less.safetensors", other),
        ("more.safetensors", other),
    ):
        with pytest.raises(UserError) as refused:
            source(file=tmp_path / name).load(net)
        assert f"{tmp_path}" in str(refused.value), name
        assert said in str(refused.value)
        assert equal(net, network())
    wide = PatchDescriptor(65, conv3_channels_65=256)
    save_teacher(network(0, 65), tmp_path / "p65.safetensors", {})
    with pytest.raises(UserError, match="for patches of 65 pixels, or one of another architecture"):
        source(file=tmp_path).load(wide)


def test_a_distillation_without_a_loss(photos: Path, source: Source) -> None:
    with pytest.raises(UserError, match=r"^method.teacher.losses: all three are 0, nothing to learn$"):
        source(images=photos, losses=(0, 0, 0)).stage(network())


def test_folders_without_images(tmp_path: Path, source: Source) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=r"^method.teacher.images: 0 images in "):
            source(images=folder).load(network())


# Kept


def test_the_name_holds_all_that_a_teacher_depends_on(photos: Path, source: Source, cached: Path) -> None:
    changed: dict[str, Any] = {
        "layer": 3, "target_size": 64, "losses": (1.0, 1.0, 1.0), "margin": 2.0, "compactness": "abs", "steps": 3,
        "batch_size": 4, "lr": 1e-3, "weight_decay": 0.0, "decoder_layers": 2, "standardise": True, "decay": True,
        "zoom": (4, 8), "shift": 0.5, "noise": 0.2, "grey": 0.0, "target": "image",
    }  # fmt: skip
    together = {"target": {"crop_size": 64}}
    save_teacher(network(), file := photos.parent / "start.safetensors", {})
    changed["start_file"] = str(file)
    assert {*changed, "file", "images", "crop_size"} == set(DistillationConfig.model_fields)
    names = [source(images=photos).path(network())]
    names += [source(images=photos, **{key: v, **together.get(key, {})}).path(network()) for key, v in changed.items()]
    names.append(source(images=photos, target="image", crop_size=32).path(network()))
    names += [
        source(images=photos).path(network(0, 33)),
        source(images=photos).path(PatchDescriptor(33, conv1_kernel_33=3)),
    ]
    assert len(set(names)) == len(changed) + 4
    assert {name.parent for name in names} == {cached / "teachers"}
    assert [name.name[:4] for name in names] == 20 * ["p17-"] + 2 * ["p33-"]
    assert source(images=photos).path(network(7)) == names[0]


def test_the_name_of_a_teacher_stays_so_that_one_of_an_earlier_version_is_found(
    photos: Path, source: Source, weights: Path, cached: Path
) -> None:
    numbers = {
        "backbone": "resnet18", "layer": 2, "target_size": None, "losses": [1.0, 0.0, 1.0], "margin": 1.0,
        "compactness": "square", "steps": 2, "batch_size": 3, "lr": 0.0002, "weight_decay": 1e-05, "decoder_layers": 1,
    }  # fmt: skip
    shapes = [list(value.shape) for value in network().state_dict().values()]
    images = [[name, digest(photos / name)] for name in ("0.png", "1.png", "2.png", "more/3.png")]
    content = json.dumps([17, shapes, numbers, digest(weights), images])
    key = hashlib.sha256(content.encode()).hexdigest()
    assert source(images=photos).path(network()) == cached / "teachers" / f"p17-{key[:16]}.safetensors"


def test_the_name_holds_what_the_weights_are_and_not_where_they_lie(
    photos: Path, source: Source, weights: Path, tmp_path: Path
) -> None:
    name = source(images=photos).path(network())
    copy = shutil.copy(weights, tmp_path / "copy.safetensors")
    assert source(images=photos, weights=copy).path(network()) == name
    state = load_file(weights)
    state["conv1.weight"][0, 0, 0, 0] += 1
    save_file(state, tmp_path / "other.safetensors")
    assert source(images=photos, weights=tmp_path / "other.safetensors").path(network()) != name


def test_the_name_holds_the_list_of_images(photos: Path, source: Source, tmp_path: Path) -> None:
    names = [source(images=photos).path(network())]
    assert source(images=photos.rename(tmp_path / "elsewhere")).path(network()) == names[0]
    folder = tmp_path / "elsewhere"
    shutil.copy(folder / "0.png", folder / "4.png")
    names.append(source(images=folder).path(network()))
    (folder / "4.png").rename(folder / "5.png")
    names.append(source(images=folder).path(network()))
    (folder / "5.png").write_bytes((folder / "5.png").read_bytes() + b"\0")
    names.append(source(images=folder).path(network()))
    assert len(set(names)) == 4


@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 2**-11), (torch.float32, 0)])
def test_saved_and_loaded(dtype: torch.dtype, error: float, tmp_path: Path, source: Source) -> None:
    net, file = network(1), tmp_path / "new" / "folder" / "p17.safetensors"
    save_teacher(net, file, {"command": "none"}, dtype)
    assert [f.name for f in file.parent.iterdir()] == ["p17.safetensors"]  # nothing partial is left
    assert {value.dtype for value in load_file(file).values()} == {dtype}
    with safe_open(file, framework="pt") as opened:
        assert {**opened.metadata(), "sha256": ""} == {"patch_size": "17", "command": "none", "sha256": ""}
    other = network(2)
    source(file=file).load(other)
    assert {p.dtype for p in other.parameters()} == {torch.float32}
    for loaded, saved in zip(other.parameters(), net.parameters(), strict=True):
        assert ((loaded - saved).abs() <= error * saved.abs() + error * 2**-13).all()
    assert equal(net, network(1))  # the one in memory stays as it was


# Distilled


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*in eval mode.*", "ignore:.*treespec.*")
def test_the_stage_takes_the_stated_steps(photos: Path, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EPOCH", 2)
    net = network()
    stage = source(images=photos, steps=5).stage(net)
    assert stage.name == "teacher_p17"
    assert [batch[0].shape for batch in stage.loader] == 2 * [(3, 3, 17, 17)]
    trainer = fit(stage)
    assert trainer.global_step == 5  # not 6, three epochs of two
    assert trainer.current_epoch == 3
    assert not any(torch.equal(a, b) for a, b in zip(net.parameters(), network().parameters(), strict=True))


def test_flipped_bits_in_a_stored_teacher_are_noticed_or_change_nothing(
    tmp_path: Path, source: Source, spots: int
) -> None:
    net, file, noticed = network(), tmp_path / "p17.safetensors", 0
    save_teacher(net, file, {})
    whole = file.read_bytes()
    for seed in range(spots):
        draw = random.Random(seed)
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        file.write_bytes(flipped)
        other = network(seed=1)
        try:
            source(file=file).load(other)
        except UserError:
            noticed += 1
        else:
            assert equal(net, other)
    assert noticed >= 0.95 * spots  # nearly all of the file is tensors


def test_a_distillation_begins_with_a_teacher(photos: Path, source: Source, tmp_path: Path) -> None:
    file, net = tmp_path / "first.safetensors", network(5)
    save_teacher(network(1), file, {})
    begun = source(images=photos, start_file=str(file), batch_size=8)
    stage = begun.stage(net)
    assert equal(net, network(1))
    x = torch.stack([stage.loader.dataset[i][0] for i in range(64)])
    with torch.no_grad():
        p, t = stage.module.target(x), stage.module.describe(x)
        left = (stage.module.decoder(t) - p).square().sum() / (p - p.mean(0)).square().sum()
    assert left < 0.9  # D explains something before the first step
    name = begun.path(network())
    save_teacher(network(2), file, {})
    assert begun.path(network()) != name  # the content counts
    for wrong in ("none.safetensors", "garbage.safetensors"):
        (tmp_path / "garbage.safetensors").write_bytes(b"not a teacher" * 9)
        with pytest.raises(UserError, match=r"^method.teacher.start_file: "):
            source(images=photos, start_file=str(tmp_path / wrong)).stage(network())
