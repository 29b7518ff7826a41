"""Compare our Reverse Distillation with the published code: python scripts/compare_rd4ad.py PATH_TO_RD4AD

Gives both the same random weights and images, for each backbone, and prints the largest differences of features, loss,
smoothed map and image score.  PATH_TO_RD4AD: a checkout of github.com/hq-deng/RD4AD (commit 6554076).
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from authors_rd4ad import pairs
from omegaconf import OmegaConf
from scipy.ndimage import gaussian_filter
from torch import Tensor
from torch.nn import functional as F

from anomaly_bench.config import NOT_ARGUMENTS, conf_dir
from anomaly_bench.methods.reverse_distillation import RESNETS, ReverseDistillation, flattened_loss

SIZE, BATCH = 128, 4


def ours(backbone: str) -> ReverseDistillation:
    """Our method as conf/method/rd.yaml describes it, for another backbone and a smaller image."""
    values: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "method" / "rd.yaml"))
    values |= {"backbone": backbone, "image_size": SIZE, "batch_size": BATCH}
    return ReverseDistillation(**{key: v for key, v in values.items() if key not in NOT_ARGUMENTS})


def their_map(f_e: list[Tensor], f_d: list[Tensor]) -> np.ndarray:
    """The published steps for one image: upsample, add, smooth.  -> [SIZE, SIZE]"""
    levels = [1 - F.cosine_similarity(e, d) for e, d in zip(f_e, f_d, strict=True)]
    up = [F.interpolate(level[:, None], size=SIZE, mode="bilinear", align_corners=True)[0, 0] for level in levels]
    return np.asarray(gaussian_filter(sum(u.numpy() for u in up), sigma=4))


@torch.no_grad()
def compare(backbone: str) -> dict[str, float]:
    """Largest absolute differences for one backbone, in training and in evaluation mode."""
    encoder, embedding = getattr(importlib.import_module("resnet"), backbone)(pretrained=False)
    encoder.eval()
    decoder = getattr(importlib.import_module("de_resnet"), f"de_{backbone}")(pretrained=False)
    method = ours(backbone)
    method.teacher.net.load_state_dict({key: encoder.state_dict()[key] for key in method.teacher.net.state_dict()})
    for own, given in pairs(method, embedding, decoder):
        own.copy_(given)
    images = torch.rand(BATCH, 3, SIZE, SIZE)
    found = {"features": 0.0, "loss": 0.0}
    for training in (True, False):
        for module in (embedding, decoder, method):
            module.train(training)
        theirs = encoder((images - method.teacher.mean) / method.teacher.std)[:3]
        rebuilt = decoder(embedding(theirs))
        f_e, f_d = method(images)
        loss = sum(
            1 - F.cosine_similarity(a.flatten(1), b.flatten(1)).mean() for a, b in zip(theirs, rebuilt, strict=True)
        )
        levels = [*zip(f_e, theirs, strict=True), *zip(f_d, rebuilt, strict=True)]
        found["features"] = max(found["features"], *((a - b).abs().max().item() for a, b in levels))
        found["loss"] = max(found["loss"], abs(flattened_loss(f_e, f_d).item() - float(loss)))
    scores, reference = method.score(images), their_map([t[:1] for t in theirs], [r[:1] for r in rebuilt])
    assert scores.map is not None
    found["map"] = float(np.abs(scores.map[0].numpy() - reference).max())
    found["image score"] = abs(scores.image[0].item() - float(reference.max()))
    return found


def main(checkout: str) -> None:
    """A line for each backbone."""
    sys.path.insert(0, str(Path(checkout)))
    torch.manual_seed(0)
    for backbone in RESNETS:
        found = compare(backbone)
        sys.stdout.write(f"{backbone:16} " + "  ".join(f"{key} {value:.1e}" for key, value in found.items()) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
