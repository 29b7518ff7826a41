"""MVTec LOCO AD (Bergmann et al., IJCV 2022; CC BY-NC-SA 4.0): five objects with logical and structural anomalies.

The mask of a defective image is a folder of channels, one file for each defect: its only value but 0 is the pixel value
of an entry of defects_config.json, which says how many pixels of the defect need to be found.  The pixel metrics take
the union of the channels; sPRO takes each by itself (`read_defects`, `read_channel`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anomaly_bench.datasets.known import CategoryFolders, Inspected
from anomaly_bench.datasets.layout import Layout
from anomaly_bench.errors import UserError
from anomaly_bench.loading.decode import read_values

Category = Literal["breakfast_box", "juice_bottle", "pushpins", "screw_bag", "splicing_connectors"]
CONFIG = "defects_config.json"
KINDS = ("good", "logical_anomalies", "structural_anomalies")


@dataclass(frozen=True)
class Defect:
    """An entry of defects_config.json."""

    name: str
    pixel_value: int  # of the defect in the channels of masks, 1 to 255
    saturation_threshold: float  # relative: share of the defect's area, above 0 to 1; otherwise pixels, a whole number
    relative_saturation: bool


class ChannelMasks(CategoryFolders):
    """A data set whose masks are folders of channels, ground_truth/<kind>/<id>/<n>.png."""

    def defects(self) -> dict[int, Defect]:
        """Return the defects of the category by their pixel values; raises as `read_defects`."""
        return read_defects(self.folder() / self.category / CONFIG)

    @classmethod
    def inspect(cls, base: Path, decode: bool) -> Iterator[Inspected]:
        """Yield what `CategoryFolders` does; defects_config.json must be there, with `decode` each channel's value in
        it."""
        defects: Mapping[int, Defect] = {}
        if (base / cls.layout.test).is_dir():
            try:
                defects = read_defects(base / CONFIG)
            except UserError as error:
                yield (), base / CONFIG, error
        for keys, image, mask in super().inspect(base, decode):
            channels = mask if decode and defects and isinstance(mask, tuple) else ()
            yield keys, image, _mistake(channels, defects) or mask


class MVTecLOCO(ChannelMasks):
    """`root`/<category>/{train, validation}/good, test/{good, logical_anomalies, structural_anomalies},
    ground_truth/<kind>/<id>/<n>.png, defects_config.json."""

    name = "mvtec_loco"
    layout = Layout(kinds=dict(zip(KINDS, KINDS, strict=True)), own_validation=True)

    def __init__(self, category: Category, root: str | None) -> None:
        super().__init__(category, root)


def read_defects(file: Path) -> dict[int, Defect]:
    """Return the defects of a defects_config.json by their pixel values.

    Raises UserError naming the file, and the entry that lacks a key, has a value out of range, or a pixel value twice.
    """
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(str(file), f"cannot be read: {error}") from error
    if not isinstance(entries, list) or not entries:
        raise UserError(str(file), "holds no defect; a list of entries with defect_name, pixel_value, ... is needed")
    defects: dict[int, Defect] = {}
    for number, entry in enumerate(entries, 1):
        defect = _defect(f"{file}: entry {number}", entry)
        if other := defects.get(defect.pixel_value):
            what = f"'{defect.name}' and '{other.name}' have the pixel value {defect.pixel_value}"
            raise UserError(str(file), what, "each defect needs one of its own")
        defects[defect.pixel_value] = defect
    return defects


def read_channel(file: Path, defects: Mapping[int, Defect]) -> tuple[np.ndarray, Defect]:
    """Return a channel of a mask, bool [H, W], and its defect.

    Raises UserError naming the file: unreadable, without a defect, or with a value that is none of `defects`.
    """
    values = read_values(file)
    found = sorted(set(np.unique(values).tolist()) - {0})
    if len(found) != 1:
        what = "is empty" if not found else f"holds the values {', '.join(map(str, found))}"
        raise UserError(str(file), f"{what}; a channel has one value but 0, that of its defect")
    if found[0] not in defects:
        known = ", ".join(f"{value} ({defect.name})" for value, defect in sorted(defects.items()))
        raise UserError(str(file), f"holds the value {found[0]}, which {CONFIG} does not know; known: {known}")
    mask = values != 0
    return np.asarray(mask.any(axis=2) if mask.ndim == 3 else mask), defects[int(found[0])]


def _mistake(channels: tuple[Path, ...], defects: Mapping[int, Defect]) -> UserError | None:
    """Return what is wrong with the first channel of a mask that `read_channel` refuses."""
    try:
        for file in channels:
            read_channel(file, defects)
    except UserError as error:
        return error
    return None


def _defect(where: str, entry: Any) -> Defect:
    keys = ("defect_name", "pixel_value", "saturation_threshold", "relative_saturation")
    given = entry if isinstance(entry, dict) else {}
    if lacking := [key for key in keys if key not in given]:
        raise UserError(where, f"lacks {', '.join(lacking)}; a defect has {', '.join(keys)}")
    name, value, threshold, relative = (entry[key] for key in keys)
    checks = {
        "defect_name": (isinstance(name, str) and name != "", "a name"),
        "pixel_value": (type(value) is int and 1 <= value <= 255, "a whole number from 1 to 255"),
        "relative_saturation": (type(relative) is bool, "true or false"),
        "saturation_threshold": (
            (isinstance(threshold, int | float) and type(threshold) is not bool and 0 < threshold <= 1)
            if relative
            else type(threshold) is int and threshold > 0,
            "above 0 to 1" if relative else "a whole number of pixels above 0",
        ),
    }
    for key, (right, allowed) in checks.items():
        if not right:
            raise UserError(where, f"{key} is {json.dumps(entry[key])}; allowed: {allowed}")
    return Defect(name, value, threshold, relative)
