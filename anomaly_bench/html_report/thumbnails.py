"""Small pictures for the gallery, made from the files of runs; a picture that exists is not made again.

Raw values of different methods cannot be compared, so a map is coloured by what its values mean: the false-positive
rate that a threshold at this value would have among the pixels of the run's normal test images.  A colour then means
the same rate for all methods.  A block of pixels shows its highest value.  A second picture shows each map from its own
smallest to its own largest value, so that none is only black.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from anomaly_bench.errors import UserError
from anomaly_bench.files import sha256, write_atomic
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.heatmaps import picture_names
from anomaly_bench.runs.sheet import CYAN, IMAGE, OUTLINED, Sheet, palette

SIDE, IMAGE_SIDE = 256, 512  # pixels of a map, of an image
HIGHEST, LOWEST, STEPS = 0.1, 1e-4, 24  # false-positive rates: darkest, brightest; colours between them
MOST_PIXELS = 2**23  # normal pixels on which rates are counted; evenly spaced ones where there are more
log = logging.getLogger("anomaly_bench")


def rates() -> np.ndarray:
    """Return the false-positive rates at which the colour changes, falling.  [STEPS]"""
    return np.geomspace(HIGHEST, LOWEST, STEPS)


def thresholds(values: np.ndarray) -> np.ndarray:
    """Return rising thresholds: the k-th is exceeded by at most a share `rates()[k]` of the values.  [n] -> [STEPS]"""
    count = len(values)
    allowed = np.floor(rates() * count).astype(int)  # values that may lie above
    top = min(allowed[0] + 1, count)
    highest = np.sort(np.partition(values, count - top)[count - top :])[::-1]
    return highest[np.minimum(allowed, count - 1)]


def levels(values: np.ndarray, limits: np.ndarray) -> np.ndarray:
    """Return how many thresholds each value exceeds, 0 to STEPS.  [...] -> uint8 [...]"""
    return np.searchsorted(limits, values, side="left").astype(np.uint8)


def shrink(values: np.ndarray) -> np.ndarray:
    """Return the highest value of each block of pixels.  [H, W] -> at most [SIDE, SIDE]"""
    block = -(-max(values.shape) // SIDE)
    for _ in values.shape:  # slices are five times as fast as `reduceat`
        peaks = values[::block].copy()
        for others in (values[i::block] for i in range(1, block)):
            np.maximum(peaks[: len(others)], others, out=peaks[: len(others)])
        values = peaks.T
    return values


def colour_steps() -> np.ndarray:
    """Return the colour of each level, the darkest first.  uint8 [STEPS + 1, 3]"""
    return palette()[np.linspace(0, 255, STEPS + 1).round().astype(int)]


def on_own_scale(values: np.ndarray) -> np.ndarray:
    """Return values from 0, the smallest, to 255, the largest; -inf becomes 0.  [...] -> uint8 [...]"""
    finite = values[np.isfinite(values)].astype(np.float64)
    low, high = (finite.min(), finite.max()) if finite.size else (0.0, 0.0)
    shares = (values - low) / ((high - low) or 1)
    return (np.clip(shares, 0, 1) * 255).round().astype(np.uint8)


def draw_maps(folder: RunFolder, labels: Sequence[int], wanted: Iterable[int], target: Path) -> str:
    """Write target/<key>/<index>.png, and <index>_own.png on the map's own scale, for each wanted test image that has
    none yet.

    labels [N]: 0 normal.  Returns the key, which changes when the run's maps change; empty where nothing can be drawn:
    there are no maps, they are damaged, or there is no normal image and so no rate.
    """
    file, normal = folder.path / "maps.npy", [i for i, label in enumerate(labels) if not label]
    if not file.exists() or not normal:
        return ""
    # imports SciPy, for which a report without maps need not wait
    from anomaly_bench.loading.anomaly_maps import open_stored_maps

    stat = file.stat()
    key = _key(file.resolve(), stat.st_mtime_ns, stat.st_size, rates(), SIDE)
    missing = [i for i in wanted if not all((target / key / f"{i}{kind}.png").exists() for kind in ("", "_own"))]
    try:
        maps = open_stored_maps(file, folder.manifest.get("maps"))
        if len(maps) != len(labels):
            raise ValueError(f"{len(maps)} maps of {len(labels)} images")
        ignored = _ignored_region(folder, maps[0].shape)
        limits = _limits(maps, normal, ignored) if missing else np.empty(0)
        (target / key).mkdir(parents=True, exist_ok=True)
        for i in missing:
            counted = maps[i] if ignored is None else np.where(ignored, -np.inf, maps[i])
            peaks = shrink(counted)
            _save(_coloured(levels(peaks, limits), colour_steps()), target / key / f"{i}.png", bits=5)
            _save(_coloured(on_own_scale(peaks), palette()), target / key / f"{i}_own.png")
    except (UserError, ValueError) as error:  # a damaged run must not hide the others
        log.warning("%s: not drawn: %s", file, error)
        return ""
    return key


def _coloured(places: np.ndarray, colours: np.ndarray) -> Image.Image:
    picture = Image.fromarray(places, "P")
    picture.putpalette(colours.tobytes())
    return picture


def _ignored_region(folder: RunFolder, shape: tuple[int, int]) -> np.ndarray | None:
    """Return the pixels that no map of a run counts, bool [H, W]; None where all count.  Raises as `stored_ignore`."""
    if not folder.manifest.get("ignored", {}).get("region"):
        return None
    from anomaly_bench.loading.frame import Frame
    from anomaly_bench.runs.ignored import stored_ignore

    frame = Frame.stored(folder.manifest, shape)
    return replace(frame, ignore=stored_ignore(folder, folder.manifest)).ignored_region


def _limits(maps: Sequence[np.ndarray], normal: Sequence[int], ignored: np.ndarray | None) -> np.ndarray:
    """Return `thresholds` for the pixels of the normal images that count, or for MOST_PIXELS of them."""
    step = -(-len(normal) * maps[0].size // MOST_PIXELS)
    counted = (maps[i].ravel() if ignored is None else maps[i][~ignored] for i in normal)
    return thresholds(np.concatenate([values[k % step :: step].copy() for k, values in enumerate(counted)]))


def _key(*values: object) -> str:
    return sha256(" ".join(map(str, values)))[:16]


def image_name(data: str, path: str) -> str:
    """Return the file name of a test image, without its ending.  data: the checksum of its data set."""
    return _key(data, path, IMAGE_SIDE)


def crop_images(folder: RunFolder, names: dict[int, str], target: Path) -> None:
    """Write target/<name>.jpg, and <name>_o.png with the outline of the defect alone, from the heat maps of a run.

    names: index of a test image -> name; images that have a file already are left out.
    """
    missing = {i: name for i, name in names.items() if not (target / f"{name}.jpg").exists()}
    if not missing or not (folder.path / "heatmaps").is_dir():
        return
    target.mkdir(parents=True, exist_ok=True)
    files = picture_names(folder.scores)
    for i, name in missing.items():
        source = folder.path / "heatmaps" / files.get(i, "?")
        if not source.exists():
            continue
        try:
            with Image.open(source) as picture:
                panels = Sheet.panels(picture.convert("RGB"))
        except (OSError, SyntaxError, ValueError) as error:  # SyntaxError is what Pillow says of a broken PNG
            log.warning("%s: not shown: %s", source, error)
            continue
        if folder.scores[i].label and OUTLINED in panels:
            _save(outline(*(np.asarray(panels[key]) for key in (IMAGE, OUTLINED))), target / f"{name}_o.png", bits=1)
        _save(_small(panels[IMAGE]), target / f"{name}.jpg", quality=82)


def outline(image: np.ndarray, outlined: np.ndarray) -> Image.Image:
    """Return the line around a defect as a picture that is transparent elsewhere.

    image, outlined: uint8 [H, W, 3], without and with the line.
    """
    line = (outlined == CYAN).all(2) & (image != outlined).any(2)
    picture = Image.fromarray(shrink(line).astype(np.uint8), "P")
    picture.putpalette([0, 0, 0, *CYAN])
    picture.info["transparency"] = 0
    return picture


def _small(picture: Image.Image) -> Image.Image:
    picture.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    return picture


def _save(picture: Image.Image, file: Path, **options: int) -> None:
    kind = {".png": "PNG", ".jpg": "JPEG"}[file.suffix]
    write_atomic(file, lambda opened: picture.save(opened, kind, **options), sync=False)  # it can be made again
