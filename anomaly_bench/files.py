"""Files on disk: written whole or not at all, locked, and compared by their content.  Imports no torch."""

from __future__ import annotations

import csv
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

from anomaly_bench.errors import UserError

BLOCK = 2**20  # bytes read at once
ABANDONED = 86400  # seconds: no folder takes longer to fill
FREE_SPACE = "free some space or choose another output_dir=DIR"


@contextmanager
def new_file(path: Path, temporary: Path | None = None, sync: bool = True) -> Iterator[IO[bytes]]:
    """Yield a temporary file beside `path`, which is renamed to `path`, replacing an older one, as the block ends.

    `path` is therefore whole or absent: after an error in the block nothing of the new file is left.  temporary: its
    name until then; a hidden one by default.  sync: flush the content to the disk before renaming.  Permissions are
    those that the umask gives.  Raises OSError.
    """
    temporary = temporary or path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("xb") as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
            temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(path: Path, keep: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill; at the end of the block it is renamed to `path`, which replaces an older one.

    The older folder stays until then, and after an error in the block.  keep: a folder that another process has put
    there in the meantime stays.  What killed processes left half filled is removed when it is a day old.  Permissions
    are those that the umask gives.  Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for left in path.parent.glob(f".{path.name}-*/{path.name}"):
        with suppress(OSError):  # its process has just finished
            if time.time() - left.parent.stat().st_mtime > ABANDONED:
                shutil.rmtree(left.parent, ignore_errors=True)
    scratch = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))  # closed to other users; `new` is not
    try:
        new = scratch / path.name
        new.mkdir()
        yield new
        if keep and path.is_dir():
            return
        if path.exists():
            path.rename(scratch / f"{path.name}.old")
        new.rename(path)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def write_atomic(path: Path, write: Callable[[IO[bytes]], object], sync: bool = True) -> None:
    """Let `write` fill `new_file(path)`.

    Raises UserError naming the file where the folder has no room or gives no permission.
    """
    try:
        with new_file(path, sync=sync) as file:
            write(file)
    except OSError as error:
        raise unwritable(path, error) from error


def unwritable(path: Path, error: OSError, hint: str = FREE_SPACE) -> UserError:
    """Return the error for a file or folder that cannot be written: no room, no permission, not a folder."""
    return UserError(str(path), f"cannot be written: {error.strerror or error}", hint)


def unreadable(path: Path, error: OSError) -> UserError:
    """Return the error for a file or folder that cannot be read."""
    return UserError(str(path), f"cannot be read: {error.strerror or error}")


def try_lock(file: IO[Any], shared: bool = False) -> bool | None:
    """Try to get the kernel's lock on an open file, which ends when the process closes any handle of that file.

    Returns False where another process holds it, None where the file system has no such locks.
    """
    try:
        fcntl.lockf(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # which of the two is the system's choice
        return False
    except OSError:
        return None
    return True


def sha256(content: bytes | str) -> str:
    """Return the SHA-256 of bytes, or of a text in UTF-8: 64 hex digits."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def sha256_of(source: Path | IO[bytes], size: int | None = None) -> str:
    """Return the SHA-256 of a file, or of an open file from where it stands: 64 hex digits.  It is read block by block.

    size: how many bytes at most.  Raises OSError.
    """
    if isinstance(source, Path):
        with source.open("rb", buffering=0) as file:
            return sha256_of(file, size)
    digest, left = hashlib.sha256(), float("inf") if size is None else size
    while left and (block := source.read(int(min(BLOCK, left)))):
        digest.update(block)
        left -= len(block)
    return digest.hexdigest()


def write_sealed(path: Path, value: Any) -> None:
    """Write JSON after a first line with its SHA-256, for values that only save time and can be computed again."""
    text = json.dumps(value, separators=(",", ":"))
    write_atomic(path, lambda file: file.write(f"{sha256(text)}\n{text}".encode()))


def read_sealed(path: Path) -> Any:
    """Return what `write_sealed` wrote, or None where the file is missing or damaged."""
    try:
        digest, _, text = path.read_bytes().partition(b"\n")
        return json.loads(text) if digest == sha256(text).encode() else None
    except (OSError, ValueError, RecursionError):
        return None


def write_text(path: Path, text: str) -> None:
    """Write a file in UTF-8, whole or not at all, as `write_atomic` does."""
    write_atomic(path, lambda file: file.write(text.encode()))


def csv_text(lines: Iterable[Iterable[object]]) -> str:
    """Return lines of values as CSV, each ended by a line feed; numbers keep every digit."""
    rows: list[str] = []
    keep = SimpleNamespace(write=lambda row: rows.append(row.removesuffix("\r\n") + "\n"))  # called once a row
    csv.writer(keep, lineterminator="\r\n").writerows(lines)  # else a field with \r would not be quoted
    return "".join(rows)


def records_csv(records: Sequence[Mapping[str, object]]) -> str:
    """Return records as CSV, a column for each key of any of them; what a record lacks is empty."""
    headings = list(dict.fromkeys(key for record in records for key in record))
    return csv_text([headings, *([record.get(key, "") for key in headings] for record in records)])


def remove(path: Path) -> None:
    """Remove a file, a link, or a folder with all that is in it."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
