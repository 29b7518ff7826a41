from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning import Trainer
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader

from anomaly_bench.config import compose, validate
from anomaly_bench.contracts import NormalBatch
from anomaly_bench.errors import UserError
from anomaly_bench.methods.reverse_distillation import (
    RESNETS,
    ReverseDistillation,
    anomaly_map,
    flattened_loss,
    gaussian,
    positional_loss,
)
from tests.references import reverse_distillation as slow

YAML: dict[str, Any] = OmegaConf.to_container(compose(["method=rd", "dataset=mtd"]).method)  # type: ignore[assignment]
CONFIG = {key: value for key, value in YAML.items() if key not in ("_target_", "name")}
SMALL = {"backbone": "resnet18", "image_size": 32, "batch_size": 4}
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
REAL_WEIGHTS = Path(os.environ.get("ANOMALY_BENCH_WEIGHTS", ".")) / "resnet18.layer1-3.safetensors"
REAL_IMAGES = Path(os.environ.get("ANOMALY_BENCH_DATA", ".")) / "mvtec" / "screw" / "train" / "good"


def method(seed: int = 0, **changes: Any) -> ReverseDistillation:
    torch.manual_seed(seed)
    return ReverseDistillation(**{**CONFIG, **SMALL, **changes})


def shaken(seed: int = 0, **changes: Any) -> ReverseDistillation:
    """With batch norms unlike those of a new network, so that each of their four tensors counts."""
    rd = method(seed, **changes)
    for norm in (m for m in rd.modules() if isinstance(m, nn.BatchNorm2d)):
        for values, low, high in (
            (norm.weight, 0.5, 1.5),
            (norm.bias, -0.5, 0.5),
            (norm.running_mean, -0.5, 0.5),
            (norm.running_var, 0.5, 2.0),
        ):
            nn.init.uniform_(values, low, high)  # type: ignore[arg-type]
    return rd


