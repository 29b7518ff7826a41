"""A training by the authors' code of CS-Flow, unchanged: its network, loop and loaders, on features that are given.

checkout: of github.com/marco-rudolph/cs-flow (commit 88a13b8).  `compare_trainings.py` uses it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock, patch

import torch
from same_order import InOrder
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from anomaly_bench.methods.cs_flow import CrossScaleNet, CSFlow


def train(
    checkout: Path,
    method: CSFlow,
    loader: DataLoader[Any],
    images: Tensor,
    labels: list[int],
    seed: int,
    ours: set[str],
) -> tuple[Tensor, Tensor]:
    """Train their network on the features of `loader`.  Returns the scores [N] and maps [N, H, W] of images.

    ours: of `weights` (the initial ones, of `method`) and `order` (of `loader`), what is not their own.
    """
    config, train, utils = modules(checkout, method)
    torch.manual_seed(seed)
    flow, rows = train.get_cs_flow_model(config.n_feat), loader.dataset
    given: Any = [(rows[i][0], 0) for i in range(len(rows))]  # type: ignore[arg-type]
    with torch.no_grad():
        test = [[f[0] for f in method.features(image[None])] for image in images]
        if "weights" in ours:
            copy_weights(method, flow)
    loaders = utils.make_dataloaders(
        InOrder(given, loader.sampler) if "order" in ours else given, list(zip(test, labels, strict=True))
    )
    with (
        patch.object(train, "get_cs_flow_model", lambda: flow),
        patch.object(config, "save_model", False),
        patch.object(config, "verbose", False),
    ):
        train.train(*loaders)
    with torch.no_grad():
        z = flow([torch.stack(maps) for maps in zip(*test, strict=True)])  # as evaluate.py does, from here on
        scores = (utils.concat_maps(z) ** 2 / 2).mean((1, 2))
        largest = (z[0] ** 2).mean(1, keepdim=True)
        return scores, F.interpolate(largest, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]


def modules(checkout: Path, method: CSFlow) -> list[Any]:
    """Return their config, train and utils, set to what `method` is set to."""
    if str(checkout) not in sys.path:
        sys.path.insert(0, str(checkout))
    sys.modules.setdefault("efficientnet_pytorch", MagicMock())  # features are given
    config: Any = importlib.import_module("config")
    blocks: Any = method.flow.blocks
    if (
        config.max_grad_norm != method.gradient_clip
        or method.adam["eps"] != 1e-4
        or method.adam["betas"] != (0.9, 0.999)
    ):
        raise SystemExit("their code fixes gradient_clip, eps and betas")
    config.device, config.pre_extracted, config.clamp = "cpu", True, blocks[0].clamp
    config.img_size, config.n_feat = (method.image_size,) * 2, method.backbone.channels[0]
    config.map_size = (method.image_size // method.backbone.reductions[0],) * 2
    config.kernel_sizes = [block.first.inner[0].kernel_size[0] for block in blocks]
    config.n_coupling_blocks, config.fc_internal = len(blocks), blocks[0].first.inner[0].out_channels
    config.batch_size, config.lr_init = method.batch_size, method.adam["lr"]
    config.meta_epochs, config.sub_epochs = 1, method.length.epochs
    return [config, importlib.import_module("train"), importlib.import_module("utils")]


def copy_weights(method: CSFlow, flow: nn.Module) -> None:
    """Give their flow the weights of ours.  Raises SystemExit where the two permute channels differently."""
    modules: Any = list(flow.module_list)  # type: ignore[arg-type]
    couplings = [m for m in modules if hasattr(m, "s1")]
    permutations = [torch.stack(m.perm) for m in modules if hasattr(m, "perm")]
    for block, coupling, permutation in zip(method.flow.blocks, couplings, permutations, strict=True):
        if not torch.equal(block.permutations, permutation):  # type: ignore[arg-type]
            raise SystemExit("their permutations are not ours")
        copy_net(block.first, coupling.s2)  # type: ignore[arg-type]
        copy_net(block.second, coupling.s1)  # type: ignore[arg-type]


def copy_net(ours: CrossScaleNet, theirs: nn.Module) -> None:
    names = [f"conv_scale{i}_{layer}" for layer in (0, 1) for i in range(3)]
    names += ["down_conv01", "down_conv12", "up_conv10", "up_conv21"]
    convs = [*ours.inner, *ours.outer, *ours.down, *ours.up]
    for name, conv in zip(names, convs, strict=True):
        theirs.get_submodule(name).load_state_dict(conv.state_dict())
    for i, gamma in enumerate(ours.gamma):
        theirs.get_parameter(f"gamma{i}").copy_(gamma)
