"""The ranges of a configuration's numbers: what is beyond them is a slip of the pen on any machine.  No torch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

Count = Annotated[int, Field(ge=1, le=10**8)]  # epochs, steps
Width = Annotated[int, Field(ge=1, le=65_536)]  # channels, layers, networks
ImageSize = Annotated[int, Field(ge=8, le=8192)]  # pixels, of a square's side
BatchSize = Annotated[int, Field(ge=1, le=65_536)]  # images
Positive = Annotated[float, Field(gt=0, le=1e6)]
NotNegative = Annotated[float, Field(ge=0, le=1e6)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]  # of an exponential mean: Adam's betas
