"""The ranges of a configuration's numbers: what is beyond them is a slip of the pen on any machine.  No torch."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BeforeValidator, Field

Count = Annotated[int, Field(ge=1, le=10**8)]  # epochs, steps
Width = Annotated[int, Field(ge=1, le=65_536)]  # channels, layers, networks
Side = Annotated[int, Field(ge=8, le=8192)]  # pixels
SideFrom16 = Annotated[int, Field(ge=16, le=8192)]
SideFrom32 = Annotated[int, Field(ge=32, le=8192)]
ImageSize = Side | tuple[Side, Side]  # of a square, or height and width
ImageSizeFrom16 = SideFrom16 | tuple[SideFrom16, SideFrom16]
ImageSizeFrom32 = SideFrom32 | tuple[SideFrom32, SideFrom32]
BatchSize = Annotated[int, Field(ge=1, le=65_536)]  # images
Positive = Annotated[float, Field(gt=0, le=1e6)]
NotNegative = Annotated[float, Field(ge=0, le=1e6)]
Share = Annotated[float, Field(ge=0, le=1)]
Decay = Annotated[float, Field(ge=0, lt=1)]  # of an exponential mean: Adam's betas


def checked_fold(given: object) -> object:
    """Return k/K as it is.  Raises ValueError unless k is one of 1 to K, and K at least 2."""
    found = re.fullmatch(r"(\d{1,4})/(\d{1,4})", str(given))
    if given is not None and not (found and 1 <= int(found[1]) <= int(found[2]) >= 2):
        raise ValueError("k/K with k from 1 to K, as 1/5")
    return given


Fold = Annotated[str, BeforeValidator(checked_fold)]  # k/K
