"""A lock that a process holds on a run folder while it works there: the file `.lock`, with its owner and its age.

It appears complete and in one instant, as a hard link, so that of processes that start together one owns it, on any
file system.  The kernel's record lock on it tells a living owner from a dead one on one machine.  Where there are no
record locks, or the owner is on another machine, the file tells: its owner touches it every BEAT seconds, and is dead
when it has missed three beats.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
GUARD = f"{LOCK}.takeover"  # there for the moment in which a dead owner's lock is replaced
BEAT = 20.0  # seconds
TRIES, PAUSE = 5, 0.1  # a look at the lock takes it for a moment
YOUNG = 2.0  # seconds; the files of a process that is just asking for the lock
_held: dict[Path, Lock] = {}  # a record lock does not keep out its own process, and falls when that closes any handle
log = logging.getLogger("anomaly_bench")


class _Living(Exception):
    """The lock has a living owner; the text says who."""


class Lock:
    """The lock of one folder; `acquire` and `release` are called by its owner."""

    def __init__(self, folder: Path) -> None:
        self.path = folder.resolve() / LOCK
        self.owner: dict[str, Any] = {}
        self._file: IO[str] | None = None
        self._ended = threading.Event()

    def acquire(self) -> str | None:
        """None where the lock is ours now, else who holds it, in words.  Takes over a dead owner's.

        Waits three beats where a lock was left by another machine.  Raises OSError where the folder is not writable,
        or the lock is a symbolic link.
        """
        if self.path in _held:
            return _words(_held[self.path].owner)
        self.owner, holds = _me(), ""
        for _ in range(TRIES):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):  # the folder was removed by the one who had made it
                try:
                    holds = self._try()
                except _Living as owner:
                    return str(owner)
            if self._file:
                return None
            time.sleep(PAUSE)
        return holds or "another process"

    def release(self) -> None:
        """Gives the lock back; nothing where it is not held."""
        if self._file:
            self._ended.set()
            del _held[self.path]
            if _same(self._file, self.path):
                with contextlib.suppress(OSError):  # Windows removes no open file
                    self.path.unlink()
            self._file.close()
            self._file = None

    def _try(self) -> str:
        """Make the lock ours (then there is `_file`), or say who holds it at the moment.  Raises _Living."""
        _clear(self.path.parent)
        with _candidate(self.path, self.owner) as (mine, file):
            try:
                os.link(mine, self.path)
                return self._own(file)
            except FileExistsError:
                pass
            except OSError:  # no hard links there
                with contextlib.suppress(FileExistsError):
                    made = _open(self.path, os.O_CREAT | os.O_EXCL)
                    _write(made, self.owner)
                    if _locks(made) is not False and _same(made, self.path):
                        return self._own(made)
                    made.close()
            with _open(self.path) as there:
                free, owner = _locks(there), _read(there)
                if free is False or not _same(there, self.path):
                    return _words(owner)
                if (owner or free is None) and not _is_dead(owner, free) and _beats(self.path):
                    raise _Living(_words(owner))
                if _replace(self.path, there, mine):
                    return self._own(file)
        return ""

    def _own(self, file: IO[str]) -> str:
        self._file, _held[self.path] = file, self
        self._ended.clear()
        threading.Thread(target=self._beat, daemon=True).start()
        return ""

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError, ValueError):  # the folder has been removed, or the lock given back
                if self._file and self.path.exists() and not _same(self._file, self.path):
                    log.error("%s was taken over: this process was silent for too long, and stops", self.path)
                    os.kill(os.getpid(), signal.SIGINT)
                    return
                os.utime(self.path)
                if self._file:
                    os.fsync(self._file.fileno())


def holder(folder: Path) -> str | None:
    """Who holds the lock of a folder, in words; None where nobody does.  Never waits."""
    path = folder.resolve() / LOCK
    if path in _held:
        return _words(_held[path].owner)
    try:
        file = _open(path)
    except OSError:  # no lock, or none of ours to open
        return None
    with file:
        free = _locks(file) if _same(file, path) else False
        owner = _read(file)
        silent = time.time() - os.fstat(file.fileno()).st_mtime > 3 * BEAT
    dead = free is not False and (not owner or _is_dead(owner, free) or silent)
    return None if dead else _words(owner)


@contextlib.contextmanager
def _candidate(path: Path, owner: dict[str, Any]) -> Iterator[tuple[Path, IO[str]]]:
    """A file beside the lock that can become it, complete and locked; gone at the end under this name."""
    mine = path.with_name(f"{LOCK}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
    file = _open(mine, os.O_CREAT | os.O_EXCL)
    try:
        _locks(file)
        _write(file, owner)
        yield mine, file
    finally:
        mine.unlink(missing_ok=True)
        if not any(lock._file is file for lock in _held.values()):
            file.close()


def _replace(path: Path, dead: IO[str], mine: Path) -> bool:
    """Put `mine` in the place of a dead owner's lock, unless somebody else has done so."""
    guard = path.with_name(GUARD)
    try:
        os.close(os.open(guard, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    try:
        if not _same(dead, path):
            return False
        mine.replace(path)
        return True
    finally:
        guard.unlink(missing_ok=True)


def _clear(folder: Path) -> None:
    """Remove what killed processes left while they asked for the lock."""
    for file in folder.glob(f"{LOCK}.*"):
        with contextlib.suppress(OSError):
            age = time.time() - file.stat().st_mtime
            if age < YOUNG or file.name.startswith(f"{LOCK}.{os.getpid()}-"):
                continue
            with _open(file) as opened:
                free = _locks(opened)
            if (free and file.name != GUARD) or (free is not False and age > 3 * BEAT):
                file.unlink()


def _open(path: Path, flags: int = 0) -> IO[str]:
    """Never through a symbolic link."""
    return os.fdopen(os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | flags, 0o666), "r+", encoding="utf-8")


def _write(file: IO[str], owner: dict[str, Any]) -> None:
    file.write(json.dumps(owner))
    file.flush()
    os.fsync(file.fileno())


def _locks(file: IO[str]) -> bool | None:
    """Try the kernel's lock on an open file; it falls when the file is closed.  None: no record locks there."""
    if fcntl is None:
        return None
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # which of the two is the system's choice
        return False
    except OSError:
        return None
    return True


def _same(file: IO[str], path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat(follow_symlinks=False))
    except FileNotFoundError:
        return False


def _beats(path: Path) -> bool:
    """Whether the file is touched within three beats, or removed, as its owner does in the end."""
    try:
        before, until = path.stat().st_mtime_ns, time.monotonic() + 3 * BEAT
        while time.monotonic() < until:
            time.sleep(BEAT / 20)
            if path.stat().st_mtime_ns != before:
                return True
    except FileNotFoundError:
        return True
    return False


def _is_dead(owner: dict[str, Any], free: bool | None) -> bool:
    """An owner on this machine lost the kernel's lock with its life; of others only the heartbeat tells."""
    return bool(free) and owner.get("machine") == _machine()


def _machine() -> str:
    """The same for all processes of one running system, containers included."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else socket.gethostname()


def _me() -> dict[str, Any]:
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "machine": _machine(), "pid": os.getpid(), "since": since}


def _read(file: IO[str]) -> dict[str, Any]:
    """The owner, or nothing where the file is empty or was cut off."""
    file.seek(0)
    try:
        owner = json.loads(file.read())
    except ValueError:
        return {}
    return owner if isinstance(owner, dict) and {"host", "pid", "since"} <= owner.keys() else {}


def _words(owner: dict[str, Any]) -> str:
    if not owner:
        return "another process"
    minutes = (datetime.now(timezone.utc) - datetime.fromisoformat(owner["since"])).total_seconds() / 60
    return f"process {owner['pid']} on {owner['host']}, for {minutes:.0f} min"
