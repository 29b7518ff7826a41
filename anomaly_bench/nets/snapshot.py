"""Copies of a network's state that survive an interruption of the training."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Snapshot(nn.Module):
    """A copy of a module's state in buffers, so that the checkpoint of a stage that holds it has it, too."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        for i, value in enumerate(module.state_dict().values()):
            self.register_buffer(str(i), value.clone())

    @torch.no_grad()
    def take(self, module: nn.Module) -> None:
        """Copy the module's state as it is now."""
        for mine, value in zip(self.buffers(), module.state_dict().values(), strict=True):
            mine.copy_(value)

    def restore(self, module: nn.Module) -> None:
        """Bring a module of the same architecture to the state that was taken."""
        state: dict[str, Tensor] = dict(zip(module.state_dict(), self.buffers(), strict=True))
        module.load_state_dict(state)
