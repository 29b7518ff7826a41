"""Download a large file from the first mirror that has it, resuming a broken download; unpack archives safely."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import shutil
import stat
import tarfile
import time
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from anomaly_bench.console import byte_bar, open_with_bar, print_lines
from anomaly_bench.errors import UserError
from anomaly_bench.files import BLOCK, sha256_of, unwritable

TRIES = 4  # in a row that bring no new bytes, before the next mirror is tried
TIMEOUT = 30  # seconds without an answer
LIKELY = 20  # times an archive's size: the most that it may unpack to where its content is not known
COMPRESSED = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}  # what a compressed tar begins with


def download(urls: Iterable[str], target: Path, size: int | None, sha256: str | None) -> None:
    """Fetch `target` from the first of `urls` that works; a file <target>.part left by an earlier try is completed.

    size (bytes) and sha256 (hex): what the file must have, where it is known.  Raises UserError that says for each
    address why it did not work.
    """
    part = target.with_name(f"{target.name}.part")
    part.parent.mkdir(parents=True, exist_ok=True)
    reasons = []
    for url in urls:
        reason = _attempt(url, part, size, sha256)
        if not reason:
            part.replace(target)
            return
        reasons.append(reason)
        print_lines(reason, style="yellow", stderr=True)
    what = "; ".join(reasons) or "no address is given"
    raise UserError("urls", what, "other addresses: bench data prepare NAME urls=[...]; what has arrived is kept")


def _attempt(url: str, part: Path, size: int | None, sha256: str | None) -> str:
    """Return why `url` did not give the file, or an empty string when it is in `part`."""
    try:
        if size is None or _bytes(part) != size:
            _fetch(url, part)
        _check(part, size, sha256)
    except (OSError, HTTPException, ValueError) as error:
        return f"{url}: {error}"
    return ""


def _fetch(url: str, part: Path) -> None:
    """Complete `part`, with as many connections as it takes."""
    tries = 0
    while True:
        before = _bytes(part)
        try:
            return _receive(url, part, before)
        except (OSError, HTTPException) as error:
            if isinstance(error, HTTPError):
                if error.code != 416 or not before:
                    raise
                part.unlink()  # 416: the file ends before what we have, which is then of another file
            tries = 0 if _bytes(part) > before else tries + 1
            if tries >= TRIES:
                raise
            time.sleep(tries)


def _receive(url: str, part: Path, have: int) -> None:
    """Read from one connection; a server that does not know ranges sends the file from its start."""
    headers = {"User-Agent": "anomaly_bench"} | ({"Range": f"bytes={have}-"} if have else {})
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise ConnectionError(f"asked for the bytes from {have} and got {response.headers.get('Content-Range')}")
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with part.open("ab" if resumed else "wb") as file, byte_bar() as bar:
            task = bar.add_task(part.stem, total=total, completed=start)
            while block := response.read(BLOCK):
                file.write(block)
                bar.advance(task, len(block))
    if total is not None and _bytes(part) < total:
        raise ConnectionError(f"broke off after {_bytes(part)} of {total} bytes")


def _check(part: Path, size: int | None, sha256: str | None) -> None:
    """Raise OSError, and remove the file, when it has another size or checksum."""
    found, wanted = f"{_bytes(part)} bytes", f"{size} bytes"
    if sha256 is not None and (size is None or found == wanted):
        with open_with_bar(part, f"checking {part.stem}") as file:
            found, wanted = f"SHA-256 {sha256_of(file)}", f"SHA-256 {sha256}"
    if (size is not None or sha256 is not None) and found != wanted:
        part.unlink()
        raise OSError(f"is another file: {found}, expected {wanted}")


class _Budget:
    """A count of bytes that refuses more than an archive may unpack to."""

    def __init__(self, archive: Path, limit: int) -> None:
        self.archive, self.limit, self.spent = archive, limit, 0

    def spend(self, count: int) -> None:
        """Add bytes.  Raises UserError beyond the limit."""
        self.spent += count
        if self.spent > self.limit:
            what = f"unpacks to more than the {self.limit} bytes that this data set can have: nothing is kept of it"
            raise UserError(str(self.archive), what, "delete it, or give other urls=[...]")


class _Counted(io.RawIOBase):
    """A stream that counts what is read from it."""

    def __init__(self, source: IO[bytes], budget: _Budget) -> None:
        self.source, self.budget = source, budget

    def read(self, size: int = -1) -> bytes:
        """Read and count bytes."""
        block = self.source.read(size)
        self.budget.spend(len(block))
        return block


def extract(archive: Path, folder: Path, limit: int | None = None) -> None:
    """Unpack a tar (any compression) or zip into `folder`, which is new or empty: plain files and folders only.

    limit: bytes that it may unpack to, whatever it says of itself; None: LIKELY times its size.  Raises UserError when
    the archive is damaged, is larger, holds a link, a device, a name twice or one that leads out of `folder`, or when a
    file cannot be written; nothing is left of `folder` then.
    """
    limit = LIKELY * _bytes(archive) + BLOCK if limit is None else limit  # + 1 MB: folders and padding of a small one
    budget = _Budget(archive, limit)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _named(archive), open_with_bar(archive, f"unpacking {archive.stem}") as file:
            for name, source in _members(file, archive, limit):
                path = PurePosixPath(name)
                if source is None or path.is_absolute() or ".." in path.parts or not path.name:
                    what = f"{name!r} is a link, a device or leads out of the folder: not unpacked"
                    raise UserError(str(archive), what)
                if os.path.lexists(folder / path):
                    raise UserError(str(archive), f"holds {name!r} twice: not unpacked")
                _write(folder / path, _Counted(source, budget))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@contextmanager
def _named(archive: Path) -> Iterator[None]:
    """Turn any of the many errors that readers of damaged archives raise into a UserError with the archive's name."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        reason = error.strerror if isinstance(error, OSError) else None
        what = f"cannot be read: {reason}" if reason else f"is damaged: {error}"
        raise UserError(str(archive), what, "delete it and prepare again") from error


def _write(target: Path, source: _Counted) -> None:
    def blocks() -> Iterator[bytes]:
        while True:
            with _named(source.budget.archive):
                block = source.read(BLOCK)
            if not block:
                return
            yield block

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with target.open("xb") as out:
            out.writelines(blocks())
    except OSError as error:
        raise unwritable(target, error, "free some space, or another folder: root=DIR") from error


def _members(file: IO[bytes], archive: Path, limit: int) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Yield name and content of each member that is no folder; None for anything but a plain file."""
    start = file.read(6)
    file.seek(0)
    if start.startswith(b"PK"):
        return _zip(file, _Budget(archive, limit))
    unpack: Any = next((reader for magic, reader in COMPRESSED.items() if start.startswith(magic)), None)
    return _tar(_Counted(unpack(file) if unpack else file, _Budget(archive, limit)))


def _zip(file: IO[bytes], budget: _Budget) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Yield the `_members` of a zip; `budget` counts the sizes in the archive's list."""
    with zipfile.ZipFile(file) as archive:
        budget.spend(sum(info.file_size for info in archive.infolist()))
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)  # 0 where the host has none
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                yield info.filename, None
            elif not info.is_dir():
                with archive.open(info) as source:
                    yield info.filename, source


def _tar(stream: _Counted) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Yield the `_members` of a tar, in one pass, because a compressed tar can only be read from its start.

    The stream's budget refuses long names and skipped members, that of the written files refuses sparse files.
    """
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for member in archive:
            if not member.isdir():
                yield member.name, archive.extractfile(member) if member.isfile() else None
    while stream.read(BLOCK):  # the compression's checksum is at the end
        pass


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
