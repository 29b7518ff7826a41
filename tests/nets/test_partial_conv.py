"""Partial convolutions against plain ones and loops; the Global-Net's holes one by one and all at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_bench.errors import UserError
from anomaly_bench.nets.partial_conv import LAYERS, GlobalNet, image_sizes, partial_conv2d, partial_max_pool2d
from tests.references import partial_conv as reference


def network(image_size: int = 243, dtype: torch.dtype = torch.float64) -> GlobalNet:
    """Random weights and biases from a fixed seed, large enough that the output depends on the hole."""
    torch.manual_seed(1)
    net = GlobalNet(image_size)
    for weight, bias in (conv.parameters() for conv in net.convs.values()):
        nn.init.kaiming_normal_(weight)
        nn.init.normal_(bias, std=0.1)
    return net.to(dtype)


def random(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(5), dtype=dtype)


def patchy(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """A mask of 0 and 1 in which windows that are fully, partly and not masked occur."""
    mask = (random(*shape) > -0.5).to(dtype)
    mask[..., 2:9, 3:11] = 0
    mask[..., 9:, 5:] = 1
    return mask


def holes(tops: Tensor, lefts: Tensor, size: int, image_size: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Masks [N, 1, H, W]."""
    masks = torch.ones(len(tops), 1, image_size, image_size, dtype=dtype)
    for mask, top, left in zip(masks, tops.tolist(), lefts.tolist(), strict=True):
        mask[:, max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = 0
    return masks


def one_by_one(net: GlobalNet, image: Tensor, tops: Tensor, lefts: Tensor, size: int) -> Tensor:
    masks = holes(tops, lefts, size, net.image_size, image.dtype)
    return torch.cat([net(image[None], mask[None]) for mask in masks])


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (3, 1), (3, 2), (7, 2), (5, 3)])
@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 4e-6), (torch.float64, 1e-14)])
def test_all_valid_is_a_plain_convolution(kernel: int, stride: int, dtype: torch.dtype, atol: float) -> None:
    x, bias = random(2, 3, 17, 20, dtype=dtype), random(5, dtype=dtype)
    weight = random(5, 3, kernel, kernel, dtype=dtype) / (3 * kernel**2) ** 0.5  # outputs of the size of 1
    expected = F.conv2d(x, weight, bias, stride)
    for mask in (torch.ones(2, 1, 17, 20, dtype=dtype), torch.ones(1, 1, 17, 20, dtype=dtype)):
        out, new_mask = partial_conv2d(x, mask, weight, bias, stride)
        torch.testing.assert_close(out, expected, rtol=0, atol=atol)
        assert torch.equal(new_mask, torch.ones(len(mask), 1, *expected.shape[2:], dtype=dtype))


@pytest.mark.parametrize(("kernel", "stride"), [(1, 1), (2, 1), (3, 1), (3, 2), (5, 2), (3, 3)])
def test_partial_convolution_in_loops(kernel: int, stride: int) -> None:
    x, mask, weight, bias = random(2, 3, 14, 17), patchy(2, 1, 14, 17), random(4, 3, kernel, kernel), random(4)
    out, new_mask = partial_conv2d(x, mask, weight, bias, stride)
    for n in range(2):
        expected = reference.partial_conv(x[n].numpy(), mask[n, 0].numpy(), weight.numpy(), bias.numpy(), stride)
        torch.testing.assert_close(out[n], torch.from_numpy(expected[0]), rtol=0, atol=1e-12)
        assert torch.equal(new_mask[n, 0], torch.from_numpy(expected[1]))
    assert 0 < new_mask.mean() < 1


@pytest.mark.parametrize("stride", [1, 2])
def test_a_fully_masked_region_is_0_and_stays_masked(stride: int) -> None:
    mask = torch.ones(1, 1, 12, 12)
    mask[..., 2:8, 3:9] = 0  # 6 x 6: kernel 3 fits into it 4 x 4 times at stride 1
    weight, bias = random(4, 3, 3, 3, dtype=torch.float32), torch.full((4,), 7.0)
    out, new_mask = partial_conv2d(random(1, 3, 12, 12, dtype=torch.float32), mask, weight, bias, stride)
    inside = torch.zeros_like(new_mask, dtype=torch.bool)
    rows, columns = (slice(2, 6), slice(3, 7)) if stride == 1 else (slice(1, 3), slice(2, 4))
    inside[..., rows, columns] = True
    assert torch.equal(new_mask == 0, inside)
    assert torch.equal(out == 0, inside.expand_as(out))


