"""From a data set's images to what a method sees of them, and back: sizes, padding, tiles."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from anomaly_bench.config import Images
from anomaly_bench.contracts import Method, Record, Scores, Size, as_size
from anomaly_bench.errors import UserError
from anomaly_bench.loading.decode import READING, read_image
from anomaly_bench.loading.frame import Frame, same_pixels
from anomaly_bench.loading.ignore import Ignore
from anomaly_bench.loading.image_files import expand_user, has_16_bits, width_and_height
from anomaly_bench.loading.tiles import Tiling
from anomaly_bench.nets.blocks import blocks

DISTORTED = 1.5  # from here on a change of the aspect ratio is spoken of
LOOKED_AT = 8  # training images whose largest 16-bit value is looked for


@dataclass(frozen=True)
class View:
    """How a run's images come to its method.

    frame: of the whole image, in which its map and mask are.  tiling: what the method sees of it; None: all of it.
    aspects: least, median and largest width / height of the training images; of nothing where they are not known.
    requested_fit: `dataset.fit`.  brightest: 16-bit value of some training images; None where they have 8 bits.
    """

    frame: Frame
    tiling: Tiling | None = None
    aspects: tuple[float, float, float] | None = None
    requested_fit: str = "squash"
    brightest: int | None = None

    @property
    def seen(self) -> Size:
        """Height and width of what the method sees."""
        return self.tiling.size if self.tiling else self.frame.size

    def record(self) -> dict[str, Any]:
        """Return what a manifest says of it; `stored_view` reads it."""
        tiles = {"size": self.tiling.size, "overlap": self.tiling.overlap} if self.tiling else None
        known = {key: getattr(self.frame, key) for key in ("size", "fit", "white")}
        return {"image_size": self.seen, "frame": {**known, "tiles": tiles}}

    def sentences(self) -> list[str]:
        """Return what a run's protocol says of it."""
        ways = {"squash": "resized to {}", "pad": "padded to {}", "crop": "cropped at the centre to {}"}
        shape = ", the training images' aspect ratio" if self.requested_fit == "aspect" and not self.distortion else ""
        line = f"images {ways[self.frame.fit].format(self.frame)} (height x width, bilinear{shape}); "
        line += "a mask pixel counts from half coverage on, no defect is lost"
        lines = [line, f"{READING}; 16-bit grey keeps its depth, {self.frame.white} is white"]
        if self.tiling:
            count, size = len(self.tiling.corners(self.frame.size)), Frame(self.tiling.size)
            lines.append(
                f"each image is seen as {count} tiles of {size}; its map is their mean, weighted by the distance from "
                "their borders, its score the largest of theirs"
            )
        return lines + [each for each in (self.distortion, self.exposure) if each]

    @property
    def exposure(self) -> str:
        """A sentence where 16-bit images use less than a quarter of what `dataset.white` allows, or more than it."""
        brightest, white = self.brightest, self.frame.white
        if brightest is None or white is None or white // 4 < brightest <= white:
            return ""
        fitting = min(65535, 2 ** max(8, brightest.bit_length()) - 1)
        return (
            f"the brightest 16-bit value of the training images looked at is {brightest}, and {white} is white: they "
            f"are seen {'dark' if brightest < white else 'cut off'}; dataset.white={fitting} takes all of it"
        )

    @property
    def distortion(self) -> str:
        """A sentence where images lose much of their aspect ratio, else an empty string."""
        if self.aspects is None or self.frame.fit != "squash":
            return ""
        height, width = self.frame.size
        change = max(max(a * height / width, width / height / a) for a in self.aspects)
        if change <= DISTORTED:
            return ""
        low, _, high = self.aspects
        spread = f"{low:.2f}" if high / low < 1.05 else f"{low:.2f} to {high:.2f}"
        return (
            f"images of aspect ratio {spread} were squashed to {width / height:.2f} (width / height); "
            "dataset.fit=aspect, pad or crop, or dataset.tiles, keep their shape"
        )


def view_of(images: Images, method: Method, training: Sequence[Record]) -> View:
    """Return how the images of a data set come to a method.  images: the keys of conf/images.yaml.

    Raises UserError for tiles that are larger than the images, for tiles of images that are padded or cropped, and for
    a mask of what is ignored that cannot be used.
    """
    view, file = _shape_of(images, method, training), images.ignore_mask
    ignore = Ignore.of(images.ignore_value, expand_user(file) if file else None)
    return view if ignore is None else replace(view, frame=replace(view.frame, ignore=ignore))


