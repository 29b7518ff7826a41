"""Compare our SimpleNet with the published code: python scripts/compare_simplenet.py PATH_TO_SIMPLENET

Gives both the same random weights, images and noise, trains both for a few steps, and prints the largest differences of
losses, weights, maps and image scores.  PATH_TO_SIMPLENET: a checkout of github.com/DonaldRR/SimpleNet (commit
351a2b8).  Of its simplenet.py the description of patches, the training and the scoring run as they are; what it imports
for metrics and pictures is left out.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torchvision
from omegaconf import OmegaConf
from torch import Tensor

from anomaly_bench.config import NOT_ARGUMENTS, conf_dir
from anomaly_bench.methods.simplenet import SimpleNet, Training

SIZE, BATCH, STEPS = 96, 3, 5
# Their gradient is 0 but for rounding, of which Adam makes steps of the size of the learning rate.
BEFORE_NORM = ("discriminator.0.bias", "discriminator.1.running_mean")
STUBS = {"torch.utils.tensorboard": {"SummaryWriter": None}, "metrics": {}, "utils": {"plot_segmentation_images": None}}


def published(path: Path, values: dict[str, Any]) -> Any:
    """Return the published SimpleNet with a random ResNet-18 and our yaml's numbers."""
    for name, content in STUBS.items():
        sys.modules[name] = SimpleNamespace(**content)  # type: ignore[assignment]
    sys.path.insert(0, str(path))
    theirs = importlib.import_module("simplenet").SimpleNet(torch.device("cpu"))
    theirs.load(
        torchvision.models.resnet18(weights=None), ["layer2", "layer3"], torch.device("cpu"), (3, SIZE, SIZE),
        values["layer_dimensions"], values["dimensions"], patchsize=values["patch_size"], meta_epochs=40, gan_epochs=1,
        noise_std=values["noise"], dsc_hidden=values["hidden"], dsc_layers=2, dsc_margin=values["margin"], pre_proj=1,
    )  # fmt: skip
    scalars = SimpleNamespace(add_scalar=note)
    theirs.logger = SimpleNamespace(logger=scalars, g_iter=0, step=lambda: None)
    return theirs


losses: list[float] = []


def note(name: str, value: Tensor, step: int) -> None:
    """Keep a loss that the published code logs."""
    if name == "loss":
        losses.append(float(value.detach()))


def copy_weights(method: SimpleNet, theirs: Any) -> None:
    """Copy parameters and buffers in order; both define the layers of the head in the order of the data."""
    net = method.backbone.net
    net.load_state_dict({key: theirs.backbone.state_dict()[key] for key in net.state_dict()})
    for own, other in zip(method.head.state_dict().values(), head_of(theirs), strict=True):
        own.copy_(other)


def head_of(theirs: Any) -> list[Tensor]:
    """Return the published adaptor's and discriminator's parameters and buffers."""
    return [*theirs.pre_projection.state_dict().values(), *theirs.discriminator.state_dict().values()]


def train_ours(method: SimpleNet, images: Tensor) -> list[float]:
    """Train with our loss and optimiser, with the noise that the published code draws; returns the losses."""
    training, own = Training(method), []
    training.train()
    optimiser = training.configure_optimizers()
    for step in range(STEPS):
        features = method.backbone(images)
        torch.manual_seed(step)
        torch.randint(0, 1, (len(images) * features[0][0, 0].numel(),))  # theirs draws the kind of noise first
        optimiser.zero_grad()
        loss = training.training_step({"features": features, "path": [""] * len(images)}, step)
        loss.backward()
        training.on_before_optimizer_step(optimiser)
        optimiser.step()
        own.append(float(loss.detach()))
    return own


def main(path: Path) -> None:
    """Print the differences."""
    values: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "method" / "simplenet.yaml"))
    values |= {"backbone": "resnet18", "image_size": SIZE}
    torch.manual_seed(0)
    theirs, method = published(path, values), SimpleNet(**{k: v for k, v in values.items() if k not in NOT_ARGUMENTS})
    copy_weights(method, theirs)
    images = torch.rand(BATCH, 3, SIZE, SIZE)
    normalised = (images - method.backbone.mean) / method.backbone.std
    print(f"before the training: {scoring_difference(method, theirs, images, normalised)}")
    for step in range(STEPS):
        torch.manual_seed(step)
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar
            theirs._train_discriminator([{"image": normalised}])
    own = train_ours(method, images)
    print(f"losses of {STEPS} steps: {np.abs(np.array(losses) - own).max():.1e}, the last {own[-1]:.4f}")
    pairs = {
        key: (a - b).abs().max() for (key, a), b in zip(method.head.state_dict().items(), head_of(theirs), strict=True)
    }
    worst = max((key for key in pairs if key not in BEFORE_NORM), key=lambda key: pairs[key])
    print(f"weights after them: {pairs[worst]:.1e} in {worst}; {', '.join(f'{k} {pairs[k]:.1e}' for k in BEFORE_NORM)}")
    print(f"after the training: {scoring_difference(method, theirs, images, normalised)}")


def scoring_difference(method: SimpleNet, theirs: Any, images: Tensor, normalised: Tensor) -> str:
    """Return the largest differences of maps and scores in words."""
    scores, maps, _ = theirs._predict(normalised)
    with torch.no_grad():
        ours = method.eval().score(images)
    assert ours.map is not None
    largest = float(np.abs(np.stack(maps)).max())
    of_maps = np.abs(np.stack(maps) - ours.map.numpy()).max()
    return f"maps {of_maps:.1e} of {largest:.2f}, scores {np.abs(np.stack(scores) - ours.image.numpy()).max():.1e}"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
