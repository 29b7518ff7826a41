"""Heat maps, a picture for each test image: the image, its defect outlined, its anomaly map; worst mistakes first.

Of more than 500 normal or 500 anomalous images, the 500 worst mistakes are drawn.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_bench.files import new_folder, unwritable
from anomaly_bench.records import Size
from anomaly_bench.runs.mistakes import find_mistakes, worst_first
from anomaly_bench.runs.png import write_png
from anomaly_bench.runs.sheet import HATCHED, LARGEST, OUTLINED, Sheet
from anomaly_bench.runs.stored_run import ScoreRow

MOST = 500  # pictures of normal images, and as many of anomalous ones: 10,000 take a minute and 180 MB


def write_heatmaps(
    folder: Path,
    rows: Sequence[ScoreRow],
    maps: Sequence[np.ndarray] | np.ndarray | None,
    load: Callable[[int], tuple[np.ndarray, ...]],
    ignored: Sequence[np.ndarray] | None = None,
    at_source: Callable[[int, Size], np.ndarray] | None = None,
    most: int | None = None,
    masks: bool = True,
    threshold: Mapping[str, Any] | None = None,
) -> None:
    """Write <folder>/heatmaps/<position>_<kind>_<stem>.png for each of N test images; 0001 is the worst mistake.

    Of more than `MOST` normal or anomalous images only the worst mistakes are drawn, which the log says.

    rows: N lines of scores.csv.  maps: float32 [H, W] of each, perhaps read one by one; None: nothing.  load(i): the
    i-th image, uint8 [H, W, 3], its mask, bool [H, W], and with `at_source` what is ignored of it, bool [H, W]; called
    once for each.  ignored: bool [H, W] of each, at the size of its map.  at_source(i, size): the i-th map at the size
    of what `load` returns; it is then drawn pixel by pixel, however large.  most: draw so many of the worst mistakes,
    whatever their class.  masks: whether the data set has masks.  threshold: of the scores, as in a manifest.  An older
    folder is replaced as a whole.  Raises UserError where the folder cannot be written.
    """
    if maps is None:
        return
    low, high = colour_range(maps, np.array([row.label for row in rows]), ignored)
    largest, marked = None if at_source else LARGEST, OUTLINED if masks else HATCHED if ignored is not None else ""
    sheets = cache(lambda height, width: Sheet(height, width, low, high, largest, marked))
    mistakes, drawn = find_mistakes(rows), dict(list(picture_names(rows).items())[:most])
    if len(drawn) < len(rows):
        limit = f"the {most} worst mistakes" if most else f"at most the {MOST} worst mistakes of either class"
        logging.getLogger("anomaly_bench").info("heatmaps: %d of %d test images, %s", len(drawn), len(rows), limit)

    def draw(i: int, file: Path) -> None:
        image, mask, *others = load(i)
        others += [] if ignored is None or others else [ignored[i]]
        values = at_source(i, (mask.shape[0], mask.shape[1])) if at_source else maps[i]
        write_png(file, sheets(*values.shape).draw(mistakes[i].caption(threshold), image, mask, values, *others))

    try:
        with new_folder(folder / "heatmaps") as new, ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
            for _ in pool.map(draw, drawn, [new / name for name in drawn.values()]):
                pass
    except OSError as error:
        raise unwritable(folder / "heatmaps", error) from error


def picture_names(rows: Sequence[ScoreRow]) -> dict[int, str]:
    """Return the file in `heatmaps/` by index of its test image, the worst mistake first."""
    order = worst_first(find_mistakes(rows))
    worst = {i for label in (0, 1) for i in [j for j in order if rows[j].label == label][:MOST]}
    stems = {i: re.sub(r"[^A-Za-z0-9.-]+", "_", f"{rows[i].kind}_{Path(rows[i].path).stem}")[:120] for i in worst}
    drawn = [i for i in order if i in worst]
    return {i: f"{position:04}_{stems[i]}.png" for position, i in enumerate(drawn, 1)}


def colour_range(
    maps: Sequence[np.ndarray] | np.ndarray, labels: np.ndarray, ignored: Sequence[np.ndarray] | None = None
) -> tuple[float, float]:
    """Return the values shown darkest and brightest in all pictures of a run.  ignored: pixels that do not count.

    Darkest: the 95 % quantile of the normal images' pixels, so that these look dark.  Brightest: the median of the
    anomalous images' highest pixels, so that half of the defects reach it.  Where a class is missing, all images are
    taken; where the range is empty, the highest pixel is the brightest.
    """

    def counted(i: int, step: int = 1) -> np.ndarray:
        values: np.ndarray = maps[i][::step, ::step]
        return values.ravel() if ignored is None else values[~ignored[i][::step, ::step]]

    peaks = np.array([counted(i).max(initial=-np.inf) for i in range(len(maps))])
    seen = np.isfinite(peaks)  # of an image that is ignored as a whole nothing is
    if not seen.any():
        return 0.0, 1.0
    normal, anomalous = (np.flatnonzero(seen & (labels == label)) for label in (0, 1))
    step = max(1, len(maps[0]) // 64)  # every step-th pixel in both directions is enough for a quantile
    dark = [counted(int(i), step) for i in (normal if len(normal) else np.flatnonzero(seen))]
    low = float(np.quantile(np.concatenate(dark), 0.95)) if any(map(len, dark)) else float(peaks[seen].min())
    high = float(np.median(peaks[anomalous])) if len(anomalous) else float(peaks.max())
    return low, high if high > low else float(peaks.max())
