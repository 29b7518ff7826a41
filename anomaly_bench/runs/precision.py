"""In which precision a GPU computes, and the networks of a method that scores."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from anomaly_bench.contracts import Method

LOW = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


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
