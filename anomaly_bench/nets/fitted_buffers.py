"""Buffers whose sizes depend on the training images: a memory bank, a Gaussian for each position."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class FittedBuffers(nn.Module):
    """A module that loads its own buffers in the sizes in which they were stored.

    A class with such buffers registers them with any size, often 0, and replaces them by what it has fitted.  Loading
    refuses, as for any module, a tensor with another number of dimensions.

    >>> import torch
    >>> class Bank(FittedBuffers):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.register_buffer("patches", torch.empty(0, 0))
    >>> bank = Bank()
    >>> bank.load_state_dict({"patches": torch.ones(5, 3)})
    <All keys matched successfully>
    >>> bank.patches.shape
    torch.Size([5, 3])
    """

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name, buffer in self._buffers.items():
            stored = state_dict.get(prefix + name)
            if isinstance(buffer, Tensor) and isinstance(stored, Tensor) and stored.ndim == buffer.ndim:
                setattr(self, name, buffer.new_empty(stored.shape))
        super()._load_from_state_dict(state_dict, prefix, *args)
