"""Every method of the package for small images, with random weights, and a few images to build it from."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch
from _pytest.mark import ParameterSet

from anomaly_bench.config import build, compose, validate
from anomaly_bench.contracts import Method, Record, as_size
from anomaly_bench.loading.loaders import NormalLoaders

BATCH = 2
RANDOM = "method.weights=random"
METHODS = {  # file -> what is built; stages that it trains
    "brightness": ("method=brightness method.image_size=32", 0),
    "cs_flow": (f"method=csflow_fast {RANDOM} method.layer=layer1 method.image_size=32 method.hidden=8", 1),
    "glancing_at_the_patch": (
        f"method=glf {RANDOM} method.image_size=243 method.windows=3 method.tune_steps=2 method.steps=2",
        2,
    ),
    "padim": (f"method=padim_fast {RANDOM} method.image_size=32 method.components=16", 0),
    "patchcore": (
        "method=patchcore method.backbone=p17 method.layers=[1] method.image_size=32 method.reweight=true "
        f"{RANDOM} method.coreset_share=0.2",
        0,
    ),
    "reverse_distillation": (f"method=rd_fast {RANDOM} method.image_size=64", 1),
    "simplenet": (f"method=simplenet_fast {RANDOM} method.image_size=64 method.hidden=8", 1),
    "stfpm": (f"method=stfpm_fast {RANDOM} method.image_size=64", 1),
    "uninformed_students": ("method=us_fast method.image_size=32 method.students=2", 1),
    "us_shallow": (f"method=us_shallow {RANDOM} method.image_size=32 method.clusters=2 method.samples=50", 0),
}
TRAINED = [name for name, (_, stages) in METHODS.items() if stages]


def sampled(names: Iterable[str], *slow: str) -> list[ParameterSet]:
    """Names of methods as parameters of a test; those that are trained like another one are slow."""
    return [pytest.param(name, marks=[pytest.mark.slow] if name in slow else []) for name in names]


def small(name: str, folder: Path) -> tuple[Method, NormalLoaders]:
    """A method for small images, and four of these."""
    torch.manual_seed(0)
    words = [*METHODS[name][0].split(), f"method.batch_size={BATCH}"]
    method: Method = build("method", validate(compose(["dataset=mtd", *words])).method)
    pixels = np.random.default_rng(0).integers(0, 256, (6, *as_size(method.image_size), 3), np.uint8)
    records = [Record(f"{i}", "good", image) for i, image in enumerate(pixels)]
    return method, NormalLoaders(records[:4], records[4:], method.image_size, folder, 0, 0)
