"""What Glancing at the Patch's training asks for, minimises, changes and leaves alone."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from small_training import fit
from torch import Tensor

from anomaly_bench.contracts import Stage
from anomaly_bench.errors import UserError
from anomaly_bench.methods.glancing_at_the_patch import EPS, GlancingAtThePatch
from anomaly_bench.nets.distillation import Distillation
from anomaly_bench.nets.patch_descriptors import PatchDescriptor
from anomaly_bench.nets.teachers import save_teacher
from anomaly_bench.nets.windows import crop, random_corners
from tests.methods.small_glf import (
    YAML,
    RecordingLoaders,
    batch,
    consistency,
    expected_scores,
    images,
    lively,
    method,
    normal_data,
    normalised,
)
from tests.references import glancing_at_the_patch as slow
from tests.references import uninformed_students as distilled

quiet = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*in eval mode at the start.*", "ignore:.*treespec.*"
)
Weights = dict[str, Tensor]


def optimiser_of(stage: Stage) -> torch.optim.Optimizer:
    """The optimiser that a stage was trained with."""
    (optimiser,) = fit(stage).optimizers
    return optimiser


def train(glf: GlancingAtThePatch, data: RecordingLoaders) -> dict[str, Weights]:
    """All stages; L's weights after each, `shipped` before the first."""
    after = {"shipped": shipped(glf)}
    for stage in glf.stages(data):
        fit(stage)
        after[stage.name] = {key: value.clone() for key, value in glf.local.net.state_dict().items()}
    return after


def shipped(glf: GlancingAtThePatch) -> Weights:
    net = PatchDescriptor(33)
    glf.teachers.load(net)
    return net.state_dict()


def same(one: Weights, other: Weights) -> set[bool]:
    return {torch.equal(value, other[key]) for key, value in one.items()}


def test_stages(tmp_path: Path, weights: Path) -> None:
    data, glf = normal_data(tmp_path), method(
        weights=str(weights), tune_steps=1001, tune_batch_size=5, tune_lr=0.5, steps=7, batch_size=4, calibrate=False
    )  # fmt: skip
    tune, training = list(glf.stages(data))
    assert (tune.name, tune.trainer) == ("tune", {"max_epochs": 2, "max_steps": 1001})
    assert (training.name, training.trainer) == ("global", {"max_epochs": 1, "max_steps": 7})
    assert (len(tune.loader), len(training.loader)) == (501, 8)
    assert data.requests == [
        ("train", 5, {"shuffle": True, "min_samples": 2500}),
        ("train", 4, {"shuffle": True, "min_samples": 28}),
    ]
    assert [len(batch["path"]) for batch in training.loader] == [4] * 7 + [2]
    said = glf.provenance()
    assert (said["backbone"], set(said)) == (
        "resnet18.tv_in1k",
        {"local_p33_sha256", "backbone", "backbone_sha256"},
    )
    assert {len(value) for key, value in said.items() if key != "backbone"} == {64}
    (stage,) = method(tune_steps=0).stages(data)  # needs no ImageNet weights
    assert stage.name == "global"


def test_optimisers(tmp_path: Path, weights: Path) -> None:
    glf = method(weights=str(weights), tune_steps=1, tune_lr=0.5, teacher={"weight_decay": 0.25}, lr=0.3, dad_lr=0.1)
    modules: list[Any] = [stage.module for stage in glf.stages(normal_data(tmp_path))]
    tune, training = modules
    optimiser = tune.configure_optimizers()
    (group,) = optimiser.param_groups
    assert (group["lr"], group["weight_decay"]) == (0.5, 0.25)
    assert {id(p) for p in group["params"]} == {id(p) for m in (tune.teacher, tune.decoder) for p in m.parameters()}
    optimiser = training.configure_optimizers()
    assert type(optimiser) is torch.optim.Adam
    nets = zip(optimiser.param_groups, (glf.global_net, glf.dad), (0.3, 0.1), strict=True)
    for group, net, lr in nets:
        assert (group["lr"], group["betas"], group["weight_decay"]) == (lr, (0.9, 0.999), 0)
        assert {id(p) for p in group["params"]} == {id(p) for p in net.parameters()}


