"""bfloat16 on a processor without instructions for it, where PyTorch takes many times as long as for float32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

aten = torch.ops.aten
PRODUCTS = {  # what sums products, the last four in inference mode; everything else is fast enough
    aten.convolution.default, aten.convolution_backward.default, aten.mm.default, aten.addmm.default, aten.bmm.default,
    aten.baddbmm.default, aten.conv2d.default, aten.conv_transpose2d.input, aten.linear.default, aten.matmul.default,
}  # fmt: skip


class Bfloat16ByHand(TorchDispatchMode):
    """Within this context products of bfloat16 tensors are summed in float32, and their sums rounded to bfloat16.

    This is what processors with such instructions do, but for the order of the sums.
    """

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        low = function in PRODUCTS and any(isinstance(each, Tensor) and each.dtype == torch.bfloat16 for each in args)
        if not low:
            return function(*args, **kwargs or {})
        wide = [each.float() if isinstance(each, Tensor) else each for each in args]
        found = function(*wide, **kwargs or {})
        if isinstance(found, Tensor):
            return found.bfloat16()
        return tuple(each if each is None else each.bfloat16() for each in found)
