"""Rows of bytes on disk that can be made again: decoded images, features of frozen networks.

Format: a header of 4096 bytes, N rows of equal length, and the CRC-32 of each row.  The header: a line that says what
the file is, the CRC-32 of the next line, and a line of JSON (`Header`).  A file can be deleted at any time; its
modification time is that of its last use.  Imports no torch.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import time
import uuid
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress

from anomaly_bench.errors import UserError

PREFIX = b"anomaly_bench "  # of every version's first line
MAGIC = PREFIX + b"rows 2"
HEADER_BYTES = 4096
LONGEST = 256  # characters of a text in `about`: a path can be longer than the header
CRC = np.dtype("<u4")
PARTS = ("*.part", ".checksums.json.*", "teachers/.*.safetensors.*")  # below the cache's folder
LOCKED = re.compile(r".+\.[0-9a-f]{32}\.part")  # the names of parts that are locked while they are written
UNLOCKED = re.compile(r"\.(checksums\.json|p\d+-[0-9a-f]{16}\.safetensors)\.[0-9a-f]+")  # those of `write_atomic`
YOUNG = 3600  # seconds: an older part without a lock has no writer any more
AGAIN = "start the same command again: it is made anew"
Make = Callable[[], tuple[dict[str, Any], Iterable[bytes]]]  # what to say of the rows, and the rows: at least one


class Header(NamedTuple):
    """What a file says of itself."""

    key: str  # of all that the rows depend on
    rows: int
    length: int  # of a row in bytes
    crc32: int  # of the table at the end of the file
    about: dict[str, Any]  # what their maker says of them

    @property
    def file_bytes(self) -> int:
        """The size of the whole file."""
        return HEADER_BYTES + self.rows * (self.length + CRC.itemsize)


class Rows:
    """The rows of a file, uint8 [length] each.  Every row is read when it is asked for, and compared with its CRC-32.

    Nothing is mapped: a file that is cut short is an error and no crash.  Threads and forked processes may read
    together; a process that was started afresh opens the file by its path, and must find the same rows there.
    """

    def __init__(self, path: Path, header: Header, table: np.ndarray, file: BinaryIO) -> None:
        self.path, self.header, self._table = path, header, table
        self._descriptor: int | None = self._keep_open(file)

    def __len__(self) -> int:
        return self.header.rows

    def __getitem__(self, index: int) -> np.ndarray:
        """Raises UserError naming the file where the row is not what was written."""
        header, index = self.header, range(len(self))[index]
        try:
            row = os.pread(self._opened(), header.length, HEADER_BYTES + index * header.length)
        except OSError as error:
            raise UserError(str(self.path), f"row {index} cannot be read: {error.strerror}", AGAIN) from error
        if len(row) != header.length or zlib.crc32(row) != self._table[index]:
            raise UserError(str(self.path), f"row {index} was damaged while the file was in use", AGAIN)
        return np.frombuffer(row, np.uint8)

    @property
    def about(self) -> dict[str, Any]:
        return self.header.about

    def _keep_open(self, file: BinaryIO) -> int:
        descriptor = os.dup(file.fileno())
        weakref.finalize(self, os.close, descriptor)
        return descriptor

    def _opened(self) -> int:
        if self._descriptor is None:
            same = False
            with contextlib.suppress(OSError, ValueError), self.path.open("rb", buffering=0) as file:
                if same := read_header(file) == self.header:
                    self._descriptor = self._keep_open(file)
            if not same or self._descriptor is None:
                raise UserError(str(self.path), "was removed or replaced while it was in use", AGAIN)
        return self._descriptor

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_descriptor": None}


def keep(path: Path, key: str, make: Make) -> Rows:
    """The rows at `path` if they are whole and made for this key, else newly made ones.

    Raises UserError when `path` cannot be written.
    """
    rows = open_kept(path, key)
    if rows is None:
        _write(path, key, *make())
        rows = open_kept(path, key)
    if rows is None:
        raise UserError("cache_dir", f"{path} was written and cannot be read back", "another folder: cache_dir=DIR")
    with contextlib.suppress(OSError):  # another user's file
        os.utime(path)
    return rows


def open_kept(path: Path, key: str) -> Rows | None:
    """The rows, or None unless the file is whole and made for this key; all of it is read to be sure."""
    with contextlib.suppress(OSError, ValueError), path.open("rb", buffering=0) as file:
        header = read_header(file)
        if header and header.key == key and os.fstat(file.fileno()).st_size == header.file_bytes:
            table = os.pread(file.fileno(), header.rows * CRC.itemsize, header.file_bytes - header.rows * CRC.itemsize)
            rows = Rows(path, header, np.frombuffer(table, CRC), file)
            if zlib.crc32(table) == header.crc32 and all(_fits(rows, i) for i in range(len(rows))):
                return rows
    return None


def _fits(rows: Rows, index: int) -> bool:
    try:
        rows[index]
    except UserError:
        return False
    return True


def read_header(file: BinaryIO) -> Header | None:
    """The header at the start of an open file; None when it is damaged or not ours.  Raises OSError."""
    magic, _, rest = file.read(HEADER_BYTES).partition(b"\n")
    crc, _, text = rest.rstrip().partition(b"\n")
    return Header(**json.loads(text)) if magic == MAGIC and crc == b"%08x" % zlib.crc32(text) else None


def progress(rows: Iterable[bytes], what: str, total: int) -> Iterator[bytes]:
    """The rows, with a bar on a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        yield from bar.track(rows, total, description=what)


