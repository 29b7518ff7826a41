"""sPRO of a run's maps on MVTec LOCO's files: a PNG for each defect of an image, and what saturates it by its value.

A saturation threshold is a number of pixels of the image itself, so maps are brought to the images' own sizes first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from anomaly_bench.datasets.mvtec_loco import CONFIG, read_defects
from anomaly_bench.errors import UserError
from anomaly_bench.loading.anomaly_maps import LazySequence, enlarge_map
from anomaly_bench.loading.decode import IGNORED, read_marks
from anomaly_bench.loading.frame import Frame
from anomaly_bench.loading.ignore import Ignore
from anomaly_bench.loading.image_files import width_and_height
from anomaly_bench.metrics.spro import Region, saturation, spro_metrics
from anomaly_bench.records import Record

Saturation = Mapping[int, tuple[float, bool]]  # pixel value of a defect -> its threshold, whether that is relative


def spro_of_records(
    records: Sequence[Record], maps: Sequence[np.ndarray] | np.ndarray | None, frame: Frame, threads: int = 1
) -> dict[str, float]:
    """Return `spro_metrics` of test images whose masks are folders of channels, beside a defects_config.json.

    maps: float32 [H, W] of each, of whole images.  frame: with what is ignored, at the images' own size.  Empty for
    other data sets, without maps, and where a crop shows only a part of each image.  Raises UserError as
    `spro_of_files` and `read_defects`.
    """
    config = defects_config(records)
    if config is None or maps is None or frame.fit == "crop":
        return {}
    channels = [record.mask_files if isinstance(record.mask, tuple) else () for record in records]
    known = {value: (d.saturation_threshold, d.relative_saturation) for value, d in read_defects(config).items()}
    sizes = [width_and_height(record.image) or (1, 1) for record in records]
    return spro_of_files(maps, sizes, channels, [record.kind for record in records], known, threads, frame.ignore)


def defects_config(records: Sequence[Record]) -> Path | None:
    """Return the defects_config.json of test images whose masks are folders of channels; None where there is none."""
    first = next((record.mask_files[0] for record in records if isinstance(record.mask, tuple)), Path())
    above = list(first.parents)[3:4]  # <category>/ground_truth/<kind>/<id>/<n>.png
    return next((folder / CONFIG for folder in above if (folder / CONFIG).is_file()), None)


def spro_of_files(
    maps: Sequence[np.ndarray] | np.ndarray,
    sizes: Sequence[tuple[int, int]],
    channels: Sequence[Sequence[Path]],
    kinds: Sequence[str],
    saturations: Saturation,
    threads: int = 1,
    ignore: Ignore | None = None,
) -> dict[str, float]:
    """Return `spro_metrics` at its limits.

    maps: float32 [S, S] of each test image, in memory or read one by one.  sizes: width and height of each image.
    channels: the mask files of each image, none where it is good; kinds: `good`, `logical_anomalies`, ...  saturations:
    of every defect in the object's defects_config.json.  Raises UserError naming a file that is no mask of one defect,
    has another size than its image, or holds a value without a saturation.
    """
    value = ignore.value if ignore else None
    regions = LazySequence(
        len(maps),
        lambda i: [read_region(file, sizes[i], saturations, value) for file in channels[i]],  # type: ignore[arg-type,return-value]
    )
    ignored = ignore and LazySequence(len(maps), lambda i: read_ignored(channels[i], sizes[i], ignore))
    enlarged = LazySequence(len(maps), lambda i: enlarge_map(np.asarray(maps[i]), *sizes[i][::-1]))
    return spro_metrics(enlarged, regions, kinds, ignored=ignored, threads=threads)  # type: ignore[arg-type]


def read_ignored(files: Sequence[Path], size: tuple[int, int], ignore: Ignore) -> np.ndarray:
    """Return what is ignored in an image of this width and height, bool [H, W].  files: its channels, if any."""
    shape = size[1], size[0]
    marks = read_marks(tuple(files), shape, (), ignore.value) if files else np.zeros(shape, np.uint8)
    found: np.ndarray = ignore.mark(marks) == IGNORED
    return found


def read_region(file: Path, size: tuple[int, int], saturations: Saturation, ignore_value: int | None = None) -> Region:
    """Return the defect that a file marks; errors are those of `spro_of_files`.

    ignore_value: of pixels that are none; a file that has no others gives a region of them, which does not count.
    """
    try:
        with Image.open(file) as image:
            values, mode, found = np.asarray(image), image.mode, image.size
    except Exception as error:  # decoders raise nearly anything on a damaged file
        raise UserError(str(file), f"cannot be read as a mask: {error}") from error
    if mode != "L" or found != size:
        what = f"has {found[0]} x {found[1]} pixels of mode {mode}; 8-bit grey of {size[0]} x {size[1]} is needed"
        raise UserError(str(file), what)
    marks = [value for value in np.unique(values).tolist() if value not in (0, ignore_value)]
    if not marks and ignore_value in values:
        return Region(values, 1)
    if len(marks) != 1:
        raise UserError(str(file), f"marks {len(marks)} defects ({', '.join(map(str, marks[:5]))}); one is needed")
    if marks[0] not in saturations:
        known = ", ".join(map(str, sorted(saturations)))
        what = f"marks the value {marks[0]}, which defects_config.json does not have; it has {known}"
        raise UserError(str(file), what)
    region = Region(values, *saturations[marks[0]])
    try:
        saturation(int(np.count_nonzero(values)), region.threshold, region.relative)
    except ValueError as error:
        raise UserError(str(file), str(error)) from error
    return region
