"""The few types that everything meets in: a data set gives records, a method stages and scores, a run joins them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypedDict, final

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from anomaly_bench.records import Dataset, Record

__all__ = [
    "Dataset", "FeatureBatch", "FrozenFeatures", "Method", "NormalBatch", "NormalData", "Record", "Sample", "Scores",
    "Stage",
]  # fmt: skip


class Sample(TypedDict):
    """One image as the scoring loop sees it."""

    image: Tensor  # [3, H, W] float32 RGB in [0, 1]; normalisation belongs to the method's backbone
    mask: Tensor  # [H, W] bool; all False when normal or when the data set has no masks
    label: int  # 0 normal, 1 anomalous
    kind: str  # defect type, "good" when normal
    path: str  # relative to the data root; "test/00042" for array data


@final
class NormalBatch(TypedDict):
    """One batch as a method sees it while it learns: labels and masks never get here."""

    image: Tensor  # [B, 3, H, W] float32 RGB in [0, 1]
    path: list[str]


@final
class FeatureBatch(TypedDict):
    """One batch of what a frozen network says of normal images."""

    features: list[Tensor]  # of each layer, or of each size of the image: [B, C, h, w] float32
    path: list[str]


@dataclass(frozen=True)
class FrozenFeatures:
    """A network that does not learn, so that its answer to an image is computed once and kept on disk.

    compute: [B, 3, H, W] in [0, 1] on `device` -> [B, C, h, w] of each layer, or of each size of the image.
    """

    compute: Callable[[Tensor], list[Tensor]]
    key: str  # all that the features depend on besides the images: network, layers, checksum of the weights, ...
    dtype: Literal["float32", "float16"]  # on disk
    device: torch.device


class Scores(NamedTuple):
    """What a method says about a batch of images.

    components: what the scores are made of, by name, measured beside them; the same names for each batch.
    """

    image: Tensor  # [B] float32; larger = more anomalous; any range, never squashed
    map: Tensor | None  # [B, H, W] float32 at input resolution; None where the method has no map
    components: Mapping[str, Scores] | None = None


class NormalData(Protocol):
    """What `Method.stages` gets: the normal images, resized to the method's `image_size`."""

    def loader(
        self, split: Literal["train", "val"], batch_size: int, shuffle: bool = False, min_samples: int = 1
    ) -> DataLoader[NormalBatch]:
        """Batches of a split, the last partial one kept; `val` is cut from train by the seed (`Method.val_share`).

        min_samples: an epoch goes through all images as often as it takes to give this many.
        """
        ...

    def features(
        self, split: Literal["train", "val"], frozen: FrozenFeatures, batch_size: int, shuffle: bool = False
    ) -> DataLoader[FeatureBatch]:
        """The same with a frozen network's features in place of the images, computed once for all epochs and runs."""
        ...


@dataclass(frozen=True)
class Stage:
    """One thing to fit."""

    name: str  # its checkpoints' folder
    module: LightningModule  # owns its loss and its optimiser
    loader: DataLoader[Any]
    trainer: Mapping[str, Any]  # max_epochs or max_steps, clipping: science, so from the method's yaml


class Method(LightningModule):
    """A paper.  The constructor takes plain values without defaults: one key of the yaml for each argument.

    The constructor builds the architecture and reads no file; `stages` loads pretrained weights.  `state_dict()`
    holds all that `score` needs, so that a finished run can be used without any other file.
    """

    val_share: float = 0.0  # share of the normal training images that `stages` gets as `val`
    image_size: int  # pixels; images are resized to a square of this side
    batch_size: int  # images in a training step, over all devices together
    epochs: int  # where `stages` is not overridden

    def stages(self, data: NormalData) -> Iterator[Stage]:
        """The paper's algorithm box, read from top to bottom.

        The runner fits what is yielded; the code after a `yield` works on the fitted result.  On a restart, finished
        stages are loaded, and the code between them runs again.  Unless a method says otherwise: one stage, itself.
        """
        loader = data.loader("train", self.batch_size, shuffle=True)
        yield Stage("training", self, loader, {"max_epochs": self.epochs})

    def score(self, images: Tensor) -> Scores:
        """Images [B, 3, H, W] -> Scores; in eval mode, without gradients, the same for an image in any batch."""
        raise NotImplementedError

    @classmethod
    def weight_files(cls, values: Mapping[str, Any], fetch: bool) -> dict[str, list[Path]]:
        """The files of weights that `stages` loads for these values of the yaml, by key, also where none is named.

        They are part of a run's identity.  No file where nothing is loaded for a key.  fetch: what is not on this
        machine is downloaded; else it raises NotHere.  A method that loads weights says so here: for a key `weights`
        beside `backbone`, `nets.backbones.weight_files` finds them.
        """
        return {}

    def provenance(self) -> dict[str, str]:
        """What was loaded from outside (names, SHA-256 of weights files), for the manifest; valid after `stages`."""
        return {}
