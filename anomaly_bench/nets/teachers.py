"""Where teachers of patch descriptors come from: a given file, the shipped one, or a distillation, kept for all runs.

A teacher is a safetensors file with a `PatchDescriptor`'s tensors (float16 in the package), and those of the decoder D
that it was distilled with, if kept (`decoder.*`).  One that was distilled is kept in teachers/ of the cache under a
name made of all that it depends on, so that every category, run and seed shares it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from pathlib import Path
from typing import Literal

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils.data import DataLoader

from anomaly_bench.checksums import checksums
from anomaly_bench.contracts import Stage
from anomaly_bench.errors import UserError
from anomaly_bench.files import write_atomic
from anomaly_bench.nets.backbones import RANDOM, Backbone
from anomaly_bench.nets.distillation import Distillation, Triplets, natural_images
from anomaly_bench.nets.patch_descriptors import PatchDescriptor
from anomaly_bench.paths import cache_root

DECODER = "decoder."  # begins the names of D's tensors
KEY = "key"  # of a distilled teacher among its file's metadata
EPOCH = 500  # steps between two checkpoints of a distillation


@dataclass(frozen=True)
class Recipe:
    """The numbers of a distillation, as the method's yaml has them."""

    backbone: str
    weights: str | None
    layer: int  # of the ImageNet network, 1 to 4
    target_size: int | None
    losses: tuple[float, float, float]
    margin: float
    compactness: Literal["square", "abs", "signed"]
    steps: int
    batch_size: int
    lr: float
    weight_decay: float
    decoder_layers: int = 1


def load_teacher(
    net: PatchDescriptor, given: str | None, images: str | None, recipe: Recipe, decoder: nn.Module | None = None
) -> str | None:
    """Load a teacher's weights into `net`; the file's SHA-256, or None where it must be distilled from `images` first.

    given: a file, or a folder with a file p<size>.safetensors for each patch size, or `random`: `net` stays as it was
    drawn, to try out the machinery.  decoder: to be loaded from the same file.  Raises UserError where it does not fit,
    and where nothing is given, no images are named, and no teacher of this size is shipped.
    """
    if given == RANDOM:
        return RANDOM
    if given or not images:
        (file,) = teacher_files([net.patch_size], given, images)
        return _load(net, file, decoder)
    key = _key(net, Path(images).expanduser(), recipe)
    file = _place(net, key)
    return _load(net, file, decoder, key) if file.exists() else None


def teacher_files(patch_sizes: Sequence[int], given: str | None, images: str | None) -> list[Path]:
    """The file of each size's teacher that is loaded as it is: `given`, or shipped; none where one is distilled.

    Raises UserError where nothing is given, no images are named, and no teacher of a size is shipped.
    """
    if images and not given:
        natural_images(Path(images).expanduser())
        return []
    if given == RANDOM:
        return []
    place = Path(given).expanduser() if given else Path(str(files("anomaly_bench.nets").joinpath("teachers")))
    found = [place / f"p{size}.safetensors" if place.is_dir() else place for size in patch_sizes]
    for size, file in zip(patch_sizes, found, strict=True):
        if file.is_file():
            continue
        if given:
            raise UserError("method.teacher", f"no such file: {file}")
        what = f"no teacher for patches of {size} pixels is shipped"
        hint = "17 and 33 are; method.teacher=FILE, or distil one: method.teacher_images=FOLDER"
        raise UserError("method.teacher", what, hint)
    return found


