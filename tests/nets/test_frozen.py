"""Frozen networks by name: one interface, weights and their files, and layers that do not exist."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import torch

from anomaly_bench.errors import UserError
from anomaly_bench.nets.backbones import RANDOM, Backbone
from anomaly_bench.nets.frozen import DescriptorBackbone, frozen_network, frozen_weight_files
from anomaly_bench.nets.patch_descriptors import PatchDescriptor

MEAN, STD = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])


@pytest.mark.parametrize(
    ("backbone", "layers"), [("resnet18", (1, 2)), ("resnet18", ("layer1", "layer2")), ("p33", (1,)), ("p17", (1,))]
)
def test_maps_are_as_channels_and_reductions_say(backbone: str, layers: tuple[int, ...]) -> None:
    net = frozen_network(backbone, layers).train()
    net.load(RANDOM)
    assert net.sha256.startswith(RANDOM)
    maps = net(torch.rand(2, 3, 50, 64))
    assert [tuple(m.shape) for m in maps] == [
        (2, channels, -(-50 // step), 64 // step) for channels, step in zip(net.channels, net.reductions, strict=True)
    ]
    assert not any(p.requires_grad for p in net.parameters())
    other = frozen_network(backbone, layers)
    other.load(RANDOM)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values(), strict=True))


def test_descriptors_are_those_of_the_patches_around_each_fourth_pixel() -> None:
    image = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    net = frozen_network("p33", (1,))
    assert isinstance(net, DescriptorBackbone)
    net.load(None)
    normalised = (image.numpy() - MEAN[:, None, None]) / STD[:, None, None]
    patch = torch.from_numpy(normalised[:, :, 4:37, 4:37]).float()  # its centre is pixel (20, 20)
    with torch.no_grad():
        expected = net.net(patch)[0]
    assert float(expected.std()) > 0.01
    torch.testing.assert_close(net(image)[0][0, :, 5, 5], expected, rtol=1e-4, atol=1e-5)


def test_p17_is_the_mean_of_four_by_four_pixels() -> None:
    images = torch.rand(2, 3, 18, 18)
    net = frozen_network("p17", (1,))
    net.load(RANDOM)
    dense: PatchDescriptor = net.net  # type: ignore[assignment]
    with torch.no_grad():
        every = dense.dense((images - net.mean) / net.std)  # [2, 128, 18, 18]
    found = net(images)[0]
    torch.testing.assert_close(found[1, :, 2, 1], every[1, :, 8:12, 4:8].mean((1, 2)))
    torch.testing.assert_close(found[0, :, 4, 4], every[0, :, 16:, 16:].mean((1, 2)))  # what is left at the border


def test_the_file_in_the_package_is_part_of_what_a_run_is() -> None:
    net = frozen_network("p33", (1,))
    (file,) = frozen_weight_files({"backbone": "p33", "weights": None}, fetch=False)["weights"]
    net.load(None)
    assert net.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert frozen_weight_files({"backbone": "p17", "weights": RANDOM}, fetch=False) == {"weights": []}
    assert frozen_weight_files({"backbone": "resnet18", "weights": RANDOM}, fetch=False) == {"weights": []}
    for call in (lambda: net.load("other.pth"), lambda: frozen_weight_files({"backbone": "p33", "weights": "f"}, True)):
        with pytest.raises(UserError, match=r"method\.weights: .* come with the package"):
            call()


@pytest.mark.parametrize(
    ("backbone", "layers", "message"),
    [
        ("resnet18", (1, 9), "method.layers: resnet18.tv_in1k has no layer 9; its layers: 0, 1, 2, 3, 4"),
        ("resnet18", ("layr1",), "method.layers: 'layr1' is no module of resnet18.tv_in1k (did you mean 'layer1'?)"),
        ("resnet18", (2, 1), "method.layers: [2, 1] given, needed: each layer once, from fine to coarse"),
        ("resnet18", ("layer1", "layer1"), "each layer once"),
        ("p33", (1, 2), "method.layers: [1, 2] given; p33 has one layer, number 1"),
        ("p33", ("conv1",), "p33 has one layer"),
        ("vit_tiny_patch16_224.augreg_in21k_ft_in1k", (1,), "method.backbone: "),
        ("resnet19", (1,), "method.backbone: timm has no network 'resnet19'"),
    ],
)
def test_what_does_not_exist_is_one_line(backbone: str, layers: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError) as caught:
        frozen_network(backbone, layers)
    assert message in str(caught.value)


def test_a_backbone_is_the_one_of_every_other_method() -> None:
    assert isinstance(frozen_network("resnet18", (3,)), Backbone)
