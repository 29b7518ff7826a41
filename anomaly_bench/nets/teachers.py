"""Where teachers of patch descriptors come from: a given file, the shipped one, or a distillation, kept for all runs.

A teacher is a safetensors file with a `PatchDescriptor`'s tensors (float16 in the package), and those of the decoder D
that it was distilled with, if kept (`decoder.*`).  One that was distilled is kept in teachers/ of the cache under a
name made of all that it depends on, so that every category, run and seed shares it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.utils.data import DataLoader

from anomaly_bench.checksums import checksums
from anomaly_bench.contracts import Stage
from anomaly_bench.errors import UserError
from anomaly_bench.files import sha256, sha256_of, write_atomic
from anomaly_bench.former_names import without_added
from anomaly_bench.nets.backbones import RANDOM, Backbone, weight_files
from anomaly_bench.nets.distillation import Distillation
from anomaly_bench.nets.distillation_config import DistillationConfig
from anomaly_bench.nets.natural_patches import Crops, Triplets, natural_images
from anomaly_bench.nets.patch_descriptors import PatchDescriptor
from anomaly_bench.paths import cache_root

DECODER = "decoder."  # begins the names of D's tensors
KEY = "key"  # of a distilled teacher among its file's metadata
EPOCH = 500  # steps between two checkpoints of a distillation


@dataclass(frozen=True)
class Teachers:
    """Where a method's teachers come from.  backbone, weights: of the ImageNet network that they are distilled from."""

    config: DistillationConfig
    backbone: str
    weights: str | None

    def stages(self, net: PatchDescriptor, decoder: nn.Module | None = None) -> Generator[Stage, None, str]:
        """Load a teacher into `net`, after yielding the stage that distils it where there is none yet.

        decoder: gets what the teacher was distilled with.  Returns the SHA-256 of the teacher's file.  Raises what
        `load` raises.
        """
        if (digest := self.load(net, decoder)) is None:
            yield (stage := self.stage(net))
            digest = self.store(net, stage.module.decoder)  # type: ignore[arg-type]
            if decoder:
                self.load(net, decoder)
        return digest

    def load(self, net: PatchDescriptor, decoder: nn.Module | None = None) -> str | None:
        """Load a teacher's weights into `net`, and into `decoder` what the same file holds of D.

        `random` for a file: `net` stays as it was drawn, to try out the machinery.  Returns the file's SHA-256, or None
        where the teacher must be distilled first.  Raises UserError where a file does not fit, and where no file and no
        images are named and no teacher of this size is shipped.
        """
        if self.config.file == RANDOM:
            return RANDOM
        if self.config.file or not self.config.images:
            (file,) = teacher_files([net.patch_size], self.config)
            return read_teacher(net, file, decoder)
        key = self.key(net)
        file = _cached(net, key)
        return read_teacher(net, file, decoder, key) if file.exists() else None

    def stage(self, net: PatchDescriptor) -> Stage:
        """Return what distils `net` from the natural images, with a checkpoint every EPOCH steps."""
        config = self.config
        if not any(config.losses):
            raise UserError("method.teacher.losses", "all three are 0, nothing to learn")
        if config.start_file:
            read_teacher(net, self.start_file, None, where="method.teacher.start_file")
        module = Distillation(net, self.imagenet_network(), config)
        steps = min(EPOCH, config.steps)
        kind = Crops if config.target == "image" else Triplets
        data = kind(natural_images(self.images), net.patch_size, steps * config.batch_size, config)
        module.prepare(data, config.batch_size)
        trainer = {"max_epochs": -(-config.steps // steps), "max_steps": config.steps}
        return Stage(f"teacher_p{net.patch_size}", module, DataLoader(data, config.batch_size), trainer)

    def store(self, net: PatchDescriptor, decoder: nn.Module | None = None) -> str:
        """Keep a fitted teacher for all runs that need the same one, and return the file's SHA-256."""
        key = self.key(net)
        return save_teacher(net, _cached(net, key), {"recipe": json.dumps(self.recipe), KEY: key}, decoder=decoder)

    def path(self, net: PatchDescriptor) -> Path:
        """Return where the distilled teacher is kept."""
        return _cached(net, self.key(net))

    def key(self, net: PatchDescriptor) -> str:
        """Return a SHA-256 of all that a distilled teacher depends on."""
        backbone, files = self.imagenet_network(), natural_images(self.images)
        shapes = [list(value.shape) for value in net.state_dict().values()]
        listed = [(str(f.relative_to(self.images)), sha) for f, sha in zip(files, checksums(files), strict=True)]
        numbers = {name: value for name, value in self.recipe.items() if name != "weights"}
        numbers = without_added("teacher", numbers)
        content = json.dumps([net.patch_size, shapes, numbers, backbone.sha256, listed])
        return sha256(content)

    def imagenet_network(self) -> Backbone:
        """Return the network that teachers are distilled from, with its weights."""
        backbone = Backbone(self.backbone, layers=self.config.layers)
        backbone.load(self.weights)
        return backbone

    @property
    def images(self) -> Path:
        """The folder of natural images."""
        return Path(self.config.images or "").expanduser()

    @property
    def start_file(self) -> Path:
        """The teacher that a distillation begins with.  Raises UserError where it is missing."""
        file = Path(self.config.start_file or "").expanduser()
        if not file.is_file():
            raise UserError("method.teacher.start_file", f"no such file: {file}")
        return file

    @property
    def recipe(self) -> dict[str, Any]:
        """What a distillation depends on besides the images, as it stands in the files of teachers."""
        numbers = self.config.model_dump(exclude={"file", "images"})
        if self.config.start_file:
            numbers["start_file"] = sha256_of(self.start_file)
        return {"backbone": self.backbone, "weights": self.weights, **numbers}


def teacher_files(patch_sizes: Sequence[int], config: DistillationConfig) -> list[Path]:
    """Return the file of each size's teacher that is loaded as it is, given or shipped; none where one is distilled.

    Raises UserError where no file and no images are named, and no teacher of a size is shipped.
    """
    if config.images and not config.file:
        natural_images(Path(config.images).expanduser())
        return []
    if config.file == RANDOM:
        return []
    place = Path(config.file or str(files("anomaly_bench.nets").joinpath("teachers"))).expanduser()
    found = [place / f"p{size}.safetensors" if place.is_dir() else place for size in patch_sizes]
    for size, file in zip(patch_sizes, found, strict=True):
        if file.is_file():
            continue
        if config.file:
            raise UserError("method.teacher.file", f"no such file: {file}")
        what = f"no teacher for patches of {size} pixels is shipped"
        hint = "17 and 33 are; method.teacher.file=FILE, or distil one: method.teacher.images=FOLDER"
        raise UserError("method.teacher.file", what, hint)
    return found


def teacher_weight_files(
    values: Mapping[str, Any], patch_sizes: Sequence[int], fetch: bool, is_tuned: bool = False
) -> dict[str, list[Path]]:
    """`Method.weight_files` of a method with the block `teacher`.

    The ImageNet network's file counts where a teacher is distilled, or `is_tuned` after it was loaded.
    """
    config: DistillationConfig = values["teacher"]
    is_used = is_tuned or (config.images and not config.file)
    weights = weight_files(values["backbone"], values["weights"], fetch) if is_used else []
    return {"teacher": teacher_files(patch_sizes, config), "weights": weights}


def save_teacher(
    net: PatchDescriptor,
    file: Path,
    metadata: dict[str, str],
    dtype: torch.dtype = torch.float32,
    decoder: nn.Module | None = None,
) -> str:
    """Write a safetensors file with a checksum of its tensors in its metadata, and return the file's SHA-256."""
    tensors = net.state_dict() | {f"{DECODER}{k}": v for k, v in (decoder.state_dict() if decoder else {}).items()}
    state = {key: value.detach().cpu().to(dtype).contiguous() for key, value in tensors.items()}
    content = save(state, {"patch_size": str(net.patch_size), **metadata, "sha256": _digest(state)})
    write_atomic(file, lambda opened: opened.write(content))
    return sha256(content)


def _digest(state: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of tensors' names and bytes; safetensors files have no checksum."""
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _cached(net: PatchDescriptor, key: str) -> Path:
    return cache_root() / "teachers" / f"p{net.patch_size}-{key[:16]}.safetensors"


def read_teacher(
    net: PatchDescriptor,
    file: Path,
    decoder: nn.Module | None,
    key: str | None = None,
    where: str = "method.teacher.file",
) -> str:
    """Load a file into `net` and `decoder`, and return its SHA-256.

    key: of a distilled teacher, which must be that one and have a checksum.  where: the key that names the file.
    Raises UserError for a file that is damaged or does not fit.
    """
    hint = f"remove {file}: it is distilled again" if key else "another file"
    try:
        content = file.read_bytes()  # at once: what is checked is what is loaded
        state = load(content)
        about = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__", {})
    except Exception as error:  # safetensors' errors have no common class
        raise UserError(where, f"{file} cannot be read: {error}", hint) from error
    if (key or "sha256" in about) and about.get("sha256") != _digest(state):
        raise UserError(where, f"{file} is damaged: its tensors do not fit their checksum", hint)
    if key and about.get(KEY) != key:
        raise UserError(where, f"{file} is another teacher's file, or damaged", hint)
    state = {key: value.float() for key, value in state.items()}
    for key, value in state.items():
        if not bool(value.isfinite().all()):
            raise UserError(where, f"{file} holds NaN or infinite numbers in '{key}'", "another file")
    decoder_state = {key.removeprefix(DECODER): state.pop(key) for key in list(state) if key.startswith(DECODER)}
    if _shapes(state) != _shapes(net.state_dict()):
        what = f"{file} holds no teacher for patches of {net.patch_size} pixels, or one of another architecture"
        raise UserError(where, what)
    net.load_state_dict(state)
    if decoder:
        if _shapes(decoder_state) != _shapes(decoder.state_dict()):
            raise UserError(where, f"{file} holds no decoder, or one of another architecture")
        decoder.load_state_dict(decoder_state)
    return sha256(content)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {key: value.shape for key, value in state.items()}
