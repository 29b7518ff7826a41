"""SimpleNet's patches, loss, map and score against loops, its updates against the authors' optimisers, its states."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from small_training import fit
from torch import Tensor

from anomaly_bench.methods.simplenet import SimpleNet, Training, truncated_loss
from anomaly_bench.nets.patch_averages import PatchAverages
from tests.methods.small_rd import images
from tests.methods.small_simplenet import YAML, Normal, method
from tests.references import simplenet as slow

quiet = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*in eval mode at the start.*", "ignore:.*treespec.*",
    "ignore:.*self.trainer. reference is not registered",
)  # fmt: skip


def arrays(net: torch.nn.Module) -> dict[str, np.ndarray]:
    return {key: value.double().numpy() for key, value in net.state_dict().items()}


def shaken(seed: int = 0, **changes: Any) -> SimpleNet:
    """With a batch norm unlike a new one, so that each of its tensors counts."""
    simplenet = method(seed, **changes)
    norm = simplenet.head.discriminator[1]
    for values in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        torch.nn.init.uniform_(values, 0.5, 1.5)  # type: ignore[arg-type]
    return simplenet


def layers(seed: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 3, 6, 4, generator=g).double(), torch.randn(2, 5, 3, 2, generator=g).double()]


@pytest.mark.parametrize(("size", "each", "joined"), [(3, 9, 9), (3, 7, 5), (1, 3, 4), (5, 100, 150)])
def test_patches_against_loops(size: int, each: int, joined: int) -> None:
    fast = PatchAverages([3, 5], size, each, joined).double()(layers(1)).movedim(1, 3)
    for image in range(2):
        expected = slow.patches([f[image].numpy() for f in layers(1)], size, each, joined)
        np.testing.assert_allclose(fast[image], expected, atol=1e-6, rtol=0)  # the shares are float32


def test_loss_against_loops() -> None:
    normal, anomalous = torch.randn(50).double(), torch.randn(50).double()
    expected = slow.loss(normal.tolist(), anomalous.tolist(), 0.5)
    assert float(truncated_loss(normal, anomalous, 0.5)) == pytest.approx(expected, abs=1e-12)
    assert float(truncated_loss(torch.full((3,), 0.5), torch.full((3,), -0.5), 0.5)) == 0


def test_score_against_loops() -> None:
    simplenet = shaken(image_size=64).eval()
    with torch.inference_mode():
        scores, features = simplenet.score(images(2, 64)), simplenet.backbone(images(2, 64))
    assert scores.map is not None
    for i in range(2):
        layers = [f[i].double().numpy() for f in features]
        image, map_ = slow.score(layers, arrays(simplenet.head), 3, 24, 16, pixels=64, sigma=4)
        assert float(scores.image[i]) == pytest.approx(image, abs=1e-5)
        np.testing.assert_allclose(scores.map[i], map_, atol=1e-5, rtol=0)
        assert map_.max() - map_.min() > 0.01


@quiet
def test_updates_are_those_of_the_authors() -> None:
    """AdamW for the adaptor, Adam with its own decay for the discriminator; normal and noisy features in one batch."""
    ours, theirs, x = shaken(adaptor_weight_decay=0.5), shaken(adaptor_weight_decay=0.5), images(4)
    training = Training(ours)
    (optimiser,) = [training.configure_optimizers()]
    a = torch.optim.AdamW(theirs.head.adaptor.parameters(), 1e-4, weight_decay=0.5)
    d = torch.optim.Adam(theirs.head.discriminator.parameters(), 2e-4, weight_decay=1e-5)
    features = ours.backbone(x)
    described = ours.patches(features).flatten(0, 2)
    for step in range(5):
        torch.manual_seed(step)
        optimiser.zero_grad()
        loss = training.training_step({"features": features, "path": list("abcd")}, step)
        loss.backward()
        training.on_before_optimizer_step(optimiser)
        optimiser.step()
        torch.manual_seed(step)
        state = arrays(theirs.head)
        q = theirs.head.adaptor(described)
        noise = torch.normal(0, 0.015, q.shape)
        both = slow.discriminator(torch.cat([q, q + noise]).detach().double().numpy(), state, training=True)
        assert float(loss.detach()) == pytest.approx(slow.loss(*np.split(both, 2), 0.5), abs=1e-5)
        values = theirs.head.discriminator(torch.cat([q, q + noise]))
        other = torch.clip(0.5 - values[: len(q)], min=0).mean() + torch.clip(0.5 + values[len(q) :], min=0).mean()
        a.zero_grad()
        d.zero_grad()
        other.backward()
        a.step()
        d.step()
    for key, value in ours.head.state_dict().items():
        torch.testing.assert_close(value, theirs.head.state_dict()[key], rtol=0, atol=1e-6)


@quiet
@pytest.mark.parametrize("changes", [{}, {"epochs": None, "steps": 5}])
def test_a_training_changes_the_head_alone(changes: dict[str, Any]) -> None:
    simplenet = method(**changes)
    head = arrays(simplenet.head)
    keys = simplenet.state_dict().keys()
    (stage,) = [stage for stage in simplenet.stages(Normal(images(7))) if fit(stage)]  # type: ignore[arg-type]
    assert stage.trainer == ({"max_epochs": 3, "max_steps": 5} if changes else {"max_epochs": 3})
    assert simplenet.state_dict().keys() == keys
    assert not any(p.requires_grad for p in simplenet.backbone.parameters())
    fresh = method(5)
    fresh.backbone.load("random")
    assert all(np.array_equal(value, arrays(simplenet.backbone)[key]) for key, value in arrays(fresh.backbone).items())
    assert not any(np.array_equal(value, arrays(simplenet.head)[key]) for key, value in head.items())


def test_published_setting() -> None:
    assert YAML["backbone"] == "wide_resnet50_2.tv_in1k"
    assert (YAML["image_size"], YAML["layer_dimensions"], YAML["dimensions"]) == (288, 1536, 1536)
    assert (YAML["epochs"], YAML["batch_size"], YAML["hidden"]) == (160, 8, 1024)
    assert (YAML["noise"], YAML["margin"], YAML["lr"], YAML["adaptor_lr"]) == (0.015, 0.5, 2e-4, 1e-4)
