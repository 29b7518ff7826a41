"""What is computed in float32 although networks run in a lower precision, as `torch.autocast` lets them."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def in_float32(function: Callable[P, R]) -> Callable[P, R]:
    """Let a function compute in float32 inside `torch.autocast`; elsewhere it is called as it is.

    Networks bear the 8 or 11 bits of bfloat16 and float16; differences of their features, losses and maps do not.
    Tensors among the arguments, and in lists of them, come in float32 where they have fewer bits.

    >>> @in_float32
    ... def product(a, b):
    ...     return a @ b
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     product(torch.ones(2, 2, dtype=torch.bfloat16), torch.ones(2, 2)).dtype
    torch.float32
    """

    @wraps(function)
    def computed(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(_devices(args), "cpu")
        if not (torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*map(widened, args), **kwargs)

    return computed


def widened(value: Any) -> Any:
    """Return a tensor of bfloat16 or float16 as float32, likewise those in a list, and anything else as it is."""
    if isinstance(value, list):
        return [widened(each) for each in value]
    low = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
    return value.float() if low else value


def _devices(values: Any) -> Any:
    """Yield the kind of device of each tensor."""
    for value in values:
        if isinstance(value, Tensor):
            yield value.device.type
        elif isinstance(value, list):
            yield from _devices(value)
