"""Frozen ImageNet feature pyramids: timm's networks, weights from a file or timm's hub, normalisation inside."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pickle
from functools import cache, partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import timm
import torch
from huggingface_hub import constants, hf_hub_download
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.torch import load_file
from torch import Tensor, nn

from anomaly_bench.errors import NotHere, UserError, nearest
from anomaly_bench.files import sha256_of
from anomaly_bench.paths import WEIGHTS_VARIABLE

RANDOM = "random"  # in place of a weights file
PROBE = 64  # pixels of the image that tells channels and reductions


@cache
def timm_name(backbone: str) -> str:
    """Return the name with its weights tag.

    Without one, torchvision's first ImageNet weights are meant (`tv_in1k`), as the papers used them: timm's own default
    is another training of the same network.  Raises UserError for a name that timm lacks.
    """
    known = timm.list_models(pretrained=True)
    name = backbone if "." in backbone else f"{backbone}.tv_in1k"
    if name in known:
        return name
    tags = [k for k in known if k.split(".")[0] == backbone.split(".")[0]]
    what = f"timm has no network '{backbone}'" + (f" with that tag; its tags: {', '.join(tags)}" if tags else "")
    raise UserError("method.backbone", what, "" if tags else nearest(backbone, {k.split(".")[0] for k in known}))


class Backbone(nn.Module):
    """A frozen feature pyramid that ends after the deepest wanted layer: always in eval mode, never a gradient.

    layers: timm's numbers (ResNet's layer1 is 1) or names of modules (`layer1`, `blocks.5`).  The constructor builds
    the architecture only; `load` brings the weights.  forward: images [B, 3, H, W] in [0, 1] -> a feature map
    [B, C_l, H / r_l, W / r_l] for each layer.  Raises UserError for a module that the network lacks.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: str, layers: tuple[int, ...] | tuple[str, ...]) -> None:
        super().__init__()
        self.name, self.layers = timm_name(backbone), layers
        numbers = tuple(layer for layer in layers if isinstance(layer, int))
        if numbers:
            self.net: nn.Module = timm.create_model(self.name, features_only=True, out_indices=numbers)
        else:
            whole = timm.create_model(self.name).eval()
            modules = [name for name, _ in whole.named_modules() if name]
            for layer in layers:
                if layer not in modules:
                    what = f"'{layer}' is no module of {self.name}"
                    raise UserError("method.layer", what, nearest(str(layer), modules))
            self.net = timm.models.create_feature_extractor(whole, {str(layer): str(layer) for layer in layers})
        config: Any = timm.get_pretrained_cfg(self.name)
        self.register_buffer("mean", torch.tensor(config.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(config.std).view(1, 3, 1, 1))
        self.requires_grad_(False).eval()
        probe = self(torch.zeros(1, 3, PROBE, PROBE))
        if flat := [layer for layer, f in zip(layers, probe, strict=True) if f.ndim != 4]:
            raise UserError("method.layer", f"'{flat[0]}' of {self.name} gives no feature map")
        self.channels = [f.shape[1] for f in probe]
        self.reductions = [PROBE // f.shape[2] for f in probe]
        self.sha256 = ""

    def train(self, mode: bool = True) -> Backbone:
        """Stay in eval mode: the batch norms' running statistics are part of the frozen features."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the features [B, C, h, w] of each layer for images [B, 3, H, W] in [0, 1]."""
        features: Any = self.net((images - self.mean) / self.std)
        return list(features.values()) if isinstance(features, dict) else features

    def load(self, weights: str | None) -> None:
        """Load ImageNet weights from `weights`, else from a file in $ANOMALY_BENCH_WEIGHTS, else from timm's hub.

        Files: safetensors or torch, timm's or torchvision's key names; keys of later layers are ignored.  Sets
        `sha256`, of the file.  `random`: always the same random numbers, to try out the machinery without any file;
        figures then mean nothing, and `sha256` says so.  Raises UserError when no file is found, or a needed key is
        missing or has another shape.
        """
        if weights == RANDOM:
            self.sha256 = self._load_random()
            return
        file = find_weights(self.name, weights) or hub_file(self.name)
        loaded, needed = read_weights(file), self.net.state_dict()
        self.sha256 = sha256_of(file)
        missing = sorted(k for k in needed.keys() - loaded.keys() if not k.endswith("num_batches_tracked"))
        common = sorted(needed.keys() & loaded.keys())
        wrong = [k for k in common if needed[k].shape != loaded[k].shape]
        if missing or wrong:
            reasons = [f"{len(missing)} keys missing, the first is '{missing[0]}'"] if missing else []
            reasons += [f"'{k}' has shape {list(loaded[k].shape)}, needed {list(needed[k].shape)}" for k in wrong[:1]]
            raise UserError("method.weights", f"{file} does not fit {self.name}: {'; '.join(reasons)}")
        for k in common:
            if needed[k].is_floating_point() and not loaded[k].is_floating_point():
                raise UserError("method.weights", f"{file} holds {loaded[k].dtype} in '{k}'", "another file")
            if not bool(loaded[k].isfinite().all()):
                raise UserError("method.weights", f"{file} holds NaN or infinite numbers in '{k}'", "another file")
        self.net.load_state_dict({k: loaded.get(k, needed[k]) for k in needed})

    def _load_random(self) -> str:
        """Load random weights, the same whatever was drawn before, and return `random` and a checksum."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            state = Backbone(self.name, self.layers).net.state_dict()
        self.net.load_state_dict(state)
        digest = hashlib.sha256()
        for value in state.values():
            digest.update(value.numpy().tobytes())
        return f"{RANDOM} {digest.hexdigest()[:16]}"


def weight_files(backbone: str, weights: str | None, fetch: bool) -> list[Path]:
    """Return the file that `Backbone.load(weights)` reads; none for random numbers.

    fetch: download it if it is not on this machine.  Raises NotHere if it would have to be downloaded without `fetch`,
    UserError if that fails.
    """
    name = timm_name(backbone)
    return [] if weights == RANDOM else [find_weights(name, weights) or hub_file(name, fetch)]


def hub_file(name: str, fetch: bool = True) -> Path:
    """Return the weights file of timm's hub: from its cache, else downloaded.

    Raises UserError where neither works, NotHere where only a download could help and `fetch` is False.
    """
    repository: Any = timm.get_pretrained_cfg(name)
    offline = constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")
    get = partial(hf_hub_download, repository.hf_hub_id, "model.safetensors")
    try:
        return Path(get(local_files_only=True))
    except LocalEntryNotFoundError:
        if not fetch and not offline:
            what = f"the ImageNet weights of {name} come from timm's hub and are not here yet"
            raise NotHere("method.weights", what, "the first run downloads them") from None
    try:
        if offline:
            raise LocalEntryNotFoundError("HF_HUB_OFFLINE is set")
        with contextlib.suppress(HTTPError):  # any answer shows that the hub can be reached
            urlopen(constants.ENDPOINT, timeout=10).close()  # the hub's client would go on trying for a minute
        return Path(get())
    except Exception as error:  # no network, no such file, no space: the client raises many kinds
        what = f"no ImageNet weights for {name}: timm's hub cannot be reached ({type(error).__name__})"
        files = f"method.weights=FILE; a file named {name.split('.')[0]}.* in ${WEIGHTS_VARIABLE}"
        raise UserError("method.weights", what, f"three ways: run once with network access; {files}") from error


def find_weights(name: str, weights: str | None) -> Path | None:
    """Return `weights` if given, else the file `<arch>.*` or `<arch>-*` in $ANOMALY_BENCH_WEIGHTS, else None (the hub).

    A file that has the name of another of timm's networks, so of another training, is ignored.
    """
    if weights is not None:
        file = Path(weights).expanduser()
        if not file.is_file():
            what = f"{file} is a folder; a file is needed" if file.is_dir() else f"no such file: {file}"
            raise UserError("method.weights", what)
        return file
    folder = Path(os.environ.get(WEIGHTS_VARIABLE) or os.devnull)
    arch = name.split(".")[0]
    found = [f for mark in ".-" for f in folder.glob(f"{arch}{mark}*") if f.suffix in {".safetensors", ".pth", ".pt"}]
    others = set(timm.list_models(pretrained=True)) - {name}  # `resnet18.a1_in1k.pth` is no file for `resnet18.tv_in1k`
    files = sorted(f for f in found if f.stem not in others)
    if len(files) > 1:
        exact = [f for f in files if f.stem == name]
        if len(exact) != 1:
            names = ", ".join(f.name for f in files)
            raise UserError(
                "method.weights", f"several files in {folder} fit {name}: {names}", "name one: method.weights=FILE"
            )
        files = exact
    return files[0] if files else None


def read_weights(file: Path) -> dict[str, Tensor]:
    """Return the tensors of a safetensors or torch file: a state dict, or a checkpoint with one under `state_dict`."""
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
        state = state.get("state_dict", state)
        return {k: v for k, v in state.items() if isinstance(v, Tensor) and v.layout == torch.strided and not v.is_meta}
    except Exception as error:  # safetensors, pickle and zip errors have no common class
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, pickle.UnpicklingError):
            reason = "it is damaged, or holds code, which is never run"
        if isinstance(error, AttributeError):
            reason = "it holds no tensors with names"
        raise UserError("method.weights", f"{file} cannot be read as weights: {reason}") from error
