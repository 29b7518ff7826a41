"""Glancing at the Patch's losses, scores and maps against a second writing of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from anomaly_bench.contracts import Scores
from anomaly_bench.methods import glancing_at_the_patch as ours
from anomaly_bench.methods.glancing_at_the_patch import GlancingAtThePatch, LocalNet
from anomaly_bench.nets.fake_defects import stain
from anomaly_bench.nets.patch_descriptors import PatchDescriptor
from anomaly_bench.nets.windows import crop, hole_masks, random_corners, window_places
from tests.methods.small_glf import (
    SIZE,
    batch,
    consistency,
    described,
    expected_scores,
    head,
    images,
    lively,
    method,
    normalised,
    scaled,
)
from tests.references import glancing_at_the_patch as slow


def windows_of(x: Tensor, tops: Tensor, lefts: Tensor, p: int) -> Tensor:
    return torch.stack([image[:, y : y + p, z : z + p] for image, y, z in zip(x, tops, lefts, strict=True)])


def seen(glf: GlancingAtThePatch, seed: int = 5) -> dict[str, Any]:
    """A training step on three images: its loss, and what went into the two networks and came out of them."""
    caught: dict[str, Any] = {}
    module, x = consistency(glf), batch(3)
    hooks = [
        net.register_forward_hook(lambda _, given, answer, name=name: caught.update({name: (*given, answer)}))
        for name, net in (("local", glf.local), ("global", glf.global_net))
    ]
    torch.manual_seed(seed)
    loss = module.training_step(x, 0)
    for hook in hooks:
        hook.remove()
    return {**caught, "loss": loss, "images": x["image"]}


# Losses


@pytest.mark.parametrize(
    ("dad_weight", "unit", "iad"),
    [(0.0, False, "clean"), (0.01, False, "clean"), (3.0, False, "all"), (3.0, True, "clean")],
)
def test_losses_and_their_sum_against_loops(dad_weight: float, unit: bool, iad: str) -> None:
    glf = lively(method(dad_weight=dad_weight, unit_features=unit, iad_patches=iad)).double()
    step = seen(glf)
    z_l, z_stained = step["local"][-1].chunk(2)
    z = [[scaled(row, unit).tolist() for row in rows] for rows in (z_l, z_stained, step["global"][-1])]
    l_iad, l_dad = slow.losses(*z, head(glf), iad_of_all=iad == "all")
    assert step["loss"].item() == pytest.approx(l_iad + dad_weight * l_dad, rel=1e-6)
    assert min(l_iad, l_dad) > (0.005 if unit else 0.1)


def test_losses_by_hand() -> None:
    """Networks that say 1 and 3 of every patch, a classifier that always says 1 / (1 + e)."""
    glf = method()
    for layer, answer in ((glf.local.net.convs[-1], 1), (glf.global_net.convs["pconv4"], 3), (glf.dad.layers[-1], -1)):
        torch.nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
        torch.nn.init.constant_(layer.bias, answer)  # type: ignore[arg-type]
    x, corner = images(1), torch.tensor([7])
    iad, dad = consistency(glf).losses(x, corner, corner, crop(x, corner, corner, 33))
    assert iad.item() == 4
    said = 1 / (1 + np.e)
    assert dad.item() == pytest.approx(-(np.log(said) + np.log(1 - said)) / 2)


@pytest.mark.parametrize("of", ["clean", "all"])
def test_whether_the_inconsistency_is_that_of_clean_patches(of: str) -> None:
    glf = lively(method(iad_patches=of))
    module, x, tops, lefts = consistency(glf), images(3), torch.tensor([0, 100, 210]), torch.tensor([210, 3, 0])
    patches = crop(x, tops, lefts, 33)
    plain, stained = (module.losses(x, tops, lefts, patch) for patch in (patches, 1 - patches))
    assert torch.equal(plain[0], stained[0]) == (of == "clean")
    assert float((plain[1] - stained[1]).abs().detach()) > 1e-3


@pytest.mark.parametrize(("global_normalised", "brightness"), [(True, "dark"), (False, "both")])
def test_what_the_networks_are_shown(global_normalised: bool, brightness: Any) -> None:
    """The image without the patch; the patch; the patch, stained before it is normalised, with one grey for all."""
    limits: dict[str, Any] = {"stain_axes": (0.2, 0.3), "stain_grey": (0.2, 0.4)}
    changes = {"global_normalised": global_normalised, "stain_brightness": brightness}
    glf = lively(method(**limits, **changes)).double()
    step = seen(glf)
    torch.manual_seed(5)
    tops, lefts = random_corners(step["images"], 33)
    raw = windows_of(step["images"], tops, lefts, 33)
    painted, where = stain(raw, (0.2, 0.3), glf.stain_limits["irregularity"], (0.2, 0.4), brightness)
    clean, stained = step["local"][0].chunk(2)
    torch.testing.assert_close(clean, normalised(raw), rtol=0, atol=1e-12)
    torch.testing.assert_close(stained, normalised(painted), rtol=0, atol=1e-12)
    for patch, mask in zip(painted, where, strict=True):
        assert 33**2 / 20 < mask.sum() < 33**2 / 2
        assert patch[:, mask].min() == patch[:, mask].max()
        assert brightness == "both" or 0.2 <= patch[:, mask].min() <= 0.4
    whole, mask, _ = step["global"]
    seen_whole = normalised(step["images"]) if global_normalised else step["images"]
    torch.testing.assert_close(whole, seen_whole, rtol=0, atol=1e-12)
    assert mask.shape == (3, 1, SIZE, SIZE)
    assert mask.sum() == 3 * (SIZE**2 - 33**2)
    assert not windows_of(mask, tops, lefts, 33).any()


def test_windows_of_a_batch() -> None:
    x, tops, lefts = images(3, 9), torch.tensor([0, 4, 2]), torch.tensor([4, 0, 3])
    assert torch.equal(crop(x, tops, lefts, 5), windows_of(x, tops, lefts, 5))
    mask = hole_masks(x, tops, lefts, 5)
    for i in range(3):
        inside = torch.ones(9, 9)
        inside[tops[i] : tops[i] + 5, lefts[i] : lefts[i] + 5] = 0
        assert torch.equal(mask[i, 0], inside)
    tops, lefts = random_corners(images(1, 9).expand(2000, -1, -1, -1), 5)
    for corners in (tops, lefts):
        counts = corners.bincount()
        assert len(counts) == 5
        assert 340 < counts.min() <= counts.max() < 460  # 400 each, 18 is the deviation


@pytest.mark.parametrize("reaches", [False, True])
def test_whether_the_classifier_trains_the_global_network(reaches: bool) -> None:
    glf = lively(method(dad_weight=2.0, dad_trains_global=reaches)).double()
    module, x, corner = consistency(glf), images(2, dtype=torch.float64), torch.tensor([9, 90])
    iad, dad = module.losses(x, corner, corner, 1 - crop(x, corner, corner, 33))
    weights, classifier = list(glf.global_net.parameters()), list(glf.dad.parameters())
    alone = torch.autograd.grad(iad, weights, retain_graph=True)
    (iad + module.dad_weight * dad).backward()
    for p, gradient in zip(weights, alone, strict=True):
        assert p.grad is not None
        assert torch.allclose(p.grad, gradient, rtol=1e-9, atol=1e-12) != reaches
    assert all(p.grad is not None and p.grad.any() for p in classifier)
    assert all(p.grad is None for p in glf.local.parameters())


# Windows


@pytest.mark.parametrize("windows", [2, 3, 20, 23, None])
@pytest.mark.parametrize("net", [PatchDescriptor(17), PatchDescriptor(33), PatchDescriptor(33, 3), PatchDescriptor(65)])
def test_windows_reach_from_border_to_border(net: PatchDescriptor, windows: int | None) -> None:
    stride = net.strides[-1]
    for size in range(243, 275):
        count = windows or (size - net.reach) // stride + 1
        places = window_places(size, net, count)
        assert len(places) == count
        assert not any(place % stride for place in places)
        gaps = np.diff(places)
        assert 0 < gaps.min() <= gaps.max() <= gaps.min() + stride
        assert places[0] == 0
        assert size - stride < places[-1] + net.reach <= size


@pytest.mark.parametrize(
    ("patch_size", "kernel", "activation", "unit", "global_normalised"),
    [
        pytest.param(17, 5, False, False, True, marks=pytest.mark.slow),
        (33, 5, True, False, False),
        (33, 3, False, True, True),
        (65, 5, False, False, True),
    ],
)
def test_windows_together_are_as_one_by_one(
    patch_size: int, kernel: int, activation: bool, unit: bool, global_normalised: bool
) -> None:
    size = SIZE + 1
    changes = {"patch_size": patch_size, "conv1_kernel_33": kernel, "local_activation": activation}
    changes |= {"unit_features": unit, "global_normalised": global_normalised}
    glf = lively(method(image_size=size, windows=4, **changes))
    (x,) = images(1, size)
    sticking_out = glf.places[0][-1] + patch_size - size  # pixels that L does not read; the hole ends with the image
    assert sticking_out == {17: 0, 33: 1, 65: 5}[patch_size]
    with torch.inference_mode():
        together, (alone, _) = glf.window_scores(x[None])[0], glf.window_scores(torch.stack([x, x.flip(2)]))
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-7 if unit else 1e-5)  # in a batch
    expected = expected_scores(glf, x)
    assert together.shape == (2, 16)
    np.testing.assert_allclose(together, expected, rtol=1e-5, atol=1e-7 if unit else 1e-5)
    assert expected.std(1).min() > (1e-5 if unit else 1e-3)


@pytest.mark.parametrize("p", [17, 33, 65])
def test_windows_of_the_local_network_are_its_patches(p: int) -> None:
    torch.manual_seed(0)
    local, x, corners = LocalNet(p, 5, 128, False), images(2, p + 8), (torch.tensor([0, 8, 8]), torch.tensor([8, 8, 0]))
    patches = [windows_of(image.expand(3, -1, -1, -1), *corners, p) for image in x]
    with torch.inference_mode():
        expected = local(torch.cat(patches))
        torch.testing.assert_close(local.at(x, *corners), expected, rtol=1e-4, atol=1e-5)
    assert expected.std(0).min() > 1e-4


def test_the_local_networks_last_activation() -> None:
    plain, activated = lively(method()), lively(method(local_activation=True))
    (x,), (one, other) = images(1), (described(glf, images(1)[0], 40, 80)[0] for glf in (plain, activated))
    torch.testing.assert_close(other, torch.where(one > 0, one, 0.005 * one))
    assert float(one.min()) < -0.1
    corner = torch.tensor([40]), torch.tensor([80])
    with torch.inference_mode():
        torch.testing.assert_close(activated.local.at(normalised(x)[None], *corner)[0], other, rtol=1e-4, atol=1e-5)


# Scores and maps


@pytest.mark.parametrize(("interpolation", "count"), [("bilinear", 2), ("inverse_distance", 1)])
def test_score_against_loops(interpolation: Any, count: int) -> None:
    glf = lively(method(iad_share=0.7, interpolation=interpolation)).double()
    torch.nn.init.uniform_(glf.calibration, 0.5, 2)
    x = images(count, dtype=torch.float64)
    with torch.inference_mode():
        scores = glf.score(x)
    assert scores.map is not None
    assert scores.map.shape == (count, SIZE, SIZE)
    interpolate = slow.bilinear if interpolation == "bilinear" else slow.inverse_distance
    for i, image in enumerate(x):
        mixed = slow.mixed(expected_scores(glf, image), 0.7, glf.calibration.tolist())
        expected = interpolate(mixed.reshape(3, 3), [place + 16 for place in glf.places[0]], SIZE)
        np.testing.assert_allclose(scores.map[i], expected, rtol=1e-6)
        assert scores.image[i].item() == pytest.approx(mixed.max(), rel=1e-6) == expected.max()
        assert mixed.std() > 1e-3


def test_components_are_what_either_share_alone_would_give() -> None:
    glf, by_share = lively(method()), {}
    torch.nn.init.uniform_(glf.calibration, 0.5, 2)
    with torch.inference_mode():
        both = glf.window_scores(images(2))
        for share in (0.8, 1.0, 0.0):
            glf.iad_share = share
            by_share[share] = glf.to_maps(both)
    _, whole, components = by_share[0.8]
    assert components is not None
    assert list(components) == ["iad", "dad"]
    for part, alone in ((components["iad"], by_share[1.0]), (components["dad"], by_share[0.0])):
        torch.testing.assert_close(part[:2], alone[:2], rtol=0, atol=0)
        assert not torch.allclose(part.map, whole, atol=0.1)  # type: ignore[arg-type]


@pytest.mark.parametrize("interpolation", ["bilinear", pytest.param("inverse_distance", marks=pytest.mark.slow)])
def test_score_does_not_depend_on_the_batch(interpolation: Any) -> None:
    glf, x = lively(method(interpolation=interpolation)), images(2)
    with torch.inference_mode():
        together, alone = glf.score(x), [glf.score(image[None]) for image in x]

    def pictures(scores: Scores) -> list[Tensor]:
        assert scores.map is not None
        return [scores.image, scores.map, *(t for part in (scores.components or {}).values() for t in pictures(part))]

    assert len(pictures(together)) == 6  # mixed, iad, dad
    for whole, *single in zip(pictures(together), *map(pictures, alone), strict=True):
        assert whole.dtype == torch.float32
        torch.testing.assert_close(whole, torch.cat(single), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["bilinear", "inverse_distance"])
@pytest.mark.parametrize("centres", [[3, 20], [0, 5, 11, 12, 23], [8, 9]])
def test_from_windows_to_pixels(name: str, centres: list[int]) -> None:
    interpolate, k = getattr(ours, f"interpolate_{name}"), len(centres)
    at = torch.tensor(centres), torch.tensor(centres)
    scores = images(2, k, seed=k, dtype=torch.float64)  # [2, 3, k, k]
    maps = interpolate(scores.flatten(2), at, (24, 24))
    assert maps.shape == (2, 3, 24, 24)
    for window_scores, picture in zip(scores.flatten(0, 1), maps.flatten(0, 1), strict=True):
        np.testing.assert_allclose(picture, getattr(slow, name)(window_scores.numpy(), centres, 24), rtol=1e-9)
    at_centres = maps[..., centres, :][..., centres]
    torch.testing.assert_close(at_centres, scores, rtol=1e-9, atol=0)
    constant = interpolate(torch.full((1, 1, k * k), 7.0), at, (24, 24))
    torch.testing.assert_close(constant, torch.full((1, 1, 24, 24), 7.0))


@pytest.mark.parametrize("name", ["bilinear", "inverse_distance"])
def test_from_windows_to_pixels_that_are_no_square(name: str) -> None:
    interpolate, rows, columns = getattr(ours, f"interpolate_{name}"), [2, 9], [1, 6, 11, 17]
    scores = images(1, 4, seed=1, dtype=torch.float64)[0, 0, : len(rows)]  # [2, 4]
    found = interpolate(scores.flatten()[None, None], (torch.tensor(rows), torch.tensor(columns)), (12, 20))[0, 0]
    if name == "bilinear":
        across = [np.interp(np.arange(20), columns, row) for row in scores.numpy()]
        expected = np.stack([np.interp(np.arange(12), rows, column) for column in np.stack(across, 1)], 1)
    else:
        centres = np.stack(np.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)
        pixels = np.stack(np.meshgrid(np.arange(12), np.arange(20), indexing="ij"), -1).reshape(-1, 1, 2)
        weights = np.maximum(np.linalg.norm(pixels - centres, axis=-1), 1e-3) ** -5.0  # [240, 8]
        expected = ((weights * scores.numpy().ravel()).sum(1) / weights.sum(1)).reshape(12, 20)
    np.testing.assert_allclose(found, expected, rtol=1e-9)
