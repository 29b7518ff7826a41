"""`bench predict --watch`: images that appear in a folder are scored once each, also over restarts."""

from __future__ import annotations

import csv
import io
import math
import os
import stat
import time
from array import array
from collections.abc import Collection, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import NamedTuple

from anomaly_bench.console import say
from anomaly_bench.datasets.unused_files import IMAGE_SUFFIXES, has_suffix
from anomaly_bench.errors import UserError
from anomaly_bench.inference.output import (
    ABOUT,
    COLUMNS,
    MAPS,
    OVERLAYS,
    SCORES,
    OutputRequest,
    Pictures,
    claimed,
    csv_line,
    own_folders,
    values_of,
    write_about,
)
from anomaly_bench.inference.predict import Model, Result
from anomaly_bench.inference.sources import NewImage
from anomaly_bench.inference.summary import drift_text
from anomaly_bench.loading.image_files import is_folder
from anomaly_bench.metrics.drift import DriftMartingale
from anomaly_bench.runs.promise import percent

POLL = 0.5  # seconds between two looks at the folder, at least
FALSE_DRIFT = 0.01  # chance that drift is ever said of images that are like the calibration images


class Stamp(NamedTuple):
    """Tells a file from one that was written later under its name; two more columns of scores.csv."""

    bytes: int
    modified: int  # nanoseconds since 1970


class RowLog:
    """scores.csv of a watched folder: each row is on the disk before the next image is scored.

    A last row that was cut off, as by a loss of power, is removed.  Raises UserError where another row is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.done: set[int] = set()  # hashes of path and stamp, which take a quarter of the memory
        self.scores = array("d")  # in the order of the rows, without images that have none
        end = 0
        if path.exists():
            for number, (row_end, fields) in enumerate(whole_rows(path)):
                end = row_end
                if not self._take(fields) if number else fields != [*COLUMNS, *Stamp._fields]:
                    raise UserError(
                        str(path), f"is damaged: row {number + 1} is none", "repair it or give another --out"
                    )
        self._file = path.open("ab")
        self._file.truncate(end)
        if not end:
            self._write([*COLUMNS, *Stamp._fields])

    def append(self, result: Result, stamp: Stamp) -> None:
        """Write the row of a result; it is on the disk when this returns."""
        self._write([*values_of(result).values(), *stamp])
        self.done.add(hash((result.path, stamp)))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, values: list[object]) -> None:
        self._file.write(csv_line(values))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _take(self, fields: list[str]) -> bool:
        """Take a row of an earlier call, and return whether it is one."""
        try:
            path, score, *rest, size, modified = fields
            self.done.add(hash((path, Stamp(int(size), int(modified)))))
            if score:
                self.scores.append(float(score))
        except ValueError:
            return False
        return len(rest) + 2 == len(COLUMNS)


def whole_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the fields of each row of a CSV file, and the position of its end; not a last row that is cut off."""
    end, row = 0, b""
    with path.open("rb") as file:
        for line in file:
            row += line
            if line.endswith(b"\n") and row.count(b'"') % 2 == 0:  # else a path with a line break goes on
                end += len(row)
                yield end, next(csv.reader(io.StringIO(row.decode("utf-8", "surrogateescape"), newline="")), [])
                row = b""


def files_below(folder: Path, skipped: Collection[Path]) -> Iterator[tuple[str, Stamp]]:
    """Yield the visible image files at any depth that are there now, but those in the folders `skipped`."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and Path(place, name) not in skipped]
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            if has_suffix(path, IMAGE_SUFFIXES):
                with suppress(OSError):  # it is gone
                    found = path.stat()
                    if stat.S_ISREG(found.st_mode):
                        yield str(path), Stamp(found.st_size, found.st_mtime_ns)


def stable_images(
    folder: Path, skipped: Collection[Path], done: Collection[int], until_idle: float | None
) -> Iterator[list[tuple[NewImage, Stamp]]]:
    """Yield the images that are new and complete, again and again: size and time are the same in two looks.

    done: hashes of path and stamp that are not new.  until_idle: end when there was nothing new for so many seconds.
    """
    waiting: dict[str, Stamp] = {}
    active = time.monotonic()
    while True:
        began = time.monotonic()
        found = {path: stamp for path, stamp in files_below(folder, skipped) if hash((path, stamp)) not in done}
        pause = max(POLL, time.monotonic() - began)
        ready = [path for path in sorted(found) if waiting.get(path) == found[path]]
        waiting = found
        if ready:
            yield [(NewImage(path, Path(path)), found[path]) for path in ready]
        if found:
            active = time.monotonic()
        elif until_idle is not None and time.monotonic() - active >= until_idle:
            return
        time.sleep(pause)


class DriftAlarm:
    """Says once when the images no longer look like the calibration images."""

    def __init__(self, model: Model, scores: Collection[float]) -> None:
        """scores: of the images so far."""
        self.said, self._martingale = False, None
        if model.calibration is not None and "image" in model.thresholds:
            threshold = model.thresholds["image"]["threshold"]
            self._martingale = DriftMartingale(model.calibration.tolist(), threshold, FALSE_DRIFT)
        for score in scores:
            self.update(score)

    def update(self, score: float) -> None:
        """Take the score of the next image; nan where it has none."""
        if self._martingale is None or math.isnan(score):
            return
        self._martingale.update(score)
        if self._martingale.alarmed and not self.said:
            self.said = True
            chance = f"chance of a false alarm, however long it watches: {percent(FALSE_DRIFT)}"
            say(drift_text(f"conformal test martingale; {chance}"))


def watch(
    model: Model,
    folder: Path,
    request: OutputRequest,
    until_idle: float | None,
    batch_size: int | None,
    threads: int | None,
) -> Iterator[Result]:
    """Score what appears in a folder, and yield each result when its row is on the disk, its map and overlay before it.

    until_idle: end when nothing new has appeared for so many seconds; None: go on.  Raises UserError where there is no
    such folder, and where the output belongs to something else.
    """
    if not is_folder(folder):
        raise UserError("--watch", f"no such folder: {folder}")
    place, root = request.place, folder.resolve()
    with ExitStack() as stack:
        stack.enter_context(claimed(place, model, root))
        if not (place / ABOUT).exists():
            write_about(place, model, root)
        pictures = Pictures(request, place / MAPS, place / OVERLAYS)
        log = stack.enter_context(closing(RowLog(place / SCORES)))
        drift = DriftAlarm(model, log.scores)
        say(f"watching {folder}: {len(log.done)} images are done; Ctrl-C ends it")
        for ready in stable_images(root, own_folders(place), log.done, until_idle):
            results = model.predict([image for image, _ in ready], batch_size or 1, threads)
            for result, (_, stamp) in zip(results, ready, strict=True):
                pictures.write(result)
                log.append(result, stamp)
                drift.update(result.score)
                yield result
