"""Compare our STFPM with the published code: python scripts/compare_stfpm.py PATH_TO_STFPM

Gives both the same random weights and images, trains both for a few steps by the published loop's own optimiser
settings, and prints the largest differences of losses, validation error, maps and image scores.  PATH_TO_STFPM: a
checkout of github.com/gdwang08/STFPM (commit 2598a5e).  Network, training and test of its main.py run as they are; what
it imports for images and metrics is left out.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from anomaly_bench.config import NOT_ARGUMENTS, conf_dir
from anomaly_bench.methods.stfpm import STFPM, StudentTraining

SIZE, IMAGES, BATCH, EPOCHS = 256, 6, 3, 2  # the code's maps are for images of 256 px alone


def published(path: Path) -> ModuleType:
    """Import the published main.py."""
    for name in ("cv2", "evaluate", "sklearn", "sklearn.model_selection"):
        sys.modules[name] = SimpleNamespace(evaluate=None, train_test_split=None)  # type: ignore[assignment]
    sys.path.insert(0, str(path))
    return importlib.import_module("main")


def on_this_device(code: ModuleType) -> None:
    """Let `.cuda()` leave tensors where they are: the published code knows no CPU."""
    Tensor.cuda = nn.Module.cuda = lambda self, *_: self  # type: ignore[method-assign, assignment]


def copy_weights(target: nn.Module, source: nn.Module) -> None:
    """Copy parameters and buffers in order; both define their layers in data-flow order, theirs one layer more."""
    for own, other in zip(target.state_dict().values(), source.state_dict().values(), strict=False):
        own.copy_(other)


def main(path: Path) -> None:
    """Print the differences."""
    code = published(path)
    on_this_device(code)
    values: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "method" / "stfpm.yaml"))
    method = STFPM(**{key: v for key, v in values.items() if key not in NOT_ARGUMENTS})
    torch.manual_seed(0)
    teacher, student = code.ResNet18_MS3(), code.ResNet18_MS3()
    teacher.eval()
    copy_weights(method.teacher.net, teacher)
    copy_weights(method.student, student)
    images = torch.rand(IMAGES, 3, SIZE, SIZE)
    normalised = [(str(i), x) for i, x in enumerate((images - method.teacher.mean[0]) / method.teacher.std[0])]
    losses, error = train_theirs(code, teacher, student, normalised)
    own, own_error = train_ours(method, images)
    print(f"losses of {len(losses)} steps: {np.abs(np.array(losses) - own).max():.1e}, the last {losses[-1]:.4f}")
    print(f"validation error, ours times 8: {abs(error - 8 * own_error):.1e}")
    with torch.no_grad():
        theirs = torch.from_numpy(code.test(teacher, student, DataLoader(normalised, 1)))[:, None]  # [N, 1, 64, 64]
        ours = method.eval().score(images)
    theirs = F.interpolate(theirs, (SIZE, SIZE), mode="bilinear", align_corners=False)[:, 0] / 8  # as cv2.resize
    assert ours.map is not None
    scale = float(theirs.max())
    print(f"maps, relative to the largest value: {float((theirs - ours.map).abs().max()) / scale:.1e}")
    print(f"image scores, likewise: {float((theirs.amax((1, 2)) - ours.image).abs().max()) / scale:.1e}")


def train_theirs(
    code: ModuleType, teacher: nn.Module, student: nn.Module, rows: list[Any]
) -> tuple[list[float], float]:
    """Train with the published loop; returns the losses that it prints, and its last validation error."""
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(printed):
        arguments = SimpleNamespace(epochs=EPOCHS, model_save_path=folder, category="random")
        code.train_val(teacher, student, DataLoader(rows, BATCH), DataLoader(rows, BATCH), arguments)
    text = printed.getvalue()
    losses = [float(value) for value in re.findall(r"\] loss: ([\d.]+)", text)]
    return losses, float(re.findall(r"Valid Loss: ([\d.]+)", text)[-1])


def train_ours(method: STFPM, images: Tensor) -> tuple[list[float], float]:
    """Train with our loss and optimiser in the same order; returns the losses and the validation error."""
    rows: Any = [{"image": x, "path": [str(i)]} for i, x in enumerate(images)]
    training = StudentTraining(method, method.sgd, method.loss_factor, DataLoader(rows, BATCH))
    training.train()
    optimiser, losses = training.configure_optimizers(), []
    for batch in list(DataLoader(rows, BATCH)) * EPOCHS:
        optimiser.zero_grad()
        loss = training.training_step(batch, 0)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert training.validation is not None
    return losses, training.error(training.validation)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
