"""The three losses of a teacher against loops, and what its training changes."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from anomaly_bench.nets.backbones import Backbone
from anomaly_bench.nets.distillation import Distillation, compactness, decoder, knowledge, metric
from anomaly_bench.nets.distillation_config import DistillationConfig
from anomaly_bench.nets.natural_patches import Triplets
from anomaly_bench.nets.patch_descriptors import PatchDescriptor
from tests.nets.small_teachers import BLOCK
from tests.references import uninformed_students as slow

KINDS: list[Literal["square", "abs", "signed"]] = ["square", "abs", "signed"]
P = 17


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@cache
def built(layers: tuple[int, ...]) -> Backbone:
    torch.manual_seed(0)
    return Backbone("resnet18", layers)


def small(weights: tuple[float, float, float] = (1, 1, 1), **changes: Any) -> Distillation:
    """In float64, towards layers of a random ResNet-18, layer2 unless others are named."""
    torch.manual_seed(0)
    config = DistillationConfig(**{**BLOCK, "losses": weights, **changes})
    return Distillation(PatchDescriptor(P), deepcopy(built(config.layers)), config).double()


def patches(count: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    a, b, c = torch.rand(3, count, 3, P, P, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return a, b, c


def descriptors(module: Distillation, x: Tensor) -> np.ndarray:
    """[B, d], the ImageNet normalisation written out."""
    mean, std = (torch.tensor(v).view(3, 1, 1).double() for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        return module.teacher((x - mean.float().double()) / std.float().double()).numpy()


def test_knowledge_against_loops() -> None:
    a, b = normal(4, 9), normal(4, 9, seed=1)
    assert float(knowledge(a, b)) == pytest.approx(slow.knowledge(a.numpy(), b.numpy()), abs=1e-9)
    assert float(knowledge(a, a)) == 0


@pytest.mark.parametrize("layers", [1, 3])
def test_decoder_against_loops(layers: int) -> None:
    torch.manual_seed(0)
    D, t = decoder(layers, 5).double(), normal(2, 128)
    parameters = [p.detach().numpy() for p in D.parameters()]
    assert [p.shape for p in parameters] == [(5, 128), (5,), *[(5, 5), (5,)] * (layers - 1)]
    for given, found in zip(t.numpy(), D(t).detach().numpy(), strict=True):
        x = given
        for i in range(0, 2 * layers, 2):
            x = [v if i == 0 or v > 0 else 0.005 * v for v in x]
            x = [
                sum(w * v for w, v in zip(row, x, strict=True)) + b
                for row, b in zip(*parameters[i : i + 2], strict=True)
            ]
        np.testing.assert_allclose(found, x, atol=1e-12)


def test_metric_against_loops() -> None:
    t, positive, negative = normal(40, 3), normal(40, 3, seed=1), normal(40, 3, seed=2)
    expected = slow.metric_terms(t.numpy(), positive.numpy(), negative.numpy(), 0.5)
    assert 5 < sum(term == 0 for term in expected) < 35  # the hinge counts
    assert float(metric(t, positive, negative, 0.5)) == pytest.approx(np.mean(expected), abs=1e-9)


def test_metric_takes_the_harder_negative() -> None:
    zero, one, three = (torch.tensor([[v]]) for v in (0.0, 1.0, 3.0))
    assert float(metric(zero, one, three, 10)) == 10 + 1 - 4  # p- lies nearer to p+
    assert float(metric(one, zero, three, 10)) == 10 + 1 - 4  # and to p
    assert float(metric(zero, one, three, 1)) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("B", [2, 5, 30])
def test_compactness_against_loops(kind: Literal["square", "abs", "signed"], B: int) -> None:
    t = 3 * normal(B, 7) + 5  # neither mean nor scale count
    t[:, 1] = -0.5 * t[:, 0]
    expected = slow.compactness(t.numpy(), kind)
    assert float(compactness(t, kind)) == pytest.approx(expected, abs=1e-6)
    c = np.corrcoef(t.numpy().T) - np.eye(7)  # [d, d]
    assert expected == pytest.approx({"square": c**2, "abs": abs(c), "signed": c}[kind].sum(), abs=1e-9)


def test_compactness_of_dimensions_that_do_not_vary() -> None:
    t = normal(6, 4)
    t[:, 2] = 1.5
    t.requires_grad_()
    loss = compactness(t, "abs")
    loss.backward()
    assert float(loss.detach()) == pytest.approx(slow.compactness(t.detach().numpy(), "abs"), abs=1e-9)
    assert t.grad is not None
    assert t.grad.isfinite().all()


def test_losses_of_a_batch() -> None:
    module, batch = small((2, 3, 0.5), margin=4.0), patches(4)
    t = [descriptors(module, x) for x in batch]
    with torch.no_grad():
        decoded = t[0] @ module.decoder.weight.numpy().T + module.decoder.bias.numpy()
        target = module.backbone(batch[0])[-1].numpy().mean((2, 3))
        losses = {name: float(value) for name, value in module.losses(batch).items()}
    assert module.backbone.channels[-1] == target.shape[1] == decoded.shape[1] == 128
    expected = {
        "knowledge": slow.knowledge(decoded, target),
        "metric": np.mean(slow.metric_terms(t[0], t[1], t[2], 4.0)),
        "compactness": slow.compactness(t[0], "square"),  # of the descriptor itself, not of what is decoded from it
    }
    assert min(expected.values()) > 0
    assert losses == pytest.approx(expected, abs=1e-6)
    module.log_dict = lambda *_: None  # type: ignore[method-assign]
    total = 2 * expected["knowledge"] + 3 * expected["metric"] + 0.5 * expected["compactness"]
    assert float(module.training_step(batch, 0).detach()) == pytest.approx(total, abs=1e-6)


@pytest.mark.parametrize("weights", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1)])
def test_a_loss_without_weight_is_not_there(weights: tuple[float, float, float]) -> None:
    module, batch = small(weights, margin=9.0), patches()
    every = small(margin=9.0).losses(batch)
    losses = module.losses(batch)
    assert [bool(value) for value in losses.values()] == [bool(w) for w in weights]
    assert all(torch.equal(value, every[name]) for name, value in losses.items() if value)


def test_patches_are_enlarged_for_the_imagenet_network_alone() -> None:
    module, seen = small(target_size=40), []
    module.backbone.register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    module.losses(patches())
    (x,) = seen
    assert x.shape == (3, 3, 40, 40)
    flat = torch.full((1, 3, P, P), 0.3, dtype=torch.float64)
    module.target(flat)
    torch.testing.assert_close(seen[1], torch.full((1, 3, 40, 40), 0.3, dtype=torch.float64))


def test_a_step_changes_teacher_and_decoder_only() -> None:
    module = small()
    before = {key: value.clone() for key, value in module.state_dict().items()}
    optimiser = module.configure_optimizers()
    assert isinstance(optimiser, torch.optim.Adam)
    (group,) = optimiser.param_groups
    assert (group["lr"], group["weight_decay"], group["betas"]) == (2e-4, 1e-5, (0.9, 0.999))
    torch.stack(list(module.train().losses(patches()).values())).sum().backward()
    optimiser.step()
    changed = {key for key, value in module.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {key for key in before if not key.startswith("backbone.")}
    assert all(p.grad is None for p in module.backbone.parameters())
    assert not any(m.training for m in module.backbone.modules())
    assert not any(isinstance(m, (nn.Dropout, nn.BatchNorm2d)) for m in [*module.teacher.modules(), module.decoder])


# Choices of ours


def test_features_of_several_layers_stand_side_by_side_and_are_standardised(tmp_path: Path) -> None:
    module, (x, _, _) = small(layer=(2, 3), standardise=True), patches(4)
    with torch.no_grad():
        maps = [f.numpy().mean((2, 3)) for f in module.backbone(x)]
    assert [f.shape for f in maps] == [(4, 128), (4, 256)]
    np.testing.assert_allclose(module.target(x).numpy(), np.concatenate(maps, 1), atol=1e-12)
    assert module.decoder.weight.shape == (384, 128)
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    module, files = small(layer=(2, 3), standardise=True).float(), sorted(tmp_path.iterdir())
    data = Triplets(files, P, 4, module.config)
    before = torch.random.get_rng_state()
    module.prepare(data, 4)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(0)
    drawn = torch.stack([data[i][0] for i in range(4 * 64)])
    with torch.no_grad():
        features = np.concatenate([f.numpy().mean((2, 3)) for f in module.backbone(drawn)], 1)
    expected = (features - features.mean(0)) / np.maximum(features.std(0, ddof=1), 1e-6)
    np.testing.assert_allclose(module.target(drawn).numpy(), expected, atol=1e-3)


@pytest.mark.parametrize(("p", "size", "stride"), [(17, 32, 1), (33, 64, 4)])
def test_descriptors_of_a_crop_learn_the_features_at_their_centres(p: int, size: int, stride: int) -> None:
    """Feature k of a layer with reduction r lies at pixel k r; between two of them it is mixed by distance."""
    torch.manual_seed(0)
    config = DistillationConfig(**{**BLOCK, "layer": (2, 3), "target": "image", "crop_size": size})
    module = Distillation(PatchDescriptor(p), deepcopy(built((2, 3))), config).double()
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    n = size // stride
    t, target = module.describe(x).detach(), module.target(x)
    assert (t.shape, target.shape) == ((2 * n * n, 128), (2 * n * n, 384))
    with torch.no_grad():
        maps = [f.numpy() for f in module.backbone(x)]  # reductions 8 and 16
    normalised = (x - module.backbone.mean) / module.backbone.std
    padded = torch.nn.functional.pad(normalised, 4 * [(p - 1) // 2])
    for image, i, j in ((0, 0, 0), (0, 2, 3), (1, n // 2, n // 2 + 1), (1, n - 1, n - 1)):
        row = (image * n + i) * n + j
        top, left = i * stride, j * stride
        patch = padded[image : image + 1, :, top : top + p, left : left + p]
        torch.testing.assert_close(t[row : row + 1], module.teacher(patch).detach(), atol=1e-10, rtol=0)
        expected = []
        for f, r in zip(maps, (8, 16), strict=True):
            y, x_ = (min(v / r, f.shape[2] - 1) for v in (top, left))
            (y0, a), (x0, b) = ((int(v), v - int(v)) for v in (y, x_))
            y1, x1 = min(y0 + 1, f.shape[2] - 1), min(x0 + 1, f.shape[3] - 1)
            upper = (1 - b) * f[image, :, y0, x0] + b * f[image, :, y0, x1]
            lower = (1 - b) * f[image, :, y1, x0] + b * f[image, :, y1, x1]
            expected.append((1 - a) * upper + a * lower)
        np.testing.assert_allclose(target[row].numpy(), np.concatenate(expected), atol=1e-10)
    assert all(bool(v) == (name != "metric") for name, v in module.losses(x).items())


def test_the_learning_rate_falls_as_a_cosine() -> None:
    module = small(decay=True, steps=10)
    given = module.configure_optimizers()
    scheduler, rates = given["lr_scheduler"]["scheduler"], []
    assert given["lr_scheduler"]["interval"] == "step"
    for _ in range(10):
        rates.append(given["optimizer"].param_groups[0]["lr"])
        given["optimizer"].step()
        scheduler.step()
    assert rates == pytest.approx([2e-4 * (1 + np.cos(np.pi * k / 10)) / 2 for k in range(10)])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"zoom": (8, 4)}, "smaller one first"),
        ({"zoom": (0.5, 4)}, "smaller one first"),
        ({"target": "image"}, "crop_size"),
        ({"crop_size": 64}, "crop_size"),
        ({"target": "image", "crop_size": 64, "losses": (1, 1, 1)}, "no metric loss"),
        ({"target": "image", "crop_size": 64, "target_size": 64}, "no target_size"),
    ],
)
def test_numbers_that_do_not_fit_each_other(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DistillationConfig(**{**BLOCK, **changes})
