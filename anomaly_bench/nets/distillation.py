"""Teachers of patch descriptors: a small network learns to describe image patches as a large ImageNet network does.

Uninformed Students (Bergmann et al., CVPR 2020), section 3.1: the loss is lambda_k L_k + lambda_m L_m + lambda_c L_c,

    L_k = |D(T(p)) - P(p)|^2                                      knowledge: P is the ImageNet network, D a `decoder`
    L_m = max(0, delta + |T(p) - T(p+)|^2 - min(|T(p) - T(p-)|^2, |T(p+) - T(p-)|^2))       metric: delta is the margin
    L_c = sum over i != j of c_ij, the correlation of dimensions i and j of T(p) over the batch        compactness

As printed, L_c is a sum of signed correlations, which falls to -d and then says nothing; `compactness` takes squares or
magnitudes.  P(p) is the ImageNet network's feature map, averaged over its positions; of several layers, side by side.

Two choices of ours, off unless a configuration names them:

- `target: image`.  P of a patch depends on the patch alone, and costs a pass of both networks for each descriptor.
  Instead, the ImageNet network sees a whole crop of an image, the teacher describes all patches of it at once
  (`PatchDescriptor.dense`), and each descriptor learns the features at its centre, as the teacher of EfficientAD
  (Batzner et al., WACV 2024, arXiv 2303.14535) does: hundreds of descriptors at the price of a few, with context.
- `standardise`.  A feature counts by its deviation over natural images, so that no layer and no channel dominates L_k.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pytorch_lightning import LightningModule
from torch import Tensor, nn
from torch.nn import functional as F

from anomaly_bench.nets.backbones import Backbone
from anomaly_bench.nets.distillation_config import DistillationConfig
from anomaly_bench.nets.natural_patches import Crops, Triplet, Triplets
from anomaly_bench.nets.patch_descriptors import DIMENSIONS, SLOPE, PatchDescriptor, upsample

STRIDE = 4  # pixels between two descriptors of a crop
MEASURED = 64  # batches that tell mean and deviation of the features, and what D begins with
EPS = 1e-6  # least deviation of a feature
RIDGE = 1e-3  # of the least squares that D begins with, per descriptor


class Distillation(LightningModule):
    """Trains `teacher` to describe patches as `backbone` does.

    Batches: triplets [B, 3, p, p] in [0, 1]; with `target: image`, crops [B, 3, S, S].
    """

    feature_mean: Tensor
    feature_std: Tensor

    def __init__(self, teacher: PatchDescriptor, backbone: Backbone, config: DistillationConfig) -> None:
        super().__init__()
        self.teacher, self.backbone, self.config = teacher, backbone, config
        self.stride = min(STRIDE, teacher.strides[-1])
        features = sum(backbone.channels)
        self.decoder = decoder(config.decoder_layers, features)  # D
        self.register_buffer("feature_mean", torch.zeros(features), persistent=False)
        self.register_buffer("feature_std", torch.ones(features), persistent=False)

    @torch.no_grad()
    def prepare(self, data: Triplets, batch_size: int) -> None:
        """Measure, on the same natural images whatever was drawn before, what the training needs to begin.

        That is mean and deviation of the features with `standardise`, and with `start_file` and a D of one layer the D
        that explains them best: a random one would first undo what the teacher knows.
        """
        head = self.decoder if self.config.start_file and isinstance(self.decoder, nn.Linear) else None
        if not (self.config.standardise or head):
            return
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            first = (data[i] if isinstance(data, Crops) else data[i][0] for i in range(MEASURED * batch_size))
            parts = torch.stack(list(first)).split(batch_size)
        features = torch.cat([self.target(part) for part in parts])
        if self.config.standardise:
            self.feature_mean.copy_(features.mean(0))
            self.feature_std.copy_(features.std(0).clamp_min(EPS))
            features = (features - self.feature_mean) / self.feature_std
        if head:
            weight, bias = linear_fit(torch.cat([self.describe(part) for part in parts]), features)
            head.weight.copy_(weight)
            head.bias.copy_(bias)

    def training_step(self, batch: Triplet | Tensor, batch_idx: int) -> Tensor:
        losses = self.losses(batch)
        self.log_dict(losses)
        return torch.stack([w * losses[name] for w, name in zip(self.config.losses, losses, strict=True) if w]).sum()

    def losses(self, batch: Triplet | Tensor) -> dict[str, Tensor]:
        """Return the three losses before they are weighted; 0 for one whose weight is 0."""
        images = batch if isinstance(batch, Tensor) else batch[0]
        t = self.describe(images)  # [N, d]
        lambda_k, lambda_m, lambda_c = self.config.losses
        losses = dict.fromkeys(("knowledge", "metric", "compactness"), t.new_zeros(()))
        if lambda_k:
            losses["knowledge"] = knowledge(self.decoder(t), self.target(images))
        if lambda_m:
            losses["metric"] = metric(t, self.describe(batch[1]), self.describe(batch[2]), self.config.margin)
        if lambda_c:
            losses["compactness"] = compactness(t, self.config.compactness)
        return losses

    def describe(self, images: Tensor) -> Tensor:
        """Return T's descriptors [N, d] of patches [N, 3, p, p] in [0, 1], or of all patches of crops [B, 3, S, S]."""
        images = (images - self.backbone.mean) / self.backbone.std
        if self.config.target == "patch":
            descriptors: Tensor = self.teacher(images)
            return descriptors
        return rows(self.teacher.dense(images, self.stride))

    def target(self, images: Tensor) -> Tensor:
        """Return P [N, C] of patches [N, 3, p, p] in [0, 1], or at the centres of all patches of crops [B, 3, S, S]."""
        if self.config.target_size:
            images = F.interpolate(images, size=self.config.target_size, mode="bilinear", align_corners=False)
        maps = self.backbone(images)
        if self.config.target == "patch":
            features = torch.cat([f.mean((2, 3)) for f in maps], 1)
        else:
            grid = (-(-images.shape[2] // self.stride), -(-images.shape[3] // self.stride))
            steps = [reduction // self.stride for reduction in self.backbone.reductions]
            # Position k of a map is centred on pixel k r, as a descriptor is on a multiple of the stride.
            features = rows(torch.cat([upsample(f, s, grid) for f, s in zip(maps, steps, strict=True)], 1))
        return (features - self.feature_mean) / self.feature_std

    def configure_optimizers(self) -> Any:
        trainable = [*self.teacher.parameters(), *(p for p in self.decoder.parameters() if p.requires_grad)]
        adam = torch.optim.Adam(trainable, lr=self.config.lr, weight_decay=self.config.weight_decay, fused=True)
        if not self.config.decay:
            return adam
        cosine = torch.optim.lr_scheduler.CosineAnnealingLR(adam, self.config.steps)
        return {"optimizer": adam, "lr_scheduler": {"scheduler": cosine, "interval": "step"}}


def rows(maps: Tensor) -> Tensor:
    """Return the vectors [B h w, C] of all positions of maps [B, C, h, w]."""
    return maps.permute(0, 2, 3, 1).flatten(0, 2)


def decoder(layers: int, features: int) -> nn.Module:
    """Return D: [B, d] -> [B, features], linear layers with leaky ReLUs between them; the paper has one layer."""
    wide = (nn.Sequential(nn.LeakyReLU(SLOPE), nn.Linear(features, features)) for _ in range(layers - 1))
    first = nn.Linear(DIMENSIONS, features)
    return nn.Sequential(first, *wide) if layers > 1 else first


def linear_fit(t: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Return weight [C, d] and bias [C] of the ridge regression from descriptors [N, d] to features [N, C]."""
    t, features = t.double(), features.double()
    mean, std = t.mean(0), t.std(0).clamp_min(EPS)
    x = (t - mean) / std
    gram = x.T @ x / len(x) + RIDGE * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weight = torch.linalg.solve(gram, x.T @ (features - features.mean(0)) / len(x)).T / std
    return weight.float(), (features.mean(0) - weight @ mean).float()


def knowledge(decoded: Tensor, target: Tensor) -> Tensor:
    """Return L_k: the squared distance of vectors [B, C], averaged over the batch."""
    return (decoded - target).pow(2).sum(1).mean()


def metric(t: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Return L_m of descriptors [B, d], averaged over the batch; of p and p+, the one nearer to p- counts."""
    near = (t - positive).pow(2).sum(1)
    far = torch.minimum((t - negative).pow(2).sum(1), (positive - negative).pow(2).sum(1))
    return F.relu(margin + near - far).mean()


def compactness(t: Tensor, kind: Literal["square", "abs", "signed"]) -> Tensor:
    """Return L_c of descriptors [B, d]: the correlations over the batch, summed over pairs of different dimensions."""
    centred = t - t.mean(0)
    unit = centred / centred.norm(dim=0).clamp_min(1e-8)  # a dimension without variance correlates with none
    correlation = unit.T @ unit  # [d, d]
    off = correlation - torch.diag(correlation.diag())
    return {"square": off.pow(2), "abs": off.abs(), "signed": off}[kind].sum()
