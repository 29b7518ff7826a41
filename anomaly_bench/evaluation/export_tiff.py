"""A run's maps as files in the layout that MVTec's own evaluation script reads, and `bench eval --maps` too."""

from __future__ import annotations

import shlex
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

from anomaly_bench.errors import UserError, check_name
from anomaly_bench.evaluation.measured import progress
from anomaly_bench.evaluation.options import EvalOptions
from anomaly_bench.evaluation.stored_runs import Stored, open_run
from anomaly_bench.loading.anomaly_maps import write_map
from anomaly_bench.records import Record


def write_runs(target: Path, options: EvalOptions) -> None:
    """Write every run's category below `target`, and say how to measure what is there.

    Raises UserError where a folder cannot be written or holds something, and what `stored_runs.open_run` raises.
    """
    for stored in [open_run(path, options) for path in options.runs]:
        check_name(f"{stored.folder.path}, category", category := stored.folder.manifest.get("category"))
        place = target / str(category)
        try:
            write_category(stored, place)
        except OSError as error:
            what = f"cannot be written: {error.strerror or error}"
            raise UserError(str(place), what, "free some space or choose another folder") from error
        sys.stdout.write(f"{len(stored.records)} maps of {stored.folder.path} written to {place}\n")
    word = shlex.quote(str(target))
    sys.stdout.write(f"bench eval --maps {word} --masks {word}\n")


def write_category(stored: Stored, place: Path) -> None:
    """`place`/test/<kind>/<id>.tiff and .png (map, image) and ground_truth/<kind>/<id>_mask.png, all at the maps' size.

    `place` appears when it is complete.
    """
    if stored.maps is None or stored.rows is None or stored.masks is None:
        raise UserError(str(stored.folder.path), "has no maps, or its data set no masks", "nothing could be measured")
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UserError(str(place), "is not empty", "--write-tiff writes into a new folder")
    place.parent.mkdir(parents=True, exist_ok=True)
    side, names = stored.maps[0].shape[0], file_names(stored.records)
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=f".{place.name}.") as scratch:
        base = Path(scratch) / "category"
        for i in progress()(range(len(names)), f"writing {place.name}"):
            test, truth = (base / level / stored.records[i].kind for level in ("test", "ground_truth"))
            test.mkdir(parents=True, exist_ok=True)
            write_map(test / f"{names[i]}.tiff", stored.maps[i])
            image = stored.rows[i][: 3 * side**2].reshape(side, side, 3)
            Image.fromarray(image).save(test / f"{names[i]}.png")
            if stored.records[i].label:
                truth.mkdir(parents=True, exist_ok=True)
                Image.fromarray(stored.masks[i]).convert("L").save(truth / f"{names[i]}_mask.png")
        if place.exists():
            place.rmdir()
        base.rename(place)


def file_names(records: Sequence[Record]) -> list[str]:
    """The stem of each image's path, or the whole path with _ for / where two images of one kind share a stem."""
    stems = [(record.kind, PurePosixPath(record.path).stem) for record in records]
    count = Counter(stems)
    names = [
        stem if count[kind, stem] == 1 else record.path.replace("/", "_")
        for (kind, stem), record in zip(stems, records, strict=True)
    ]
    for (kind, name), again in Counter(zip((r.kind for r in records), names, strict=True)).items():
        if again > 1:
            raise UserError(name, f"is the name of {again} images of kind '{kind}'", "rename one of them")
    return names
