"""A stand-in for a GPU: PyTorch's `meta` device, on which nothing can be read, and what makes a host wait for one."""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

DEVICE = torch.device("meta")
READS = {"_local_scalar_dense", "nonzero", "equal", "masked_select", "_unique2", "unique_dim", "unique_consecutive"}
FROM_LISTS = {torch.tensor, torch.as_tensor}


class Waits(TorchDispatchMode):
    """Notes, in `found`, each operation for which the host of a GPU would wait: it reads a value or a number of values,
    or copies between host and device.

    On DEVICE a read also raises what PyTorch raises, and so does mixing tensors of both sides.  On the CPU only reads
    are seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._lists = _FromLists(self.found)

    def __enter__(self) -> Waits:
        self._lists.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._lists.__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in READS:
            self.found.append(f"{name} {caller()}")
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        result = func(*args, **(kwargs or {}))
        sides = {each.device for each in given if each.ndim}  # a number of the host's goes along with the call
        if name in ("_to_copy", "copy_") and isinstance(result, Tensor):
            sides |= {each.device for each in (*given, result)}
        if len(sides) > 1:
            self.found.append(f"{name} of {given[0].dtype} between {' and '.join(sorted(map(str, sides)))} {caller()}")
        return result


class _FromLists(TorchFunctionMode):
    """Notes tensors that are made from Python's lists on a device."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self.found = found

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in FROM_LISTS and result.device.type != "cpu" and not isinstance(args[0], Tensor):
            self.found.append(f"a tensor from a list {caller()}")
        return result


def caller() -> str:
    """Return the innermost line that is neither PyTorch's nor this file's."""
    own = (str(Path(torch.__file__).parent), __file__)
    frames = [frame for frame in traceback.extract_stack() if not frame.filename.startswith(own)]
    return f"at {frames[-1].filename}:{frames[-1].lineno}"


def on_device(batch: Any) -> Any:
    """Return a batch whose tensors are on DEVICE."""
    return tree_map_only(Tensor, lambda each: each.to(DEVICE), batch)
