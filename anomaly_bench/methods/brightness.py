"""Brightness: how far plain grey values go, without any model or training.  A floor for every other method's figures.

The map is the difference of each pixel's grey value from the image's median, blurred; its largest value, up or down, is
the image's score.  Components, each measured alone: the same for brighter and for darker pixels only, and the mean,
minimum, maximum and standard deviation of the grey values.  One whose image AUROC is near 0 separates as well as one
near 1, with the sign turned round.

No paper: a trivial baseline that every data set should be looked at with.
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from anomaly_bench.config.ranges import BatchSize, ImageSize, Positive
from anomaly_bench.contracts import Method, NormalData, Scores, Stage
from anomaly_bench.nets.gaussian import gaussian


class Brightness(Method):
    """Scores images by their grey values alone; nothing is trained.

    >>> import torch
    >>> method = Brightness(image_size=32, batch_size=2, sigma=1.0)
    >>> images = torch.full((2, 3, 32, 32), 0.5)
    >>> images[1, :, 8:16, 8:16] = 0.1  # a dark square
    >>> scores = method.score(images)
    >>> [round(value, 3) for value in scores.image.tolist()]
    [0.0, 0.4]
    >>> divmod(int(scores.map[1].argmax()), 32)[0] in range(8, 16)
    True
    >>> [round(abs(value), 3) for value in scores.components["darker"].image.tolist()]
    [0.0, 0.4]
    """

    baseline = True
    result_state = "a formula without any training"

    def __init__(self, image_size: ImageSize, batch_size: BatchSize, sigma: Positive) -> None:
        super().__init__()
        self.image_size, self.batch_size, self.sigma = image_size, batch_size, sigma

    def stages(self, data: NormalData) -> Iterator[Stage]:
        """Yield nothing: there is nothing to train."""
        yield from ()

    def score(self, images: Tensor) -> Scores:
        """Return the scores of images [B, 3, H, W] in [0, 1]."""
        grey = images.mean(1)  # [B, H, W]
        flat = grey.flatten(1)  # [B, H W]
        median = flat.sort(1).values[:, (flat.shape[1] - 1) // 2]  # [B], as torch.median, which ONNX lacks
        change = gaussian(grey - median[:, None, None], self.sigma)  # [B, H, W]
        statistics = {"mean": flat.mean(1), "minimum": flat.amin(1), "maximum": flat.amax(1), "deviation": flat.std(1)}
        components = {name: Scores(values, None) for name, values in statistics.items()}
        for name, map_ in (("brighter", change), ("darker", -change)):
            components[name] = Scores(map_.amax((1, 2)), map_)
        return Scores(change.abs().amax((1, 2)), change.abs(), components)
