"""Rows of bytes on disk that can be made again: decoded images, features of frozen networks.

Format: a header of 4096 bytes, then N rows of equal length.  The header: a line that says what the file is, the CRC-32
of the next line, and a line of JSON (`Header`).  A file can be deleted at any time; its modification time is that of
its last use.  Imports no torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import Progress

from anomaly_bench.errors import UserError

MAGIC = b"anomaly_bench rows 1"
HEADER_BYTES = 4096
LONGEST = 256  # characters of a text in `about`: a path can be longer than the header
AT_ONCE = 2**20  # bytes read at once for the checksum; from the file, because what is read from a map counts as memory
Make = Callable[[], tuple[dict[str, Any], Iterable[bytes]]]  # what to say of the rows, and the rows: at least one


class Header(NamedTuple):
    """What a file says of itself."""

    key: str  # of all that the rows depend on
    rows: int
    length: int  # of a row in bytes
    crc32: int  # of all rows
    about: dict[str, Any]  # what their maker says of them

    @property
    def file_bytes(self) -> int:
        """The size of the whole file."""
        return HEADER_BYTES + self.rows * self.length


class Kept(NamedTuple):
    """A file of rows."""

    rows: np.memmap  # uint8 [N, bytes in a row], read-only
    about: dict[str, Any]  # what their maker says of them


def keep(path: Path, key: str, make: Make) -> Kept:
    """The rows at `path` if they are whole and made for this key, else newly made ones.

    Raises UserError when `path` cannot be written.
    """
    kept = open_kept(path, key)
    if kept is None:
        _write(path, key, *make())
        kept = open_kept(path, key, checked=False)
    if kept is None:
        raise UserError("cache_dir", f"{path} was written and cannot be read back", "another folder: cache_dir=DIR")
    with contextlib.suppress(OSError):  # another user's file
        os.utime(path)
    return kept


def open_kept(path: Path, key: str, checked: bool = True) -> Kept | None:
    """The rows, or None unless the file is whole and made for this key.  checked: reads all of it to be sure."""
    try:
        with path.open("rb") as file:
            header = read_header(file)
            if header is None or header.key != key or os.fstat(file.fileno()).st_size != header.file_bytes:
                return None
            if checked and _checksum(file) != header.crc32:
                return None
            return Kept(np.memmap(file, np.uint8, "r", HEADER_BYTES, (header.rows, header.length)), header.about)
    except OSError:
        return None


def read_header(file: BinaryIO) -> Header | None:
    """The header at the start of an open file, which is then at its first row; None when it is damaged or not ours."""
    magic, _, rest = file.read(HEADER_BYTES).partition(b"\n")
    crc, _, text = rest.rstrip().partition(b"\n")
    return Header(**json.loads(text)) if magic == MAGIC and crc == b"%08x" % zlib.crc32(text) else None


def progress(rows: Iterable[bytes], what: str, total: int) -> Iterator[bytes]:
    """The rows, with a bar on a terminal."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        yield from bar.track(rows, total, description=what)


def _checksum(file: BinaryIO) -> int:
    """Of the rest of the file."""
    crc, buffer = 0, memoryview(bytearray(AT_ONCE))
    while count := file.readinto(buffer):  # type: ignore[attr-defined]
        crc = zlib.crc32(buffer[:count], crc)
    return crc


def _write(path: Path, key: str, about: dict[str, Any], rows: Iterable[bytes]) -> None:
    part = path.with_suffix(f".{uuid.uuid4().hex}.part")  # its own name: another process may write the same
    count, length, crc = 0, 0, 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("xb") as file:  # written, not mapped: a full disk is then an error and not a SIGBUS
                file.write(bytes(HEADER_BYTES))
                for row in rows:
                    file.write(row)
                    count, length, crc = count + 1, len(row), zlib.crc32(row, crc)
                file.seek(0)
                file.write(_header(Header(key, count, length, crc, about)))
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        what = f"cannot write to {path.parent}: {error.strerror or error}"
        raise UserError("cache_dir", what, "another folder: cache_dir=DIR") from error


def _header(header: Header) -> bytes:
    about = {name: value[:LONGEST] if isinstance(value, str) else value for name, value in header.about.items()}
    text = json.dumps(header._replace(about=about)._asdict()).encode()
    block = (b"%s\n%08x\n%s" % (MAGIC, zlib.crc32(text), text)).ljust(HEADER_BYTES)
    if len(block) > HEADER_BYTES:
        raise ValueError(f"{len(block)} bytes of header, {HEADER_BYTES} are there")
    return block
