"""How an image of any size is brought to the one size that a method sees, and where its anomaly map belongs.

squash: the whole image, whatever becomes of its aspect ratio.  pad: the whole image with its aspect ratio, centred, the
rest in ImageNet's mean colour.  crop: its largest central part with the aspect ratio that is needed.  Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from anomaly_bench.errors import UserError
from anomaly_bench.loading.decode import IGNORED, read_image, to_8_bits
from anomaly_bench.loading.ignore import KEY, Ignore
from anomaly_bench.loading.resize import resize_image, resize_marks, resize_mask
from anomaly_bench.records import Size, as_size

Fit = Literal["squash", "pad", "crop"]
FITS: tuple[Fit, ...] = get_args(Fit)
FILL = (124, 116, 104)  # ImageNet's mean colour, which backbones see as 0
WHITE = 65535  # the largest value of 16-bit grey
Box = tuple[slice, slice]  # rows, columns


@dataclass(frozen=True)
class Frame:
    """The size that a method sees, how images come to it, and what is ignored in them."""

    size: Size
    fit: Fit = "squash"
    white: int | None = WHITE  # of 16-bit grey, as of `read_image`; None: 8 bits, as earlier versions read it
    ignore: Ignore | None = None

    @classmethod
    def of(cls, size: Frame | Size | int) -> Frame:
        """Return a frame as it is, and `squash` for a size."""
        return size if isinstance(size, Frame) else cls(as_size(size))

    @classmethod
    def stored(cls, manifest: Mapping[str, Any], size: Sequence[int]) -> Frame:
        """Return the frame of a run by its manifest.  size: of earlier versions' maps, which were always squashed."""
        known = manifest.get("frame") or {"size": size, "fit": "squash"}
        height, width = map(int, known["size"])
        return cls((height, width), known["fit"], known.get("white"))

    @property
    def key(self) -> int | list[int | str]:
        """What the pixels depend on: the side of a square that is squashed, else all of it."""
        height, width = self.size
        white = [] if self.white == WHITE else [f"white {self.white}"]
        plain = height == width and self.fit == "squash" and not white
        return height if plain else [height, width, *([] if self.fit == "squash" else [self.fit]), *white]

    def __str__(self) -> str:
        """`256 x 256`, height x width."""
        return "{} x {}".format(*self.size)

    def read(self, source: Path | np.ndarray, content: bytes | None = None) -> np.ndarray:
        """Return an image as it is, [h, w, 3]: uint8, or uint16 where it has 16 bits; see `read_image`."""
        return read_image(source, content, self.white)

    def image(self, pixels: np.ndarray, name: str = "an image") -> np.ndarray:
        """Return [H, W, 3] of an image [h, w, 3], both uint8 or uint16, its ignored region in the padding's colour.

        Raises UserError with the image's name where the region has another size.
        """
        colour = np.array(FILL, pixels.dtype) * (np.iinfo(pixels.dtype).max // 255)
        if self.ignore:
            pixels = self.ignore.fill(pixels, colour, name)
        if self.fit != "pad":
            return resize_image(pixels[self.taken(pixels.shape)], self.size)
        box = self.filled(pixels.shape)
        out = np.empty((*self.size, 3), pixels.dtype)
        out[:] = colour
        out[box] = resize_image(pixels, (box[0].stop - box[0].start, box[1].stop - box[1].start))
        return out

    def mask(self, mask: np.ndarray) -> np.ndarray:
        """Return bool [H, W] of a mask bool [h, w], where `picture` and the anomaly map have their pixels."""
        return resize_mask(mask[self.taken(mask.shape)], self.size)

    def marks(self, marks: np.ndarray) -> np.ndarray:
        """Return uint8 [H, W] of a mask's marks uint8 [h, w], as `mask`; the ignored region is marked too."""
        marks = marks if self.ignore is None else self.ignore.mark(marks)
        return resize_marks(marks[self.taken(marks.shape)], self.size)

    @cached_property
    def ignored_region(self) -> np.ndarray | None:
        """Where in the frame all images have the ignored region, bool [H, W]; None without one.

        Raises UserError where it leaves nothing of the frame.
        """
        if self.ignore is None or self.ignore.region is None:
            return None
        region: np.ndarray = self.marks(np.zeros(self.ignore.region.shape, np.uint8)) == IGNORED
        if region.all():
            raise UserError(KEY, f"{self.ignore.file} leaves no pixel at {self} pixels", "a smaller region")
        return region

    def picture(self, image: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """Return uint8 [H, W, 3] of what `image` returned for an image of shape h, w, without its padding."""
        image = to_8_bits(image)
        return resize_image(image[self.filled(shape)], self.size) if self.fit == "pad" else image

    def taken(self, shape: Sequence[int]) -> Box:
        """Return which rows and columns of an image of shape h, w are used: all, but of `crop`."""
        if self.fit != "crop":
            return slice(0, shape[0]), slice(0, shape[1])
        scale = min(shape[0] / self.size[0], shape[1] / self.size[1])
        return _centred(shape, [scale * n for n in self.size])

    def filled(self, shape: Sequence[int]) -> Box:
        """Return where in the frame an image of shape h, w lies: everywhere, but of `pad`."""
        if self.fit != "pad":
            return slice(0, self.size[0]), slice(0, self.size[1])
        scale = min(self.size[0] / shape[0], self.size[1] / shape[1])
        return _centred(self.size, [scale * shape[0], scale * shape[1]])


def _centred(shape: Sequence[int], part: Sequence[float]) -> Box:
    """Return the central rows and columns, `part` of them, rounded, at least one."""
    count = [min(n, max(1, round(share))) for n, share in zip(shape, part, strict=False)]
    first = [(n - c) // 2 for n, c in zip(shape, count, strict=False)]
    return slice(first[0], first[0] + count[0]), slice(first[1], first[1] + count[1])


def same_pixels(budget: int, aspect: float, step: int) -> Size:
    """Return the size in multiples of `step` with about budget x budget pixels and this aspect ratio, width / height.

    An error of the aspect ratio counts twice as much as one of the number of pixels.

    >>> same_pixels(256, 2.5, 16)
    (160, 400)
    """
    steps = [math.floor(budget / aspect**0.5 / step) * step, math.floor(budget * aspect**0.5 / step) * step]
    heights, widths = ([max(step, n), n + step] for n in steps)

    def error(size: Size) -> float:
        height, width = size
        return abs(math.log(height * width / budget**2)) + 2 * abs(math.log(width / height / aspect))

    return min(product(heights, widths), key=error)
