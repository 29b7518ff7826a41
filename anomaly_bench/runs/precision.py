"""In which precision a GPU computes, and the networks of a method that trains or scores."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext

import torch

from anomaly_bench.config import Hardware
from anomaly_bench.contracts import Method

LOW = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
log = logging.getLogger("anomaly_bench")


def scoring(method: Method) -> AbstractContextManager[object]:
    """Return the context in which a method's `score` is called: its networks compute in `scoring_precision`."""
    dtype = LOW.get(method.scoring_precision)
    return torch.autocast(method.device.type, dtype) if dtype else nullcontext()


def use_tf32(convolutions: bool) -> None:
    """Let a GPU compute convolutions of float32 in TF32, with 11 bits for each factor and float32 sums, or not.

    Matrix products, from which distances are made, never are.
    """
    torch.backends.cudnn.allow_tf32 = convolutions
    torch.backends.cuda.matmul.allow_tf32 = False


def has_bfloat16() -> bool:
    """Return whether this processor has instructions for bfloat16."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def warn_of_slow_precision(hardware: Hardware, device: torch.device) -> None:
    """Say where a lower precision is many times slower: on a processor without instructions for it."""
    keys = [key for key in ("precision", "scoring_precision") if getattr(hardware, key) == "bf16-mixed"]
    if keys and device.type == "cpu" and not has_bfloat16():
        said = " and ".join(f"hardware.{key}" for key in keys)
        log.warning("%s=bf16-mixed: this processor has no instructions for it; 32-true is many times faster", said)
