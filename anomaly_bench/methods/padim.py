"""PaDiM: a Patch Distribution Modeling Framework (Defard, Setkov, Loesch and Audigier, ICPR workshops 2020).

A frozen network describes each position of the normal images by x, the features of several layers there.  For each
position (i, j) a Gaussian is fitted to the N training images; how far a test image's x is away from it, measured by its
covariance, is the anomaly score of the position.  arXiv 2011.08785.  No code was released.

    mean_ij       = mean of x_ij over the training images
    Sigma_ij      = sum of (x_ij - mean_ij)(x_ij - mean_ij)^T / (N - 1) + epsilon I                 (eq. 1)
    M(x_ij)       = sqrt((x_ij - mean_ij)^T Sigma_ij^-1 (x_ij - mean_ij)), the Mahalanobis distance   (eq. 2)

Deeper layers are brought to the first one's grid: a position gets the vector of the cell that it lies in.  Of all
channels a random subset is used.  Distances are upsampled and blurred; the map's maximum is the image's score.

Memory: one pass over the images adds up the moments, so that no features are kept.  What is stored is the inverse W of
Sigma's Cholesky factor, with M(x) = |W (x - mean)|, 4 d^2 bytes for each position: 3.8 GB for the paper's d = 550 at
56 x 56 positions, 164 MB for d = 100 at 64 x 64.  `memory_mib` refuses more; `covariance: shared` needs 4 d^2 in all.

Deviation: the whole image is resized to `image_size`; the paper resizes to 256 pixels and crops the central 224.
Unknown: how the paper upsamples its maps, whose text was not at hand: bilinear here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anomaly_bench.config.ranges import BatchSize, ImageSize, NotNegative, Positive, Width
from anomaly_bench.contracts import COMPUTED, Method, NormalData, Scores, Stage, as_size
from anomaly_bench.errors import UserError
from anomaly_bench.nets.fitted_buffers import FittedBuffers
from anomaly_bench.nets.frozen import Layers, frozen_network, frozen_weight_files
from anomaly_bench.nets.gaussian import gaussian
from anomaly_bench.nets.precision import in_float32

BLOCK = 2**25  # bytes of the float64 matrices that are inverted together


class PaDiM(FittedBuffers, Method):
    """A Gaussian for each position of a frozen network's features; nothing is trained.

    >>> from anomaly_bench.config import build, compose, validate
    >>> small = ["method.weights=random", "method.image_size=32", "method.components=16"]
    >>> method = build("method", validate(compose(["method=padim_fast", "dataset=mtd", *small])).method)
    >>> method.fit(torch.rand(4, 3, 32, 32) for _ in range(3))
    >>> method.whitening.shape  # for each of 8 x 8 positions
    torch.Size([64, 16, 16])
    >>> method.score(torch.rand(2, 3, 32, 32)).map.shape
    torch.Size([2, 32, 32])
    """

    result_state = COMPUTED
    channels: Tensor  # [d], which of all channels are used
    mean: Tensor  # [positions, d]
    whitening: Tensor  # W [positions, d, d], or [1, d, d]

    def __init__(
        self,
        backbone: str,
        weights: str | None,
        layers: Layers,
        image_size: ImageSize,
        batch_size: BatchSize,
        components: Width,
        regularisation: NotNegative,
        covariance: Literal["position", "shared"],
        memory_mib: Positive,
        sigma: Positive,
    ) -> None:
        super().__init__()
        self.weights, self.image_size, self.batch_size = weights, image_size, batch_size
        self.components, self.regularisation, self.covariance = components, regularisation, covariance
        self.sigma = sigma
        self.backbone = frozen_network(backbone, layers)
        self._check(memory_mib)
        self.register_buffer("channels", torch.randperm(sum(self.backbone.channels))[:components].sort().values)
        self._count_channels()
        self.register_buffer("mean", torch.empty(0, components))
        self.register_buffer("whitening", torch.empty(0, components, components))

    def _check(self, memory_mib: float) -> None:
        """Raise UserError for more components than there are channels, and for Gaussians beyond the memory."""
        net, d = self.backbone, self.components
        if d > (available := sum(net.channels)):
            what = f"{d} given, but layers {list(net.layers)} of {net.name} have {available} channels together"
            raise UserError("method.components", what, f"at most {available}")
        height, width = (-(-side // net.reductions[0]) for side in as_size(self.image_size))
        self.grid = height, width
        matrices = height * width if self.covariance == "position" else 1
        if (needed := 4 * matrices * d * d / 2**20) > memory_mib:
            what = f"{memory_mib:g} MiB given; {d} components at {height} x {width} positions take {needed:.1f} MiB"
            fitting = int((memory_mib * 2**20 / (4 * matrices)) ** 0.5)
            hint = f"method.components={fitting} fits, or method.covariance=shared" if fitting else "more"
            raise UserError("method.memory_mib", what, hint)

    def _count_channels(self) -> None:
        """Note how many of the channels each layer has: a GPU that has to tell makes the host wait."""
        if self.channels.is_meta:  # the method is only checked
            return
        ends = np.cumsum(self.backbone.channels)
        below = np.searchsorted(self.channels.cpu().numpy(), ends)  # [layers]
        self.counts = np.diff(below, prepend=0).tolist()

    def _load_from_state_dict(self, *args: Any) -> None:
        super()._load_from_state_dict(*args)
        self._count_channels()

    def stages(self, data: NormalData) -> Iterator[Stage]:
        """Fit the Gaussians and yield nothing: there is nothing to train."""
        self.backbone.load(self.weights)
        self.fit(batch["image"] for batch in data.loader("train", self.batch_size))
        yield from ()

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Fit the Gaussians to batches of images [B, 3, H, W] in one pass.

        Raises UserError for a single image, and where a covariance is singular: without regularisation, from too few
        images for the number of components, or with a channel that never changes.
        """
        count, mean, scatter = 0, torch.zeros(()), torch.zeros(())
        for images in batches:
            x = self.embed(images.to(self.channels.device))  # [P, B, d]
            (P, B, d), shared = x.shape, self.covariance == "shared"
            if not count:
                mean, scatter = x.new_zeros(P, d), x.new_zeros(1 if shared else P, d, d)
            batch_mean = x.mean(1)
            shift = batch_mean - mean
            # Chan's update: deviations from the batch's own mean, and its distance from the mean so far as one more.
            x = torch.cat([x - batch_mean[:, None], (count * B / (count + B)) ** 0.5 * shift[:, None]], 1)
            x = x.view(1, -1, d) if shared else x  # [P, B + 1, d]
            scatter.baddbmm_(x.transpose(1, 2), x)
            mean, count = mean + shift * (B / (count + B)), count + B
        if count < 2:
            raise UserError("method.covariance", f"{count} training image given, a covariance needs at least 2")
        self.mean, self.whitening = mean, self._inverted(scatter, count, (count - 1) * (len(mean) // len(scatter)))

    def _inverted(self, scatter: Tensor, count: int, degrees: int) -> Tensor:
        """Return W [positions, d, d] for sums of squares of deviations, in whose memory it is written."""
        d = scatter.shape[1]
        unit = torch.eye(d, dtype=torch.float64, device=scatter.device)
        for block in scatter.split(max(1, BLOCK // (8 * d * d))):
            sigma = block.double() / degrees + self.regularisation * unit  # eq. 1
            factor, failed = torch.linalg.cholesky_ex(sigma)
            if failed.any():
                what = f"{self.regularisation:g} leaves a singular covariance of {d} components from {count} images"
                hint = "0.01 is the paper's; without any, at most as many components as images less one"
                raise UserError("method.regularisation", what, hint)
            block.copy_(torch.linalg.solve_triangular(factor, unit.expand_as(factor), upper=False))
        return scatter

    def embed(self, images: Tensor) -> Tensor:
        """Return x [positions, B, d] of images [B, 3, H, W] in [0, 1], positions row by row."""
        features, parts, start = self.backbone(images), [], 0
        for f, channels in zip(features, self.channels.split(self.counts), strict=True):
            parts.append(F.interpolate(f[:, channels - start], size=features[0].shape[2:], mode="nearest"))
            start += f.shape[1]  # parts: [B, d_l, h, w]
        return torch.cat(parts, 1).flatten(2).permute(2, 0, 1).contiguous()

    def score(self, images: Tensor) -> Scores:
        """Return the scores of images [B, 3, H, W] in [0, 1]."""
        x = (self.embed(images) - self.mean[:, None]).transpose(1, 2)  # [P, d, B]
        distances = mahalanobis(self.whitening, x)  # [P, B]
        maps = distances.T.reshape(-1, 1, *self.grid)
        maps = F.interpolate(maps, images.shape[2:], mode="bilinear", align_corners=False)[:, 0]  # [B, H, W]
        smooth = gaussian(maps, self.sigma)
        return Scores(image=smooth.flatten(1).amax(1), map=smooth)

    @classmethod
    def weight_files(cls, values: Mapping[str, Any], fetch: bool) -> dict[str, list[Path]]:
        return frozen_weight_files(values, fetch)

    def provenance(self) -> dict[str, str]:
        return {"backbone": self.backbone.name, "backbone_sha256": self.backbone.sha256}


@in_float32
def mahalanobis(whitening: Tensor, x: Tensor) -> Tensor:
    """Eq. 2: return the distances [P, B] of x [P, d, B], less the means, by W [P or 1, d, d]."""
    return torch.matmul(whitening, x).norm(dim=1)
