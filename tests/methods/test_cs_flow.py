"""CS-Flow's flow, loss and scores against a second writing of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anomaly_bench.methods.cs_flow import (
    CrossScaleFlow,
    CrossScaleNet,
    CSFlow,
    Maps,
    log_scale,
    negative_log_likelihood,
)
from tests.methods.small_cs_flow import CONFIG, blocks, images, lively, maps, method, small_flow
from tests.references import cs_flow as slow


def parameters(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# The flow


def test_size_of_the_papers_networks() -> None:
    with torch.device("meta"):
        whole = CSFlow(**CONFIG)
        small = CrossScaleFlow(256, 128, CONFIG["kernels"], 3.0)
    assert (whole.backbone.channels, whole.backbone.reductions) == ([304], [32])
    assert parameters(whole.flow) == slow.parameters(304, 1024, CONFIG["kernels"]) == 275_227_288
    assert parameters(whole.backbone) == 17_543_204
    assert parameters(small) == slow.parameters(256, 128, CONFIG["kernels"]) == 28_984_344


def test_the_permutations_are_the_authors() -> None:
    flow = CrossScaleFlow(6, 2, (3, 3, 3, 5), 3.0)
    theirs = [
        [[5, 2, 1, 3, 0, 4], [1, 3, 4, 0, 2, 5], [3, 5, 1, 2, 4, 0]],
        [[2, 1, 4, 0, 3, 5], [4, 2, 0, 5, 3, 1], [2, 0, 5, 3, 4, 1]],
    ]  # what their code draws for the first two blocks
    assert [block.permutations.tolist() for block in blocks(flow)[:2]] == theirs
    for number, block in enumerate(blocks(flow)):
        assert block.permutations.tolist() == [order.tolist() for order in slow.permutations(number, 6)]


def test_a_new_flow_is_a_permutation() -> None:
    flow, y = small_flow(6), maps(3, 6)
    z, log_det = flow(y)
    expected = y
    for block in range(3):
        expected = [m[:, order] for m, order in zip(expected, slow.permutations(block, 6), strict=True)]
    assert all(torch.equal(a, b) for a, b in zip(z, expected, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(z, y, strict=True))
    assert log_det.tolist() == [0, 0, 0]
    loss = negative_log_likelihood(z, log_det)
    loss.backward()
    assert loss.item() == pytest.approx(torch.cat([m.flatten() for m in y]).pow(2).mean().item() / 2, rel=1e-12)
    for name, p in flow.named_parameters():
        assert p.grad is not None
        assert bool(p.grad.all()) if name.endswith("gamma") else not p.grad.any()


def test_a_new_flow_starts_as_the_authors() -> None:
    """Their convolutions keep PyTorch's initialisation: uniform up to 1 / sqrt(inputs of a value)."""
    torch.manual_seed(0)
    flow = CrossScaleFlow(32, 24, (3, 5), 3.0)
    convs = [m for m in flow.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convs) == 2 * 2 * 10
    for values in ("weight", "bias"):
        scaled = torch.cat([getattr(m, values).flatten() * m.weight[0].numel() ** 0.5 for m in convs])
        counts = torch.histc(scaled, 8, -1, 1)
        assert counts.sum() == len(scaled)  # none beyond 1
        error = 4 * (len(scaled) * 7 / 64) ** 0.5
        assert counts.sub(len(scaled) / 8).abs().max() < error
    assert all(not p.any() for name, p in flow.named_parameters() if name.endswith("gamma"))


