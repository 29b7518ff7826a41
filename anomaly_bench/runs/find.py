"""The run that a configuration describes, before anything is trained: its folder, its images, and what is there."""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from omegaconf import OmegaConf

from anomaly_bench import config
from anomaly_bench.checksums import checksum, checksums
from anomaly_bench.datasets.checks import check_names, check_overlap, checked_records
from anomaly_bench.datasets.mvtec_loco import CONFIG
from anomaly_bench.errors import UserError, check_name
from anomaly_bench.loading.image_files import describe_images, fingerprint
from anomaly_bench.loading.image_list import Entry, describe_changes, list_checksum, list_images, read_list
from anomaly_bench.records import Dataset, Record
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.spro import defects_config
from anomaly_bench.runs.stored_run import CHECKED, IMAGES

log = logging.getLogger("anomaly_bench")
DEFECTS = "defects_config"  # key of a manifest's checksums


@dataclass(frozen=True)
class Data:
    """The images of a data set."""

    train: list[Record]
    test: list[Record]
    validation: list[Record]  # normal images that the data set keeps apart
    entries: list[Entry]  # of all of them, with the checksums of their content
    checksums: dict[str, str]  # `data`: of the entries; `defects_config`: of MVTec LOCO's file, where there is one
    warnings: list[str]  # a line for each kind of file that was passed over

    def __str__(self) -> str:
        return describe_images(self.train, self.test)


@dataclass(frozen=True)
class RunPlan:
    """What a configuration would run: the folder, how far it is, its images."""

    folder: RunFolder
    state: str  # done, to resume, to run
    data: Data
    identity: config.Identity
    note: str = ""  # what to say beside `already done`


def find_run(settings: config.Settings, fetch: bool = False, known: MutableMapping[str, Data] | None = None) -> RunPlan:
    """Return the run that a configuration describes, and how far it is.

    fetch: weights that are not on this machine may be downloaded.  known: gets the images of each data set, for the
    other runs of a sweep.  Raises UserError where the images are missing or not those of the run, or where the run's
    files are damaged; NotHere where it depends on weights that are not on this machine.
    """
    known, key = {} if known is None else known, json.dumps(settings.dataset, sort_keys=True, default=str)
    if key not in known:
        known[key] = find_data(settings)
    data, files = known[key], config.weight_files(settings, fetch)
    identity = config.identify(settings, files)
    folder = run_folder(settings, identity.run)
    if settings.force:
        return RunPlan(folder, "to run", data, identity)
    if folder.status == "new":
        if old := run_of_rule_1(settings, data, files):
            note = "of an earlier version, which told images apart by size; force=true trains it anew"
            return RunPlan(old, "done", data, identity, note)
        return RunPlan(folder, "to run", data, identity)
    require_same_data(folder, data)
    folder.require_undamaged(CHECKED)
    return RunPlan(folder, "done" if folder.status == "done" else "to resume", data, identity)


def find_data(settings: config.Settings) -> Data:
    """Return the images of the data set.  Raises UserError where a split has none, or a file cannot be read."""
    dataset: Dataset = config.build("dataset", settings.dataset)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train, test = checked_records(dataset, "train"), checked_records(dataset, "test")
        validation = checked_records(dataset, "validation")
        check_names([*train, *test, *validation])
        entries = list_images(train, test, validation)
        check_overlap(train, test, entries)
    lines = list(dict.fromkeys(str(warning.message) for warning in caught))
    for line in lines:
        log.warning("%s", line)
    for split, records in (("train", train), ("test", test)):
        if not records:
            raise UserError("dataset", f"has no {split} images")
    return Data(train, test, validation, entries, data_checksums(entries, test), lines)


def data_checksums(entries: Sequence[Entry], test: Sequence[Record]) -> dict[str, str]:
    """Return the checksums of what a run is trained and measured on, as its manifest holds them."""
    config_file = defects_config(test)
    return {"data": list_checksum(entries), **({DEFECTS: checksum(config_file)} if config_file else {})}


def require_same_data(folder: RunFolder, data: Data) -> None:
    """Raises UserError naming the images that are not those of the run."""
    if changes := image_changes(folder, data.entries, data.checksums):
        raise UserError(
            "dataset",
            f"its files are not those that {folder.path} was trained on: {changes}",
            "bring them back; dataset.name=NAME or output_dir=DIR keeps both; force=true trains the run anew",
        )


def image_changes(folder: RunFolder, entries: list[Entry], found: Mapping[str, str]) -> str:
    """Return which images are not those of the run, or that MVTec LOCO's defects_config.json is not; empty where all
    are.  found: `data_checksums`."""
    stored = folder.manifest.get("checksums", {})
    if stored.get("data", found["data"]) == found["data"]:
        same = stored.get(DEFECTS) in (None, found.get(DEFECTS))  # earlier versions did not store it
        return "" if same else f"{CONFIG}, by which sPRO is measured, has changed"
    try:
        old = read_list((folder.path / IMAGES).read_text(encoding="utf-8"))
        if not any(entry.split == "validation" for entry in old):  # a run that did not look for them
            entries = [entry for entry in entries if entry.split != "validation"]
        return describe_changes(old, entries) if sorted(old) != sorted(entries) else ""
    except (OSError, ValueError):  # killed before it was written, or damaged
        return f"{IMAGES}, which lists them, is missing or damaged"


def run_folder(settings: config.Settings, identity: str) -> RunFolder:
    """Return outputs/<method>/<dataset>/<category>/s<seed>-<id>.  Raises UserError for names unfit for folders."""
    name = settings.dataset["name"]
    category = settings.dataset.get("category") or name
    if config.is_own(settings.dataset):  # two folders of one name differ in their runs' identities
        category = re.sub("[^A-Za-z0-9_.-]+", "_", config.place_of(settings.dataset).name).lstrip(".-")[:64] or name
    for where, part in (("method.name", settings.method["name"]), ("dataset.name", name), ("category", category)):
        check_name(where, part)
    return RunFolder(settings.output_dir / settings.method["name"] / name / category / f"s{settings.seed}-{identity}")


def run_of_rule_1(settings: config.Settings, data: Data, files: config.WeightFiles) -> RunFolder | None:
    """Return the finished run of an earlier version that is this one, as far as its files can tell."""
    name, root = settings.dataset["name"], settings.dataset.get("root")
    category = settings.dataset.get("category") or (Path(root).resolve().name if name == "folder" and root else name)
    identity = f"s{settings.seed}-{config.identify_by_rule_1(settings)}"
    folder = RunFolder(settings.output_dir / settings.method["name"] / name / category / identity)
    manifest = folder.manifest
    if manifest.get("format") != 1 or manifest.get("status") != "done" or folder.damage():
        return None
    if manifest.get("checksums", {}).get("data") != fingerprint([*data.train, *data.test]):
        return None
    if config.is_own(settings.dataset):
        stored = OmegaConf.select(OmegaConf.load(folder.path / "config.yaml"), "dataset")
        if config.place_of(stored or {}) != config.place_of(settings.dataset):
            return None
    weights = {digest for paths in files.values() for digest in checksums(paths)}
    return folder if weights <= set(manifest.get("provenance", {}).values()) else None
