"""What `bench export` traces: a finished run as one module, from images to score, map, p-value and label."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from anomaly_bench.contracts import Method
from anomaly_bench.inference.graph_resize import FrameGraph, UnpadGraph
from anomaly_bench.inference.predict import Model
from anomaly_bench.runs.weights import rounded
from anomaly_bench.runs.whole_images import View, score_whole

OUTPUTS = ("score", "map", "p_value", "label")  # without `map` where the method has none
UNKNOWN = -1  # the label where the threshold is nan


class RunGraph(nn.Module):
    """A run from images to what `bench predict` says of them.

    preprocess: images come as uint8 [B, h, w, 3] of any size, else as float32 [B, 3, H, W] in [0, 1] at the run's.
    float16: the weights are stored rounded to float16; everything is computed in float32 all the same.
    """

    calibration: Tensor

    def __init__(self, model: Model, preprocess: bool, float16: bool) -> None:
        super().__init__()
        frame = model.view.frame
        seen = MethodGraph(model.method, model.view)
        self.method: nn.Module = HalfWeights(seen) if float16 else seen
        self.resize = FrameGraph(frame) if preprocess else None
        self.unpad = UnpadGraph(frame.size) if preprocess and frame.fit == "pad" else None
        scores = [] if model.calibration is None else model.calibration.tolist()
        self.register_buffer("calibration", torch.tensor(scores, dtype=torch.float64))

    def forward(self, images: Tensor, threshold: Tensor) -> tuple[Tensor, ...]:
        """Return score float32 [B], map float32 [B, H, W], p_value float64 [B] and label int64 [B].

        threshold: float64 [1], of the score; nan: each label is -1.  p_value is nan without calibration scores.
        """
        score, *maps = self.method(images if self.resize is None else self.resize(images))
        if self.unpad is not None:
            maps = [self.unpad(each, images) for each in maps]
        exact = score.to(torch.float64)
        label = torch.where(threshold.isnan(), UNKNOWN, (exact > threshold).to(torch.int64))
        if len(self.calibration):
            as_high = (self.calibration >= exact[:, None]).to(torch.float64).sum(1)
            p_value = (1 + as_high) / (len(self.calibration) + 1)
        else:
            p_value = exact * torch.nan
        return (score.to(torch.float32), *(each.to(torch.float32) for each in maps), p_value, label)


class MethodGraph(nn.Module):
    """A method's scores of whole images in the run's frame, seen as tiles where the run sees them so."""

    def __init__(self, method: Method, view: View) -> None:
        super().__init__()
        self.method, self.view = method, replace(view, frame=replace(view.frame, fit="squash"))  # padding stays

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return scores [B] and, where the method has them, maps [B, H, W] of images [B, 3, H, W] in [0, 1]."""
        found = score_whole(self.view, self.method.score, images, [], self.method.batch_size)
        return (found.image,) if found.map is None else (found.image, found.map)


class HalfWeights(nn.Module):
    """A module whose weights are stored in float16, where they fit, and used in float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = (module,)  # no part of this module: its weights would be stored too
        tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        self.names = list(tensors)
        for number, value in enumerate(tensors.values()):
            self.register_buffer(f"half{number}", rounded(value.detach()))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return what the module returns."""
        stored = (self.get_buffer(f"half{number}") for number in range(len(self.names)))
        wide = (value.to(torch.float32) if value.dtype == torch.float16 else value for value in stored)
        found: tuple[Tensor, ...] = functional_call(
            self._module[0], dict(zip(self.names, wide, strict=True)), (images,)
        )
        return found