@pytest.mark.parametrize("activation", [False, True])
def test_the_tunings_loss_is_that_of_a_distillation_without_triplets(weights: Path, activation: bool) -> None:
    losses = (0.5, 9.0, 2.0)
    glf = lively(
        method(weights=str(weights), tune_steps=1, teacher={"losses": losses, "layer": 3}, local_activation=activation)
    )
    module, x = glf._tuning(), batch(4, torch.float32)
    module.log_dict = lambda *_, **__: None  # type: ignore[method-assign]
    torch.manual_seed(3)
    loss = module.training_step(x, 0)
    torch.manual_seed(3)
    patches = crop(x["image"], *random_corners(x["image"], 33), 33)
    with torch.no_grad():
        z = glf.local(normalised(patches))
        target = module.backbone(patches)[-1].mean((2, 3))
        knowledge = distilled.knowledge(module.decoder(z).numpy(), target.numpy())
    compactness = distilled.compactness(z.double().numpy(), "square")
    assert loss.item() == pytest.approx(0.5 * knowledge + 2 * compactness, rel=1e-4)
    assert min(knowledge, compactness) > 0.1
    assert bool((z < -0.01).any()) != activation


@quiet
def test_the_tuning_changes_the_local_network_and_the_training_the_others(tmp_path: Path, weights: Path) -> None:
    glf = method(weights=str(weights), tune_steps=2, tune_batch_size=2)
    others = {key: value.clone() for key, value in glf.state_dict().items() if not key.startswith("local.")}
    after = train(glf, normal_data(tmp_path))
    assert same(after["tune"], after["shipped"]) == {False}
    assert same(after["global"], after["tune"]) == {True}
    assert all(p.grad is None for p in glf.local.parameters() if not p.requires_grad)
    assert not any(p.requires_grad for p in glf.local.parameters())
    fixed = {key for key, value in others.items() if torch.equal(glf.state_dict()[key], value)}
    assert fixed == {"mean", "std", "calibration"}


@quiet
@pytest.mark.parametrize(
    ("how", "layers"),
    [
        *(("new", 1), ("kept", 2), ("frozen", 1)),
        *(pytest.param(*each, marks=pytest.mark.slow) for each in (("new", 2), ("kept", 1), ("frozen", 2))),
    ],
)
def test_the_decoder_in_the_tuning(
    how: str, layers: int, tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANOMALY_BENCH_CACHE", str(tmp_path / "cache"))
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3), dtype=np.uint8)):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    teacher = {"images": str(tmp_path), "decoder_layers": layers, "steps": 2, "batch_size": 2}
    given: dict[str, Any] = {"weights": str(weights), "tune_steps": 1, "tune_decoder": how, "teacher": teacher}
    data, decoders = normal_data(tmp_path / "data"), []
    for _ in range(2):  # distilled, then from the file
        glf = method(**given)
        for stage in glf.stages(data):
            if isinstance(stage.module, Distillation):
                before = copy.deepcopy(stage.module.decoder.state_dict())
                fit(stage)
                decoders.append((stage.name, before, copy.deepcopy(stage.module.decoder.state_dict())))
    assert [name for name, *_ in decoders] == ["teacher_p33", "tune", "tune"]
    distilled_as = decoders[0][2]
    assert len(distilled_as) == 2 * layers
    for _, before, after in decoders[1:]:
        assert same(before, distilled_as) == {how != "new"}
        assert same(after, before) == {how == "frozen"}


def test_a_local_network_without_a_decoder_cannot_keep_it(tmp_path: Path, weights: Path) -> None:
    save_teacher(PatchDescriptor(33), tmp_path / "p33.safetensors", {})
    glf = method(teacher={"file": str(tmp_path)}, weights=str(weights), tune_steps=1, tune_decoder="kept")
    with pytest.raises(UserError, match=r"^method.teacher.file: .*p33.safetensors holds no decoder"):
        next(glf.stages(normal_data(tmp_path)))


@quiet
def test_without_a_tuning_the_local_network_stays_as_it_is_shipped(tmp_path: Path) -> None:
    glf = method()
    (stage,) = glf.stages(normal_data(tmp_path))
    optimiser = optimiser_of(stage)
    assert same(glf.local.net.state_dict(), shipped(glf)) == {True}
    assert all(p.grad is None and not p.requires_grad for p in glf.local.parameters())
    learned = {id(p) for group in optimiser.param_groups for p in group["params"]}
    assert learned == {id(p) for net in (glf.global_net, glf.dad) for p in net.parameters()}