def teacher_stage(net: PatchDescriptor, images: str | None, recipe: Recipe) -> Stage:
    """What distils `net` from a folder of natural images, with a checkpoint every EPOCH steps."""
    assert images is not None
    if not any(recipe.losses):
        raise UserError("method.teacher_losses", "all three are 0, nothing to learn")
    backbone = Backbone(recipe.backbone, layers=(recipe.layer,))
    backbone.load(recipe.weights)
    module = Distillation(
        net, backbone, recipe.losses, recipe.margin, recipe.compactness, recipe.target_size, recipe.lr,
        recipe.weight_decay, recipe.decoder_layers,
    )  # fmt: skip
    steps = min(EPOCH, recipe.steps)
    triplets = Triplets(natural_images(Path(images).expanduser()), net.patch_size, steps * recipe.batch_size)
    loader = DataLoader(triplets, recipe.batch_size)
    trainer = {"max_epochs": -(-recipe.steps // steps), "max_steps": recipe.steps}
    return Stage(f"teacher_p{net.patch_size}", module, loader, trainer)


def store_teacher(net: PatchDescriptor, images: str | None, recipe: Recipe, decoder: nn.Module | None = None) -> str:
    """Keep a fitted teacher for all runs that need the same one; the file's SHA-256."""
    assert images is not None
    key = _key(net, Path(images).expanduser(), recipe)
    about = {"recipe": json.dumps(asdict(recipe)), KEY: key}
    return save_teacher(net, _place(net, key), about, decoder=decoder)


def save_teacher(
    net: PatchDescriptor,
    file: Path,
    metadata: dict[str, str],
    dtype: torch.dtype = torch.float32,
    decoder: nn.Module | None = None,
) -> str:
    """Write a safetensors file, whole or absent, with a checksum of its tensors among its metadata; its SHA-256."""
    tensors = net.state_dict() | {f"{DECODER}{k}": v for k, v in (decoder.state_dict() if decoder else {}).items()}
    state = {key: value.detach().cpu().to(dtype).contiguous() for key, value in tensors.items()}
    content = save(state, {"patch_size": str(net.patch_size), **metadata, "sha256": _digest(state)})
    write_atomic(file, lambda opened: opened.write(content))
    return hashlib.sha256(content).hexdigest()


def _digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors' names and bytes; safetensors has no checksum of its own."""
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def stored(net: PatchDescriptor, images: Path, recipe: Recipe) -> Path:
    """Where the teacher lies that this recipe makes of these images."""
    return _place(net, _key(net, images, recipe))


def _place(net: PatchDescriptor, key: str) -> Path:
    return cache_root() / "teachers" / f"p{net.patch_size}-{key[:16]}.safetensors"


def _key(net: PatchDescriptor, images: Path, recipe: Recipe) -> str:
    """SHA-256 of all that a distilled teacher depends on."""
    backbone = Backbone(recipe.backbone, layers=(recipe.layer,))
    backbone.load(recipe.weights)
    shapes = [list(value.shape) for value in net.state_dict().values()]
    found = natural_images(images)
    listed = [(str(f.relative_to(images)), digest) for f, digest in zip(found, checksums(found), strict=True)]
    numbers = {key: value for key, value in asdict(recipe).items() if key != "weights"}
    content = json.dumps([net.patch_size, shapes, numbers, backbone.sha256, listed])
    return hashlib.sha256(content.encode()).hexdigest()


def _load(net: PatchDescriptor, file: Path, decoder: nn.Module | None, key: str | None = None) -> str:
    """Load a file; its SHA-256.  key: of a distilled teacher, which must be that one and have a checksum."""
    hint = f"remove {file}: it is distilled again" if key else "another file"
    try:
        content = file.read_bytes()  # at once: what is checked is what is loaded
        state = load(content)
        about = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    except Exception as error:  # safetensors' errors have no common class
        raise UserError("method.teacher", f"{file} cannot be read: {error}", hint) from error
    if (key or "sha256" in about) and about.get("sha256") != _digest(state):
        raise UserError("method.teacher", f"{file} is damaged: its tensors do not fit their checksum", hint)
    if key and about.get(KEY) != key:
        raise UserError("method.teacher", f"{file} is another teacher's file, or damaged", hint)
    state = {key: value.float() for key, value in state.items()}
    if bad := next((key for key, value in state.items() if not bool(value.isfinite().all())), None):
        raise UserError("method.teacher", f"{file} holds NaN or infinite numbers in '{bad}'", "another file")
    kept = {key.removeprefix(DECODER): state.pop(key) for key in list(state) if key.startswith(DECODER)}
    if _shapes(state) != _shapes(net.state_dict()):
        what = f"{file} holds no teacher for patches of {net.patch_size} pixels, or one of another architecture"
        raise UserError("method.teacher", what)
    net.load_state_dict(state)
    if decoder:
        if _shapes(kept) != _shapes(decoder.state_dict()):
            raise UserError("method.teacher", f"{file} holds no decoder, or one of another architecture")
        decoder.load_state_dict(kept)
    return hashlib.sha256(content).hexdigest()


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items()}
