"""Which teacher is loaded, when one must be distilled, under what name it is kept, and what is refused."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning import Trainer
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from anomaly_bench.errors import UserError
from anomaly_bench.nets import teachers
from anomaly_bench.nets.patch_descriptors import PATCH_SIZES, PatchDescriptor
from anomaly_bench.nets.teachers import Recipe, load_teacher, save_teacher, store_teacher, stored, teacher_stage


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
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


@pytest.fixture
def recipe(weights: Path) -> Recipe:
    """ResNet-18 down to layer2, two steps of three patches."""
    return Recipe("resnet18", str(weights), 2, None, (1.0, 0.0, 1.0), 1.0, "square", 2, 3, 2e-4, 1e-5)


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
    tmp_path: Path, photos: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(teachers, "files", lambda _: tmp_path)  # the package's folder
    of = {name: network(seed) for seed, name in enumerate(["file", "folder", "stored", "shipped"])}
    given, folder = tmp_path / "mine.safetensors", tmp_path / "mine"
    save_teacher(of["file"], given, {})
    save_teacher(of["folder"], folder / "p17.safetensors", {})
    save_teacher(network(9, 33), folder / "p33.safetensors", {})
    save_teacher(of["shipped"], tmp_path / "teachers" / "p17.safetensors", {})
    net, images = network(5), str(photos)
    assert load_teacher(net, None, images, recipe) is None  # to be distilled; the shipped one is another
    assert equal(net, network(5))
    sha256 = store_teacher(of["stored"], images, recipe)
    for (path, source), name, file in (
        ((str(given), images), "file", given),
        ((str(folder), images), "folder", folder / "p17.safetensors"),
        ((None, images), "stored", stored(net, photos, recipe)),
        ((None, None), "shipped", tmp_path / "teachers" / "p17.safetensors"),
    ):
        assert load_teacher(net, path, source, recipe) == digest(file), name
        assert equal(net, of[name]), name
    assert sha256 == digest(stored(net, photos, recipe))


@pytest.mark.parametrize("p", PATCH_SIZES)
def test_what_the_package_ships(p: int, recipe: Recipe) -> None:
    file, net = Path(str(files("anomaly_bench.nets"))) / "teachers" / f"p{p}.safetensors", network(0, p)
    if file.exists():
        assert load_teacher(net, None, None, recipe) == digest(file)
        assert not equal(net, network(0, p))
        assert all(value.isfinite().all() for value in net.state_dict().values())
        return
    with pytest.raises(UserError) as refused:
        load_teacher(net, None, None, recipe)
    assert str(refused.value) == (
        f"method.teacher: no teacher for patches of {p} pixels is shipped "
        "(17 and 33 are; method.teacher=FILE, or distil one: method.teacher_images=FOLDER)"
    )


def test_a_home_folder_is_found(tmp_path: Path, photos: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_teacher(network(3), tmp_path / "mine.safetensors", {})
    assert load_teacher(network(), "~/mine.safetensors", None, recipe)
    assert load_teacher(network(), None, "~/photos", recipe) is None
    store_teacher(network(3), "~/photos", recipe)
    assert load_teacher(network(), None, str(photos), recipe)


# Refused


def test_files_that_are_no_teacher(tmp_path: Path, recipe: Recipe) -> None:
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
            load_teacher(net, str(tmp_path / name), None, recipe)
        assert f"{tmp_path}" in str(refused.value), name
        assert said in str(refused.value)
        assert equal(net, network())
    wide = PatchDescriptor(65, conv3_channels_65=256)
    save_teacher(network(0, 65), tmp_path / "p65.safetensors", {})
    with pytest.raises(UserError, match="for patches of 65 pixels, or one of another architecture"):
        load_teacher(wide, str(tmp_path), None, recipe)


def test_a_recipe_without_a_loss(photos: Path, recipe: Recipe) -> None:
    with pytest.raises(UserError, match=r"^method.teacher_losses: all three are 0, nothing to learn$"):
        teacher_stage(network(), str(photos), dataclasses.replace(recipe, losses=(0, 0, 0)))


def test_folders_without_images(tmp_path: Path, recipe: Recipe) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(UserError, match=r"^method.teacher_images: 0 images in "):
            load_teacher(network(), None, str(folder), recipe)


# Kept


def test_the_name_holds_all_that_a_teacher_depends_on(photos: Path, recipe: Recipe, cache: Path) -> None:
    changed: dict[str, Any] = {
        "layer": 3, "target_size": 64, "losses": (1.0, 1.0, 1.0), "margin": 2.0, "compactness": "abs", "steps": 3,
        "batch_size": 4, "lr": 1e-3, "weight_decay": 0.0, "decoder_layers": 2,
    }  # fmt: skip
    assert {*changed, "backbone", "weights"} == {field.name for field in dataclasses.fields(Recipe)}
    names = [stored(network(), photos, recipe)]
    names += [stored(network(), photos, dataclasses.replace(recipe, **{key: v})) for key, v in changed.items()]
    names += [stored(network(0, 33), photos, recipe), stored(PatchDescriptor(33, conv1_kernel_33=3), photos, recipe)]
    assert len(set(names)) == len(changed) + 3
    assert {name.parent for name in names} == {cache / "teachers"}
    assert [name.name[:4] for name in names] == 11 * ["p17-"] + 2 * ["p33-"]
    assert stored(network(7), photos, recipe) == names[0]


def test_the_name_holds_what_the_weights_are_and_not_where_they_lie(
    photos: Path, recipe: Recipe, weights: Path, tmp_path: Path
) -> None:
    name = stored(network(), photos, recipe)
    copy = shutil.copy(weights, tmp_path / "copy.safetensors")
    assert stored(network(), photos, dataclasses.replace(recipe, weights=str(copy))) == name
    state = load_file(weights)
    state["conv1.weight"][0, 0, 0, 0] += 1
    save_file(state, tmp_path / "other.safetensors")
    assert stored(network(), photos, dataclasses.replace(recipe, weights=str(tmp_path / "other.safetensors"))) != name


def test_the_name_holds_the_list_of_images(photos: Path, recipe: Recipe, tmp_path: Path) -> None:
    names = [stored(network(), photos, recipe)]
    assert stored(network(), photos.rename(tmp_path / "elsewhere"), recipe) == names[0]
    folder = tmp_path / "elsewhere"
    shutil.copy(folder / "0.png", folder / "4.png")
    names.append(stored(network(), folder, recipe))
    (folder / "4.png").rename(folder / "5.png")
    names.append(stored(network(), folder, recipe))
    (folder / "5.png").write_bytes((folder / "5.png").read_bytes() + b"\0")
    names.append(stored(network(), folder, recipe))
    assert len(set(names)) == 4


@pytest.mark.parametrize(("dtype", "error"), [(torch.float16, 2**-11), (torch.float32, 0)])
def test_saved_and_loaded(dtype: torch.dtype, error: float, tmp_path: Path, recipe: Recipe) -> None:
    net, file = network(1), tmp_path / "new" / "folder" / "p17.safetensors"
    save_teacher(net, file, {"command": "none"}, dtype)
    assert [f.name for f in file.parent.iterdir()] == ["p17.safetensors"]  # nothing partial is left
    assert {value.dtype for value in load_file(file).values()} == {dtype}
    with safe_open(file, framework="pt") as opened:
        assert {**opened.metadata(), "sha256": ""} == {"patch_size": "17", "command": "none", "sha256": ""}
    other = network(2)
    load_teacher(other, str(file), None, recipe)
    assert {p.dtype for p in other.parameters()} == {torch.float32}
    for loaded, saved in zip(other.parameters(), net.parameters(), strict=True):
        assert ((loaded - saved).abs() <= error * saved.abs() + error * 2**-13).all()
    assert equal(net, network(1))  # the one in memory stays as it was


# Distilled


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*in eval mode.*", "ignore:.*treespec.*")
def test_the_stage_takes_the_stated_steps(photos: Path, recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teachers, "EPOCH", 2)
    net = network()
    stage = teacher_stage(net, str(photos), dataclasses.replace(recipe, steps=5))
    assert stage.name == "teacher_p17"
    assert [batch[0].shape for batch in stage.loader] == 2 * [(3, 3, 17, 17)]
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, **stage.trainer,
    )  # fmt: skip
    trainer.fit(stage.module, stage.loader)
    assert trainer.global_step == 5  # not 6, three epochs of two
    assert trainer.current_epoch == 3
    assert not any(torch.equal(a, b) for a, b in zip(net.parameters(), network().parameters(), strict=True))


def test_flipped_bits_in_a_stored_teacher_are_noticed_or_change_nothing(tmp_path: Path, recipe: Recipe) -> None:
    net, file, noticed = network(), tmp_path / "p17.safetensors", 0
    save_teacher(net, file, {})
    whole = file.read_bytes()
    for seed in range(50):
        draw = random.Random(seed)
        flipped = bytearray(whole)
        flipped[draw.randrange(len(whole))] ^= 1 << draw.randrange(8)
        file.write_bytes(flipped)
        other = network(seed=1)
        try:
            load_teacher(other, str(file), None, recipe)
        except UserError:
            noticed += 1
        else:
            assert equal(net, other)
    assert noticed >= 48  # nearly all of the file is tensors
