"""Timing as MVTec's runtime script does it: one random image of a given size, from the host to its map on the host."""

from __future__ import annotations

import time
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from anomaly_bench import config
from anomaly_bench.contracts import Method, Size
from anomaly_bench.errors import UserError
from anomaly_bench.former_names import present_method
from anomaly_bench.inference.predict import Model
from anomaly_bench.inference.runtimes import Eager, Runtime
from anomaly_bench.runs.runner import to_memory_format
from anomaly_bench.runs.stored_config import stored_config

SIZES: tuple[Size, ...] = ((256, 256), (512, 512), (1024, 1224))  # height, width
GPU_RUNS = 1000  # to warm up, and again timed
CPU_WARM_UP, CPU_LEAST = 3, 10  # then timed for the given seconds, CPU_LEAST to GPU_RUNS of them


def time_size(model: Model, runtime: Runtime, size: Size, seconds: float) -> dict[str, Any]:
    """Return mean and percentiles of the latency in ms of one image float32 [1, 3, H, W], with how many were timed.

    From the copy to the device to the map on the host.  For a method that cannot take the size, `why_not` alone.
    """
    if not isinstance(runtime, Eager):
        return {"why_not": f"{runtime.name} has the size of its file only"}
    try:
        method = method_of_size(model, size)
        score = runtime.score_function(method)
        image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))

        def once() -> float:
            began = time.perf_counter()
            found = score(image.to(method.device))
            (found.image if found.map is None else found.map).cpu()
            return 1000 * (time.perf_counter() - began)

        gpu = method.device.type == "cuda"
        warm_up = GPU_RUNS if gpu else CPU_WARM_UP
        for _ in range(warm_up):
            once()
        ms: list[float] = []
        began = time.monotonic()
        while len(ms) < (GPU_RUNS if gpu else CPU_LEAST) or (
            not gpu and len(ms) < GPU_RUNS and time.monotonic() - began < seconds
        ):
            ms.append(once())
    except UserError as error:
        return {"why_not": str(error)}
    except RuntimeError as error:  # shapes that do not fit each other, memory
        return {"why_not": shorten(" ".join(str(error).split()), 160)}
    found = dict(zip(("p50", "p95", "p99"), np.percentile(ms, (50, 95, 99)).round(4).tolist(), strict=True))
    return {"warm_up": warm_up, "timed": len(ms), "latency_ms": {"mean": round(float(np.mean(ms)), 4), **found}}


def method_of_size(model: Model, size: Size) -> Method:
    """Return a model's method for images of another size, with its weights.

    Raises UserError where the method refuses the size, RuntimeError where its weights belong to one size.
    """
    if model.view.seen == size:
        return model.method
    stored: Any = OmegaConf.to_container(stored_config(model.folder).method)
    side = size[0] if size[0] == size[1] else size
    parts = config.checked_part("method", {**present_method(stored), "image_size": side})
    with torch.inference_mode(False):  # whose tensors take no weights
        method: Method = config.build("method", parts)
        method.load_state_dict(model.method.state_dict())
    to_memory_format(method, str(model.manifest.get("hardware", {}).get("memory_format")))
    method.scoring_precision = model.method.scoring_precision
    return method.to(model.method.device).eval().requires_grad_(False)