def test_one_mask_for_the_whole_batch() -> None:
    x, mask, weight, bias = random(3, 2, 14, 14), patchy(1, 1, 14, 14), random(4, 2, 3, 3), random(4)
    shared, shared_mask = partial_conv2d(x, mask, weight, bias, 2)
    out, new_mask = partial_conv2d(x, mask.expand(3, -1, -1, -1), weight, bias, 2)
    torch.testing.assert_close(shared, out, rtol=0, atol=1e-14)
    assert torch.equal(shared_mask.expand_as(new_mask), new_mask)
    assert partial_max_pool2d(shared, shared_mask, 3, 2)[1].shape == (1, 1, 2, 2)


def test_gradients_of_a_partial_convolution() -> None:
    x, weight, bias = (t.requires_grad_() for t in (random(1, 2, 10, 9), random(3, 2, 3, 3), random(3)))
    mask = patchy(1, 1, 10, 9)
    assert torch.autograd.gradcheck(lambda x, w, b: partial_conv2d(x, mask, w, b, 2)[0], (x, weight, bias))


def test_max_pool() -> None:
    x, mask = random(2, 3, 14, 17), patchy(2, 1, 14, 17)
    out, new_mask = partial_max_pool2d(x, mask, 3, 2)
    for n in range(2):
        expected = reference.max_pool(x[n].numpy(), mask[n, 0].numpy(), 3, 2)
        assert torch.equal(out[n], torch.from_numpy(expected[0]))
        assert torch.equal(new_mask[n, 0], torch.from_numpy(expected[1]))
    assert 0 < new_mask.mean() < 1


def test_masked_zeros_under_the_max_pool() -> None:
    mask = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])[None, None]
    assert partial_max_pool2d(mask * 0.5, mask, 3, 2)[0].item() == 0.5  # behind a ReLU the valid value stays
    assert partial_max_pool2d(mask * -0.5, mask, 3, 2)[0].item() == 0  # a negative one is hidden, as documented


def test_sizes_by_hand() -> None:
    table = [("pool" if layer.pools else "conv", layer.kernel, layer.stride, layer.channels) for layer in LAYERS]
    assert table == [row[:4] for row in reference.TABLE]
    net, x, mask = network(256, torch.float32), torch.zeros(1, 3, 256, 256), torch.ones(1, 1, 256, 256)
    for layer, (*_, channels, side) in zip(LAYERS, reference.TABLE, strict=True):
        x, mask = net.step(layer, x, mask)
        assert x.shape == (1, channels, side, side)
        assert mask.shape == (1, 1, side, side)
    counts = [2_368, 4_640, 9_248, 18_496, 36_928, 73_856, 147_584, 147_584]
    assert [sum(w.numel() for w in conv.parameters()) for conv in net.convs.values()] == counts
    assert sum(w.numel() for w in net.parameters()) == sum(counts) == 440_704
    names = ["pconv0", "pconv1_1", "pconv1_2", "pconv2_1", "pconv2_2", "pconv3_1", "pconv3_2", "pconv4"]
    assert list(net.state_dict()) == [f"convs.{name}.{kind}" for name in names for kind in ("weight", "bias")]


def test_image_sizes() -> None:
    def last(side: int) -> int:
        for _, kernel, stride, *_ in reference.TABLE:
            side = (side - kernel) // stride + 1
        return side

    assert list(image_sizes()) == [side for side in range(100, 400) if last(side) == 1] == list(range(243, 275))
    for side in (243, 274):
        net = network(side, torch.float32)
        assert net(torch.zeros(2, 3, side, side), torch.ones(1, 1, side, side)).shape == (2, 128)


def test_what_is_refused() -> None:
    for side in (0, 242, 275):
        with pytest.raises(UserError, match=f"^method.image_size: {side} given, allowed: 243 to 274$"):
            GlobalNet(side)
    net, message = GlobalNet(256), "images are 256 x 255 pixels, needed 256 x 256"
    with pytest.raises(ValueError, match=message):
        net(torch.zeros(1, 3, 256, 255), torch.ones(1, 1, 256, 255))
    with pytest.raises(ValueError, match=message):
        net.windows(torch.zeros(1, 3, 256, 255), torch.zeros(1).long(), torch.zeros(1).long(), 33)


@torch.no_grad()
def test_global_net_in_loops() -> None:
    net, image = network(), random(3, 243, 243)
    mask = holes(torch.tensor([80]), torch.tensor([110]), 90, 243)  # large: masked positions survive several layers
    weights, biases = ([getattr(c, name).numpy() for c in net.convs.values()] for name in ("weight", "bias"))
    expected = torch.from_numpy(reference.global_net(image.numpy(), mask[0, 0].numpy(), weights, biases))
    assert expected.min() < -0.1  # no ReLU after the last layer
    torch.testing.assert_close(net(image[None], mask)[0], expected, rtol=0, atol=1e-11)


