"""Frozen feature networks by name: any of timm's, or the patch descriptors in the package, which need no download.

`p33` and `p17` are the networks of Uninformed Students for patches of 33 and 17 pixels, distilled from ImageNet
features on natural images (`nets/teachers`).  They have one layer, number 1, with a descriptor of 128 numbers for each
4 x 4 pixels: p33 computes just these, p17, whose dense form has one for each pixel, averages them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_bench.errors import UserError
from anomaly_bench.nets import backbones
from anomaly_bench.nets.backbones import RANDOM, Backbone, timm_name
from anomaly_bench.nets.blocks import one_by_one
from anomaly_bench.nets.patch_descriptors import DIMENSIONS, PatchDescriptor, register_imagenet_statistics
from anomaly_bench.nets.teachers import read_teacher

DESCRIPTORS = {"p17": 17, "p33": 33}  # pixels of a patch
STRIDE = 4  # pixels between two descriptors of the maps, as in a ResNet's layer 1

Layers = Annotated[tuple[int, ...] | tuple[str, ...], Field(min_length=1)]  # timm's numbers, or names of modules


class DescriptorBackbone(nn.Module):
    """A patch descriptor in the form of a `Backbone`: frozen, normalisation inside, one layer.

    backbone: `p17` or `p33`.  forward: images [B, 3, H, W] in [0, 1] -> [descriptors [B, 128, ceil(H/4), ceil(W/4)]].
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: str) -> None:
        super().__init__()
        self.name, self.layers = backbone, (1,)
        self.channels, self.reductions, self.sha256 = [DIMENSIONS], [STRIDE], ""
        self.net = PatchDescriptor(DESCRIPTORS[backbone])
        register_imagenet_statistics(self)
        self.requires_grad_(False).eval()

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the descriptors [B, 128, h, w] of images [B, 3, H, W] in [0, 1], in a list of one layer."""
        images = (images - self.mean) / self.std
        if STRIDE in self.net.strides:
            return [self.net.dense(images, STRIDE)]
        # One image at a time: a layer's maps of a 256 x 256 image take 64 MiB at stride 1.
        maps = [F.avg_pool2d(self.net.dense(image), STRIDE, ceil_mode=True) for image in one_by_one(images)]
        return [torch.cat(maps)]

    def load(self, weights: str | None) -> None:
        """Load the file in the package and set `sha256`; `random`: always the same random numbers.

        Raises UserError for any other weights, and for a damaged file.
        """
        found = weight_files(self.name, weights)
        if found:
            self.sha256 = read_teacher(self.net, found[0], None)
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.net.load_state_dict(PatchDescriptor(self.net.patch_size).state_dict())
        self.sha256 = RANDOM


def frozen_network(backbone: str, layers: Sequence[int] | Sequence[str]) -> Backbone | DescriptorBackbone:
    """Return the frozen network of a method's keys `backbone` and `layers`, whose `load` brings the weights.

    Its attributes: name, layers, channels and reductions (of each layer), sha256.  Raises UserError for a network that
    does not exist, or layers that it lacks or that do not come once each from fine to coarse.
    """
    if backbone in DESCRIPTORS:
        if tuple(layers) != (1,):
            what = f"{list(layers)} given; {backbone} has one layer, number 1"
            raise UserError("method.layers", what, "method.layers=[1]")
        return DescriptorBackbone(backbone)
    ordered: list[Any] = sorted(set(layers)) if isinstance(layers[0], int) else list(dict.fromkeys(layers))
    if list(layers) != ordered:
        raise UserError("method.layers", f"{list(layers)} given, needed: each layer once, from fine to coarse")
    name = timm_name(backbone)
    if isinstance(layers[0], int):
        available = _layer_numbers(name)
        if missing := [layer for layer in layers if layer not in available]:
            what = f"{name} has no layer {missing[0]}; its layers: {', '.join(map(str, available))}"
            raise UserError("method.layers", what)
    try:
        return Backbone(backbone, tuple(layers))  # type: ignore[arg-type]
    except UserError as error:
        raise UserError(error.where.replace("method.layer", "method.layers"), error.what, error.hint) from error
    except (AssertionError, RuntimeError) as error:  # a transformer takes images of one size only
        raise UserError("method.backbone", f"{name} gives no feature maps here: {error}") from error


def weight_files(backbone: str, weights: str | None, fetch: bool = False) -> list[Path]:
    """Return the files that `load(weights)` of such a network reads; none for random numbers.

    fetch: download what is not on this machine.  Raises what `backbones.weight_files` raises, and UserError for a file
    of a network whose weights come with the package.
    """
    if backbone not in DESCRIPTORS:
        return backbones.weight_files(backbone, weights, fetch)
    if weights not in (None, RANDOM):
        what = f"{weights} given, but the weights of {backbone} come with the package"
        raise UserError("method.weights", what, f"null or {RANDOM}")
    return [] if weights else [Path(str(files("anomaly_bench.nets").joinpath(f"teachers/{backbone}.safetensors")))]


def frozen_weight_files(values: Mapping[str, Any], fetch: bool) -> dict[str, list[Path]]:
    """Return `Method.weight_files` of a method with the keys `backbone` and `weights`."""
    return {"weights": weight_files(values["backbone"], values["weights"], fetch)}


def _layer_numbers(name: str) -> list[int]:
    """Return the numbers of the layers that timm can give of a network.  Raises UserError where it can give none."""
    try:
        with torch.device("meta"):  # the architecture without memory for weights
            feature_info: Any = timm.create_model(name, features_only=True).feature_info
            return list(range(len(feature_info)))
    except Exception as error:  # networks without feature maps fail in many ways
        what = f"timm gives no numbered layers of {name}: {type(error).__name__}"
        raise UserError("method.layers", what, "names of modules, such as blocks.5") from error
