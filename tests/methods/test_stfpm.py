"""STFPM's loss, map and score against loops, what its training does and leaves alone, and which epoch counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from small_training import fit
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from anomaly_bench.config import compose
from anomaly_bench.contracts import NormalBatch
from anomaly_bench.loading.frame import Frame
from anomaly_bench.methods.stfpm import STFPM, StudentTraining, anomaly_map, pyramid_loss
from anomaly_bench.runs.manifest import protocol
from anomaly_bench.runs.whole_images import View
from tests.methods.small_rd import features, images
from tests.references import stfpm as slow

YAML: dict[str, Any] = OmegaConf.to_container(compose(["method=stfpm", "dataset=mtd"]).method)  # type: ignore[assignment]
CONFIG = {key: value for key, value in YAML.items() if key not in ("_target_", "name")}
SMALL = {"weights": "random", "image_size": 32, "batch_size": 4, "epochs": 1, "val_share": 0.0}
quiet = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*in eval mode at the start.*", "ignore:.*treespec.*"
)


def method(seed: int = 0, **changes: Any) -> STFPM:
    torch.manual_seed(seed)
    return STFPM(**{**CONFIG, **SMALL, **changes})


def arrays(tensors: list[Tensor]) -> list[np.ndarray]:
    return [t.detach().double().numpy() for t in tensors]


class Normal:
    """Normal images, of which `val` are set aside, and what was asked of them."""

    def __init__(self, train: Tensor, val: Tensor | None = None) -> None:
        self.images = {"train": train, "val": val}
        self.requests: list[tuple[str, int, bool]] = []

    def loader(self, split: str, batch_size: int, shuffle: bool = False) -> DataLoader[NormalBatch]:
        self.requests.append((split, batch_size, shuffle))
        rows: Any = [{"image": image, "path": str(i)} for i, image in enumerate(self.images[split])]  # type: ignore[arg-type]
        return DataLoader(rows, batch_size)


def train(stfpm: STFPM, data: Any) -> StudentTraining:
    (module,) = [stage.module for stage in stfpm.stages(data) if fit(stage)]
    assert isinstance(module, StudentTraining)
    return module


# Loss, map and score


def test_loss_against_loops() -> None:
    f_t, f_s = features(1), features(2)
    assert float(pyramid_loss(f_t, f_s)) == pytest.approx(slow.loss(arrays(f_t), arrays(f_s)), abs=1e-9)
    assert abs(float(pyramid_loss(f_t, [3 * f for f in f_t]))) < 1e-12  # lengths do not count


@pytest.mark.parametrize("product_at", ["features", "image"])
def test_maps_against_loops(product_at: str) -> None:
    f_t, f_s = features(1), features(2)
    fast = anomaly_map(f_t, f_s, torch.Size((32, 24)), product_at)
    np.testing.assert_allclose(fast, slow.maps(arrays(f_t), arrays(f_s), 32, 24, product_at), atol=1e-9, rtol=0)
    assert fast.amax() > 1e-3


@pytest.mark.parametrize("product_at", ["features", "image"])
def test_score_against_loops(product_at: str) -> None:
    stfpm = method(product_at=product_at).eval()
    with torch.inference_mode():
        scores, (f_t, f_s) = stfpm.score(images(2)), stfpm(images(2))
    expected = slow.maps(arrays(f_t), arrays(f_s), 32, 32, product_at)
    assert scores.map is not None
    np.testing.assert_allclose(scores.map, expected, atol=1e-6, rtol=0)
    np.testing.assert_allclose(scores.image, expected.max((1, 2)), atol=1e-6, rtol=0)
    assert expected.max() > 1e-3


def test_student_begins_as_torchvisions_network() -> None:
    stfpm = method()
    same = dict(stfpm.teacher.net.named_parameters())
    assert {k: v.shape for k, v in stfpm.student.named_parameters()} == {k: v.shape for k, v in same.items()}
    for module in stfpm.student.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert (module.weight == 1).all()  # timm's has zeros in the last of each block
            assert (module.bias == 0).all()
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 50_000:
            w = module.weight.detach()
            assert float(w.std()) == pytest.approx((2 / (w.shape[0] * w[0, 0].numel())) ** 0.5, rel=0.02)
    assert not torch.equal(next(method(1).student.parameters()), next(stfpm.student.parameters()))


# Training


@quiet
def test_updates_are_those_of_the_authors() -> None:
    """SGD on the squared distances without a half, the teacher in eval mode and left as it was."""
    ours, theirs, x = method(), method(), images(7)
    data = Normal(x)
    teacher = {key: value.clone() for key, value in ours.teacher.state_dict().items()}
    train(ours, data)
    assert data.requests == [("train", 4, True)]
    theirs.teacher.load("random")
    optimiser = torch.optim.SGD(theirs.student.parameters(), 0.4, momentum=0.9, weight_decay=1e-4)
    theirs.student.train()
    normalised = (x - theirs.teacher.mean) / theirs.teacher.std
    for batch in (normalised[:4], normalised[4:]):
        with torch.no_grad():
            f_t = theirs.teacher.net(batch)
        f_s = theirs.student(batch)
        pairs = zip(f_t, f_s, strict=True)
        loss = sum((2 - 2 * F.cosine_similarity(t, s)).mean() for t, s in pairs)  # |a - b|^2 of unit vectors
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    for own, other in zip(ours.student.state_dict().values(), theirs.student.state_dict().values(), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=2e-5)
    fresh = method(5)
    fresh.teacher.load("random")
    assert all(torch.equal(v, fresh.teacher.state_dict()[k]) for k, v in ours.teacher.state_dict().items())
    assert teacher.keys() == ours.teacher.state_dict().keys()
    assert not any(m.training for m in ours.teacher.modules())
    assert all(p.grad is None and not p.requires_grad for p in ours.teacher.parameters())
    assert ours.provenance()["backbone"] == "resnet18.tv_in1k"


@quiet
def test_the_epoch_with_the_least_error_counts() -> None:
    """With steps that are too large, the last epoch is not the best one."""
    stfpm = method(epochs=5, lr=2.0, val_share=0.2)
    data = Normal(images(4), images(3, seed=8) ** 4)
    errors, states = [], []
    error = StudentTraining.error

    def noted(self: StudentTraining, validation: Any) -> float:
        training = self.nets.student.training
        errors.append(error(self, validation))
        assert self.nets.student.training == training  # the batch norms go on with the batches' statistics
        states.append({key: value.clone() for key, value in self.nets.student.state_dict().items()})
        return errors[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StudentTraining, "error", noted)
        train(stfpm, data)
    assert data.requests == [("train", 4, True), ("val", 4, False)]
    best = errors.index(min(errors))
    assert len(errors) == 5
    assert best < 4
    assert all(torch.equal(value, states[best][key]) for key, value in stfpm.student.state_dict().items())
    with torch.no_grad():
        f_t, f_s = stfpm.eval()(data.images["val"])  # the error: the mean map at the finest level's size
    expected = slow.maps(arrays(f_t), arrays(f_s), 8, 8, "features").mean()
    assert min(errors) == pytest.approx(expected, rel=1e-4)


def test_the_protocol_says_which_epoch_counts() -> None:
    empty: Any = {name: [] for name in ("val", "held out", "validation", "test")}
    first, second = (protocol(method(val_share=share), empty, View(Frame((64, 64))))[0] for share in (0.0, 0.2))
    assert first == "the last epoch is the result; nothing was chosen on test images"
    assert second.startswith("the epoch with the least error on normal images that were set aside is the result; ")


@quiet
def test_steps_in_place_of_epochs() -> None:
    (stage,) = method(epochs=None, steps=5).stages(Normal(images(7)))  # type: ignore[arg-type]
    assert stage.trainer == {"max_epochs": 3, "max_steps": 5}


def test_published_setting() -> None:
    assert (YAML["backbone"], YAML["image_size"], YAML["batch_size"]) == ("resnet18.tv_in1k", 256, 32)
    assert (YAML["epochs"], YAML["lr"], YAML["momentum"], YAML["weight_decay"]) == (100, 0.4, 0.9, 1e-4)
    assert (YAML["loss_factor"], YAML["val_share"], YAML["product_at"]) == (2, 0.2, "features")