@torch.no_grad()
def test_batches_with_different_masks_are_one_by_one() -> None:
    net, images = network(), random(3, 3, 243, 243)
    masks = holes(torch.tensor([0, 100, 210]), torch.tensor([50, 120, 230]), 33, 243)
    singly = torch.cat([net(images[n : n + 1], masks[n : n + 1]) for n in range(3)])
    torch.testing.assert_close(net(images, masks), singly, rtol=0, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pixels_in_the_hole_change_no_bit(dtype: torch.dtype) -> None:
    net, image = network(243, dtype), random(3, 243, 243, dtype=dtype)
    tops, lefts = torch.tensor([100, 104, 90]), torch.tensor([100, 98, 110])
    common, other = (slice(None), slice(104, 123), slice(110, 131)), image.clone()
    other[common] = 1000 * random(*image[common].shape, dtype=dtype)
    masks = holes(tops, lefts, 33, 243, dtype)
    assert torch.equal(net(image.expand(3, -1, -1, -1), masks), net(other.expand(3, -1, -1, -1), masks))
    assert torch.equal(net.windows(image[None], tops, lefts, 33)[0], net.windows(other[None], tops, lefts, 33)[0])
    other[:, 99, 110] += 1  # one pixel above the first hole, inside the last one
    changed = (net.windows(image[None], tops, lefts, 33)[0] != net.windows(other[None], tops, lefts, 33)[0]).any(1)
    assert changed.tolist() == [True, True, False]


def corners(image_size: int, size: int) -> tuple[Tensor, Tensor]:
    """Holes at random, with every remainder of the strides, at and beyond all borders and corners, and outside."""
    g, end = torch.Generator().manual_seed(size), image_size - size
    edges = [-size, -size // 2, -1, 0, 1, end - 1, end, end + 1, end + size // 2, image_size - 1, image_size + 50]
    border = [(a, b) for a in (edges[1], 0, end, end + size // 2) for b in (edges[1], 0, 90, end, end + size // 2)]
    border += [(90, a) for a in edges] + [(a, 77) for a in edges]
    remainders = [(80 + n, 60 + 3 * n) for n in range(16)]
    inside = torch.randint(-size, image_size, (10, 2), generator=g).tolist()
    tops, lefts = torch.tensor(border + remainders + inside).unbind(1)
    return tops, lefts


@torch.no_grad()
@pytest.mark.parametrize(
    ("image_size", "size"),
    [
        (243, 17),
        (256, 33),
        (261, 100),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in ((261, 33), (274, 33), (256, 65))),
    ],
)
def test_windows_are_forward(image_size: int, size: int) -> None:
    net, image = network(image_size), random(3, image_size, image_size)
    tops, lefts = corners(image_size, size)
    expected = one_by_one(net, image, tops, lefts, size)
    assert (expected - expected[-1]).abs().mean() > 0.01  # a hole matters
    torch.testing.assert_close(net.windows(image[None], tops, lefts, size)[0], expected, rtol=0, atol=1e-11)


@torch.no_grad()
@pytest.mark.parametrize("most", [1, 7, 23, 1000])
def test_windows_in_chunks(most: int) -> None:
    net, image = network(256, torch.float32), random(3, 256, 256, dtype=torch.float32)
    tops, lefts = (t[::3] for t in corners(256, 33))
    assert len(tops) == 23
    expected = one_by_one(net, image, tops, lefts, 33)
    torch.testing.assert_close(net.windows(image[None], tops, lefts, 33, most)[0], expected, rtol=0, atol=1e-5)


@torch.no_grad()
def test_windows_of_any_size_and_number() -> None:
    net, image, zero = network(), random(3, 243, 243), torch.tensor([0])
    for size in (1, 200, 243, 300):  # up to nothing valid at all
        expected = one_by_one(net, image, zero, zero, size)
        torch.testing.assert_close(net.windows(image[None], zero, zero, size)[0], expected, rtol=0, atol=1e-11)
    assert not net.windows(image[None], zero, zero, 243)[0].any()
    assert net.windows(image[None], zero[:0], zero[:0], 33)[0].shape == (0, 128)


def test_gradients_reach_all_weights_and_no_pixel_of_the_hole() -> None:
    net, images = network(243, torch.float32), random(2, 3, 243, 243, dtype=torch.float32).requires_grad_()
    mask = holes(torch.tensor([100, 20]), torch.tensor([90, 200]), 33, 243, torch.float32)
    net(images, mask).square().sum().backward()
    assert all(w.grad is not None and w.grad.abs().max() > 0 for w in net.parameters())
    assert images.grad is not None
    touched = images.grad.abs().amax(1, keepdim=True) > 0
    assert not touched[mask == 0].any()
    assert touched[mask == 1].float().mean() > 0.9
