"""CPU time of one training step of CS-Flow, part by part, and what the feature store and the fused optimiser save.

A step: the batch from the store, forward, backward, clipping of the gradient, Adam.  Beside it the frozen backbone's
pass over the same images at three sizes, which the store makes needless after the first epoch, and clipping and Adam
as the authors' code has them (torch's defaults: a loop over the tensors).  Weights and features are random: the speed
does not depend on them.  Then a whole training on generated images, in which the backbone's passes are counted.

    python scripts/benchmark_csflow_step.py [--image-size 768] [--batch 4] [--repeat 3] [--write]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pages
import timm
import torch
from safetensors.torch import save_file
from torch.nn.utils import clip_grad_norm_

from anomaly_bench.config import build, compose, validate
from anomaly_bench.contracts import FeatureBatch, FrozenFeatures, Record, Scores
from anomaly_bench.loading.loaders import NormalLoaders
from anomaly_bench.methods.cs_flow import CSFlow, Likelihood, negative_log_likelihood
from anomaly_bench.nets.backbones import Backbone
from anomaly_bench.runs.runner import run

SMALL = [
    "method=csflow", "dataset=demo/brick", "method.backbone=resnet18", "method.layer=layer3", "method.image_size=128",
    "method.hidden=64", "method.epochs=2", "hardware=cpu", "hardware.threads=1", "save_heatmaps=false", "resamples=0",
]  # fmt: skip
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "csflow_step.md"


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def parts(size: int, batch: int, repeat: int) -> dict[str, float]:
    """Median CPU seconds of each part, after one turn of all to warm up."""
    torch.manual_seed(0)
    cs: CSFlow = build(
        "method", validate(compose(["method=csflow", "dataset=mtd", f"method.image_size={size}"])).method
    )
    cs.eval()
    parameters, images = list(cs.flow.parameters()), torch.rand(batch, 3, size, size)
    plain, fused = (torch.optim.Adam(parameters, **cs.adam, fused=fused) for fused in (False, True))
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        records = [Record(f"train/{i}", "good", np.full((8, 8), i, np.uint8)) for i in range(batch)]
        y = [torch.rand(batch, *f.shape[1:]) for f in cs.features(images[:1])]
        frozen = FrozenFeatures(lambda x: [f[: len(x)] for f in y], "random", "float32", torch.device("cpu"))
        loader = NormalLoaders(records, [], size, Path(folder), 0, 0).features("train", frozen, batch)
        work: dict[str, Callable[[], object]] = {
            "backbone": lambda: cs.features(images),
            "batch from the store": lambda: next(iter(loader)),
            "forward": lambda: loss.append(negative_log_likelihood(*cs.flow(y))),
            "backward": lambda: loss.pop().backward(),
            "clip": lambda: clip_grad_norm_(parameters, cs.gradient_clip),
            "Adam, plain": plain.step,
            "Adam, fused": fused.step,
        }
        for _ in range(repeat + 1):
            loss: list[torch.Tensor] = []
            for name, part in work.items():
                times.setdefault(name, []).append(cpu_seconds(part))
            cs.zero_grad()
    return {name: statistics.median(seconds[1:]) for name, seconds in times.items()}


def whole_training() -> dict[str, tuple[float, float]]:
    """(CPU seconds in the backbone, of all) in each phase of a small run: the store, two epochs, scoring."""
    spent: dict[str, list[float]] = {}
    phase, began = "before the training", time.process_time()
    forward, training_step, score = Backbone.forward, Likelihood.training_step, CSFlow.score

    def enter(name: str) -> None:
        nonlocal phase, began
        now = time.process_time()
        spent.setdefault(phase, [0.0, 0.0])[1] += now - began
        phase, began = name, now

    def timed(self: Backbone, images: torch.Tensor) -> list[torch.Tensor]:
        result: list[torch.Tensor] = []
        seconds = cpu_seconds(lambda: result.extend(forward(self, images)))
        spent.setdefault(phase, [0.0, 0.0])[0] += seconds
        return result

    def stepping(self: Likelihood, batch: FeatureBatch, batch_idx: int) -> torch.Tensor:
        enter(f"epoch {self.current_epoch + 1}")
        return training_step(self, batch, batch_idx)

    def scoring(self: CSFlow, images: torch.Tensor) -> Scores:
        enter("scoring")
        return score(self, images)

    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(Backbone, "forward", timed),
        patch.object(Likelihood, "training_step", stepping),
        patch.object(CSFlow, "score", scoring),
    ):
        weights = Path(folder) / "resnet18.safetensors"
        save_file(timm.create_model("resnet18").state_dict(), weights)
        run(compose([*SMALL, f"method.weights={weights}", f"output_dir={folder}", f"cache_dir={folder}"]))
    enter("")
    return {name: (backbone, total) for name, (backbone, total) in spent.items()}


def main() -> None:
    parser = pages.parser(__doc__, PAGE, repeat=3)
    parser.add_argument("--image-size", type=int, default=768)
    parser.add_argument("--batch", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    phases, seconds = whole_training(), parts(args.image_size, args.batch, args.repeat)
    fixed = [seconds["clip"] + seconds[name] for name in ("Adam, plain", "Adam, fused")]
    table = "\n".join(f"| {name} | {value:.3f} |" for name, value in seconds.items())
    profile = "\n".join(f"| {name} | {backbone:.2f} | {total:.2f} |" for name, (backbone, total) in phases.items())
    text = f"""# One training step of CS-Flow

Written by `scripts/benchmark_csflow_step.py`, which says what is compared.  The paper's size: 275 M parameters, kernels
3, 3, 3, 5, {args.image_size} px, {args.batch} images, {args.threads} thread(s).

| part | CPU seconds |
|---|---:|
{table}

What does not depend on the images, clipping and Adam over all parameters: {fixed[0]:.3f} s with torch's default,
{fixed[1]:.3f} s fused, **{fixed[0] / fixed[1]:.2f} times** less.  Median of {args.repeat}, all parts taking turns in
one process after one turn to warm up.

A whole training (`{" ".join(SMALL)}`, random weights), CPU seconds in the backbone and in all:

| phase | in the backbone | all |
|---|---:|---:|
{profile}

{pages.provenance("torch", "timm")}"""
    sys.stdout.write(text)
    if args.write:
        pages.write(PAGE, text)


if __name__ == "__main__":
    main()
