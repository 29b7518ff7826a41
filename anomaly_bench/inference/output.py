"""What `bench predict` writes: rows of scores.csv, JSON lines, anomaly maps, overlays."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from PIL import Image

from anomaly_bench.console import say
from anomaly_bench.errors import UserError
from anomaly_bench.files import csv_text, new_file, new_folder, unwritable, write_text
from anomaly_bench.inference.pictures import overlay
from anomaly_bench.inference.predict import Model, Result
from anomaly_bench.loading.anomaly_maps import write_map, write_png16
from anomaly_bench.loading.decode import to_8_bits
from anomaly_bench.loading.frame import Frame
from anomaly_bench.loading.image_files import expand_user, printable
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.json_files import parse_json

SCORES, ABOUT = "scores.csv", "predict.json"
MAPS, OVERLAYS = "maps", "overlays"
COLUMNS = ("path", "score", "p_value", "threshold", "label", "width", "height", "ms", "error", "unlike")
WRITERS: dict[str, tuple[str, Callable[..., None]]] = {"tiff": (".tiff", write_map), "png16": (".png", write_png16)}
ANOTHER = "give another --out"


@dataclass(frozen=True)
class OutputRequest:
    """Which files to write, and where."""

    place: Path  # the folder of all of them
    maps: str | None  # a key of WRITERS
    overlays: bool
    base: Path  # names of maps and overlays are those of the images, seen from here
    source_size: bool = False  # maps at the images' sizes, not at the model's


def values_of(result: Result) -> dict[str, Any]:
    """Return the columns of a result; None where there is no value."""
    return {
        **{"path": result.path, "score": None if math.isnan(result.score) else result.score},
        **{"p_value": result.p_value, "threshold": result.threshold, "label": result.label},
        **{"width": result.width or None, "height": result.height or None, "ms": round(result.ms, 3)},
        **{"error": result.error or None, "unlike": result.unlike or None},
    }


def csv_line(values: Sequence[object]) -> bytes:
    """Return a line of scores.csv, with every digit; bytes of a file's name that are no UTF-8 stay as they are."""
    texts = ["" if v is None else repr(v) if isinstance(v, float) else str(v) for v in values]
    return csv_text([texts]).encode("utf-8", "surrogateescape")


def json_line(result: Result) -> str:
    """Return a result as a JSON object with the names of scores.csv; null where there is no value."""
    return json.dumps(values_of(result))


def text_line(result: Result) -> str:
    """Return a result for people: verdict, score, p-value, path, and in what it is unlike the training images."""
    path = printable(result.path)
    if result.error:
        return f"{'not scored':10}  {'':12}  {path}  ({printable(result.error)})"
    verdict = {None: "scored", 0: "normal", 1: "anomalous"}[result.label]
    p = "" if result.p_value is None else f"  p {result.p_value:<8.3g}"
    marks = f"  (unlike the training images: {result.unlike})" if result.unlike else ""
    return f"{verdict:10}  {result.score:<12.6g}{p}  {path}{marks}"


def own_folders(place: Path) -> list[Path]:
    """Return the folders of maps and overlays, as absolute paths: what lies there is never scored."""
    return [(place / kind).resolve() for kind in (MAPS, OVERLAYS)]


def picture_name(path: Path, base: Path) -> str:
    """Return the name of an image's map or overlay, without the new suffix: its path, seen from `base`.

    Two files never share a name, and none leads out: `..` becomes `__`, a folder that is called so gets one _ more.
    """
    parts = Path(os.path.relpath(path.parent.resolve(), base.resolve())).parts
    folders = ["__" if part == ".." else f"{part}_" if re.fullmatch("__+", part) else part for part in parts]
    return "/".join([*folders, path.name])


class Pictures:
    """Writes the maps and overlays of results into two folders."""

    def __init__(self, request: OutputRequest, maps: Path, overlays: Path) -> None:
        self.request, self.maps, self.overlays = request, maps, overlays
        self._temporary = request.place / ".picture.partial"
        self._temporary.unlink(missing_ok=True)  # of a process that was killed

    def write(self, result: Result) -> None:
        """Write what is requested of one result; nothing where it has no score.

        Raises UserError where a file cannot be written, and where the method gives no maps.
        """
        if result.error or not (self.request.maps or self.request.overlays):
            return
        if result.map is None:
            raise UserError("--maps" if self.request.maps else "--overlays", "the method gives no anomaly maps")
        name = picture_name(expand_user(result.path), self.request.base)
        if self.request.maps:
            suffix, write = WRITERS[self.request.maps]
            values = result.map_at_source() if self.request.source_size else result.map
            self._put(self.maps / f"{name}{suffix}", lambda file: write(file, values))
        if self.request.overlays and (picture := overlay_of(result)):
            self._put(self.overlays / f"{name}.png", lambda file: picture.save(file, "PNG", compress_level=1))

    def _put(self, path: Path, write: Callable[[IO[bytes]], None]) -> None:
        try:
            with new_file(path, self._temporary, sync=False) as file:
                write(file)
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise unwritable(path, error, ANOTHER) from error
            say(f"{printable(path.name)}: is not written: {error.strerror}")


