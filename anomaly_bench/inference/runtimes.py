"""What runs a finished run's network when it is timed: PyTorch as it is, compiled, or exported.

Another runtime is a class here and its place in `RUNTIMES`: `name`, `prepare`, `run`; `resize` and `transfer` where
they differ.  `bench time --runtime NAME` finds it by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anomaly_bench.contracts import Method, Scores, Size
from anomaly_bench.inference.predict import Model
from anomaly_bench.loading.image_dataset import to_tensor
from anomaly_bench.runs.whole_images import score_whole

ScoreFunction = Callable[[Tensor], Scores]


class Runtime:
    """One way to score images; each call ends when its result is there, also on a GPU."""

    name = ""

    def prepare(self, model: Model) -> None:
        """Make ready to score with a model; what depends on a batch's size may wait for the first batch."""
        self.model = model

    def resize(self, pixels: np.ndarray) -> np.ndarray:
        """Return an image uint8 [h, w, 3] as `transfer` takes it: uint8 [H, W, 3]."""
        return self.model.view.frame.image(pixels)

    def transfer(self, images: np.ndarray) -> Any:
        """Return images uint8 [B, H, W, 3] as `run` takes them, on the device."""
        return images

    def run(self, images: Any, shapes: Sequence[Size]) -> tuple[np.ndarray, np.ndarray | None]:
        """Return scores float32 [B] and maps float32 [B, H, W], on the host.

        shapes: height and width of the files, [B].  Maps are None where the method has none.
        """
        raise NotImplementedError


class Eager(Runtime):
    """PyTorch, operation by operation, as `bench predict` does it."""

    name = "eager"

    def prepare(self, model: Model) -> None:
        """Make ready to score."""
        super().prepare(model)
        self.score = self.score_function(model.method)

    def score_function(self, method: Method) -> ScoreFunction:
        """Return what scores images [B, 3, H, W] float32 in [0, 1]."""
        return method.score

    def transfer(self, images: np.ndarray) -> Tensor:
        """Return float32 [B, 3, H, W] in [0, 1] on the method's device."""
        device = self.model.method.device
        moved = torch.stack([to_tensor(image) for image in images]).to(device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return moved

    def run(self, images: Tensor, shapes: Sequence[Size]) -> tuple[np.ndarray, np.ndarray | None]:
        """Return scores and maps; that they are copied to the host waits for the device."""
        found = score_whole(self.model.view, self.score, images, shapes, self.model.batch_size)
        return found.image.float().cpu().numpy(), None if found.map is None else found.map.float().cpu().numpy()


class Compiled(Eager):
    """torch.compile; the first batches of a size compile, and a C++ compiler must be there for the CPU."""

    name = "compile"

    def score_function(self, method: Method) -> ScoreFunction:
        """Return the compiled `score`."""
        compiled: ScoreFunction = torch.compile(method.score)
        return compiled


class Exported(Eager):
    """torch.export, one program for each shape of a batch, made when that shape first comes."""

    name = "export"

    def score_function(self, method: Method) -> ScoreFunction:
        """Return what exports `score` and then runs the exported program."""
        programs: dict[torch.Size, nn.Module] = {}

        def score(images: Tensor) -> Scores:
            if images.shape not in programs:
                with torch.inference_mode(False), torch.no_grad():
                    example = images.clone()  # a tensor of inference mode cannot be traced
                    programs[images.shape] = torch.export.export(_Scoring(method), (example,)).module()
            return Scores(*programs[images.shape](images))

        return score


class _Scoring(nn.Module):
    """A method's scores and maps as plain tensors."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        found = self.method.score(images)
        return found.image, found.map


RUNTIMES: dict[str, type[Runtime]] = {each.name: each for each in (Eager, Compiled, Exported)}
