"""Long tensors in blocks, where a computation of all rows at once would take too much memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def blocks(rows: Tensor, size: int) -> Sequence[Tensor]:
    """Return rows [N, ...] in blocks of at most `size` of them.

    All of them in one block while a graph is traced (`bench export`), whose number of rows is open: what takes that
    graph decides how many images it is given.

    >>> [len(block) for block in blocks(torch.zeros(5, 2), 2)]
    [2, 2, 1]
    """
    return [rows] if torch.compiler.is_compiling() else rows.split(size)


def one_by_one(images: Tensor) -> Sequence[Tensor]:
    """Return images [B, ...] alone on the CPU, where none then changes a bit of another's scores; together on a GPU,
    which a single one leaves idle.
    """
    return blocks(images, 1 if images.device.type == "cpu" else len(images))
