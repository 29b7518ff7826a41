"""What identifies a run: seed, method and data set by value, and the files that they name by content."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from anomaly_bench.checksums import checksum, checksums
from anomaly_bench.config.schema import Images, Settings, images_of
from anomaly_bench.config.targets import locate
from anomaly_bench.errors import UserError
from anomaly_bench.files import sha256
from anomaly_bench.former_names import FORMER_KEYS, added_keys, former_class, without_added

RULE = 2  # how runs are named; 1: weights that were not named did not count, nor where an own folder lies
RANDOM = "random"  # in place of a file: numbers that are drawn
OWN_FOLDER, OWN_LIST = "folder", "csv"  # the names of the data sets whose images may be anybody's
CSV_LIST = "anomaly_bench.datasets.csv_list.CsvList"
IGNORE_MASK = "ignore_mask"  # key of a file that is always there
FORMER_BLOCKS = {key.partition(".")[0] for key in FORMER_KEYS}  # whose keys stood beside the others

WeightFiles = dict[str, list[Path]]


class Identity(NamedTuple):
    """8 hex digits each."""

    run: str  # of seed, method and data set
    setting: str  # the same for all seeds and categories


def identify(settings: Settings, files: WeightFiles | None = None, method: Mapping[str, Any] | None = None) -> Identity:
    """Return what tells a run from all others.  method: what `identify_method` returned, else it is called.

    Where things lie does not count, what is in them does: files of weights (`weight_files`, looked for where they are
    not given), keys `*_file`, `ignore_mask` and the folder `teacher.images` are represented by their content,
    `dataset.root` by nothing, because a run keeps its images' checksums.  But the data sets `folder` and `csv` are
    represented by their place.  Weights that are not on this machine count as none.  Raises UserError where
    `ignore_mask` is missing.
    """
    if method is None:
        try:
            files = weight_files(settings) if files is None else files
        except UserError:
            files = {}
        method = identify_method(settings.method, files)
    whole = without_defaults(settings.dataset)
    dataset = {key: _content(key, value) for key, value in whole.items()}
    setting = {"rule": RULE, "method": method, "dataset": {k: v for k, v in dataset.items() if k != "category"}}
    held_out = {key: v for key in ("calibration_share", "calibration_fold") if (v := getattr(settings, key))}
    setting |= held_out
    if is_own(settings.dataset):
        dataset["place"] = str(place_of(settings.dataset))
        dataset.pop("category", None)  # the place ends with it
    run = {"rule": RULE, "seed": settings.seed, "method": method, "dataset": dataset, **held_out}
    return Identity(_hash(run), _hash(setting))


def identify_method(values: Mapping[str, Any], files: WeightFiles) -> dict[str, Any]:
    """Return what stands for a method's checked values in an identity; files: of its weights."""
    values = _with_former_keys(values)
    method = {key: _content(key, value) for key, value in values.items() if key not in files}
    return method | {key: _checksums(paths, values[key]) for key, paths in files.items()}


def names_files(values: Mapping[str, Any], files: WeightFiles) -> bool:
    """Return whether a method's checked values name a file or a folder that is none of its weights."""
    named = _with_former_keys(values).items()
    return any(_names_file(key) and value not in (None, RANDOM) for key, value in named if key not in files)


def weight_files(settings: Settings, fetch: bool = False) -> WeightFiles:
    """Return the files of weights that a run loads, by key of its method: named and found ones.

    fetch: what is not on this machine is downloaded, else it raises NotHere.  Raises UserError where a file is missing.
    """
    method = locate("method._target_", settings.method["_target_"])
    found: WeightFiles = _once([settings.method, fetch], lambda: method.weight_files(settings.method, fetch))  # type: ignore[attr-defined]
    if not isinstance(found, dict) or not all(key in settings.method and isinstance(found[key], list) for key in found):
        what = "returned something else than a list of files for each key of weights"
        raise UserError(f"{method.__qualname__}.weight_files", what)
    return found


def identify_by_rule_1(settings: Settings) -> str:
    """Return the run's identity as earlier versions had it, so that their folders are found."""
    groups = {"method": _with_former_keys(settings.method), "dataset": without_defaults(settings.dataset)}
    contents = {name: {key: _content_by_rule_1(key, v) for key, v in values.items()} for name, values in groups.items()}
    return _hash({"seed": settings.seed, **contents})


