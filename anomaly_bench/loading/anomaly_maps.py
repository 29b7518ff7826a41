"""Anomaly maps in files: TIFF, NPY or PNG of any program, and the maps of a run.  One image is in memory at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
from PIL import Image, PngImagePlugin

from anomaly_bench.errors import UserError
from anomaly_bench.loading.decode import read_marks
from anomaly_bench.loading.frame import Frame
from anomaly_bench.loading.resize import resize_marks
from anomaly_bench.records import Size

SUFFIXES = (".tiff", ".tif", ".npy", ".png")  # compared in lower case
GREY = ("L", "I", "I;16", "I;16B")  # Pillow's modes of a PNG with 8 or 16 bits; before 11.3 it said "I"
OFFSET, SCALE = "score_offset", "score_scale"  # text chunks of a PNG: score = offset + scale * value


class LazySequence(Sequence[np.ndarray]):
    """A sequence of `count` arrays, each read when it is accessed: `read` gets its index, also in several threads."""

    def __init__(self, count: int, read: Callable[[int], np.ndarray]) -> None:
        self._count, self._read = count, read

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        return self._read(range(self._count)[index])


class Rounding(NamedTuple):
    """How maps are stored as float16: map = offset + scale * stored."""

    offset: float  # the smallest value of all maps
    scale: float  # a power of two, which rounds nothing; with it the largest stored value is in (2^14, 2^15]

    @classmethod
    def of(cls, maps: Iterable[np.ndarray]) -> Rounding:
        """Return the one for finite maps [H, W] of any range."""
        ends = [(float(values.min()), float(values.max())) for values in maps]
        low, high = min(low for low, _ in ends), max(high for _, high in ends)
        return cls(low, 2.0 ** (math.ceil(math.log2(high - low)) - 15) if high > low else 1.0)

    def store(self, values: np.ndarray) -> np.ndarray:
        """Return a map as float16.  Order is kept; values nearer than 1 part in 2048 of their height above the smallest
        one may become equal."""
        return ((values.astype(np.float64) - self.offset) / self.scale).astype("<f2")

    def load(self, stored: np.ndarray) -> np.ndarray:
        """Return a stored map as float32."""
        return (self.offset + self.scale * stored.astype(np.float64)).astype(np.float32)


def write_rounded(file: IO[bytes], maps: Sequence[np.ndarray] | np.ndarray) -> Rounding:
    """Write N maps [H, W] as a .npy file, float16 [N, H, W], one after the other, and return how they are stored."""
    rounding, shape = Rounding.of(maps), (len(maps), *maps[0].shape)
    np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
    for values in maps:
        file.write(rounding.store(values).tobytes())
    return rounding


class RoundedMaps(LazySequence):
    """The maps of a .npy file of float16, float32 [H, W], each when it is accessed; an array [N, H, W] to NumPy."""

    def __init__(self, stored: Sequence[np.ndarray] | np.ndarray, rounding: Rounding) -> None:
        super().__init__(len(stored), lambda i: rounding.load(np.asarray(stored[i])))
        self.shape: tuple[int, ...] = (len(stored), *stored[0].shape)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.stack(list(self)).astype(dtype or np.float32)


def lazy_rows(mapped: np.memmap) -> LazySequence:
    """Return the arrays [...] of a memory map [N, ...] without the map, whose pages would count as memory in use."""
    file, start, dtype, (count, *shape) = str(mapped.filename), mapped.offset, mapped.dtype, mapped.shape
    values = math.prod(shape)

    def read(index: int) -> np.ndarray:
        offset = start + index * values * dtype.itemsize
        return np.fromfile(file, dtype, values, offset=offset).reshape(shape)

    return LazySequence(count, read)


def open_stored_maps(file: Path, stored: Mapping[str, Any] | None = None) -> LazySequence:
    """Return the maps [H, W] of a .npy file [N, H, W]; of float16 as float32.

    stored: `maps` of the run's manifest.  Raises UserError naming a file that holds something else.
    """
    try:
        mapped = np.load(file, mmap_mode="r")  # for its header only
    except (OSError, ValueError, EOFError) as error:
        raise UserError(str(file), f"cannot be read: {error}") from error
    if not isinstance(mapped, np.memmap) or mapped.ndim != 3 or not mapped.size or not mapped.flags.c_contiguous:
        raise UserError(str(file), f"holds no maps [N, H, W] in rows, but {getattr(mapped, 'shape', 'something else')}")
    rows = lazy_rows(mapped)
    return rows if mapped.dtype != np.float16 else RoundedMaps(rows, rounding_of(file, stored))


def rounding_of(file: Path, stored: Mapping[str, Any] | None) -> Rounding:
    """Return what a manifest holds of maps in float16.  Raises UserError where no run can have written it."""
    try:
        offset, scale = (float((stored or {})[key]) for key in Rounding._fields)
        if math.isfinite(offset) and 0 < scale < math.inf:
            return Rounding(offset, scale)
        raise ValueError
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(str(file), f"is float16, and the manifest's `maps` is {stored}, no offset and scale") from error


def read_map(file: Path) -> np.ndarray:
    """Read float16, 32, 64 or integer scores [H, W], as they are in the file; those of `write_png16` with their scale.

    Raises UserError naming the file: unreadable, a picture, several maps, no real numbers, or a score that is not
    finite (with its row and column).
    """
    read = {".npy": _npy, ".png": _png}.get(file.suffix.lower(), _tiff)
    try:
        scores = read(file)
    except UserError:
        raise
    except Exception as error:  # decoders raise nearly anything on a damaged file
        raise UserError(str(file), f"cannot be read as an anomaly map: {error}") from error
    if scores.ndim != 2 or not scores.size:
        raise UserError(str(file), f"has the shape {list(scores.shape)}; one map [H, W] is read")
    if scores.dtype.kind not in "iuf":
        raise UserError(str(file), f"holds values of type {scores.dtype}; integers or floating-point numbers are read")
    finite = np.isfinite(scores)
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        value = f"score {scores[row, column]} at row {row}, column {column}"
        raise UserError(str(file), f"{value}; every score must be finite")
    return scores


def read_marks_for(
    source: Path | tuple[Path, ...], shape: tuple[int, int], resize: bool, ignore_value: int | None = None
) -> np.ndarray:
    """Read a mask as `read_marks` does, uint8 [H, W] of its map's shape; resize: bring it to that size as runs do.

    Raises UserError naming a file that is unreadable or has another size.
    """
    found = mask_shape(source if isinstance(source, Path) else source[0], shape, resize)
    marks = read_marks(source, found, (), ignore_value)
    return marks if found == shape else resize_marks(marks, shape)


def mask_shape(file: Path, shape: tuple[int, int], resize: bool) -> tuple[int, int]:
    """Return H, W of a mask file, from its header.  Raises UserError for a size that `read_marks_for` refuses."""
    try:
        with Image.open(file) as image:
            found = image.size[::-1]
    except Exception as error:
        raise UserError(str(file), f"cannot be read as an image: {error}") from error
    sizes = "the mask has {1} x {0} pixels, its map {3} x {2}".format(*found, *shape)
    if found != shape and not resize:
        raise UserError(str(file), sizes, "--resize-masks brings the masks to the maps' size, as runs do")
    if found != shape and shape[0] != shape[1]:
        raise UserError(str(file), f"{sizes}; masks are resized to square maps only")
    return found


def write_map(file: Path | IO[bytes], scores: np.ndarray, dtype: type = np.float32) -> None:
    """Write scores [H, W] as a TIFF of float32 or float16, uncompressed."""
    import tifffile

    tifffile.imwrite(file, scores.astype(dtype), photometric="minisblack", metadata=None)


def enlarge_map(scores: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a map float32 [H, W] at another size, float32 [height, width], bilinear."""
    import torch

    small = torch.from_numpy(scores)[None, None]
    found = torch.nn.functional.interpolate(small, (height, width), mode="bilinear", align_corners=False)
    return found[0, 0].numpy()


