"""`weights=random` and `teacher.file=random`: the machinery without any file, and a record that says so."""

from __future__ import annotations

import pytest
import torch

from anomaly_bench.errors import UserError
from anomaly_bench.nets.backbones import RANDOM, Backbone
from anomaly_bench.nets.patch_descriptors import PatchDescriptor
from tests.nets.small_teachers import teachers


def test_random_weights_are_always_the_same_ones() -> None:
    torch.manual_seed(1)
    one = Backbone("resnet18", ("layer3",))
    drawn = torch.rand(1)
    torch.manual_seed(2)
    other = Backbone("resnet18", ("layer3",))
    images = torch.rand(2, 3, 64, 64)
    assert not torch.equal(one(images)[0], other(images)[0])
    torch.manual_seed(1)
    for backbone in (one, other):
        backbone.load(RANDOM)
    Backbone("resnet18", ("layer3",))
    assert torch.rand(1) == drawn  # the random state of the run is left alone
    assert torch.equal(one(images)[0], other(images)[0])
    assert one(images)[0].std() > 0.01
    assert one.sha256 == other.sha256
    assert one.sha256.startswith("random ")


def test_a_random_teacher_is_the_one_that_was_drawn() -> None:
    net = PatchDescriptor(65, 5, 128)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert teachers(file=RANDOM).load(net) == RANDOM
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    with pytest.raises(UserError, match="no teacher for patches of 65 pixels is shipped"):
        teachers().load(net)
