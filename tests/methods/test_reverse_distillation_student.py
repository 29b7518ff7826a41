"""The student's architecture, sizes and initialisation, and which networks a config may name."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from anomaly_bench.config import compose, validate
from anomaly_bench.errors import UserError
from anomaly_bench.methods.reverse_distillation import RESNETS, ReverseDistillation
from tests.methods.small_rd import images, method, shaken
from tests.references import reverse_distillation as slow

# at 256 px
SHAPES = {
    "resnet18": [(64, 64, 64), (128, 32, 32), (256, 16, 16)],
    "resnet34": [(64, 64, 64), (128, 32, 32), (256, 16, 16)],
    "resnet50": [(256, 64, 64), (512, 32, 32), (1024, 16, 16)],
    "wide_resnet50_2": [(256, 64, 64), (512, 32, 32), (1024, 16, 16)],
}
MILLIONS = {  # teacher to layer3, used bottleneck, decoder, as counted in the authors' classes
    "resnet18": (2.78, 11.68, 3.70),
    "resnet34": (8.17, 16.40, 5.77),
    "resnet50": (8.54, 30.83, 15.82),
    "wide_resnet50_2": (24.86, 58.89, 24.92),
}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", RESNETS)
def test_parameter_counts(name: str) -> None:
    with torch.device("meta"):
        rd = method(backbone=name)
    counts = (count(rd.teacher), count(rd.bottleneck), count(rd.decoder))
    assert counts == slow.parameters(name)
    assert counts == pytest.approx([1e6 * m for m in MILLIONS[name]], abs=0.5e4 + 1)
    assert count(rd) == sum(counts)


def test_every_backbone_is_tested() -> None:
    assert set(RESNETS) == set(SHAPES) == set(MILLIONS) == set(slow.STAGES)


@pytest.mark.parametrize("name", RESNETS)
def test_shapes_at_256_px(name: str) -> None:
    with torch.device("meta"), torch.inference_mode():
        f_e, f_d = method(backbone=name).eval()(torch.empty(1, 3, 256, 256))
    assert [tuple(f.shape[1:]) for f in f_e] == SHAPES[name]
    assert [tuple(f.shape[1:]) for f in f_d] == SHAPES[name]


def test_shapes_at_32_px() -> None:
    f_e, f_d = method()(images(2))
    expected = [(2, 64, 8, 8), (2, 128, 4, 4), (2, 256, 2, 2)]
    assert [tuple(f.shape) for f in f_e] == [tuple(f.shape) for f in f_d] == expected


def executed(rd: ReverseDistillation, x: Tensor) -> tuple[Any, list[Tensor], list[Tensor]]:
    """The student's layers in the order in which they ran, each with the batch norm that followed; f_e and f_d."""
    ran: list[Any] = []
    leaves = [m for m in (*rd.bottleneck.modules(), *rd.decoder.modules()) if not list(m.children())]
    there = [m for m in leaves if not isinstance(m, (nn.ReLU, nn.Identity))]
    hooks = [m.register_forward_hook(lambda m, *_: ran.append(m)) for m in there]
    with torch.no_grad():
        f_e, f_d = rd(x)
    for hook in hooks:
        hook.remove()
    assert len(ran) == len(there)  # each ran once, none is idle
    convs, norms = ran[::2], ran[1::2]
    assert {type(m) for m in convs} == {nn.Conv2d, nn.ConvTranspose2d}
    assert {type(m) for m in norms} == {nn.BatchNorm2d}
    assert all(m.bias is None for m in convs)
    layers = [(c.weight, n.weight, n.bias, n.running_mean, n.running_var) for c, n in zip(convs, norms, strict=True)]
    return layers, f_e, f_d


SAMPLE = {("resnet18", False), ("resnet18", True), ("resnet34", False), ("resnet50", True)}


@pytest.mark.parametrize(
    ("name", "training"),
    [
        pytest.param(name, training, marks=[] if (name, training) in SAMPLE else pytest.mark.slow)
        for name in RESNETS
        for training in (False, True)
    ],
)
def test_student_is_the_authors(name: str, training: bool) -> None:
    rd = shaken(backbone=name).double().train(training)
    layers, f_e, f_d = executed(rd, images(2, 64).double())
    tape = slow.Layers(layers, training)
    with torch.no_grad():
        expected = slow.student(name, tape, *f_e)
    assert tape.layers == []
    for ours, theirs in zip(f_d, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_initialisation() -> None:
    rd = method(backbone="resnet50")
    large = 0
    for m in (*rd.bottleneck.modules(), *rd.decoder.modules()):
        if isinstance(m, nn.BatchNorm2d):
            assert (m.weight == 1).all()
            assert (m.bias == 0).all()
        if not isinstance(m, (nn.Conv2d, nn.ConvTranspose2d)) or m.weight.numel() < 50_000:
            continue
        large += 1
        w = m.weight.detach()
        assert abs(float(w.mean())) < 0.02 * float(w.std())
        if isinstance(m, nn.ConvTranspose2d):  # uniform within 1 / sqrt(fan), PyTorch's fan being outputs * 4 here
            bound = (w.shape[1] * 4) ** -0.5
            assert 0.99 * bound < float(w.abs().max()) <= bound
            assert float(w.std()) == pytest.approx(bound / 3**0.5, rel=0.02)
        else:  # normal; fan out = outputs * kernel area
            std = (2 / (w.shape[0] * w.shape[2] * w.shape[3])) ** 0.5
            assert float(w.std()) == pytest.approx(std, rel=0.02)
            assert float((w.abs() < std).double().mean()) == pytest.approx(0.6827, abs=0.01)
    assert large > 20


def test_wrong_size() -> None:
    with pytest.raises(UserError, match=r"method.image_size: 48 given, allowed: a multiple of 32"):
        validate(compose(["method=rd", "dataset=mtd", "method.image_size=48"]))


@pytest.mark.parametrize("name", ["wide_resnet50", "wide_resnet50.tv_in1k"])
def test_unknown_backbone(name: str) -> None:
    message = rf"backbone: '{name}' given, allowed: resnet18, .*did you mean 'wide_resnet50_2'"
    with pytest.raises(UserError, match=message):
        validate(compose(["method=rd", "dataset=mtd", f"method.backbone={name}"]))


def test_unknown_tag() -> None:
    with pytest.raises(UserError, match=r"method.backbone: .*'resnet18.tv_in2k' with that tag.*resnet18.tv_in1k"):
        method(backbone="resnet18.tv_in2k")