def map_at_source(scores: np.ndarray, frame: Frame, shape: Size) -> np.ndarray:
    """Return a map float32 [H, W] in `frame` at the size of its image, float32 [h, w], bilinear.

    Where the frame shows a central part only (`crop`), the rest has the map's lowest value.
    """
    whole = np.full(shape, scores.min(), np.float32)
    part = whole[frame.taken(shape)]  # a view
    part[:] = enlarge_map(scores, *part.shape)
    return whole


def write_png16(file: IO[bytes], scores: np.ndarray) -> None:
    """Write finite scores [H, W] as a grey PNG of 16 bits: 0 is the smallest score, 65535 the largest one.

    The text chunks `score_offset` and `score_scale` bring the scores back, to half a step of 1 / 65535 of their range:
    score = offset + scale * value.
    """
    values = scores.astype(np.float64)
    offset = float(values.min())
    scale = (float(values.max()) - offset) / 65535
    steps = np.rint((values - offset) / scale) if scale else np.zeros_like(values)
    chunks = PngImagePlugin.PngInfo()
    for key, value in ((OFFSET, offset), (SCALE, scale)):
        chunks.add_text(key, repr(value))
    Image.fromarray(steps.astype(np.uint16)).save(file, "PNG", pnginfo=chunks)


def _tiff(file: Path) -> np.ndarray:
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        if len(tiff.pages) > 1:
            raise UserError(str(file), f"holds {len(tiff.pages)} pages; one map in a file is read")
        page = tiff.pages.first
        if page.samplesperpixel > 1 or page.photometric == tifffile.PHOTOMETRIC.PALETTE:
            raise UserError(str(file), f"is a picture ({page.photometric.name}), not scores")
        return np.asarray(page.asarray())


def _npy(file: Path) -> np.ndarray:
    return np.asarray(np.load(file, allow_pickle=False))


def _png(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        if image.mode not in GREY:
            raise UserError(str(file), f"is a picture ({image.mode}), not scores; grey with 8 or 16 bits is read")
        values = np.asarray(image)
        if OFFSET in image.info and SCALE in image.info:
            return float(image.info[OFFSET]) + float(image.info[SCALE]) * values.astype(np.float64)
        return values
