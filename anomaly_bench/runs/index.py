"""The content of all runs' small files, kept in `<outputs>/.index.json`, so that many runs are read in an instant.

Each file is read every time; what was parsed from it is reused while its SHA-256 is the same.  The index may be
deleted, damaged or written by two processes at once, and where it cannot be written everything works without it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anomaly_bench.errors import UserError
from anomaly_bench.files import read_sealed, sha256, write_sealed
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.lock import holder

INDEX, FORMAT = ".index.json", 2
Entry = list[Any]  # SHA-256 of a file, what was parsed from it


class Index:
    """What was parsed from files below `outputs`, now or by an earlier command."""

    def __init__(self, outputs: Path) -> None:
        self.outputs, self.known = outputs, _load(outputs / INDEX)
        self.digests: dict[Path, str] = {}  # of what was read by this command
        self.changed = False

    def parsed(self, file: Path, content: bytes, parse: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return what `parse` makes of a file's content; it is called only where the content is new."""
        key, digest = file.relative_to(self.outputs).as_posix(), sha256(content)
        self.digests[file] = digest
        entry = self.known.get(key)
        if entry and entry[0] == digest:
            known: dict[str, Any] = entry[1]
            return known
        value = parse()
        if isinstance(value, dict):
            self.known[key], self.changed = [digest, value], True
        return value

    def save(self, folders: Iterable[Path]) -> None:
        """Write what is known of these run folders, if anything has changed."""
        names = {folder.relative_to(self.outputs).as_posix() for folder in folders}
        kept = {key: entry for key, entry in self.known.items() if key.rpartition("/")[0] in names}
        if not self.changed and len(kept) == len(self.known):
            return
        try:
            write_sealed(self.outputs / INDEX, {"format": FORMAT, "files": kept})
        except (UserError, TypeError, ValueError):  # a folder that is read-only, a value that JSON lacks
            return


class IndexedFolder(RunFolder):
    """A run folder that is read through an index."""

    def __init__(self, path: Path, index: Index) -> None:
        super().__init__(path)
        self.index = index

    def _parsed(self, file: Path, content: bytes) -> dict[str, Any]:
        parse = super()._parsed
        return self.index.parsed(file, content, lambda: parse(file, content))

    def digest(self, name: str) -> str | None:
        """Return the same as `RunFolder.digest`; a file that this command has read is not read again."""
        return self.index.digests.get(self.path / name) or super().digest(name)


@contextmanager
def indexed(outputs: Path, paths: Iterable[Path]) -> Iterator[list[IndexedFolder]]:
    """Yield the run folders at `paths` below `outputs`, read through the index, which is written at the end."""
    index, paths = Index(outputs), list(paths)
    yield [IndexedFolder(path, index) for path in paths]
    index.save(paths)


def state(folder: RunFolder) -> str:
    """Return the status; `interrupted` where it is `running` but no process works on the run; `damaged` where a small
    result file of a finished run is not as the run wrote it."""
    status = folder.status
    if status == "done":
        return "damaged" if folder.damage() else status
    return "interrupted" if status == "running" and holder(folder.path) is None else status


def _load(file: Path) -> dict[str, Entry]:
    """Return the entries; none where the index is missing, damaged or of another version."""
    index = read_sealed(file)
    try:
        entries = index["files"] if index["format"] == FORMAT else {}
        return {key: entry for key, entry in entries.items() if len(entry) == 2 and isinstance(entry[1], dict)}
    except (KeyError, TypeError, AttributeError):
        return {}
