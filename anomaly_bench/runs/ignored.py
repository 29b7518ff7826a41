"""What a run ignores in its images: kept in its folder, and counted for its protocol."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from anomaly_bench.files import write_atomic
from anomaly_bench.loading.frame import Frame
from anomaly_bench.loading.ignore import Ignore
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.stored_run import IGNORE


def store_ignore(folder: RunFolder, ignore: Ignore | None) -> None:
    """Write the region that all images share to the run's folder; nothing without one."""
    if ignore is not None and (region := ignore.region) is not None:
        write_atomic(folder.path / IGNORE, lambda file: Image.fromarray(region).convert("L").save(file, "PNG"))


def stored_ignore(folder: RunFolder, manifest: Mapping[str, Any]) -> Ignore | None:
    """Return what a finished run ignores, from its own files; None where it ignores nothing.

    Raises UserError where the region's file is missing or not as the run wrote it.
    """
    known = manifest.get("ignored")
    if not known:
        return None
    folder.require_undamaged([IGNORE])
    return Ignore.of(known["value"], folder.path / IGNORE if known["region"] else None)


def describe_ignored(
    frame: Frame, ignored: Sequence[np.ndarray] | None, images: int
) -> tuple[dict[str, Any], list[str]]:
    """Return what a manifest says of the ignored pixels of so many test images, and its protocol.

    ignored: bool [H, W] of each, at the maps' size; None where there are none.  Both are empty where nothing is to be
    ignored.
    """
    if (ignore := frame.ignore) is None:
        return {}, []
    counts = [int(np.count_nonzero(each)) for each in ignored or ()]
    pixels, some, region = sum(counts), sum(count > 0 for count in counts), frame.ignored_region
    line = f"{pixels} pixels in {some} of {images} test images are ignored: neither normal nor anomalous"
    lines = [line if ignore.value is None else f"{line} (value {ignore.value} of a mask)"]
    if region is not None:
        lines += [f"a region of {np.count_nonzero(region)} pixels is filled in every image, new ones too, and ignored"]
    known = {"value": ignore.value, "region": region is not None, "pixels": pixels, "images": some}
    return {"ignored": known}, lines
