"""Rows of bytes on disk that can be made again: decoded images, features of frozen networks.

Format: a header of 4096 bytes, N rows of equal length, and the CRC-32 of each row.  The header: a line with the format,
the CRC-32 of the next line, and a line of JSON (`Header`).  A file can be deleted at any time; its modification time is
that of its last use.  Imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import uuid
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from anomaly_bench.errors import UserError
from anomaly_bench.files import new_file, try_lock

MAGIC = b"anomaly_bench rows 2"
HEADER_BYTES = 4096
LONGEST = 256  # characters of a text in `about`: a path can be longer than the header
CRC = np.dtype("<u4")
PARTS = ("*.part", ".checksums.json.*", "teachers/.*.safetensors.*")  # temporary files in the cache's folder
LOCKED = re.compile(r".+\.[0-9a-f]{32}\.part")  # names of those that are locked while they are written
UNLOCKED = re.compile(r"\.(checksums\.json|p\d+-[0-9a-f]{16}\.safetensors)\.[0-9a-f]+")  # those of `write_atomic`
YOUNG = 3600  # seconds: an older temporary file without a lock has no writer any more
AGAIN = "start the same command again: it is made anew"
Make = Callable[[], tuple[dict[str, Any], Iterable[bytes]]]  # returns a description of the rows, and at least one row


class Header(NamedTuple):
    """The first lines of a file."""

    key: str  # a checksum of all that the rows depend on
    rows: int
    length: int  # bytes of a row
    crc32: int  # of the table at the end of the file
    about: dict[str, Any]  # a description of the rows

    @property
    def file_bytes(self) -> int:
        """The size of the whole file."""
        return HEADER_BYTES + self.rows * (self.length + CRC.itemsize)


class RowFile:
    """The rows of a file, uint8 [length] each.  An access reads the row from disk and compares it with its CRC-32.

    The file is not memory-mapped, so that a truncated file is an error and no crash.  Threads and forked processes may
    read together; a process that was started afresh opens the file by its path, and must find the same rows there.
    """

    def __init__(self, path: Path, header: Header, table: np.ndarray, file: IO[bytes]) -> None:
        self.path, self.header, self._table = path, header, table
        self._descriptor: int | None = self._keep_open(file)

    def __len__(self) -> int:
        return self.header.rows

    def __getitem__(self, index: int) -> np.ndarray:
        """Read a row.  Raises UserError naming the file where the row is not what was written."""
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
        """The description that was stored with the rows."""
        return self.header.about

    def _keep_open(self, file: IO[bytes]) -> int:
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


def get_or_create(path: Path, key: str, make: Make) -> RowFile:
    """Return the rows at `path` if they are whole and were made for this key, else make and store them.

    Raises UserError when `path` cannot be written.
    """
    rows = open_if_whole(path, key)
    if rows is None:
        _write(path, key, *make())
        rows = open_if_whole(path, key)
    if rows is None:
        raise UserError("cache_dir", f"{path} was written and cannot be read back", "another folder: cache_dir=DIR")
    with contextlib.suppress(OSError):  # another user's file
        os.utime(path)
    return rows


def open_if_whole(path: Path, key: str) -> RowFile | None:
    """Return the rows, or None unless the file is whole and was made for this key; all of it is read to be sure."""
    with contextlib.suppress(OSError, ValueError, UserError), path.open("rb", buffering=0) as file:
        header = read_header(file)
        if header and header.key == key and os.fstat(file.fileno()).st_size == header.file_bytes:
            table = os.pread(file.fileno(), header.rows * CRC.itemsize, header.file_bytes - header.rows * CRC.itemsize)
            rows = RowFile(path, header, np.frombuffer(table, CRC), file)
            for index in range(len(rows)):
                rows[index]  # raises for a damaged row
            if zlib.crc32(table) == header.crc32:
                return rows
    return None


def read_header(file: IO[bytes]) -> Header | None:
    """Return the header at the start of an open file, or None for one that is damaged or of another format.

    Raises OSError.
    """
    magic, _, rest = file.read(HEADER_BYTES).partition(b"\n")
    crc, _, text = rest.rstrip().partition(b"\n")
    return Header(**json.loads(text)) if magic == MAGIC and crc == b"%08x" % zlib.crc32(text) else None


def _write(path: Path, key: str, about: dict[str, Any], rows: Iterable[bytes]) -> None:
    length, table = 0, []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_parts(path.parent)
        with _locked_file(path) as file:
            file.write(bytes(HEADER_BYTES))
            for row in rows:
                file.write(row)
                length = len(row)
                table.append(zlib.crc32(row))
            crcs = np.array(table, CRC).tobytes()
            file.write(crcs)
            file.seek(0)
            file.write(_header(Header(key, len(table), length, zlib.crc32(crcs), about)))
    except OSError as error:
        what = f"cannot write to {path.parent}: {error.strerror or error}"
        raise UserError("cache_dir", what, "another folder: cache_dir=DIR") from error


_writing: set[str] = set()  # names of this process's temporary files: opening and closing one here would end its lock


class _RemovedError(Exception):
    """Another process removed the temporary file before it was locked."""


@contextlib.contextmanager
def _locked_file(path: Path) -> Iterator[IO[bytes]]:
    """Yield `new_file`, locked until it is renamed: a process that can lock such a file knows its writer is dead."""
    while True:
        temporary = path.with_suffix(f".{uuid.uuid4().hex}.part")
        _writing.add(temporary.name)
        try:
            with new_file(path, temporary) as file:
                if try_lock(file) is False or not temporary.exists():
                    raise _RemovedError
                yield file
                return
        except _RemovedError:
            continue
        finally:
            _writing.discard(temporary.name)


def remove_parts(folder: Path) -> None:
    """Remove temporary files of processes that died while they wrote into the cache."""
    for path in chain.from_iterable(map(folder.glob, PARTS)):
        locked = LOCKED.fullmatch(path.name) is not None
        if path.name in _writing or not (locked or UNLOCKED.fullmatch(path.name)):
            continue
        with contextlib.suppress(OSError), path.open("r+b") as file:
            free = try_lock(file) if locked else None
            if free or (free is None and time.time() - os.fstat(file.fileno()).st_mtime > YOUNG):
                path.unlink()


def _header(header: Header) -> bytes:
    about = {name: value[:LONGEST] if isinstance(value, str) else value for name, value in header.about.items()}
    text = json.dumps(header._replace(about=about)._asdict()).encode()
    block = (b"%s\n%08x\n%s" % (MAGIC, zlib.crc32(text), text)).ljust(HEADER_BYTES)
    if len(block) > HEADER_BYTES:
        raise ValueError(f"{len(block)} bytes of header, {HEADER_BYTES} are there")
    return block
