"""CPU time of the dense patch networks: ours (dilation), multi-pooling, and patch by patch.

Multi-pooling is the form of Bailer et al. (BMVC 2017), which the public codes use: each pool becomes four pools of
shifted maps, stacked along the batch, with plain convolutions.  It is measured in PyTorch's usual memory order, planes,
and with channels last, as ours.  Patch by patch is `PatchDescriptor.forward` (channels last, too) on one batch of 512
patches that are cut already, times the number of patches / 512: extrapolated.  All sides take turns within one process,
after one turn of each to warm up; the dense results of one image are compared.  Weights are PyTorch's random ones, the
speed does not depend on them.

    python scripts/benchmark_dense.py [--size 256] [--threads 1] [--repeat 3] [--write]
"""

from __future__ import annotations

import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pages
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from anomaly_bench.nets.patch_descriptors import PATCH_SIZES, SLOPE, PatchDescriptor

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "dense.md"
HEADER = (
    "| p | stride | pass | patch by patch, s | multi-pooling in planes, s | same, channels last, s | ours, s "
    "| times patch by patch | (operations) | times multi-pooling in planes | same, channels last | largest difference |"
)
SAMPLE = 512  # patches
Pass = Callable[[], Tensor]


def multi_pooling(net: PatchDescriptor, images: Tensor, stride: int, memory_format: torch.memory_format) -> Tensor:
    """`net.dense` as Bailer et al. do it: for any size, by padding to the multiple that the pools need."""
    rows = list(zip(net.convs, net.pooled, strict=True))
    split = len(net.strides) - 1 - net.strides.index(stride)  # pools that become four; those before make the stride
    before, sizes = (net.patch_size - 1) // 2, [-(-n // stride) for n in images.shape[2:]]
    behind = []
    for positions, pixels in zip(sizes, images.shape[2:], strict=True):
        needed, left = -(-positions // 2**split), split
        for conv, pooled in reversed(rows):
            needed = (2 * needed + (left > 0) if pooled else needed) + conv.kernel_size[0] - 1
            left -= pooled
        behind.append(needed - before - pixels)
    x = F.pad(images, (before, behind[1], before, behind[0])).contiguous(memory_format=memory_format)
    left = len(net.strides) - 1
    for conv, pooled in rows:
        x = conv(x)
        if pooled:
            shifts = product((0, 1), repeat=2) if left <= split else [(0, 0)]
            x = torch.cat([F.max_pool2d(x[:, :, i:, j:], 2) for i, j in shifts])
            left -= 1
        x = x if conv is net.convs[-1] else F.leaky_relu_(x, SLOPE)
    for _ in range(split):  # [4 B, C, h, w] -> [B, C, 2h, 2w]: the shifts back to their pixels, the last pool first
        _, C, h, w = x.shape
        x = x.unflatten(0, (2, 2, -1)).permute(2, 3, 4, 0, 5, 1).reshape(-1, C, 2 * h, 2 * w)
    return x[:, :, : sizes[0], : sizes[1]]


def operations(call: Pass) -> int:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        call()
    return counter.get_total_flops()


def cpu_seconds(call: Pass, backward: bool) -> float:
    began = time.process_time()
    with torch.inference_mode(not backward):
        y = call()
    if backward:
        y.square().sum(1).mean().backward()
    return time.process_time() - began


def measure(p: int, stride: int, backward: bool, size: int, repeat: int) -> tuple[list[float], str]:
    """Median CPU seconds of the four sides, in the table's order, for one image; the table's row."""
    torch.manual_seed(0)
    net, image, patches = PatchDescriptor(p), torch.randn(1, 3, size, size), torch.randn(SAMPLE, 3, p, p)
    sides: list[Pass] = [
        lambda: net(patches),
        lambda: multi_pooling(net, image, stride, torch.contiguous_format),
        lambda: multi_pooling(net, image, stride, torch.channels_last),
        lambda: net.dense(image, stride),
    ]
    spent: list[list[float]] = [[], [], [], []]
    for _ in range(repeat + 1):
        for side, seconds in zip(sides, spent, strict=True):
            seconds.append(cpu_seconds(side, backward))
    with torch.no_grad():
        dense = sides[3]()
        difference = max(float((side() - dense).abs().max()) for side in sides[1:3])
    share = dense[0, 0].numel() / SAMPLE
    medians = [statistics.median(seconds[1:]) for seconds in spent]
    medians[0] *= share
    ratios = [m / medians[3] for m in medians[:3]]
    fewer = operations(sides[0]) * share / operations(sides[3])
    kind = "forward, backward" if backward else "inference"
    times = " | ".join([f"{medians[0]:.1f}", *(f"{m:.2f}" for m in medians[1:])])
    versus = f"**{ratios[0]:.0f}** | {fewer:.0f} | **{ratios[1]:.2f}** | {ratios[2]:.2f}"
    return medians, f"| {p} | {stride} | {kind} | {times} | {versus} | {difference:.0e} |"


def main() -> None:
    parser = pages.parser(__doc__, PAGE, repeat=3)
    parser.add_argument("--size", type=int, default=256)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lines = [HEADER, "|" + "---|" * (HEADER.count("|") - 1)]
    print("\n".join(lines))
    cases = [(p, 1, False) for p in PATCH_SIZES] + [(33, 4, False), (65, 4, False), (33, 4, True)]
    everything = [0.0] * 4  # inference at stride 1: the three scales of the paper's setting
    for p, stride, backward in cases:
        medians, line = measure(p, stride, backward, args.size, args.repeat)
        lines.append(line)
        print(line, flush=True)
        if stride == 1 and not backward:
            everything = [a + b for a, b in zip(everything, medians, strict=True)]
    a, b, c = (seconds / everything[3] for seconds in everything[:3])
    total = f"The three scales at stride 1, inference: {everything[3]:.1f} s, {a:.0f} times less than patch by patch, "
    total += (
        f"{b:.2f} times less than multi-pooling in planes, {c:.2f} times less than multi-pooling with channels last."
    )
    print(total)
    if args.write:
        write_page("\n".join(lines), total, args)


def write_page(table: str, total: str, args: Namespace) -> None:
    text = f"""# Dense patch networks on the CPU

Written by `scripts/benchmark_dense.py`, which says what is compared.  One image of {args.size} x {args.size} pixels,
{args.threads} thread(s): a descriptor for each pixel (stride 1) or for each fourth in both directions (stride 4).

{table}

{total}

CPU seconds (user and system): median of {args.repeat}, all sides taking turns in one process after one turn of each to
warm up.  Patch by patch is extrapolated from one batch of {SAMPLE} patches.  "times": how many times the seconds of
ours.  "(operations)": the same ratio counted in multiplications and additions, which is what a dense form can save; the
rest is memory and cache.  "largest difference": between the dense forms, float32.

{pages.provenance("torch")}"""
    pages.write(PAGE, text)


if __name__ == "__main__":
    main()
