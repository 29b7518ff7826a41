"""Images and masks to another size, as the papers' code does it, with the same pixels in every version of Pillow."""

from __future__ import annotations

import numpy as np
from PIL import Image
from scipy import ndimage

from anomaly_bench.loading.decode import ANOMALOUS, IGNORED
from anomaly_bench.records import Size, as_size

# Version of the rule that `resize_bilinear` follows.  1 was both axes in one call, which begins with the width in
# Pillow up to 12.1, but with the height where an image is very tall (12.2) or its height shrinks much more (13).
RESIZE_RULE = 2
EIGHT = np.ones((3, 3), dtype=bool)  # neighbours of a pixel, diagonal ones too, as in the per-region-overlap metrics


def resize_bilinear(
    image: Image.Image, width: int, height: int, box: tuple[float, float, float, float] | None = None
) -> Image.Image:
    """Return an image of width x height pixels: bilinear with antialiasing, the width first, then the height.

    Each call resizes one axis, and rounds to 8 bits what has 8 bits, because the order of two axes in one call depends
    on Pillow's version.  box: left, top, right and bottom of the part that is resized, in pixels; None: all of it.
    """
    left, top, right, bottom = np.array(box or (0, 0, *image.size), np.float32).tolist()  # as precise as in Pillow
    reach = max(1, (bottom - top) / height)  # rows outside the box that the filter weighs too
    first, last = max(0, int(top - reach)), min(image.height, int(bottom + reach) + 1)
    rows = image.resize((width, last - first), Image.Resampling.BILINEAR, (left, first, right, last))
    return rows.resize((width, height), Image.Resampling.BILINEAR, (0, top - first, width, bottom - first))


def resize_image(image: np.ndarray, size: Size | int) -> np.ndarray:
    """Resize uint8 [h, w, 3] to uint8 [H, W, 3]: bilinear with antialiasing, whatever the aspect ratio.

    size: H, W, or the side of a square.  As the code of Reverse Distillation and most of the field do: torchvision's
    Resize((S, S)) on a PIL image, with Pillow up to 12.1.  uint16 becomes uint16, rounded once at the end.
    """
    height, width = as_size(size)
    if image.dtype == np.uint8:
        return np.array(resize_bilinear(Image.fromarray(image), width, height))
    channels = (Image.fromarray(image[..., c].astype(np.float32)) for c in range(3))
    deep = np.stack([np.asarray(resize_bilinear(channel, width, height)) for channel in channels], 2)
    return deep.round().clip(0, 65535).astype(np.uint16)


def resize_mask(mask: np.ndarray, size: Size | int) -> np.ndarray:
    """Resize bool [h, w] to bool [H, W]: bilinear coverage > 0.5 as in Reverse Distillation's code, no defect lost.

    That rule alone makes thin scratches vanish or fall apart, and every piece would count as a region.  So each
    8-connected component that would not become exactly one piece is instead drawn as every target pixel that one of its
    pixels falls into; the others follow the rule to the bit.
    """
    size = as_size(size)
    labels, count = ndimage.label(mask, structure=EIGHT)
    broken = [i for i in range(1, count + 1) if ndimage.label(_coverage(labels == i, size), structure=EIGHT)[1] != 1]
    thin = np.isin(labels, broken)
    return _coverage(mask & ~thin, size) | _footprint(thin, size)


def resize_marks(marks: np.ndarray, size: Size | int) -> np.ndarray:
    """Resize marks uint8 [h, w], as `read_marks` returns them, to uint8 [H, W].

    A pixel is ignored as soon as an ignored one falls into it, or more than half of it is covered by such; the others
    are those of `resize_mask`.
    """
    size, ignored = as_size(size), marks == IGNORED
    found = resize_mask(marks == ANOMALOUS, size).astype(np.uint8)
    if ignored.any():
        found[_footprint(ignored, size) | _coverage(ignored, size)] = IGNORED
    return found


def _coverage(mask: np.ndarray, size: Size) -> np.ndarray:
    """Return bool [H, W] of a mask bool [h, w]: where more than half is covered under PIL's bilinear filter."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(resize_bilinear(grey, size[1], size[0])) > 127


def _footprint(mask: np.ndarray, size: Size) -> np.ndarray:
    """Return bool [H, W] of a mask bool [h, w]: each target pixel that a pixel falls into; connections stay."""
    (from_y, to_y), (from_x, to_x) = (_pairs(n, target) for n, target in zip(mask.shape, size, strict=True))
    y, x = np.nonzero(mask[np.ix_(from_y, from_x)])
    out = np.zeros(size, dtype=bool)
    out[to_y[y], to_x[x]] = True
    return out


def _pairs(n: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (source, target) indices along an axis that belong together: the centre of the smaller pixel is in the
    larger."""
    small = np.arange(max(n, size))
    large = (2 * small + 1) * min(n, size) // (2 * max(n, size))
    return (small, large) if n >= size else (large, small)