def images(count: int, size: int = 32, seed: int = 1) -> Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def features(seed: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    """Non-negative, as after a ReLU, about half of them zero; three levels for images of 32 x 24."""
    g = torch.Generator().manual_seed(seed)
    shapes = [(3, 5, 8, 6), (3, 7, 4, 3), (3, 9, 2, 2)]
    return [torch.randn(s, generator=g, dtype=dtype).relu() + 1e-3 for s in shapes]


class Normal:
    """The normal images, and what was asked of them."""

    def __init__(self, batches: list[Tensor]) -> None:
        self.batches = batches
        self.asked: list[tuple[str, int, bool]] = []

    def loader(self, split: str, batch_size: int, shuffle: bool = False) -> DataLoader[NormalBatch]:
        self.asked.append((split, batch_size, shuffle))
        rows: Any = [{"image": b, "path": [str(i) for i in range(len(b))]} for b in self.batches]
        return DataLoader(rows, batch_size=None)


@pytest.fixture
def weights(tmp_path: Path) -> str:
    """A file with the teacher of another seed."""
    save_file(shaken(seed=9).teacher.net.state_dict(), tmp_path / "resnet18.safetensors")
    return str(tmp_path / "resnet18.safetensors")


def train(rd: ReverseDistillation, batches: list[Tensor]) -> Normal:
    """All stages of the method, one step for each batch."""
    data = Normal(batches)
    for stage in rd.stages(data):
        trainer = Trainer(
            accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, **stage.trainer,
        )  # fmt: skip
        trainer.fit(stage.module, stage.loader)
    return data


quiet = pytest.mark.filterwarnings("ignore:.*does not have many workers.*", "ignore:.*in eval mode at the start.*")


# Architecture


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize("name", RESNETS)
def test_parameter_counts(name: str) -> None:
    rd = method(backbone=name)
    counts = (count(rd.teacher), count(rd.bottleneck), count(rd.decoder))
    assert counts == slow.parameters(name)
    assert counts == pytest.approx([1e6 * m for m in MILLIONS[name]], abs=0.5e4 + 1)
    assert count(rd) == sum(counts)


def test_every_backbone_is_tested() -> None:
    assert set(RESNETS) == set(SHAPES) == set(MILLIONS) == set(slow.STAGES)


@pytest.mark.parametrize("name", RESNETS)
def test_shapes_at_256_px(name: str) -> None:
    with torch.inference_mode():
        f_e, f_d = method(backbone=name).eval()(images(1, 256))
    assert [tuple(f.shape[1:]) for f in f_e] == SHAPES[name]
    assert [tuple(f.shape[1:]) for f in f_d] == SHAPES[name]


def test_shapes_at_32_px() -> None:
    f_e, f_d = method()(images(2))
    expected = [(2, 64, 8, 8), (2, 128, 4, 4), (2, 256, 2, 2)]
    assert [tuple(f.shape) for f in f_e] == [tuple(f.shape) for f in f_d] == expected


def executed(rd: ReverseDistillation, x: Tensor) -> tuple[list[tuple[Tensor, ...]], list[Tensor], list[Tensor]]:
    """The student's layers in the order in which they ran, each with the batch norm that followed; f_e and f_d."""
    ran: list[Any] = []
    parts = [m for m in (*rd.bottleneck.modules(), *rd.decoder.modules()) if not list(m.children())]
    layers = [m for m in parts if not isinstance(m, (nn.ReLU, nn.Identity))]
    hooks = [m.register_forward_hook(lambda m, *_: ran.append(m)) for m in layers]
    with torch.no_grad():
        f_e, f_d = rd(x)
    for hook in hooks:
        hook.remove()
    assert len(ran) == len(layers)  # each ran once, none is idle
    convs, norms = ran[::2], ran[1::2]
    assert {type(m) for m in convs} == {nn.Conv2d, nn.ConvTranspose2d}
    assert {type(m) for m in norms} == {nn.BatchNorm2d}
    assert all(m.bias is None for m in convs)
    before = [(c.weight, n.weight, n.bias, n.running_mean, n.running_var) for c, n in zip(convs, norms, strict=True)]
    return before, f_e, f_d


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", RESNETS)
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


# Loss, map and score


def test_losses_against_loops() -> None:
    f_e, f_d = features(1), features(2)
    e, d = [f.numpy() for f in f_e], [f.numpy() for f in f_d]
    assert float(flattened_loss(f_e, f_d)) == pytest.approx(slow.loss(e, d, flatten=True), abs=1e-9)
    assert float(positional_loss(f_e, f_d)) == pytest.approx(slow.loss(e, d, flatten=False), abs=1e-9)
    assert abs(float(flattened_loss(f_e, f_d)) - float(positional_loss(f_e, f_d))) > 1e-3


@pytest.mark.parametrize(("flatten", "function"), [(True, flattened_loss), (False, positional_loss)])
@pytest.mark.filterwarnings("ignore:.*self.trainer. reference is not registered")
def test_the_key_chooses_the_loss(flatten: bool, function: Any) -> None:
    rd = method(flatten_loss=flatten)
    x = images(2)
    loss = rd.training_step({"image": x, "path": []}, 0)
    assert float(loss.detach()) == pytest.approx(float(function(*rd(x)).detach()), abs=1e-6)


def test_equal_features_cost_nothing() -> None:
    f = features(1)
    scaled = [3 * x for x in f]  # the cosine does not see length
    for other in (f, scaled):
        assert abs(float(flattened_loss(f, other))) < 1e-12
        assert abs(float(positional_loss(f, other))) < 1e-12
        assert anomaly_map(f, other, torch.Size((32, 24))).abs().max() < 1e-12


def test_map_lies_between_0_and_3() -> None:
    size, f_e = torch.Size((32, 24)), features(1)
    assert anomaly_map(f_e, features(2), size).min() >= 0
    first, second = ([torch.zeros_like(f).index_fill_(1, torch.tensor(c), 1) for f in f_e] for c in (0, 1))
    torch.testing.assert_close(anomaly_map(first, second, size), torch.full((3, 32, 24), 3.0).double())


@pytest.mark.parametrize("sigma", [0.7, 4.0])
def test_maps_against_loops(sigma: float) -> None:
    f_e, f_d = features(1), features(2)
    fast = gaussian(anomaly_map(f_e, f_d, torch.Size((32, 24))), sigma)
    scores, maps = slow.scores([f.numpy() for f in f_e], [f.numpy() for f in f_d], 32, 24, sigma)
    np.testing.assert_allclose(fast.numpy(), maps, atol=1e-9, rtol=0)
    np.testing.assert_allclose(fast.flatten(1).amax(1).numpy(), scores, atol=1e-9, rtol=0)


def test_filter_wider_than_the_map() -> None:
    maps = torch.rand(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    expected = np.stack([slow.gaussian_filter(m, sigma=4) for m in maps.numpy()])
    np.testing.assert_allclose(gaussian(maps, 4.0).numpy(), expected, atol=1e-12, rtol=0)


def test_score_against_loops() -> None:
    rd = shaken().eval()
    with torch.inference_mode():
        scores = rd.score(images(2))
        f_e, f_d = rd(images(2))
    expected, maps = slow.scores([f.numpy() for f in f_e], [f.numpy() for f in f_d], 32, 32, sigma=4)
    assert scores.map is not None
    assert scores.map.shape == (2, 32, 32)
    assert scores.map.dtype == scores.image.dtype == torch.float32
    np.testing.assert_allclose(scores.map.numpy(), maps, atol=1e-6, rtol=0)
    np.testing.assert_allclose(scores.image.numpy(), expected, atol=1e-6, rtol=0)


def test_score_does_not_depend_on_the_batch() -> None:
    rd, x = shaken().eval(), images(8)
    with torch.inference_mode():
        together = rd.score(x)
        alone = [rd.score(image[None]) for image in x]
    torch.testing.assert_close(together.image, torch.cat([s.image for s in alone]), rtol=0, atol=1e-5)
    torch.testing.assert_close(together.map, torch.cat([s.map for s in alone if s.map is not None]), rtol=0, atol=1e-5)


def test_loss_of_a_new_student() -> None:
    losses = []
    for seed in range(3):
        with torch.no_grad():
            losses.append(float(flattened_loss(*method(seed, image_size=64)(images(4, 64)))))
    assert np.mean(losses) == pytest.approx(1.7, abs=0.15)  # three independent levels; 0 would be a copy of the teacher


@pytest.mark.realdata
@pytest.mark.skipif(
    not REAL_WEIGHTS.is_file() or not REAL_IMAGES.is_dir(),
    reason="needs $ANOMALY_BENCH_WEIGHTS/resnet18.layer1-3.safetensors and $ANOMALY_BENCH_DATA/mvtec/screw",
)
def test_loss_of_a_new_student_of_a_real_teacher() -> None:
    files = sorted(REAL_IMAGES.glob("*.png"))[:4]
    pixels = [np.asarray(Image.open(f).convert("RGB").resize((128, 128))) for f in files]
    x = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2) / 255
    rd = method()
    rd.teacher.load(str(REAL_WEIGHTS))
    with torch.no_grad():
        assert float(flattened_loss(*rd(x))) == pytest.approx(1.8, abs=0.2)


# Training


def test_optimiser() -> None:
    rd = method()
    optimiser = rd.configure_optimizers()
    assert type(optimiser) is torch.optim.Adam
    (group,) = optimiser.param_groups
    expected = {"lr": 0.005, "betas": (0.5, 0.999), "weight_decay": 0, "eps": 1e-8, "amsgrad": False, "maximize": False}
    assert {key: group[key] for key in expected} == expected
    assert (YAML["lr"], tuple(YAML["betas"])) == (expected["lr"], expected["betas"])
    held = {id(p) for p in group["params"]}
    assert len(held) == len(group["params"])
    assert held == {id(p) for p in [*rd.bottleneck.parameters(), *rd.decoder.parameters()]}
    assert held == {id(p) for p in rd.parameters() if p.requires_grad}


def test_published_setting() -> None:
    assert YAML["backbone"] == "wide_resnet50_2.tv_in1k"  # the three others of that name are other trainings
    assert (YAML["epochs"], YAML["batch_size"], YAML["image_size"]) == (200, 16, 256)
    assert (YAML["flatten_loss"], YAML["sigma"]) == (True, 4.0)


@quiet
def test_stages_and_teacher(weights: str) -> None:
    rd = method(weights=weights, epochs=2)
    trainable = {k: v.clone() for k, v in rd.state_dict().items() if not k.startswith("teacher.")}
    data = train(rd, [images(4), images(3, seed=2)])
    assert data.asked == [("train", 4, True)]
    assert rd.provenance()["backbone"] == "resnet18.tv_in1k"
    loaded = shaken(seed=9).teacher.net.state_dict()  # statistics, counters and all
    assert all(torch.equal(v, loaded[k]) for k, v in rd.teacher.net.state_dict().items())
    rd.train()
    assert not any(m.training for m in rd.teacher.modules())
    assert all(m.training for m in [*rd.bottleneck.modules(), *rd.decoder.modules()])
    assert all(p.grad is None and not p.requires_grad for p in rd.teacher.parameters())
    same = [k for k, v in rd.state_dict().items() if k in trainable and torch.equal(v, trainable[k])]
    assert same == []
    steps = [v for k, v in rd.state_dict().items() if k.startswith("bottle") and k.endswith("num_batches_tracked")]
    assert set(map(int, steps)) == {4}


@quiet
def test_training_lowers_the_loss(weights: str) -> None:
    rd, x = method(weights=weights, epochs=15), images(4)
    with torch.no_grad():
        rd.teacher.load(weights)
        before = float(flattened_loss(*rd(x)))
    train(rd, [x])
    with torch.no_grad():
        assert float(flattened_loss(*rd.train()(x))) < 0.5 * before


@quiet
def test_updates_are_those_of_the_authors(weights: str) -> None:
    """Their teacher is part of the graph and its gradients pile up; bottleneck and decoder must not notice."""
    ours, theirs = method(weights=weights, epochs=1), method(weights=weights)
    batches = [images(4), images(4, seed=2)]
    train(ours, batches)
    theirs.teacher.load(weights)
    theirs.teacher.requires_grad_(True)
    optimiser = theirs.configure_optimizers()
    for x in batches:
        f_e = theirs.teacher.net((x - theirs.teacher.mean) / theirs.teacher.std)
        optimiser.zero_grad()
        flattened_loss(f_e, theirs.decoder(theirs.bottleneck(f_e))).backward()
        optimiser.step()
    assert all(p.grad is not None for p in theirs.teacher.parameters())
    a, b = ours.state_dict(), theirs.state_dict()
    assert [k for k in a if not torch.equal(a[k], b[k])] == []


@quiet
def test_state_dict_is_the_model(weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = method(weights=weights, epochs=1)
    train(first, [images(4), images(4, seed=2)])
    Path(weights).unlink()
    monkeypatch.delenv("ANOMALY_BENCH_WEIGHTS", raising=False)
    second = method(seed=5, weights=None)
    second.load_state_dict(first.state_dict())
    with torch.inference_mode():
        a, b = first.eval().score(images(3)), second.eval().score(images(3))
    assert torch.equal(a.image, b.image)
    assert torch.equal(a.map, b.map)  # type: ignore[arg-type]