@quiet
def test_training_lowers_both_losses(tmp_path: Path) -> None:
    glf = method(steps=20, batch_size=2, lr=3e-3, dad_lr=3e-3, dad_weight=1, stain_axes=(0.2, 0.3))
    data, corners = normal_data(tmp_path), torch.tensor([20, 100, 180])
    glf.teachers.load(glf.local.net)
    (x,) = (batch["image"] for batch in data.loader("train", 3))
    stained = crop(x, corners, corners, 33)
    stained[:, :, 10:20, 10:20] = 0.2
    with torch.no_grad():
        before = consistency(glf).losses(x, corners, corners, stained)
    train(glf, data)
    with torch.no_grad():
        after = consistency(glf).losses(x, corners, corners, stained)
    assert all(float(b) < 0.9 * float(a) for a, b in zip(before, after, strict=True)), (before, after)


# Calibration


@quiet
def test_calibration_is_that_of_the_validation_images(tmp_path: Path) -> None:
    data = normal_data(tmp_path, val=3)
    glf = method(windows=2, calibrate=True, val_share=0.4)
    train(glf, data)
    assert data.requests[1:] == [("val", 1, {})]
    (held,) = (batch["image"] for batch in data.loader("val", 3))
    expected = slow.calibration([expected_scores(glf, image) for image in held])
    np.testing.assert_allclose(glf.calibration, expected, rtol=1e-3, atol=1e-7)
    assert expected[0][1] > 1e-4 * expected[0][0] > 0


@quiet
def test_no_calibration_unless_asked_for(tmp_path: Path) -> None:
    data, glf = normal_data(tmp_path), method()
    train(glf, data)
    assert [split for split, *_ in data.requests] == ["train"]
    assert glf.calibration.tolist() == [[0, 1], [0, 1]]
    assert (YAML["calibrate"], YAML["val_share"], glf.val_share) == (False, 0, 0)


def test_scores_that_do_not_vary_give_no_infinity(tmp_path: Path) -> None:
    glf = lively(method(windows=2))
    torch.nn.init.zeros_(glf.dad.layers[-1].weight)  # type: ignore[arg-type]
    glf._calibrate(normal_data(tmp_path, val=1))
    assert glf.calibration[1, 1].item() == pytest.approx(EPS)
    with torch.inference_mode():
        scores = glf.score(images(1))
    assert scores.components is not None
    assert scores.components["dad"].image.tolist() == pytest.approx([0], abs=1)
    assert scores.image.isfinite().all()


def test_state_dict_is_the_model(tmp_path: Path) -> None:
    first, second = (
        lively(method(windows=2)),
        lively(method(windows=2, teacher={"file": str(tmp_path / "gone")}), seed=1),
    )
    first._calibrate(normal_data(tmp_path, val=1))
    second.load_state_dict(first.state_dict())
    with torch.inference_mode():
        assert torch.equal(first.score(images(1)).image, second.score(images(1)).image)


def test_setting_of_the_re_implementation() -> None:
    assert (YAML["image_size"], YAML["patch_size"], YAML["windows"]) == (256, 33, 20)
    assert (YAML["steps"], YAML["batch_size"], YAML["lr"], YAML["dad_weight"]) == (200_000, 64, 1e-4, 0.01)
    assert (YAML["tune_steps"], YAML["tune_batch_size"], YAML["tune_lr"]) == (50_000, 16, 2e-4)
    teacher = YAML["teacher"]
    assert (teacher["losses"], teacher["steps"], teacher["batch_size"]) == ([1, 0, 1], 50_000, 64)
    assert (YAML["dad_hidden"], YAML["iad_share"], YAML["dad_trains_global"]) == (128, 0.8, True)
    assert (YAML["stain_axes"], YAML["stain_irregularity"]) == ([0.01, 0.12], [0.3, 0.7])
    assert YAML["stain_grey"] == pytest.approx([0, 100 / 255], abs=1e-3)
