"""A state that was taken comes back, whatever became of the module, and is in the state dict of what holds it."""

from __future__ import annotations

import torch
from torch import nn

from anomaly_bench.nets.snapshot import Snapshot


def test_a_state_comes_back() -> None:
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    snapshot = Snapshot(net)
    net(torch.randn(5, 3))
    snapshot.take(net)
    taken = {key: value.clone() for key, value in net.state_dict().items()}
    assert int(taken["1.num_batches_tracked"]) == 1
    net(torch.randn(5, 3))
    nn.init.zeros_(net[0].weight)  # type: ignore[arg-type]
    other = Snapshot(nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)))
    other.load_state_dict(snapshot.state_dict())  # as from a checkpoint
    assert not list(other.parameters())
    for each in (snapshot, other):
        each.restore(net)
        assert all(torch.equal(value, taken[key]) for key, value in net.state_dict().items())
        nn.init.zeros_(net[0].weight)  # type: ignore[arg-type]
    assert bool(snapshot.state_dict()["0"].any())  # a copy, not the weights themselves
