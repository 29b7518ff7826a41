"""Uninformed Students' losses, statistics and scores against loops, and what its training does and leaves alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_training import fit
from torch import Tensor, nn

from anomaly_bench.methods.uninformed_students import EPS, PatchScale, StudentTraining, UninformedStudents, moments
from anomaly_bench.nets.patch_descriptors import PatchDescriptor
from anomaly_bench.nets.teachers import save_teacher
from tests.methods.small_us import PATCH, YAML, Normal, described, images, lively, method, nets, scales
from tests.references import uninformed_students as slow

quiet = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*in eval mode at the start.*", "ignore:.*treespec.*"
)


@pytest.fixture(scope="module")
def teachers(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a teacher for each of two patch sizes, their descriptors of the size of 1."""
    folder = tmp_path_factory.mktemp("teachers")
    us = lively(method(patch_sizes=[17, 33], students=1), seed=9).float()
    for scale in scales(us):
        save_teacher(scale.teacher, folder / f"p{scale.teacher.patch_size}.safetensors", {})
    return str(folder)


def train(us: UninformedStudents, data: Normal) -> list[str]:
    """All stages; their names."""
    names = []
    for stage in us.stages(data):
        fit(stage)
        names.append(stage.name)
    return names


def expected_errors(scale: PatchScale, x: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """e and v in loops, from the networks' descriptors."""
    students = [described(s, x, scale.stride) for s in scale.students]
    mu, sigma = (v.double().flatten().numpy() for v in (scale.mu, scale.sigma))
    return slow.errors(students, described(scale.teacher, x, scale.stride), mu, sigma)


# Losses and scores


@pytest.mark.parametrize(("changes", "size"), [(PATCH, 17), ({"patch_sizes": [33], "dense_stride": 4}, 7)])
def test_losses_against_loops(changes: dict[str, Any], size: int) -> None:
    us = lively(method(**changes))
    (scale,), x = scales(us), images(3, size, dtype=torch.float64)
    teacher, mu, sigma = described(scale.teacher, x, scale.stride), scale.mu.flatten(), scale.sigma.flatten()
    expected = [
        slow.student_loss(described(s, x, scale.stride), teacher, mu.numpy(), sigma.numpy()) for s in scale.students
    ]
    assert scale.losses(x).tolist() == pytest.approx(expected, rel=1e-9)
    assert abs(expected[0] - expected[1]) > 1


def test_errors_against_loops() -> None:
    us = lively(method(patch_sizes=[33], dense_stride=2, students=3))
    (scale,), x = scales(us), images(2, 5, dtype=torch.float64)
    with torch.no_grad():
        ours = scale.errors(x)
    assert ours.shape == (2, 2, 3, 3)
    e, v = expected_errors(scale, x)
    np.testing.assert_allclose(ours, np.stack([e, v], 1), rtol=1e-9)
    assert e.min() > 1
    assert v.min() > 1


def test_errors_by_hand() -> None:
    """Two students that always answer 1 and 3, a teacher that always says 0, in each of d = 128 dimensions."""
    us = method(**PATCH)
    for net, answer in zip(nets(us), (0.0, 1.0, 3.0), strict=True):
        nn.init.zeros_(net.convs[-1].weight)  # type: ignore[arg-type]
        nn.init.constant_(net.convs[-1].bias, answer)  # type: ignore[arg-type]
    (scale,) = scales(us)
    assert scale.losses(images(2)).tolist() == [128 * 1, 128 * 9]
    assert scale.errors(images(1)).flatten().tolist() == [128 * 4, 128 * (10 / 2 - 4)]


@pytest.mark.parametrize("students", [1, 3])
@pytest.mark.parametrize("stride", [1, 4])
def test_score_against_loops(students: int, stride: int) -> None:
    sizes = [17, 33, 65] if stride > 1 else [17, 33]
    us, size = lively(method(patch_sizes=sizes, dense_stride=stride, students=students)), 6 if stride > 1 else 2
    x, maps = images(2, size, dtype=torch.float64), []
    assert [scale.stride for scale in scales(us)] == ([1, 4, 4] if stride > 1 else [1, 1])
    for scale in scales(us):
        e, v = expected_errors(scale, x)
        of_e, of_v = scale.calibration.tolist()
        scores = slow.score(e, v, (of_e, of_v if students > 1 else None))
        maps.append([slow.upsample(one, scale.stride, (size, size)) for one in scores])
    with torch.inference_mode():
        ours = us.score(x)
    assert ours.map is not None
    np.testing.assert_allclose(ours.map, np.mean(maps, axis=0), rtol=1e-6)
    np.testing.assert_allclose(ours.image, np.mean(maps, axis=0).max((1, 2)), rtol=1e-6)
    assert np.ptp(maps) > 0.1
    assert ours.components is not None
    assert list(ours.components) == [f"p{p}" for p in sizes]
    for part, expected in zip(ours.components.values(), maps, strict=True):
        np.testing.assert_allclose(part.map, expected, rtol=1e-6)
        np.testing.assert_allclose(part.image, np.max(expected, axis=(1, 2)), rtol=1e-6)


def test_an_image_as_one_patch_has_a_score_and_no_map() -> None:
    us, x = lively(method(image_size=33, patch_sizes=[33], dense=False)), images(3, 33, dtype=torch.float64)
    (scale,) = scales(us)
    with torch.inference_mode():
        scores = us.score(x)
    of_e, of_v = scale.calibration.tolist()
    assert scores.map is None
    assert scores.components is None
    assert scores.image.shape == (3,)
    expected = slow.score(*expected_errors(scale, x), (of_e, of_v)).flatten()
    np.testing.assert_allclose(scores.image, expected, rtol=1e-6)


@pytest.mark.parametrize("changes", [PATCH, {"patch_sizes": [33, 65], "dense_stride": 4}])
def test_score_does_not_depend_on_the_batch(changes: dict[str, Any]) -> None:
    us, x = lively(method(**changes)).float(), images(4)
    with torch.inference_mode():
        together, alone = us.score(x), [us.score(image[None]) for image in x]
    torch.testing.assert_close(together.image, torch.cat([s.image for s in alone]), rtol=1e-5, atol=1e-5)
    if together.map is not None:
        maps = torch.cat([s.map for s in alone if s.map is not None])
        torch.testing.assert_close(together.map, maps, rtol=1e-5, atol=1e-5)


# Statistics


@pytest.mark.parametrize("dim", [0, 1])
def test_moments_of_batches_of_different_sizes(dim: int) -> None:
    """A mean that is large beside its deviation, batches unlike each other."""
    g = torch.Generator().manual_seed(0)
    shapes = [(4, 4, 5, 2), (4, 4, 1, 1), (4, 4, 3, 7)] if dim == 0 else [(3, 4, 5, 2), (1, 4, 1, 1), (7, 4, 2, 6)]
    values = [1000 + 5 * i + 0.1 * torch.randn(s, generator=g) for i, s in enumerate(shapes)]
    mean, std = moments(iter(values), dim)
    expected = slow.statistics([v.transpose(0, 1).numpy() if dim == 0 else v.numpy() for v in values])
    np.testing.assert_allclose(mean, expected[0], rtol=1e-6)
    np.testing.assert_allclose(std, expected[1], rtol=1e-6)


@quiet
@pytest.mark.parametrize("changes", [PATCH, {"patch_sizes": [33, 17], "dense_stride": 1}])
def test_statistics_come_from_train_and_calibration_from_val(changes: dict[str, Any], teachers: str) -> None:
    us = method(teacher_file=teachers, **changes)
    size = us.image_size if not changes.get("dense", True) else 2
    trained, held = [images(2, size), images(1, size, seed=2)], [images(1, size, seed=3), 0.3 * images(3, size, seed=4)]
    data = Normal(train=trained, val=held)
    assert train(us, data) == [f"students_p{p}" for p in changes["patch_sizes"]]
    count, learning = len(us.scales), [("train", 1, False), ("train", YAML["batch_size"], True)]
    assert data.requests == count * learning + count * [("val", 1, False)]
    for scale in scales(us):
        mu, sigma = slow.statistics([described(scale.teacher, x, scale.stride) for x in trained])
        np.testing.assert_allclose(scale.mu.flatten(), mu, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(scale.sigma.flatten(), sigma, rtol=1e-5)
        e_and_v = [np.stack(expected_errors(scale, x), 1) for x in held]
        np.testing.assert_allclose(scale.calibration.T, slow.statistics(e_and_v), rtol=1e-4)


def test_what_does_not_vary_gives_no_infinity() -> None:
    us = lively(method(**PATCH)).float()
    (scale,) = scales(us)
    nn.init.zeros_(scale.teacher.convs[-1].weight[5])  # type: ignore[index]
    same, others = Normal(train=[images(1)], val=[images(1)]), images(3, seed=7)
    scale.standardise(Normal(train=[others]).loader("train", 1))
    assert float(scale.sigma[5]) == pytest.approx(EPS)
    assert float(scale.target(others)[:, 5].abs().max()) < 0.5
    scale.calibrate(same.loader("val", 1))  # one patch: neither e nor v has a spread
    assert scale.calibration[:, 1].tolist() == pytest.approx([EPS] * 2)
    with torch.inference_mode():
        assert us.score(images(3)).image.isfinite().all()
        assert us.score(others).image.isfinite().all()
    scale.standardise(same.loader("train", 1))
    assert scale.losses(others).isfinite().all()


# Networks and training


def test_students_begin_unlike_each_other_and_the_teacher() -> None:
    us = method(patch_sizes=[17, 33], students=3)
    assert len(nets(us)) == 8
    for scale in scales(us):
        for weights in zip(*(net.parameters() for net in (scale.teacher, *scale.students)), strict=True):
            assert len({float(w.detach().flatten()[0]) for w in weights}) == 4
    pointers = [p.data_ptr() for net in nets(us) for p in net.parameters()]
    assert len(set(pointers)) == len(pointers)
    assert {type(m) for m in us.modules()} == {
        UninformedStudents,
        PatchScale,
        PatchDescriptor,
        nn.ModuleList,
        nn.Conv2d,
    }


def test_loss_of_a_new_student() -> None:
    """Standardised targets, and answers that are nearly 0: the sum over d = 128 dimensions."""
    us, x = method(**PATCH), images(40)
    (scale,) = scales(us)
    nn.init.kaiming_normal_(scale.teacher.convs[-1].weight)  # type: ignore[arg-type]
    scale.standardise(Normal(train=[x]).loader("train", 1))
    assert scale.losses(x).tolist() == pytest.approx([128, 128], rel=0.05)


def test_a_student_learns_as_if_it_were_alone() -> None:
    us, x = lively(method(students=3, **PATCH)), images(3, dtype=torch.float64)
    (scale,) = scales(us)
    training = StudentTraining(scale, lr=1e-4, weight_decay=1e-5)
    training.log = lambda *_, **__: None  # type: ignore[method-assign]
    training.training_step({"image": x, "path": []}, 0).backward()
    target = scale.target(x)
    for student in scale.students:
        loss = (scale.describe(student, x) - target).pow(2).sum() / len(x)
        for p, alone in zip(student.parameters(), torch.autograd.grad(loss, list(student.parameters())), strict=True):
            assert p.grad is not None
            torch.testing.assert_close(p.grad, alone, rtol=1e-9, atol=1e-9)
    assert all(p.grad is None for p in scale.teacher.parameters())


def test_optimiser() -> None:
    (scale,) = scales(us := method(**PATCH))
    training = StudentTraining(scale, us.lr, us.weight_decay)
    optimiser = training.configure_optimizers()
    assert type(optimiser) is torch.optim.Adam
    (group,) = optimiser.param_groups
    expected = {"lr": 1e-4, "betas": (0.9, 0.999), "weight_decay": 1e-5}
    assert {key: group[key] for key in expected} == expected
    assert {id(p) for p in group["params"]} == {id(p) for s in scale.students for p in s.parameters()}


@quiet
def test_training_changes_all_of_the_students_and_nothing_of_the_teacher(teachers: str) -> None:
    us = method(seed=4, teacher_file=teachers, patch_sizes=[17, 33])
    before = {key: value.clone() for key, value in us.state_dict().items()}
    train(us, Normal(train=[images(1, 2), images(2, 2, seed=2)], val=[images(2, 2, seed=3)]))
    loaded = lively(method(patch_sizes=[17, 33], students=1), seed=9).float()
    for scale, source in zip(scales(us), scales(loaded), strict=True):
        given = source.teacher.state_dict()
        assert all(torch.equal(value, given[key]) for key, value in scale.teacher.state_dict().items())
        assert all(p.grad is None and not p.requires_grad for p in scale.teacher.parameters())
    fixed = {key for key, value in us.state_dict().items() if torch.equal(value, before[key])}
    assert fixed == {key for key in before if key.endswith((".mean", ".std"))}
    assert set(us.provenance()) == {"teacher_p17_sha256", "teacher_p33_sha256"}


@quiet
def test_training_lowers_the_loss(teachers: str) -> None:
    us, x = method(teacher_file=teachers, epochs=15, lr=1e-3, **PATCH), images(4)
    data = Normal(train=[x], val=[images(2, seed=2)])
    train(us, data)
    (scale,) = scales(us)
    assert float(scale.losses(x).detach().max()) < 100  # from about 128


@quiet
def test_state_dict_is_the_model(teachers: str, tmp_path: Path) -> None:
    first = method(teacher_file=teachers, **PATCH)
    train(first, Normal(train=[images(3)], val=[images(3, seed=2)]))
    second = method(seed=5, teacher_file=str(tmp_path / "gone"), **PATCH)
    second.load_state_dict(first.state_dict())
    with torch.inference_mode():
        assert torch.equal(first.eval().score(images(3)).image, second.eval().score(images(3)).image)


def test_published_setting() -> None:
    assert (YAML["image_size"], YAML["patch_sizes"]) == (256, [17, 33, 65])
    assert (YAML["dense"], YAML["dense_stride"]) == (True, 1)
    assert (YAML["students"], YAML["batch_size"], YAML["epochs"]) == (3, 1, 100)
    assert (YAML["lr"], YAML["weight_decay"]) == (1e-4, 1e-5)
    teacher = YAML["teacher"]
    assert (teacher["losses"], teacher["steps"], teacher["batch_size"]) == ([1, 0, 1], 50_000, 64)
    assert (teacher["lr"], teacher["weight_decay"]) == (2e-4, 1e-5)
