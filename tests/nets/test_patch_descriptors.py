"""Patch networks against loops, the dense form against patch by patch, and the way back to full size."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_bench.nets.patch_descriptors import PATCH_SIZES, PatchDescriptor, upsample
from tests.references.patch_descriptors import describe

STRIDES = {17: (1,), 33: (1, 2, 4), 65: (1, 2, 4, 8)}
CASES = [(p, s) for p, strides in STRIDES.items() for s in strides]


def network(patch_size: int, dtype: torch.dtype = torch.float64, **open_points: int) -> PatchDescriptor:
    """Random weights from a fixed seed, large enough that no descriptor is almost constant."""
    torch.manual_seed(patch_size)
    net = PatchDescriptor(patch_size, **open_points)
    for weight in (w for name, w in net.named_parameters() if name.endswith("weight")):
        nn.init.kaiming_normal_(weight)
    return net.to(dtype)


def images(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=dtype)


def patch_by_patch(net: PatchDescriptor, x: Tensor, stride: int, positions: Sequence[tuple[int, int]]) -> Tensor:
    """Descriptors [B, 128, len(positions)] of the patches centred on pixels (i s, j s)."""
    p = net.patch_size
    padded = F.pad(x, [(p - 1) // 2] * 4)
    windows = [padded[:, :, i * stride : i * stride + p, j * stride : j * stride + p] for i, j in positions]
    return torch.stack([net(window) for window in windows], 2)


def all_positions(H: int, W: int, stride: int) -> list[tuple[int, int]]:
    return [(i, j) for i in range(-(-H // stride)) for j in range(-(-W // stride))]


@torch.no_grad()
def largest_difference(net: PatchDescriptor, x: Tensor, stride: int, positions: Sequence[tuple[int, int]]) -> float:
    dense = net.dense(x, stride)
    H, W = x.shape[2:]
    assert dense.shape == (len(x), 128, -(-H // stride), -(-W // stride))
    i, j = zip(*positions, strict=True)
    one_by_one = patch_by_patch(net, x, stride, positions)
    assert len(positions) == 1 or float((one_by_one[:, :, 0] - one_by_one[:, :, -1]).abs().mean()) > 0.01
    return float((dense[:, :, i, j] - one_by_one).abs().max())


@pytest.mark.parametrize("p", PATCH_SIZES)
def test_one_patch_in_loops(p: int) -> None:
    net, patch = network(p), images(1, 3, p, p)
    weights = [conv.weight.detach().numpy() for conv in net.convs]
    biases = [conv.bias.detach().numpy() for conv in net.convs]
    expected = torch.from_numpy(describe(patch[0].numpy(), weights, biases))
    assert expected.min() < -0.1  # no activation after the last convolution
    torch.testing.assert_close(net(patch).detach()[0], expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("p", "stride"), CASES)
def test_dense_is_patch_by_patch(p: int, stride: int) -> None:  # every position; images smaller than the patch
    net = network(p)
    for H, W in ((9, 13) if stride > 2 else (3, 5) if p < 65 else (3, 4), (1, 2)):
        x = images(2, 3, H, W)
        assert largest_difference(net, x, stride, all_positions(H, W, stride)) <= 1e-12


@pytest.mark.parametrize(("p", "stride"), CASES)
def test_dense_in_images_larger_than_the_patch(p: int, stride: int) -> None:  # corners, and positions in between
    H, W = (80, 70) if p == 65 else (45, 38)
    h, w = -(-H // stride), -(-W // stride)
    positions = [(0, 0), (0, w - 1), (h - 1, 0), (h - 1, w - 1), (h // 2, w // 2), (h // 2 + 1, w // 3), (1, w // 2)]
    net = network(p, torch.float32)
    nn.init.normal_(net.convs[-1].weight, std=0.01)  # descriptors of the size of 1, as trained ones have
    x = images(1, 3, H, W, dtype=torch.float32)
    assert largest_difference(net, x, stride, positions) <= 1e-5


@pytest.mark.parametrize("stride", STRIDES[33])
def test_dense_with_the_other_readings_of_the_tables(stride: int) -> None:
    for net in (network(33, conv1_kernel_33=3), network(65, conv3_channels_65=256)):
        assert largest_difference(net, images(1, 3, 3, 5), stride, all_positions(3, 5, stride)) <= 1e-12


@pytest.mark.parametrize(("p", "stride"), CASES)
def test_translation(p: int, stride: int) -> None:
    net, x = network(p, torch.float32), torch.zeros(1, 3, 9 + stride, 10 + stride)
    x[:, :, :9, :10] = images(3, 9, 10)
    with torch.no_grad():
        before, after = net.dense(x, stride), net.dense(x.roll((stride, stride), (2, 3)), stride)
    torch.testing.assert_close(after[:, :, 1:, 1:], before[:, :, :-1, :-1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("p", "stride"), [(17, 1), (33, 1), (33, 2), (65, 4)])
def test_gradients_are_those_of_patch_by_patch(p: int, stride: int) -> None:
    H, W = (3, 4) if stride == 1 else (5, 6)
    net, x, positions = network(p), images(2, 3, H, W).requires_grad_(), all_positions(H, W, stride)
    target = images(2, 128, len(positions))
    gradients = []
    for y in (net.dense(x, stride).flatten(2), patch_by_patch(net, x, stride, positions)):
        loss = (y - target).square().sum(1).mean()
        gradients.append(torch.autograd.grad(loss, [x, *net.parameters()]))
    for dense, patchwise in zip(*gradients, strict=True):
        assert patchwise.abs().max() > 0
        torch.testing.assert_close(dense, patchwise, rtol=1e-9, atol=1e-12)


def test_sizes_by_hand() -> None:
    c1, c2 = 5 * 5 * 3 * 128 + 128, 5 * 5 * 128 * 256 + 256
    p17 = (6 * 6 * 3 * 128 + 128) + c2 + (5 * 5 * 256 * 256 + 256) + (4 * 4 * 256 * 128 + 128)
    p33 = c1 + c2 + (2 * 2 * 256 * 256 + 256) + (4 * 4 * 256 * 128 + 128)
    p65 = c1 + 2 * (5 * 5 * 128 * 128 + 128) + (4 * 4 * 128 * 256 + 256) + (256 * 128 + 128)
    assert (p17, p33, p65) == (2_996_480, 1_616_000, 1_386_624)  # 3.00, 1.62 and 1.39 million
    counts = {p: sum(w.numel() for w in PatchDescriptor(p).parameters()) for p in PATCH_SIZES}
    assert counts == {17: p17, 33: p33, 65: p65}
    wide = PatchDescriptor(65, conv3_channels_65=256)
    assert sum(w.numel() for w in wide.parameters()) == 2_320_640


def test_modules_and_keys() -> None:
    for p, convs in zip(PATCH_SIZES, (4, 4, 5), strict=True):
        net = PatchDescriptor(p)
        assert net.strides == STRIDES[p]
        assert {type(m) for m in net.modules()} == {PatchDescriptor, nn.ModuleList, nn.Conv2d}  # no norm, no dropout
        assert list(net.state_dict()) == [f"convs.{i}.{kind}" for i in range(convs) for kind in ("weight", "bias")]


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="patch_size is 32, allowed: 17, 33, 65"):
        PatchDescriptor(32)
    with pytest.raises(ValueError, match="conv1_kernel_33 is 4; the table can be read as 3 or 5"):
        PatchDescriptor(33, conv1_kernel_33=4)
    with pytest.raises(ValueError, match=r"stride is 8, allowed for patches of 33 pixels: 1, 2, 4$"):
        PatchDescriptor(33).dense(torch.zeros(1, 3, 40, 40), stride=8)
    with pytest.raises(ValueError, match="patches are 33 x 34 pixels, needed 33 x 33"):
        PatchDescriptor(33)(torch.zeros(1, 3, 33, 34))
    with pytest.raises(ValueError, match="maps of 3 x 4 are not those of 9 x 17 pixels at stride 4"):
        upsample(torch.zeros(1, 2, 3, 4), 4, (9, 17))


@pytest.mark.parametrize(("stride", "H", "W"), [(2, 9, 14), (4, 13, 18), (8, 1, 30), (8, 7, 8)])
def test_upsample(stride: int, H: int, W: int) -> None:
    maps = images(2, 3, -(-H // stride), -(-W // stride))
    large = upsample(maps, stride, (H, W))
    assert large.shape == (2, 3, H, W)
    assert torch.equal(large[:, :, ::stride, ::stride], maps)
    for x in range(W):
        j, part = divmod(x, stride)
        last = j == maps.shape[3] - 1  # nothing computed beyond: it is repeated
        expected = maps[:, :, :, j] if last else maps[:, :, :, j].lerp(maps[:, :, :, j + 1], part / stride)
        torch.testing.assert_close(large[:, :, ::stride, x], expected)
    for y in range(H):
        i, part = divmod(y, stride)
        below = large[:, :, min((i + 1) * stride, (H - 1) // stride * stride)]
        torch.testing.assert_close(large[:, :, y], large[:, :, i * stride].lerp(below, part / stride))


def test_upsample_leaves_stride_1_alone() -> None:
    maps = images(1, 2, 5, 6)
    assert upsample(maps, 1, (5, 6)) is maps
