"""Download a large file from the first mirror that has it, going on where it broke off; unpack it without surprises."""

from __future__ import annotations

import hashlib
import lzma
import shutil
import stat
import tarfile
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from http.client import HTTPException
from pathlib import Path, PurePosixPath
from typing import IO, BinaryIO
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from rich import progress
from rich.console import Console

from anomaly_bench.errors import UserError

TRIES = 4  # in a row that bring no new bytes, before the next mirror has its turn
TIMEOUT = 30  # seconds without an answer
BLOCK = 1 << 20  # bytes read at once


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
        Console(stderr=True).print(reason, style="yellow", markup=False, highlight=False, soft_wrap=True)
    what = "; ".join(reasons) or "no address is given"
    raise UserError("urls", what, "other addresses: bench data prepare NAME urls=[...]; what has arrived is kept")


def _attempt(url: str, part: Path, size: int | None, sha256: str | None) -> str:
    """Why `url` did not give the file, or an empty string when it is in `part`."""
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
    """One connection; a server that does not know ranges sends the file from its start."""
    headers = {"User-Agent": "anomaly_bench"} | ({"Range": f"bytes={have}-"} if have else {})
    with urlopen(Request(url, headers=headers), timeout=TIMEOUT) as response:
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            raise ConnectionError(f"asked for the bytes from {have} and got {response.headers.get('Content-Range')}")
        start = have if resumed else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        with part.open("ab" if resumed else "wb") as file, _bar() as bar:
            task = bar.add_task(part.stem, total=total, completed=start)
            while block := response.read(BLOCK):
                file.write(block)
                bar.advance(task, len(block))
    if total is not None and _bytes(part) < total:
        raise ConnectionError(f"broke off after {_bytes(part)} of {total} bytes")


def _check(part: Path, size: int | None, sha256: str | None) -> None:
    """Raises OSError, and removes the file, when it is not the one that was meant."""
    found, wanted = f"{_bytes(part)} bytes", f"{size} bytes"
    if sha256 is not None and (size is None or found == wanted):
        digest = hashlib.sha256()
        with _open(part, "checking") as file:
            while block := file.read(BLOCK):
                digest.update(block)
        found, wanted = f"SHA-256 {digest.hexdigest()}", f"SHA-256 {sha256}"
    if (size is not None or sha256 is not None) and found != wanted:
        part.unlink()
        raise OSError(f"is another file: {found}, expected {wanted}")


def extract(archive: Path, folder: Path) -> None:
    """Unpack a tar (any compression) or zip into `folder`: plain files and folders only.

    Raises UserError when the archive is damaged, or holds a link, a device or a name that leads out of `folder`; what
    was unpacked up to there is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _open(archive, "unpacking") as file:
            for name, source in _zip(file) if zipfile.is_zipfile(archive) else _tar(file):
                path = PurePosixPath(name)
                if source is None or path.is_absolute() or ".." in path.parts:
                    raise UserError(
                        str(archive), f"'{name}' is a link, a device or leads out of the folder: not unpacked"
                    )
                target = folder / path
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as out:
                    shutil.copyfileobj(source, out, BLOCK)
    except (tarfile.TarError, zipfile.BadZipFile, lzma.LZMAError, zlib.error, EOFError) as error:
        raise UserError(str(archive), f"is damaged: {error}", "delete it and prepare again") from error


def _zip(file: IO[bytes]) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Name and content of each member that is no folder; None for what is not a plain file."""
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            if stat.S_ISLNK(info.external_attr >> 16):
                yield info.filename, None
            elif not info.is_dir():
                with archive.open(info) as source:
                    yield info.filename, source


def _tar(file: IO[bytes]) -> Iterator[tuple[str, IO[bytes] | None]]:
    """As `_zip`; in one pass, because a compressed tar can only be read from its start."""
    with tarfile.open(fileobj=file) as archive:
        for member in archive:
            if not member.isdir():
                yield member.name, archive.extractfile(member) if member.isfile() else None


def _bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _bar() -> progress.Progress:
    console = Console(stderr=True)
    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.DownloadColumn())
    speed = (progress.TransferSpeedColumn(), progress.TimeRemainingColumn())
    return progress.Progress(*columns, *speed, console=console, transient=True, disable=not console.is_terminal)


def _open(path: Path, what: str) -> AbstractContextManager[BinaryIO]:
    console = Console(stderr=True)
    hidden = not console.is_terminal
    return progress.open(path, "rb", description=f"{what} {path.stem}", console=console, transient=True, disable=hidden)