def overlay_of(result: Result) -> Image.Image | None:
    """Return the image at its own size with the region above the pixel threshold outlined.

    None, said in a line, where the file is no longer the one that was scored.
    """
    assert result.pixel_threshold is not None
    frame = result.frame or Frame((1, 1))
    try:
        image = to_8_bits(frame.read(expand_user(result.path)))
    except UserError as error:
        say(f"{printable(result.path)}: no overlay: {error.what}")
        return None
    if image.shape[:2] != (result.height, result.width):
        say(f"{printable(result.path)}: no overlay: the file has changed since it was scored")
        return None
    return Image.fromarray(overlay(image, result.map_at_source(), result.pixel_threshold))


def about(model: Model, watched: Path | None) -> dict[str, Any]:
    """Return what predict.json holds: which run and which thresholds the results come from, and the watched folder."""
    manifest, keys = model.manifest, ("threshold", "n", "rate", "confidence", "file")
    return {
        "run": manifest.get("id"),
        "weights": manifest.get("files", {}).get("weights.safetensors"),
        "thresholds": {level: {key: entry.get(key) for key in keys} for level, entry in model.thresholds.items()},
        "watch": None if watched is None else str(watched.resolve()),
    }


@contextmanager
def claimed(place: Path, model: Model, watched: Path | None = None) -> Iterator[None]:
    """Keep other processes out of the folder `place` inside the block.

    Raises UserError where it holds other files of the names that are written, or results of `--watch` that do not
    belong to this run, its thresholds and the folder `watched`; RunningElsewhere where another process writes there.
    """
    file = place / ABOUT
    with RunFolder(place).locked():
        former = parse_json(file, file.read_bytes()) if file.exists() else {}
        present = about(model, watched)
        if former.keys() != present.keys():
            for name in (ABOUT, SCORES, MAPS, OVERLAYS):
                if os.path.lexists(place / name):
                    raise UserError(str(place / name), "was not written by bench predict, and is not replaced", ANOTHER)
        elif (watched or former["watch"]) and former != present:
            raise UserError(str(file), _difference(former, present), ANOTHER)
        yield


def write_about(place: Path, model: Model, watched: Path | None = None) -> None:
    """Write predict.json, which marks the folder as one of `bench predict`."""
    write_text(place / ABOUT, json.dumps(about(model, watched), indent=1) + "\n")


def _difference(former: dict[str, Any], present: dict[str, Any]) -> str:
    """Return in words why results cannot go on."""
    if former["watch"] != present["watch"]:
        source = f"--watch {former['watch']}" if former["watch"] else "a call without --watch"
        return f"the folder holds the results of {source}"
    if any(former[key] != present[key] for key in ("run", "weights")):
        return f"the results are of another run ({former['run']}, not {present['run']}), or of other weights"
    return "the results have other thresholds than the run has now"


@contextmanager
def whole_output(request: OutputRequest, model: Model) -> Iterator[Callable[[Result], None]]:
    """Yield a function that writes a result; all files appear at the end of the block, and replace those of an earlier
    call as a whole.  After an error nothing of them is left."""
    place = request.place
    with ExitStack() as stack:
        try:
            stack.enter_context(claimed(place, model))
            temporary = place / f".{SCORES}.partial"
            temporary.unlink(missing_ok=True)  # of a process that was killed
            rows = stack.enter_context(new_file(place / SCORES, temporary))
            folders = {
                kind: stack.enter_context(new_folder(place / kind))
                for kind, given in ((MAPS, request.maps), (OVERLAYS, request.overlays))
                if given
            }
        except OSError as error:
            raise unwritable(place, error, ANOTHER) from error
        pictures = Pictures(request, *(folders.get(kind, place) for kind in (MAPS, OVERLAYS)))
        rows.write(csv_line(COLUMNS))

        def write(result: Result) -> None:
            pictures.write(result)
            rows.write(csv_line(list(values_of(result).values())))

        yield write
        for kind in {MAPS, OVERLAYS} - folders.keys():
            shutil.rmtree(place / kind, ignore_errors=True)  # of an earlier call
        (place / SCORES).unlink(missing_ok=True)  # before predict.json says that it is this run's
        write_about(place, model)
