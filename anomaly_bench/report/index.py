"""What the small files of all runs say, kept in `<outputs>/.index.json`, so that many runs are read in an instant.

The files of the run folders are the truth.  What is kept of one holds while its time and size agree; the index may be
deleted, damaged or written by two processes at once, and where it cannot be written everything works without it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anomaly_bench.errors import UserError
from anomaly_bench.files import write_atomic
from anomaly_bench.lock import holder
from anomaly_bench.store import RunFolder

INDEX, FORMAT = ".index.json", 1
SETTLED = 2e9  # ns; a file younger than this could change once more without a change of its time
Entry = list[Any]  # time of change in ns, size in bytes, content


class Index:
    """Contents of files below `outputs`, as they were read or kept."""

    def __init__(self, outputs: Path) -> None:
        self.outputs, self.known = outputs, _load(outputs / INDEX)
        self.changed = False

    def read(self, file: Path, parse: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `parse` makes of a file: kept from last time, else called.  Only what it returns is kept."""
        key = file.relative_to(self.outputs).as_posix()
        try:
            found = file.stat()
        except OSError:  # parse knows what a missing file means
            return parse()
        stamp, entry = [found.st_mtime_ns, found.st_size], self.known.get(key)
        if entry and entry[:2] == stamp:
            kept: dict[str, Any] = entry[2]
            return kept
        value = parse()
        if isinstance(value, dict) and abs(time.time_ns() - found.st_mtime_ns) > SETTLED:
            self.known[key], self.changed = [*stamp, value], True
        return value

    def save(self, folders: Iterable[Path]) -> None:
        """Write what is kept of these run folders, if anything has changed."""
        there = {folder.relative_to(self.outputs).as_posix() for folder in folders}
        kept = {key: entry for key, entry in self.known.items() if key.rpartition("/")[0] in there}
        if not self.changed and len(kept) == len(self.known):
            return
        try:
            text = json.dumps({"format": FORMAT, "files": kept}, separators=(",", ":")).encode()
            write_atomic(self.outputs / INDEX, lambda file: file.write(text))
        except (UserError, TypeError, ValueError):  # a folder that is read-only, a value that JSON lacks
            return


class KeptFolder(RunFolder):
    """A run folder that is read through an index."""

    def __init__(self, path: Path, index: Index) -> None:
        super().__init__(path)
        self.index = index

    def _json(self, name: str) -> dict[str, Any]:
        read = super()._json
        return self.index.read(self.path / name, lambda: read(name))


@contextmanager
def indexed(outputs: Path, paths: Iterable[Path]) -> Iterator[list[KeptFolder]]:
    """The run folders at `paths` below `outputs`, read through the index, which is written at the end."""
    index, paths = Index(outputs), list(paths)
    yield [KeptFolder(path, index) for path in paths]
    index.save(paths)


def state(folder: RunFolder) -> str:
    """The status; `interrupted` where it is `running` but no process works on the run."""
    status = folder.status
    return "interrupted" if status == "running" and holder(folder.path) is None else status


def _load(file: Path) -> dict[str, Entry]:
    """What is kept; nothing where the index is missing, damaged or of another version."""
    try:
        index = json.loads(file.read_bytes())
        entries = index["files"] if index["format"] == FORMAT else {}
        return {key: entry for key, entry in entries.items() if len(entry) == 3 and isinstance(entry[2], dict)}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}
