"""The three losses of a teacher against loops, and what its training changes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from anomaly_bench.nets.backbones import Backbone
from anomaly_bench.nets.distillation import Distillation, DistillationConfig, compactness, decoder, knowledge, metric
from anomaly_bench.nets.patch_descriptors import PatchDescriptor
from tests.nets.small_teachers import BLOCK
from tests.references import uninformed_students as slow

KINDS: list[Literal["square", "abs", "signed"]] = ["square", "abs", "signed"]
P = 17


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def small(weights: tuple[float, float, float] = (1, 1, 1), **changes: Any) -> Distillation:
    """In float64, towards a random ResNet-18's layer2."""
    torch.manual_seed(0)
    config = DistillationConfig(**{**BLOCK, "losses": weights, **changes})
    return Distillation(PatchDescriptor(P), Backbone("resnet18", (2,)), config).double()


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