@pytest.mark.parametrize("kernels", [(3, 3, 5), (1,), (7, 3)])
@pytest.mark.parametrize("size", [(8, 12), (4, 4)])
def test_flow_and_loss_against_the_second_writing(kernels: tuple[int, ...], size: tuple[int, int]) -> None:
    flow, y = small_flow(6, kernels, gamma=2), maps(3, 6, size)
    with torch.no_grad():
        z, log_det = flow(y)
        expected, expected_det = slow.forward(flow.state_dict(), len(kernels), 3.0, y)
    for ours, theirs in zip(z, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(log_det, expected_det, rtol=1e-9, atol=1e-9)
    assert float(negative_log_likelihood(z, log_det)) == pytest.approx(float(slow.loss(z, log_det)), rel=1e-9)
    assert log_det.shape == (3,)
    assert float(log_det.abs().min()) > 1


def test_log_det_is_that_of_the_jacobian() -> None:
    flow, y = small_flow(gamma=2), maps()
    shapes = [m.shape[1:] for m in y]
    sizes = [shape.numel() for shape in shapes]

    def flat(x: Tensor) -> Tensor:
        flat_maps = zip(x.split(sizes, 1), shapes, strict=True)
        return torch.cat([m.flatten(1) for m in flow([part.unflatten(1, shape) for part, shape in flat_maps])[0]], 1)

    x = torch.cat([m.flatten(1) for m in y], 1)
    jacobian = torch.autograd.functional.jacobian(flat, x)  # [2, D, 2, D]
    assert not jacobian[0, :, 1].any()
    assert not jacobian[1, :, 0].any()
    measured = torch.stack([torch.linalg.slogdet(jacobian[i, :, i]).logabsdet for i in range(2)])
    log_det = flow(y)[1].detach()
    torch.testing.assert_close(log_det, measured, rtol=0, atol=1e-5)
    assert float((log_det[0] - log_det[1]).abs()) > 0.1


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_the_inverse_brings_features_back(dtype: torch.dtype, tolerance: float) -> None:
    flow, y = small_flow(6, (3, 3, 3, 5), gamma=2).to(dtype), [m.to(dtype) for m in maps(3, 6, (8, 12))]
    with torch.no_grad():
        z, _ = flow(y)
        for back in (flow.inverse(z), flow(flow.inverse(y))[0]):
            assert all(float((a - b).abs().max()) <= tolerance for a, b in zip(y, back, strict=True))
    assert max(float((a - b).abs().max()) for a, b in zip(y, z, strict=True)) > 1


def test_an_image_counts_once_however_often_it_is_there() -> None:
    flow, y = small_flow(gamma=2), maps()
    with torch.no_grad():
        once, twice = (negative_log_likelihood(*flow(x)) for x in (y, [torch.cat([m, m]) for m in y]))
        single = [negative_log_likelihood(*flow([m[i : i + 1] for m in y])) for i in range(2)]
    assert float(twice) == pytest.approx(float(once), rel=1e-12)
    assert float(once) == pytest.approx(float(sum(single)) / 2, rel=1e-12)
    assert abs(float(single[0] - single[1])) > 1e-3


@pytest.mark.parametrize(("size", "reached"), [(0, {0, 1}), (1, {0, 1, 2}), (2, {1, 2})])
def test_within_a_network_only_neighbouring_sizes_talk(size: int, reached: set[int]) -> None:
    net, half = lively(CrossScaleNet(4, 5, 3)).double(), maps(channels=2)
    other = [m + 1 if i == size else m for i, m in enumerate(half)]
    pairs = zip(net(half), net(other), strict=True)
    assert {i for i, (a, b) in enumerate(pairs) if not torch.equal(a, b)} == reached


def test_a_block_carries_the_smallest_size_to_the_largest() -> None:
    (block,), y = blocks(small_flow(kernels=(3,), gamma=2)), maps()
    assert not torch.equal(block(y)[0][0], block([y[0], y[1], y[2] + 1])[0][0])


def test_the_log_scale_is_clamped_softly() -> None:
    raw = torch.linspace(-1e6, 1e6, 10_001, dtype=torch.float64)
    assert float(log_scale(raw, 3.0).abs().max()) == pytest.approx(2.997, abs=1e-4)
    assert (log_scale(raw, 3.0).diff() > 0).all()
    small = torch.tensor(1e-6, dtype=torch.float64)
    assert float(log_scale(small, 3.0) / small) == pytest.approx(0.636)
    assert float(log_scale(torch.tensor(1e9), 1.9)) == pytest.approx(1.9 * 0.636 * np.pi / 2)


@pytest.mark.parametrize("size", [1e5, 1e7, 1e12])
def test_what_leaves_a_block_is_clamped_hard(size: float) -> None:
    flow, y = small_flow(gamma=2), [size * m for m in maps()]
    with torch.no_grad():
        z, log_det = flow(y)
        expected, expected_det = slow.forward(flow.state_dict(), 3, 3.0, y)
    assert all(torch.allclose(a, b, rtol=1e-9) for a, b in zip(z, expected, strict=True))
    assert torch.allclose(log_det, expected_det, rtol=1e-9)
    assert max(float(m.abs().max()) for m in z) == 1e6


# Features and scores


def test_nearest_takes_every_second_pixel_of_the_normalised_image() -> None:
    """As the authors, who resize what is already normalised."""
    csflow, x = method(), images(2)
    normalised = (x - csflow.backbone.mean) / csflow.backbone.std
    sizes = [normalised, *(nn.functional.interpolate(normalised, size=64 // 2**i) for i in (1, 2))]
    with torch.inference_mode():
        for ours, theirs in zip(csflow.features(x), described(csflow, sizes), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_antialias_weighs_all_pixels() -> None:
    csflow, x = method(downscale="antialias"), images(2)
    sizes = [(m - csflow.backbone.mean) / csflow.backbone.std for m in (x, slow.smaller(x, 2), slow.smaller(x, 4))]
    with torch.inference_mode():
        ours = csflow.features(x)
        for one, other in zip(ours, described(csflow, sizes), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        nearest = method().features(x)
    assert torch.equal(ours[0], nearest[0])
    assert all(float((a - b).abs().max()) > 0.01 for a, b in zip(ours[1:], nearest[1:], strict=True))


def described(csflow: CSFlow, sizes: Maps) -> Maps:
    """What the network says of images that are normalised already."""
    return [next(iter(csflow.backbone.net(x).values())) for x in sizes]


@pytest.mark.parametrize("map_scales", ["largest", "product"])
def test_score_against_loops(map_scales: Any) -> None:
    csflow, x = lively(method(map_scales=map_scales)).double().eval(), images(2, 128, dtype=torch.float64)
    with torch.inference_mode():
        ours = csflow.score(x)
        z, _ = slow.forward(csflow.flow.state_dict(), 2, 3.0, csflow.features(x))
    of_images, of_pixels = slow.scores(z, 128, 128, map_scales == "product")
    assert ours.map is not None
    np.testing.assert_allclose(ours.image, of_images, rtol=1e-6)
    np.testing.assert_allclose(ours.map, of_pixels, rtol=1e-6, atol=1e-9)
    assert of_images[0] != pytest.approx(of_images[1], rel=1e-3)
    assert of_pixels.std() > 0.01


@pytest.mark.parametrize("map_scales", ["largest", "product"])
def test_score_does_not_depend_on_the_batch(map_scales: Any) -> None:
    csflow, x = lively(method(map_scales=map_scales)).eval(), images(4)
    with torch.inference_mode():
        together, alone = csflow.score(x), [csflow.score(image[None]) for image in x]
    assert together.map is not None
    assert together.map.shape == (4, 64, 64)
    assert together.map.dtype == together.image.dtype == torch.float32
    torch.testing.assert_close(together.image, torch.cat([s.image for s in alone]), rtol=1e-5, atol=1e-5)
    separate = torch.cat([s.map for s in alone if s.map is not None])
    torch.testing.assert_close(together.map, separate, rtol=1e-5, atol=1e-5)
