"""Heat maps, a picture for each test image: the image, its defect outlined, its anomaly map; worst mistakes first.

Of more than 500 normal or 500 anomalous images, the 500 worst mistakes are drawn.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from anomaly_bench.files import new_folder, unwritable
from anomaly_bench.records import Size
from anomaly_bench.runs.folder import ScoreRow

# Inferno (van der Walt, Smith, Firing; CC0) at ten equal steps: lightness rises evenly from black to a pale yellow.
ANCHORS = "000004 1b0c42 4b0c6b 781c6d a52c60 cf4446 ed6925 fb9a06 f7d03c fcffa4"
SMALLEST, LARGEST = 192, 512  # pixels; smaller maps are shown in larger pixels, larger ones shrunk
CYAN, BLACK, GREY, RED = (0, 255, 255), (0, 0, 0), (90, 90, 90), (190, 0, 0)
VERDICTS = {  # of an image; the report's gallery fills in the same sentences
    "missed": "{wrong} of {others} normal images score as high",
    "found": "above all {others} normal images",
    "false alarm": "{wrong} of {others} anomalous images score as low",
    "calm": "below all {others} anomalous images",
}
MOST = 500  # pictures of normal images, and as many of anomalous ones: 10,000 take a minute and 180 MB
GAP, HEADER, FOOTER, BAR = 8, 20, 60, 70  # pixels: between panels, above, below, right of them


@dataclass(frozen=True)
class Mistake:
    """How wrong the score of a test image is: how many images of the other class lie on the wrong side of it."""

    row: ScoreRow
    rank: int  # 1 = the highest score of the test set
    total: int  # images in the test set
    wrong: int  # normal images that score as high as an anomalous one; anomalous ones that score as low as a normal one
    others: int  # images of the other class

    @property
    def share(self) -> float:
        """Return `wrong` as a share of the other class; 0 where that is empty."""
        return self.wrong / max(self.others, 1)

    @property
    def verdict(self) -> str:
        """Whether the image is found, missed, calm or a false alarm, and by how many others."""
        if not self.others:
            return f"no {'normal' if self.row.label else 'anomalous'} images to compare with"
        name = ("missed" if self.wrong else "found") if self.row.label else "false alarm" if self.wrong else "calm"
        return f"{name}: {VERDICTS[name].format(wrong=self.wrong, others=self.others)}"


def write_heatmaps(
    folder: Path,
    rows: Sequence[ScoreRow],
    maps: np.ndarray | None,
    load: Callable[[int], tuple[np.ndarray, np.ndarray]],
    ignored: Sequence[np.ndarray] | None = None,
    at_source: Callable[[int, Size], np.ndarray] | None = None,
    most: int | None = None,
) -> None:
    """Write <folder>/heatmaps/<position>_<kind>_<stem>.png for each of N test images; 0001 is the worst mistake.

    Of more than `MOST` normal or anomalous images only the worst mistakes are drawn, which the log says.

    rows: N lines of scores.csv.  maps: float32 [N, H, W], may be memory-mapped; None writes nothing.  load(i): the i-th
    image, uint8 [H, W, 3], and its mask, bool [H, W]; called once for each.  ignored: bool [H, W] of each.
    at_source(i, size): the i-th map at the size of what `load` returns; it is then drawn pixel by pixel, however large.
    most: draw so many of the worst mistakes, whatever their class.
    An older folder is replaced as a whole.  Raises UserError where the folder cannot be written.
    """
    if maps is None:
        return
    low, high = colour_range(maps, np.array([row.label for row in rows]))
    sheets = cache(lambda height, width: Sheet(height, width, low, high, None if at_source else LARGEST))
    mistakes, drawn = find_mistakes(rows), dict(list(picture_names(rows).items())[:most])
    if len(drawn) < len(rows):
        limit = f"the {most} worst mistakes" if most else f"at most the {MOST} worst mistakes of either class"
        logging.getLogger("anomaly_bench").info("heatmaps: %d of %d test images, %s", len(drawn), len(rows), limit)
    try:
        with new_folder(folder / "heatmaps") as new:
            for i, name in drawn.items():
                image, mask = load(i)
                values = at_source(i, mask.shape) if at_source else maps[i]
                others = None if ignored is None else ignored[i]
                sheet = sheets(*values.shape)
                sheet.draw(mistakes[i], image, mask, values, others).save(new / name, compress_level=1)
    except OSError as error:
        raise unwritable(folder / "heatmaps", error) from error


def picture_names(rows: Sequence[ScoreRow]) -> dict[int, str]:
    """Return the file in `heatmaps/` by index of its test image, the worst mistake first."""
    order = worst_first(find_mistakes(rows))
    worst = {i for label in (0, 1) for i in [j for j in order if rows[j].label == label][:MOST]}
    stems = {i: re.sub(r"[^A-Za-z0-9.-]+", "_", f"{rows[i].kind}_{Path(rows[i].path).stem}")[:120] for i in worst}
    drawn = [i for i in order if i in worst]
    return {i: f"{position:04}_{stems[i]}.png" for position, i in enumerate(drawn, 1)}


def find_mistakes(rows: Sequence[ScoreRow]) -> list[Mistake]:
    """Return one for each row, in the same order."""
    scores, labels = np.array([row.score for row in rows]), np.array([row.label for row in rows])
    everything, normal, anomalous = np.sort(scores), np.sort(scores[labels == 0]), np.sort(scores[labels == 1])
    found = []
    for row in rows:
        rank = len(rows) - int(np.searchsorted(everything, row.score, "right")) + 1
        others = normal if row.label else anomalous
        lower = int(np.searchsorted(others, row.score, "left" if row.label else "right"))
        wrong = len(others) - lower if row.label else lower
        found.append(Mistake(row, rank, len(rows), wrong, len(others)))
    return found


def worst_first(mistakes: Sequence[Mistake]) -> list[int]:
    """Return indices by falling share; among equals missed defects first, then the score nearer the wrong end."""

    def key(i: int) -> tuple[float, int, float]:
        m = mistakes[i]
        return -m.share, -m.row.label, m.row.score if m.row.label else -m.row.score

    return sorted(range(len(mistakes)), key=key)


def colour_range(maps: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return the values shown darkest and brightest in all pictures of a run.

    Darkest: the 95 % quantile of the normal images' pixels, so that these look dark.  Brightest: the median of the
    anomalous images' highest pixels, so that half of the defects reach it.  Where a class is missing, all images are
    taken; where the range is empty, the highest pixel is the brightest.
    """
    step = max(1, maps.shape[1] // 64)  # every step-th pixel in both directions is enough for a quantile
    peaks = np.array([image.max() for image in maps])
    normal, anomalous = (np.flatnonzero(labels == label) for label in (0, 1))
    low = float(np.quantile(maps[normal if len(normal) else slice(None), ::step, ::step], 0.95))
    high = float(np.median(peaks[anomalous])) if len(anomalous) else float(peaks.max())
    return low, high if high > low else float(peaks.max())


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
    """Draws the pictures of a run, which share layout, colour bar and headings."""

    def __init__(self, height: int, width: int, low: float, high: float, largest: int | None = LARGEST) -> None:
        self.low, self.high = low, high
        self.block = -(-max(height, width) // (largest or max(height, width)))  # pixels of a map that become one
        self.zoom = -(-SMALLEST // max(height, width))  # pixels that one of a map becomes
        self.height, self.width = -(-height // self.block) * self.zoom, -(-width // self.block) * self.zoom
        self.font = ImageFont.load_default(12)
        size = (3 * (self.width + GAP) + GAP + BAR, HEADER + self.height + FOOTER)
        self.empty = Image.new("RGB", size, "white")
        self._headings()

    def draw(
        self,
        mistake: Mistake,
        image: np.ndarray,
        mask: np.ndarray,
        values: np.ndarray,
        ignored: np.ndarray | None = None,
    ) -> Image.Image:
        """Return the picture.

        image: uint8 [H, W, 3].  mask: bool [H, W].  values: of the anomaly map, [H, W].  ignored: bool [H, W], hatched.
        """
        method = Image.Resampling.BOX if self.block > 1 else Image.Resampling.NEAREST
        original = np.asarray(Image.fromarray(image).resize((self.width, self.height), method))
        heat, marked = colours(self._fit(values), self.low, self.high), outlined(original, self._fit(mask))
        if ignored is not None:
            marked = hatched(marked, self._fit(ignored))
        picture = self.empty.copy()
        for k, panel in enumerate((original, marked, heat)):
            picture.paste(Image.fromarray(panel), (self._left(k), HEADER))
        self._caption(ImageDraw.Draw(picture), mistake)
        return picture

    def _fit(self, values: np.ndarray) -> np.ndarray:
        """Bring [H, W] to [self.height, self.width]; a block shows its highest value: no small defect is lost."""
        rows, columns = (np.arange(0, n, self.block) for n in values.shape)
        peaks = np.maximum.reduceat(np.maximum.reduceat(np.asarray(values), rows, 0), columns, 1)
        return peaks.repeat(self.zoom, 0).repeat(self.zoom, 1)

    def _left(self, panel: int) -> int:
        return GAP + panel * (self.width + GAP)

    @staticmethod
    def panels(picture: Image.Image) -> list[Image.Image]:
        """Cut the image, and the image with its defect outlined, out of a picture."""
        width, height = (picture.width - GAP - BAR) // 3 - GAP, picture.height - HEADER - FOOTER
        lefts = [GAP + panel * (width + GAP) for panel in (0, 1)]
        return [picture.crop((left, HEADER, left + width, HEADER + height)) for left in lefts]

    def _headings(self) -> None:
        pen, x, bottom = ImageDraw.Draw(self.empty), self._left(3), HEADER + self.height
        for k, text in enumerate(("image", "defect outlined", "anomaly map, one scale for all images")):
            pen.text((self._left(k), 3), text, GREY, self.font)
        ramp = colours(np.linspace(1, 0, self.height)[:, None].repeat(12, 1), 0, 1)
        self.empty.paste(Image.fromarray(ramp), (x, HEADER))
        pen.text((x + 16, HEADER), f"{self.high:.3g}", GREY, self.font)
        pen.text((x + 16, bottom - 14), f"{self.low:.3g}", GREY, self.font)

    def _caption(self, pen: ImageDraw.ImageDraw, mistake: Mistake) -> None:
        row, top = mistake.row, HEADER + self.height + 4
        pen.text((GAP, top), f"{row.kind} · {row.path}", BLACK, self.font)
        pen.text((GAP, top + 17), f"score {row.score:.4g} · rank {mistake.rank} of {mistake.total}", BLACK, self.font)
        pen.text((GAP, top + 34), mistake.verdict, RED if mistake.wrong else GREY, self.font)


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
