"""Read one image or mask as it is, or raise an error that says what is wrong with the file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from anomaly_bench.errors import UserError
from anomaly_bench.loading.image_files import is_16_bit, is_rotated
from anomaly_bench.records import Mask

READING = "images are turned as their EXIF orientation says; an alpha channel is dropped, a palette looked up"
ANOMALOUS, IGNORED = 1, 2  # of a pixel in marks; 0: normal


def read_image(source: Path | np.ndarray, content: bytes | None = None, white: int | None = None) -> np.ndarray:
    """Read any image file, or uint8 or uint16 [H, W] or [H, W, 3], as uint8 [H, W, 3] RGB.

    content: the file's bytes, where they are known already; it is then not read.  white: 16-bit values come as uint16
    [H, W, 3] such that this one and all above it are 65535; None scales them to 8 bits (65535 to 255).
    `READING` is the rule.  Raises UserError naming the file: unreadable, truncated, several pages, float or 32-bit
    values.
    """
    if isinstance(source, np.ndarray):
        return _scaled(_rgb_array(source), white)
    image = _open(source, content)
    if is_16_bit(image):
        return _scaled(_rgb_array(np.asarray(image).astype(np.uint16)), white)
    if image.mode in ("I", "F"):
        raise UserError(str(source), f"has 32-bit values (mode {image.mode}); 8 or 16 bits for a channel are read")
    return np.array(_rgb(image, source))


def read_mask(source: Mask, shape: tuple[int, int], contents: Sequence[bytes] = ()) -> np.ndarray:
    """Read a mask file or array as bool [H, W]: any value but 0 is anomalous.  Of several files it is the union.

    In colour and palette files any colour but black counts, as one sees it; alpha is ignored.
    shape: H, W of the image.  contents: the bytes of each file, where they are known already.  Raises UserError naming
    the file when it is unreadable, of another size or not finite.
    """
    return read_marks(source, shape, contents).view(np.bool_)  # 0 and 1 only


def read_marks(
    source: Mask, shape: tuple[int, int], contents: Sequence[bytes] = (), ignore_value: int | None = None
) -> np.ndarray:
    """Read a mask as uint8 [H, W]: 0 is normal, ANOMALOUS as of `read_mask`, IGNORED a pixel of `ignore_value`.

    A colour has that value where each of its channels has it.  Of several files a pixel is ignored where any says so.
    Raises UserError as `read_mask`, and where there is such a value for floating-point numbers.
    """
    if isinstance(source, tuple):
        parts = [read_marks(file, shape, contents[i : i + 1], ignore_value) for i, file in enumerate(source)]
        return np.asarray(np.maximum.reduce(parts))
    content = contents[0] if contents else None
    name = "mask" if isinstance(source, np.ndarray) else str(source)
    values = source if isinstance(source, np.ndarray) else read_values(source, content)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise UserError(name, "the mask holds values that are not finite")
    mask = np.asarray(values.any(axis=2) if values.ndim == 3 else values != 0)
    if mask.shape != tuple(shape):
        sizes = [f"{s[1]} x {s[0]}" for s in (mask.shape, shape)]
        raise UserError(name, f"the mask has {sizes[0]} pixels, its image {sizes[1]}")
    marks = mask.view(np.uint8)
    if ignore_value is not None:
        if values.dtype.kind == "f":
            raise UserError(name, f"the mask holds floating-point numbers; {ignore_value} is ignored in integers only")
        equal = values == ignore_value
        marks = np.where(equal.all(axis=2) if values.ndim == 3 else equal, np.uint8(IGNORED), marks)
    return marks


def read_values(file: Path, content: bytes | None = None) -> np.ndarray:
    """Return the values of a mask file as they are stored, [H, W], or of its colours, [H, W, 3]; alpha is ignored.

    content: as of `read_image`.  Raises UserError naming a file that is unreadable.
    """
    return _mask_values(_open(file, content), file)


def _open(path: Path, content: bytes | None = None) -> Image.Image:
    try:
        with Image.open(path if content is None else io.BytesIO(content)) as image:
            rotated = is_rotated(image)
            image.load()
            pages = getattr(image, "n_frames", 1)
            if rotated:
                image = ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise UserError(str(path), "cannot be read as an image: cannot identify image file") from error
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        raise UserError(str(path), f"cannot be read as an image: {error}") from error
    if pages > 1:
        raise UserError(str(path), f"holds {pages} images; one image in a file is read")
    return image


def _rgb(image: Image.Image, path: Path) -> Image.Image:
    """Return the colours as they are, without regard to an alpha channel or a transparent palette entry."""
    try:
        return (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")
    except ValueError as error:
        raise UserError(str(path), f"has colours of mode {image.mode}, which cannot be read: {error}") from error


def _mask_values(image: Image.Image, path: Path) -> np.ndarray:
    if image.mode in ("LA", "La"):
        return np.asarray(image.getchannel(0))
    single = image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;16")
    return np.asarray(image if single else _rgb(image, path))


def to_8_bits(image: np.ndarray) -> np.ndarray:
    """Return uint8 of an image uint8 or uint16, to look at it: 65535 = 255 * 257 becomes 255, rounded to nearest."""
    return image if image.dtype == np.uint8 else ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _scaled(image: np.ndarray, white: int | None) -> np.ndarray:
    """Return uint8 as it is, and uint16 as `read_image` says."""
    if white is None or image.dtype == np.uint8:
        return to_8_bits(image)
    scaled = np.minimum(image, white).astype(np.uint32) * 65535 + white // 2
    return (scaled // white).astype(np.uint16)


def _rgb_array(array: np.ndarray) -> np.ndarray:
    """Return uint8 or uint16 [H, W] or [H, W, 3] as [H, W, 3]."""
    known = array.dtype in (np.uint8, np.uint16) and array.size
    if not known or not (array.ndim == 2 or array.shape[2:] == (3,)):
        what = f"is {array.dtype} {list(array.shape)}; uint8 or uint16 [H, W] or [H, W, 3] is read"
        raise UserError("image array", what)
    return np.repeat(array[:, :, None], 3, axis=2) if array.ndim == 2 else array
