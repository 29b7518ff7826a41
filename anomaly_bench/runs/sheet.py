"""How a heat map is drawn: colours, outlines, and the picture with its panels and caption."""

from __future__ import annotations

from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anomaly_bench.runs.mistakes import Caption

# Inferno (van der Walt, Smith, Firing; CC0) at ten equal steps: lightness rises evenly from black to a pale yellow.
ANCHORS = "000004 1b0c42 4b0c6b 781c6d a52c60 cf4446 ed6925 fb9a06 f7d03c fcffa4"
SMALLEST, LARGEST = 192, 512  # pixels; smaller maps are shown in larger pixels, larger ones shrunk
CYAN, BLACK, GREY, RED = (0, 255, 255), (0, 0, 0), (90, 90, 90), (190, 0, 0)
GAP, HEADER, FOOTER, BAR = 8, 20, 60, 70  # pixels: between panels, above, below, right of them
IMAGE, OUTLINED, HATCHED = "image", "defect outlined", "ignored pixels hatched"
OWN, SHARED = "map, its own scale", "map, one scale for all images"
PANELS = "panels"  # text chunk of a picture: the names of its panels; earlier versions wrote none
FORMER_PANELS = f"{IMAGE}|{OUTLINED}|{SHARED}"


def colours(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Return values [...] as colours uint8 [..., 3]; `low` and less is black, `high` and more pale yellow."""
    span = high - low if high > low else 1.0
    steps = np.clip((np.asarray(values, np.float64) - low) / span, 0, 1) * 255 + 0.5
    return palette()[steps.astype(np.uint8)]


def outlined(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Return the image [H, W, 3] with a cyan line just outside the mask [H, W] and a black one around it.

    One of the two shows on any background, and the defect itself is not covered.
    """
    line, edge = _grown(mask), _grown(_grown(mask))
    picture = image.copy()
    picture[edge & ~line] = BLACK
    picture[line & ~mask] = CYAN
    return picture


def hatched(image: np.ndarray, ignored: np.ndarray) -> np.ndarray:
    """Return the image [H, W, 3] with oblique grey lines, two pixels of eight, over the ignored pixels, bool [H, W]."""
    rows, columns = np.ogrid[: image.shape[0], : image.shape[1]]
    picture = image.copy()
    picture[ignored & ((rows + columns) % 8 < 2)] = GREY
    return picture


class Sheet:
    """Draws the pictures of a run, which share layout, colour bar and headings.

    marked: the name of the panel that marks something in the image, OUTLINED or HATCHED; empty: there is none.
    """

    def __init__(
        self, height: int, width: int, low: float, high: float, largest: int | None = LARGEST, marked: str = OUTLINED
    ) -> None:
        self.low, self.high, self.marked = low, high, marked
        self.block = -(-max(height, width) // (largest or max(height, width)))  # pixels of a map that become one
        self.zoom = -(-SMALLEST // max(height, width))  # pixels that one of a map becomes
        self.height, self.width = -(-height // self.block) * self.zoom, -(-width // self.block) * self.zoom
        self.font = ImageFont.load_default(12)
        self.names = [name for name in (IMAGE, marked, OWN, SHARED) if name]
        size = (len(self.names) * (self.width + GAP) + GAP + BAR, HEADER + self.height + FOOTER)
        self.empty = Image.new("RGB", size, "white")
        self.empty.info[PANELS] = "|".join(self.names)
        self._headings()

    def draw(
        self,
        caption: Caption,
        image: np.ndarray,
        mask: np.ndarray,
        values: np.ndarray,
        ignored: np.ndarray | None = None,
    ) -> Image.Image:
        """Return the picture.

        image: uint8 [H, W, 3].  mask: bool [H, W].  values: of the anomaly map, [H, W].  ignored: bool [H, W], hatched,
        and not in the map's own scale.
        """
        method = Image.Resampling.BOX if self.block > 1 else Image.Resampling.NEAREST
        original = np.asarray(Image.fromarray(image).resize((self.width, self.height), method))
        seen = values if ignored is None or ignored.all() else values[~ignored]
        low, high, fitted = float(seen.min()), float(seen.max()), self._fit(values)
        panels = [original, colours(fitted, low, high), colours(fitted, self.low, self.high)]
        if self.marked:
            marked = outlined(original, self._fit(mask))
            panels.insert(1, marked if ignored is None else hatched(marked, self._fit(ignored)))
        picture = self.empty.copy()
        for k, panel in enumerate(panels):
            picture.paste(Image.fromarray(panel), (self._left(k), HEADER))
        pen = ImageDraw.Draw(picture)
        pen.text((self._left(len(panels) - 2), 3), f"its own scale: {low:.3g} to {high:.3g}", GREY, self.font)
        for k, line in enumerate(caption.lines):
            colour = RED if k == 2 and caption.wrong else GREY if k == 2 else BLACK
            pen.text((GAP, HEADER + self.height + 4 + 17 * k), line, colour, self.font)
        return picture

    def _fit(self, values: np.ndarray) -> np.ndarray:
        """Bring [H, W] to [self.height, self.width]; a block shows its highest value: no small defect is lost."""
        rows, columns = (np.arange(0, n, self.block) for n in values.shape)
        peaks = np.maximum.reduceat(np.maximum.reduceat(np.asarray(values), rows, 0), columns, 1)
        return peaks.repeat(self.zoom, 0).repeat(self.zoom, 1)

    def _left(self, panel: int) -> int:
        return GAP + panel * (self.width + GAP)

    @staticmethod
    def panels(picture: Image.Image) -> dict[str, Image.Image]:
        """Cut the panels out of a picture, by name."""
        names = picture.info.get(PANELS, FORMER_PANELS).split("|")
        width, height = (picture.width - GAP - BAR) // len(names) - GAP, picture.height - HEADER - FOOTER
        boxes = [(GAP + k * (width + GAP), HEADER, (k + 1) * (width + GAP), HEADER + height) for k in range(len(names))]
        return {name: picture.crop(box) for name, box in zip(names, boxes, strict=True)}

    def _headings(self) -> None:
        pen, x, bottom = ImageDraw.Draw(self.empty), self._left(len(self.names)), HEADER + self.height
        for k, name in enumerate(self.names):
            if name != OWN:
                pen.text((self._left(k), 3), name, GREY, self.font)
        ramp = colours(np.linspace(1, 0, self.height)[:, None].repeat(12, 1), 0, 1)
        self.empty.paste(Image.fromarray(ramp), (x, HEADER))
        pen.text((x + 16, HEADER), f"{self.high:.3g}", GREY, self.font)
        pen.text((x + 16, bottom - 14), f"{self.low:.3g}", GREY, self.font)


@cache
def palette() -> np.ndarray:
    """Return the colour map, uint8 [256, 3]."""
    anchors = np.frombuffer(bytes.fromhex(ANCHORS), np.uint8).reshape(-1, 3)
    at = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(at, range(len(anchors)), channel) for channel in anchors.T]
    return np.stack(channels, 1).round().astype(np.uint8)


def _grown(mask: np.ndarray) -> np.ndarray:
    """Return the mask [H, W] and its eight neighbours."""
    tall = np.pad(mask, ((1, 1), (0, 0)))
    tall = tall[:-2] | tall[1:-1] | tall[2:]
    wide = np.pad(tall, ((0, 0), (1, 1)))
    return wide[:, :-2] | wide[:, 1:-1] | wide[:, 2:]
