"""Checks of a data set before it is used: valid records, names that can be stored, no image in train and test."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

import numpy as np

from anomaly_bench.errors import UserError
from anomaly_bench.loading.image_files import printable
from anomaly_bench.loading.image_list import Entry
from anomaly_bench.records import Dataset, Record

# Control characters, line ends of any kind, and bytes that are not UTF-8, which Python reads as lone surrogates.
UNSTORABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
FIELDS = {"path": (str,), "kind": (str,), "image": (Path, np.ndarray), "mask": (Path, tuple, np.ndarray, type(None))}


def checked_records(dataset: Dataset, split: Literal["train", "test", "validation"]) -> list[Record]:
    """Return the images of a split.  Raises UserError unless the data set returns what `Record` describes."""
    call = "validation_records()" if split == "validation" else f"records('{split}')"
    where, paths = f"{type(dataset).__qualname__}.{call}", set()
    records = dataset.validation_records() if split == "validation" else dataset.records(split)
    if not isinstance(records, list):
        raise UserError(where, f"returned {type(records).__name__}; a list of Record is needed")
    for record in records:
        if not isinstance(record, Record):
            raise UserError(where, f"holds a {type(record).__name__}; a list of Record is needed")
        for name, types in FIELDS.items():
            if not isinstance(value := getattr(record, name), types):
                wanted = " or ".join(each.__name__ for each in types)
                raise UserError(where, f"the {name} of '{record.path}' is {type(value).__name__}; {wanted} is needed")
        if isinstance(record.mask, tuple) and not (record.mask and all(isinstance(f, Path) for f in record.mask)):
            raise UserError(where, f"the mask of '{record.path}' is {record.mask!r}; a tuple holds one Path or more")
        if PurePosixPath(record.path).is_absolute() or ".." in PurePosixPath(record.path).parts:
            raise UserError(where, f"'{record.path}' is no path below the data root")
        if record.kind in ("", ".", "..") or "/" in record.kind:
            raise UserError(where, f"the kind of '{record.path}' is '{record.kind}'; the name of a folder is needed")
        if split == "validation" and record.label:
            raise UserError(where, f"the kind of '{record.path}' is '{record.kind}'; only normal images calibrate")
        if record.path in paths:
            raise UserError(where, f"two images have the path '{record.path}'", "each needs one of its own")
        paths.add(record.path)
    return records


def check_names(records: Iterable[Record]) -> None:
    """Raise UserError for the first name, folders included, that no line of a CSV or JSON file can hold."""
    for record in records:
        for source in (record.path, record.image, *record.mask_files):
            if isinstance(source, (str, Path)) and UNSTORABLE.search(str(source)):
                what = "this name has control characters or bytes that are not UTF-8"
                raise UserError(printable(source), what, "rename the file or the folder")


def check_overlap(train: Sequence[Record], test: Sequence[Record], entries: Sequence[Entry]) -> None:
    """Compare images by content.  entries: of train, of test, and of the validation images (`list_images`).

    Raises UserError where a defective test image is also a normal one, in the training or in the test: one of the two
    labels is wrong; for arrays, which come from official files, this is a warning.  Raises it as well where a
    validation image is also another one.  Warns of normal test images that are training images too.
    """
    validation = entries[len(train) + len(test) :]
    entries = entries[: len(train) + len(test)]
    others = {entry.image: f"{entry.split}/{entry.path}" for entry in entries}
    if seen := [entry for entry in validation if entry.image in others]:
        text = _describe("validation images that are training or test images too", seen, others)
        raise UserError("dataset", text, "remove each from one of the two places")
    training = {entry.image: entry.path for entry in entries[: len(train)]}
    tested = list(zip(test, entries[len(train) :], strict=True))
    normal = {entry.image: entry.path for record, entry in tested if not record.label} | training
    wrong = [(record, entry) for record, entry in tested if record.label and entry.image in normal]
    if wrong:
        text = _describe("defective test images that are normal images too", [entry for _, entry in wrong], normal)
        if any(isinstance(record.image, Path) for record, _ in wrong):
            raise UserError("dataset", text, "remove each from one of the two places")
        warnings.warn(text, stacklevel=2)
    if seen := [entry for record, entry in tested if not record.label and entry.image in training]:
        warnings.warn(_describe("normal test images that are training images too", seen, training), stacklevel=2)


def _describe(what: str, entries: list[Entry], others: dict[str, str]) -> str:
    first = entries[0]
    return f"{what}, by content: {len(entries)} (first: {first.path} is {others[first.image]})"
