"""Write a run's maps as TIFF files in the layout of MVTec's evaluation script, which `bench eval --maps` reads too."""

from __future__ import annotations

import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from anomaly_bench.console import track
from anomaly_bench.errors import UserError, check_name
from anomaly_bench.evaluation.options import EvalOptions
from anomaly_bench.evaluation.stored_runs import Stored, open_run
from anomaly_bench.files import new_folder, unwritable
from anomaly_bench.loading.anomaly_maps import map_at_source, write_map
from anomaly_bench.loading.image_cache import at_source, image_of
from anomaly_bench.loading.image_files import width_and_height
from anomaly_bench.records import Record

IGNORE_VALUE = 128  # of ignored pixels in the masks that are written


def write_runs(target: Path, options: EvalOptions) -> None:
    """Write every run's category below `target`, and print the command that measures these files.

    Raises UserError where a folder cannot be written or holds something, and what `stored_runs.open_run` raises.
    """
    opened = [open_run(path, options) for path in options.runs]
    for stored in opened:
        check_name(f"{stored.folder.path}, category", category := stored.folder.manifest.get("category"))
        place = target / str(category)
        try:
            write_category(stored, place, options.source_size)
        except OSError as error:
            raise unwritable(place, error, "free some space or choose another folder") from error
        sys.stdout.write(f"{len(stored.records)} maps of {stored.folder.path} written to {place}\n")
    folder, ignoring = shlex.quote(str(target)), any(stored.ignored is not None for stored in opened)
    option = f" --ignore-value {IGNORE_VALUE}" if ignoring else ""
    sys.stdout.write(f"bench eval --maps {folder} --masks {folder}{option}\n")


def write_category(stored: Stored, place: Path, source_size: bool = False) -> None:
    """Write test/<kind>/<id>.tiff and .png (map, image) and ground_truth/<kind>/<id>_mask.png.

    All have the maps' size, or each image's own with `source_size`.  In a mask 255 is anomalous and IGNORE_VALUE
    ignored; a normal image has one where something in it is ignored.  The folder `place` appears when it is complete.
    """
    if stored.maps is None or stored.rows is None or stored.masks is None or stored.frame is None:
        raise UserError(str(stored.folder.path), "has no maps, or its data set no masks", "nothing could be measured")
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError(str(place), "is not empty", "--write-tiff writes into a new folder")
    frame, names = stored.frame, file_names(stored.records)
    with new_folder(place) as base:
        for i in track(range(len(names)), f"writing {place.name}"):
            test, truth = (base / level / stored.records[i].kind for level in ("test", "ground_truth"))
            test.mkdir(parents=True, exist_ok=True)
            record, values, mask = stored.records[i], stored.maps[i], stored.masks[i]
            ignored = None if stored.ignored is None else stored.ignored[i]
            if source_size:
                image, mask, ignored = at_source(record, frame)
                values = map_at_source(values, frame, mask.shape)
            else:
                width, height = width_and_height(record.image) or (1, 1)
                image = frame.picture(image_of(stored.rows[i], frame.size), (height, width))
            write_map(test / f"{names[i]}.tiff", values)
            Image.fromarray(image).save(test / f"{names[i]}.png")
            marks = mask * np.uint8(255)
            if ignored is not None:
                marks[ignored] = IGNORE_VALUE
            if record.label or marks.any():
                truth.mkdir(parents=True, exist_ok=True)
                Image.fromarray(marks).save(truth / f"{names[i]}_mask.png")


def file_names(records: Sequence[Record]) -> list[str]:
    """Return the stem of each image's path, or the whole path with _ for / where images of one kind share a stem."""
    stems = [(record.kind, PurePosixPath(record.path).stem) for record in records]
    shared = {stem for stem, count in Counter(stems).items() if count > 1}
    longer = [(record.kind, record.path.replace("/", "_")) for record in records]
    names = [long if short in shared else short for short, long in zip(stems, longer, strict=True)]
    for (kind, name), count in Counter(names).items():
        if count > 1:
            raise UserError(name, f"is the name of {count} images of kind '{kind}'", "rename one of them")
    return [name for _, name in names]
