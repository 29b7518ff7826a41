"""CPU time of one training step of Reverse Distillation: ours, and the same step as the authors' code does it.

There the teacher is part of the graph, its parameters require gradients, and layer4 is computed and thrown away
(github.com/hq-deng/RD4AD at commit 6554076).  All else is the same on both sides: student, loss, images, optimiser,
memory format, threads; theirs gets images that are normalised already.  The steps alternate within one process, after
one step of each to warm up.  Weights are random, the speed does not depend on them.

    python scripts/benchmark_rd_step.py [--backbone wide_resnet50_2 resnet18] [--batch 4] [--repeat 5] [--write]
"""

from __future__ import annotations

import copy
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pages
import timm
import torch
from torch import Tensor

from anomaly_bench.config import build, compose, validate
from anomaly_bench.methods.reverse_distillation import ReverseDistillation, flattened_loss

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "rd_step.md"
HEADER = "| backbone | image | batch | threads | authors' step, s | ours, s | ratio | student after all steps |"
Step = Callable[[], None]


def ours(rd: ReverseDistillation, images: Tensor) -> Step:
    """The method's own training step and optimiser."""
    optimiser = rd.configure_optimizers()

    def step() -> None:
        optimiser.zero_grad()
        rd.training_step({"image": images, "path": []}, 0).backward()
        optimiser.step()

    return step


def theirs(rd: ReverseDistillation, images: Tensor) -> Step:
    """`rd`'s student behind a whole, trainable teacher."""
    teacher = timm.create_model(rd.teacher.name, pretrained=False, features_only=True, out_indices=(1, 2, 3, 4)).eval()
    teacher.load_state_dict(rd.teacher.net.state_dict(), strict=False)  # layer4 keeps its own random weights
    optimiser = rd.configure_optimizers()
    normalised = (images - rd.teacher.mean) / rd.teacher.std

    def step() -> None:
        f_e = teacher(normalised)[:3]
        loss = flattened_loss(f_e, rd.decoder(rd.bottleneck(f_e)))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def cpu_seconds(step: Step) -> float:
    began = time.process_time()
    step()
    return time.process_time() - began


def measure(backbone: str, size: int, batch: int, repeat: int) -> tuple[list[float], list[float], float]:
    """CPU seconds of each of our steps and of each of theirs; the largest difference between the two students after."""
    torch.manual_seed(0)
    cfg = compose(["method=rd", "dataset=mtd", f"method.backbone={backbone}", f"method.image_size={size}"])
    rd: ReverseDistillation = build("method", validate(cfg).method)
    other, images = copy.deepcopy(rd), torch.rand(batch, 3, size, size)
    steps = ours(rd, images), theirs(other, images)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeat + 1):
        for step, spent in zip(steps, times, strict=True):
            spent.append(cpu_seconds(step))
    pairs = zip(rd.state_dict().values(), other.state_dict().values(), strict=True)
    return times[0][1:], times[1][1:], max(float((a - b).abs().max()) for a, b in pairs)


def spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} ({min(seconds):.2f}-{max(seconds):.2f})"


def main() -> None:
    parser = pages.parser(__doc__, PAGE, repeat=5)
    parser.add_argument("--backbone", nargs="+", default=["wide_resnet50_2", "resnet18"])
    parser.add_argument("--image-size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    warnings.filterwarnings("ignore", ".*self.trainer. reference is not registered.*")
    lines = [HEADER, "|---|---|---|---|---|---|---|---|"]
    print("\n".join(lines))
    for backbone in args.backbone:
        a, b, difference = measure(backbone, args.image_size, args.batch, args.repeat)
        ratio = statistics.median(a) / statistics.median(b)
        same = "identical" if difference == 0 else f"differs by {difference:.1e}"
        setting = f"| {backbone} | {args.image_size} px | {args.batch} | {args.threads} "
        lines.append(f"{setting}| {spread(b)} | {spread(a)} | **{ratio:.3f}** | {same} |")
        print(lines[-1], flush=True)
    if args.write:
        write_page("\n".join(lines), args.repeat)


def write_page(table: str, repeat: int) -> None:
    text = f"""# One training step of Reverse Distillation

Written by `scripts/benchmark_rd_step.py`, which says what is compared.  The authors' code runs the teacher inside the
graph with gradients and computes its layer4; here it runs without gradients and ends after layer3.  The updates are the
same: after all steps both students are compared, batch norm statistics included.

{table}

CPU seconds (user and system) of a step: median (lowest-highest) of {repeat}, both sides alternating in one process
after one step of each to warm up.  Random weights; the speed does not depend on them.

{pages.provenance("torch", "timm")}"""
    pages.write(PAGE, text)


if __name__ == "__main__":
    main()
