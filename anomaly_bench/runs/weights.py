"""weights.safetensors: all that a finished run needs to score images, as trained or rounded to float16."""

from __future__ import annotations

import logging
from typing import Literal

import numpy as np
import torch
from safetensors.torch import save as safetensors_bytes
from torch import Tensor

from anomaly_bench.contracts import Method
from anomaly_bench.files import write_atomic
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.precision import scoring
from anomaly_bench.runs.whole_images import View, score_whole

SAMPLE = 16  # test images whose scores are compared before and after the rounding
log = logging.getLogger("anomaly_bench")


def store_weights(
    folder: RunFolder, method: Method, dtype: Literal["float32", "float16"], images: ImageSet, view: View
) -> None:
    """Write the method's state dict.

    float16: half the space.  The method goes on with the rounded weights, so that the run's scores are those of its
    file; log and manifest say how far they moved.  A tensor with values beyond float16 stays as it is.
    """
    state = {key: value.detach().cpu().contiguous() for key, value in method.state_dict().items()}
    if dtype == "float16":
        state = {key: rounded(value) for key, value in state.items()}
        before = scores(method, images, view)
        method.load_state_dict(state)
        change, spread = float((scores(method, images, view) - before).abs().max()), float(before.std(correction=0))
        log.info("weights in float16: scores of %d test images moved by at most %.3g, their deviation is %.3g",
                 len(before), change, spread)  # fmt: skip
        folder.update(weights={"dtype": dtype, "images": len(before), "largest_change": change, "deviation": spread})
    write_atomic(folder.path / "weights.safetensors", lambda file: file.write(safetensors_bytes(state)))


def rounded(value: Tensor) -> Tensor:
    """Return a tensor in float16, unless it is not float32 or one of its values would become infinite."""
    half = value.half()
    return half if value.dtype == torch.float32 and bool(half.isfinite().all()) else value


@torch.inference_mode()
def scores(method: Method, images: ImageSet, view: View) -> Tensor:
    """Return the scores [n] of up to SAMPLE test images, spread over the whole list."""
    method.eval()
    chosen = sorted({int(i) for i in np.linspace(0, len(images) - 1, SAMPLE)})
    found = []
    for i in chosen:
        image = images[i]["image"][None].to(method.device)
        with scoring(method):
            found.append(score_whole(view, method.score, image, [images.shape(i)], method.batch_size).image.float())
    return torch.cat(found).cpu()
