"""The block `method.teacher`: where a teacher of patch descriptors comes from, and the numbers of its distillation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from anomaly_bench.config.ranges import BatchSize, Count, NotNegative, Positive, SideFrom16, SideFrom32
from anomaly_bench.config.schema import Checked

LayerNumber = Annotated[int, Field(ge=1, le=4)]


class DistillationConfig(Checked):
    """The block `method.teacher`: where a teacher comes from, and the numbers of its distillation."""

    file: str | None  # a teacher's file, a folder with one for each patch size, or `random`; None: the shipped ones
    images: str | None  # a folder of natural images, to distil from where no file is given
    layer: LayerNumber | Annotated[tuple[LayerNumber, ...], Field(min_length=1)]  # of the ImageNet network, or several
    target_size: SideFrom16 | None  # pixels of a patch for the ImageNet network; None: as it is
    losses: tuple[NotNegative, NotNegative, NotNegative]  # lambda_k, lambda_m, lambda_c
    margin: Positive = 1.0  # delta, for methods whose yaml has none
    compactness: Literal["square", "abs", "signed"]
    steps: Count
    batch_size: Annotated[BatchSize, Field(ge=2)]
    lr: Positive
    weight_decay: NotNegative
    decoder_layers: Annotated[int, Field(ge=1, le=64)] = 1  # of D, for methods whose yaml does not say
    # The defaults of what follows are what earlier versions did, whose configurations lack these keys.
    target: Literal["patch", "image"] = "patch"  # P of each patch alone, or at its place in a crop of an image
    crop_size: SideFrom32 | None = None  # pixels of a crop; None: patches are cut
    standardise: bool = False  # features by their deviation over natural images
    start_file: str | None = None  # a teacher's file, with whose weights the distillation begins; None: random ones
    decay: bool = False  # the learning rate falls to 0 as a cosine
    zoom: tuple[Positive, Positive] = (4, 16)  # an image is zoomed to a square of 4 p to 16 p pixels
    shift: Annotated[float, Field(ge=0, le=1)] = 0.25  # p+ is p - 1 times this away at most, along each axis
    noise: NotNegative = 0.1  # standard deviation in p+, of values in [0, 1]
    grey: Annotated[float, Field(ge=0, le=1)] = 0.1  # share of triplets, or crops, without colour

    @model_validator(mode="after")
    def _fits(self) -> DistillationConfig:
        if not 1 <= self.zoom[0] <= self.zoom[1]:
            raise ValueError(f"zoom is {list(self.zoom)}; two numbers from 1, the smaller one first")
        if (self.target == "image") != (self.crop_size is not None):
            raise ValueError("target: image needs a crop_size, and target: patch none (null)")
        if self.target == "image" and (self.losses[1] or self.target_size):
            raise ValueError("target: image has no metric loss and no target_size: losses[1] 0, target_size null")
        return self

    @property
    def layers(self) -> tuple[int, ...]:
        """The ImageNet network's layers, one or more."""
        return (self.layer,) if isinstance(self.layer, int) else self.layer
