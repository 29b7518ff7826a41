"""Files on disk: written whole or not at all, and told apart by their content.  Imports no torch."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from anomaly_bench.errors import UserError

BLOCK = 2**20  # bytes read at once


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Let `write` fill a temporary file beside `path`, flush it to disk, then rename it: `path` is whole or absent.

    Permissions are those that the umask gives.  Raises UserError naming the file where the folder has no room or gives
    no permission.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("xb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError) -> UserError:
    """The one line for a file that cannot be written: no room, no permission, not a folder."""
    return UserError(
        str(path), f"cannot be written: {error.strerror or error}", "free some space or choose another output_dir=DIR"
    )


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, 64 hex digits, read block by block.  Raises OSError."""
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_sealed(path: Path, value: Any) -> None:
    """JSON whose first line is the SHA-256 of the rest, for what is kept to be quick and can be made again."""
    text = json.dumps(value, separators=(",", ":")).encode()
    content = hashlib.sha256(text).hexdigest().encode() + b"\n" + text
    write_atomic(path, lambda file: file.write(content))


def read_sealed(path: Path) -> Any:
    """What `write_sealed` wrote; None where the file is missing or damaged."""
    try:
        digest, _, text = path.read_bytes().partition(b"\n")
        return json.loads(text) if digest == hashlib.sha256(text).hexdigest().encode() else None
    except (OSError, ValueError, RecursionError):
        return None


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8, whole or not at all, as `write_atomic` does."""
    write_atomic(path, lambda file: file.write(text.encode()))


def csv_text(lines: Iterable[Iterable[object]]) -> str:
    """Return lines of values as CSV; numbers keep every digit."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()


def records_csv(records: Sequence[Mapping[str, object]]) -> str:
    """Return records as CSV, a column for each key of any of them; what a record lacks is empty."""
    headings = list(dict.fromkeys(key for record in records for key in record))
    return csv_text([headings, *([record.get(key, "") for key in headings] for record in records)])


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