def _shape_of(images: Images, method: Method, training: Sequence[Record]) -> View:
    seen, white = as_size(method.image_size), images.white
    sizes = [size for record in training if (size := width_and_height(record.image))]
    if not sizes:  # no header can be read: the decoder will name the file
        return View(Frame(seen, white=white))
    brightest = _brightest(training)
    ratios = sorted(width / height for width, height in sizes)
    aspects = ratios[0], ratios[len(ratios) // 2], ratios[-1]
    if images.tiles.size:
        if images.fit not in ("squash", "aspect"):
            what = f"{images.fit} given together with dataset.tiles.size, which keep the shape of whole images"
            raise UserError("dataset.fit", what, "squash")
        return replace(_tiled(images, seen, sizes, aspects), brightest=brightest)
    if images.fit == "aspect":
        size = seen
        if method.size_step and seen[0] == seen[1]:  # height and width that were given stay as they are
            size = same_pixels(round(math.sqrt(math.prod(size))), aspects[1], method.size_step)
        return View(Frame(size, white=white), None, aspects, "aspect", brightest)
    return View(Frame(seen, images.fit, white), None, aspects, images.fit, brightest)


def _brightest(training: Sequence[Record]) -> int | None:
    """Return the largest 16-bit value of some of the training images, evenly spaced; None where they have 8 bits."""
    some = [training[i] for i in np.linspace(0, len(training) - 1, min(LOOKED_AT, len(training))).astype(int)]
    deep = [record.image for record in some if has_16_bits(record.image)]
    with suppress(UserError):  # the decoder will name the file
        return max(int(read_image(image, white=65535).max()) for image in deep) if deep else None
    return None


def _tiled(images: Images, seen: Size, sizes: Sequence[tuple[int, int]], aspects: tuple[float, float, float]) -> View:
    tile = images.tiles.size
    h, w = (tile, tile) if isinstance(tile, int) else tile or seen
    width, height = (int(np.median(column)) for column in zip(*sizes, strict=True))
    if h > height or w > width:
        what = f"tiles of {h} x {w} pixels given, the training images have {height} x {width} (height x width)"
        raise UserError("dataset.tiles.size", what, "smaller tiles, or null: none")
    whole = round(height * seen[0] / h), round(width * seen[1] / w)
    return View(Frame(whole, white=images.white), Tiling(seen, images.tiles.overlap), aspects)


def stored_view(manifest: Mapping[str, Any], method: Method, ignore: Ignore | None) -> View:
    """Return a finished run's view from its manifest and `stored_ignore`; earlier versions squashed every image."""
    tiles = manifest.get("frame", {}).get("tiles")
    tiling = Tiling(as_size(tuple(tiles["size"])), tiles["overlap"]) if tiles else None
    return View(replace(Frame.stored(manifest, as_size(method.image_size)), ignore=ignore), tiling)


def score_whole(
    view: View, score: Callable[[Tensor], Scores], images: Tensor, shapes: Sequence[Size], batch_size: int
) -> Scores:
    """Score whole images [B, 3, H, W] in the view's frame by their tiles, and bring padded maps back to the image.

    score: of what a method sees.  shapes: height and width of the files, [B].  batch_size: tiles scored together.
    """
    tiling = view.tiling
    if tiling:
        tiles = tiling.cut(images)  # [T, B, 3, h, w]
        parts = [score(some) for some in blocks(tiles.flatten(0, 1), batch_size)]
        found = _merged(parts, tiling, images.shape[0], view.frame.size)
    else:
        found = score(images)
    return restored(found, view.frame, shapes)


def _merged(parts: Sequence[Scores], tiling: Tiling, count: int, whole: Size) -> Scores:
    """Return the scores of `count` images from those of their tiles, T x count of them in batches."""
    image = torch.cat([part.image for part in parts]).view(-1, count).amax(0)
    maps = None
    if parts[0].map is not None:
        together = torch.cat([part.map for part in parts if part.map is not None])
        maps = tiling.merge(together.view(-1, count, *together.shape[1:]), whole)
    names = parts[0].components or {}
    components = {name: _merged([(p.components or {})[name] for p in parts], tiling, count, whole) for name in names}
    return Scores(image, maps, components or None)


def restored(found: Scores, frame: Frame, shapes: Sequence[Size]) -> Scores:
    """Return scores whose maps show the images alone, at the frame's size, where they were padded."""
    if frame.fit != "pad":
        return found
    maps = found.map
    if maps is not None:
        inside = [each[frame.filled(shape)][None, None] for each, shape in zip(maps, shapes, strict=True)]
        up = [F.interpolate(each, frame.size, mode="bilinear", align_corners=False)[0, 0] for each in inside]
        maps = torch.stack(up)
    components = {name: restored(each, frame, shapes) for name, each in (found.components or {}).items()}
    return Scores(found.image, maps, components or None)
