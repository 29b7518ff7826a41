"""CPU time of the map of one image by Glancing at the Patch: all windows together, and one window after the other.

The loop describes each cut-out patch by the local network and shows the global network the whole image with this one
hole, as the paper writes it.  Together: the local network runs densely over the image, and the global network computes
for each hole only what the hole can reach.  Random weights: the speed does not depend on them.

    python scripts/benchmark_glf_windows.py [--repeat 5] [--write]
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pages
import torch
from torch import Tensor
from torch.nn import functional as F

from anomaly_bench.config import build, compose, validate
from anomaly_bench.methods.glancing_at_the_patch import GlancingAtThePatch, inconsistency
from anomaly_bench.nets.windows import crop, hole_masks

PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "glf_windows.md"


def one_by_one(glf: GlancingAtThePatch, image: Tensor) -> Tensor:
    """What `window_scores` gives, a window at a time: [3, H, W] -> [2, N]."""
    p, scores = glf.patch_size, []
    image = glf.normalise(image)[None]
    wider = F.pad(image, (0, p, 0, p))  # the last windows reach out of the image
    for top in glf.places[0]:
        for left in glf.places[1]:
            corner = torch.tensor([top]), torch.tensor([left])
            z_l, z_g = glf.local(crop(wider, *corner, p)), glf.global_net(image, hole_masks(image, *corner, p))
            scores.append(torch.cat([inconsistency(z_l, z_g), 1 - glf.dad(z_l, z_g).sigmoid()]))
    return torch.stack(scores, 1)


def cpu_seconds(work: Callable[[], object]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    args = pages.parser(__doc__, PAGE, repeat=5).parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    glf: GlancingAtThePatch = build("method", validate(compose(["method=glf", "dataset=mtd"])).method)
    glf.eval()
    image = torch.rand(3, glf.image_size, glf.image_size)
    with torch.inference_mode():
        difference = float((glf.window_scores(image[None])[0] - one_by_one(glf, image)).abs().max())
        turns = [
            (cpu_seconds(lambda: glf.window_scores(image[None])), cpu_seconds(lambda: one_by_one(glf, image)))
            for _ in range(args.repeat)
        ]
    together, alone = (statistics.median(side) for side in zip(*turns, strict=True))
    text = f"""# All windows of an image together

Written by `scripts/benchmark_glf_windows.py`, which says what is compared.  {len(glf.places[0]) ** 2} windows
of {glf.patch_size} pixels on {glf.image_size} x {glf.image_size}, {args.threads} thread(s).

| | CPU seconds for a map |
|---|---:|
| window by window | {alone:.3f} |
| together | {together:.3f} |

**{alone / together:.1f} times** less; the largest difference between the scores is {difference:.0e}.  Median of
{args.repeat}, both taking turns in one process after one turn to warm up.

{pages.provenance("torch")}"""
    sys.stdout.write(text)
    if args.write:
        pages.write(PAGE, text)


if __name__ == "__main__":
    main()
