"""The types that the rooms share: a data set gives records, a method gives stages and scores, a run joins them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol, TypedDict, final

import torch
from pytorch_lightning import LightningModule
from torch import Tensor
from torch.utils.data import DataLoader

from anomaly_bench.records import Dataset, Record, Size, as_size

__all__ = [
    "Dataset", "FeatureBatch", "FrozenFeatures", "Method", "NormalBatch", "NormalData", "Record", "Sample", "Scores",
    "Size", "Stage", "as_size",
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
    path: list[str]  # relative to the data root


@final
class FeatureBatch(TypedDict):
    """One batch of a frozen network's features of normal images."""

    features: list[Tensor]  # for each layer, or each size of the image: [B, C, h, w] float32
    path: list[str]  # of the images, relative to the data root


@dataclass(frozen=True)
class FrozenFeatures:
    """A network that is not trained, so that its features of an image are computed once and kept on disk.

    compute: images [B, 3, H, W] in [0, 1] on `device` -> [B, C, h, w] for each layer, or each size of the image.
    """

    compute: Callable[[Tensor], list[Tensor]]  # without gradients
    key: str  # all that the features depend on besides the images: network, layers, checksum of the weights, ...
    dtype: Literal["float32", "float16"]  # on disk
    device: torch.device  # of the network


class Scores(NamedTuple):
    """A method's anomaly scores and maps of a batch of images.

    components: the scores that these are made of, by name, which are measured as well; the same names in each batch.
    """

    image: Tensor  # [B] float32; larger = more anomalous; any range, never squashed
    map: Tensor | None  # [B, H, W] float32 at input resolution; None where the method has no map
    components: Mapping[str, Scores] | None = None  # by name


class NormalData(Protocol):
    """The normal images as `Method.stages` gets them, resized to the method's `image_size`."""

    def loader(
        self, split: Literal["train", "val"], batch_size: int, shuffle: bool = False, min_samples: int = 1
    ) -> DataLoader[NormalBatch]:
        """Return batches of a split, the last partial one too; the seed draws `val` from train (`Method.val_share`).

        min_samples: an epoch goes through all images until there are at least this many.
        """
        ...

    def features(
        self, split: Literal["train", "val"], frozen: FrozenFeatures, batch_size: int, shuffle: bool = False
    ) -> DataLoader[FeatureBatch]:
        """Return the same with a frozen network's features, computed once for all epochs and runs, for images."""
        ...


@dataclass(frozen=True)
class Stage:
    """One training: a module that is fitted on a loader."""

    name: str  # of the folder of its checkpoints
    module: LightningModule  # has its loss and its optimiser
    loader: DataLoader[Any]  # of the batches that `module.training_step` gets
    trainer: Mapping[str, Any]  # arguments of Lightning's Trainer that are science: max_epochs, max_steps, clipping


COMPUTED = "what was computed from the normal training images"  # `result_state` of a method without a training


class Method(LightningModule):
    """A paper.  The constructor takes plain values without defaults: one key of the yaml for each argument.

    The constructor builds the architecture and reads no file; `stages` loads pretrained weights.  `state_dict()`
    holds all that `score` needs, so that a finished run can be used without any other file.
    """

    baseline: bool = False  # no paper's method, but a floor: tables mark it, and it is never the best
    val_share: float = 0.0  # share of the normal training images that `stages` gets as `val`
    result_state: str = "the last epoch"  # what `stages` leaves behind, in words, for the run's protocol
    image_size: Size | int  # pixels that images come to: height and width, or the side of a square
    size_step: int = 16  # pixels: sides that are multiples of it are allowed; 0: near-squares only
    batch_size: int  # images in a training step, over all devices together
    epochs: int  # where `stages` is not overridden
    scoring_precision: str = "32-true"  # `hardware.scoring_precision` of the run

    def stages(self, data: NormalData) -> Iterator[Stage]:
        """Yield the stages in the order of the paper's algorithm.

        The runner fits what is yielded; the code after a `yield` works on the fitted result.  On a restart, finished
        stages are loaded, and the code between them runs again.  Unless a method says otherwise: one stage, itself.
        """
        loader = data.loader("train", self.batch_size, shuffle=True)
        yield Stage("training", self, loader, {"max_epochs": self.epochs})

    def score(self, images: Tensor) -> Scores:
        """Return the scores of images [B, 3, H, W], in eval mode, without gradients, each independent of the batch."""
        raise NotImplementedError

    @classmethod
    def weight_files(cls, values: Mapping[str, Any], fetch: bool) -> dict[str, list[Path]]:
        """Return the files of weights that `stages` loads for the yaml's values, by key, also where none is named.

        They are part of a run's identity.  The list of a key is empty where nothing is loaded for it.  fetch: download
        what is not on this machine; otherwise raise NotHere.  Each method that loads weights overrides this: for a key
        `weights` beside `backbone`, `nets.backbones.weight_files` finds them.
        """
        return {}

    def provenance(self) -> dict[str, str]:
        """Return names and SHA-256 of the weights that were loaded, for the manifest; valid after `stages`."""
        return {}