def without_defaults(dataset: Mapping[str, Any]) -> dict[str, Any]:
    """Return a data set's keys without those that say where it lies, and without those that earlier versions lacked and
    that change nothing."""
    images, added = images_of(dataset), added_keys(dataset)
    places = ("root", "file") if dataset["_target_"] == CSV_LIST else ("root",)
    left_out = {*places, *Images.model_fields, *(key for key in added if dataset.get(key) == added[key])}
    changed: dict[str, Any] = {"fit": images.fit} if images.fit != "squash" else {}
    changed |= {"tiles": images.tiles.model_dump()} if images.tiles.size else {}
    changed |= {"white": images.white} if images.white != Images().white else {}
    changed |= {key: value for key in ("ignore_value", IGNORE_MASK) if (value := getattr(images, key)) is not None}
    return {key: value for key, value in dataset.items() if key not in left_out} | changed


def is_own(dataset: Mapping[str, Any]) -> bool:
    """Return whether a data set's images may be anybody's, so that its place tells it from others of its name."""
    return dataset["name"] == OWN_FOLDER or (dataset["name"], dataset["_target_"]) == (OWN_LIST, CSV_LIST)


def place_of(dataset: Mapping[str, Any]) -> Path:
    """Return where the user's own images lie: their folder, that of the category, or the list that names them."""
    named = dataset.get("file") if dataset.get("_target_") == CSV_LIST else dataset.get("root")
    place = Path(named or ".").expanduser().resolve()
    return place / category if (category := dataset.get("category")) else place


_known: dict[str, Any] | None = None  # by `read_once`


@contextmanager
def read_once() -> Iterator[None]:
    """Inside the block, look for the files that several runs name only once."""
    global _known
    before, _known = _known, {} if _known is None else _known
    try:
        yield
    finally:
        _known = before


def _once(key: Any, find: Callable[[], Any]) -> Any:
    """What `find` returns; inside `read_once`, for the same key what it returned before."""
    if _known is None:
        return find()
    name = json.dumps(key, default=str, sort_keys=True)
    if name not in _known:
        _known[name] = find()
    return _known[name]


def _with_former_keys(method: Mapping[str, Any]) -> dict[str, Any]:
    """Return a method's arguments under the keys of earlier versions, which the ids of runs are made of.

    A key that was added since counts only where its value changes something.
    """
    values: dict[str, Any] = {}
    added = added_keys(method)
    for key, value in method.items():
        if key in added and value == added[key]:
            continue
        if isinstance(value, BaseModel) and key in FORMER_BLOCKS:
            given = value.model_dump(exclude_unset=True)  # a key without a value in the yaml was none of the method's
            given = without_added(key, given)
            values |= {FORMER_KEYS.get(f"{key}.{name}", name): each for name, each in given.items()}
        else:
            values[key] = value
    return values


def _checksums(paths: list[Path], given: Any) -> Any:
    return checksums(paths) if paths else RANDOM if given == RANDOM else None


def _content(key: str, value: Any) -> Any:
    """What stands for a value in a hash."""
    if key == "_target_" and str(value).startswith("anomaly_bench."):
        return value.rpartition(".")[2]  # a class of this package may move to another module
    if key == IGNORE_MASK and not Path(value).expanduser().is_file():
        raise UserError(f"dataset.{key}", f"no such file: {value}", "a mask of the images' size, or null")
    if value in (None, RANDOM) or not _names_file(key):
        return value  # any other value may be a file's name by chance
    place = Path(value).expanduser()
    if place.is_file():
        return checksum(place)
    names = sorted(file for file in place.rglob("*") if file.is_file())
    paths = [file.relative_to(place).as_posix() for file in names]
    return _hash(list(zip(paths, checksums(names), strict=True))) if names else value


def _names_file(key: str) -> bool:
    return key in ("weights", "teacher", "teacher_images", IGNORE_MASK) or key.endswith("_file")


def _content_by_rule_1(key: str, value: Any) -> Any:
    if key == "_target_":
        return former_class(str(value))
    names_files = key in ("weights", "teacher", "teacher_images") or key.endswith("_file")
    if not names_files or value is None:
        return value
    place = Path(value).expanduser()
    files = [place] if place.is_file() else sorted(f for f in place.rglob("*") if f.is_file())
    if key == "teacher_images":
        return _hash([(str(f.relative_to(place)), f.stat().st_size) for f in files]) if files else value
    contents = [checksum(file) for file in files]
    return (contents[0] if len(contents) == 1 else _hash(contents)) if contents else value


def _hash(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True, default=str))[:8]
