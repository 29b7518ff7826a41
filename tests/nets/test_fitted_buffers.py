"""Buffers of any size are loaded in a new object, and nothing else than what was stored."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from anomaly_bench.nets.fitted_buffers import FittedBuffers


class Bank(FittedBuffers):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 2)
        self.register_buffer("patches", torch.empty(0, 0))
        self.register_buffer("chosen", torch.empty(0, dtype=torch.long))


class Method(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.bank = Bank()


def fitted() -> Method:
    method = Method()
    method.bank.patches, method.bank.chosen = torch.rand(5, 3), torch.tensor([4, 1])
    return method


def test_sizes_come_from_the_file_and_types_stay() -> None:
    state = fitted().state_dict()
    new = Method()
    new.load_state_dict({key: value.half() if value.is_floating_point() else value for key, value in state.items()})
    assert torch.equal(new.bank.patches, state["bank.patches"].half().float())
    assert torch.equal(new.bank.chosen, torch.tensor([4, 1]))
    new.load_state_dict(Method().state_dict())  # also back to nothing
    assert new.bank.patches.shape == (0, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bank.patches": torch.rand(5)}, "size mismatch for bank.patches"),
        ({"bank.net.bias": torch.rand(3)}, "size mismatch for bank.net.bias"),  # parameters keep their sizes
        ({"bank.other": torch.rand(3)}, "Unexpected key"),
    ],
)
def test_a_file_of_something_else_is_refused(change: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        Method().load_state_dict({**fitted().state_dict(), **change})


def test_a_missing_buffer_is_refused() -> None:
    state = fitted().state_dict()
    del state["bank.patches"]
    with pytest.raises(RuntimeError, match="Missing key"):
        Method().load_state_dict(state)