def _write(path: Path, key: str, about: dict[str, Any], rows: Iterable[bytes]) -> None:
    length, table = 0, []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_parts(path.parent)
        with _new_part(path) as file:
            file.write(bytes(HEADER_BYTES))
            for row in rows:
                file.write(row)
                length = len(row)
                table.append(zlib.crc32(row))
            crcs = np.array(table, CRC).tobytes()
            file.write(crcs)
            file.seek(0)
            file.write(_header(Header(key, len(table), length, zlib.crc32(crcs), about)))
            file.flush()
            os.fsync(file.fileno())
            Path(file.name).replace(path)  # still locked: nobody takes it for a dead process's
    except OSError as error:
        what = f"cannot write to {path.parent}: {error.strerror or error}"
        raise UserError("cache_dir", what, "another folder: cache_dir=DIR") from error


_writing: set[str] = set()  # the parts of this process: opened and closed once more here, they would lose their lock


@contextlib.contextmanager
def _new_part(path: Path) -> Iterator[BinaryIO]:
    """A new file beside `path`, locked until the end: who finds it free knows that its writer is dead."""
    while True:
        part = path.with_suffix(f".{uuid.uuid4().hex}.part")  # its own name: another process may write the same
        _writing.add(part.name)
        try:
            with part.open("xb") as file:
                if _lock(file) is not False and part.exists():  # else another process found it before it was locked
                    yield file
                    return
        finally:
            part.unlink(missing_ok=True)
            _writing.discard(part.name)


def remove_parts(folder: Path) -> None:
    """Remove what processes left that died while they wrote into the cache."""
    for part in (path for pattern in PARTS for path in folder.glob(pattern)):
        if part.name in _writing or not (LOCKED.fullmatch(part.name) or UNLOCKED.fullmatch(part.name)):
            continue
        with contextlib.suppress(OSError), part.open("r+b") as file:
            free = _lock(file) if LOCKED.fullmatch(part.name) else None
            if free or (free is None and time.time() - os.fstat(file.fileno()).st_mtime > YOUNG):
                part.unlink()


def _lock(file: BinaryIO) -> bool | None:
    """Whether the kernel's lock on an open file was to be had; None where there are no such locks."""
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _header(header: Header) -> bytes:
    about = {name: value[:LONGEST] if isinstance(value, str) else value for name, value in header.about.items()}
    text = json.dumps(header._replace(about=about)._asdict()).encode()
    block = (b"%s\n%08x\n%s" % (MAGIC, zlib.crc32(text), text)).ljust(HEADER_BYTES)
    if len(block) > HEADER_BYTES:
        raise ValueError(f"{len(block)} bytes of header, {HEADER_BYTES} are there")
    return block
