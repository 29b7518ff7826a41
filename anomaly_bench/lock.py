"""A lock that a process holds on a run folder while it works there: the file `.lock`, with its owner and its age.

The kernel's record lock decides on one machine, and between machines where the file system passes it on; a process that
dies loses it at once.  Where it is not passed on, or the file system has none, the file tells: its owner touches it
every BEAT seconds, and is dead when it has missed three beats.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
BEAT = 20.0  # seconds
TRIES, PAUSE = 3, 0.1  # a look at the lock takes it for a moment
_held: dict[Path, Lock] = {}  # a record lock does not keep out its own process, and falls when that closes any handle


class Lock:
    """The lock of one folder; `acquire` and `release` are called by its owner."""

    def __init__(self, folder: Path) -> None:
        self.path = folder.resolve() / LOCK
        self.owner: dict[str, Any] = {}
        self._file: IO[str] | None = None
        self._ended = threading.Event()

    def acquire(self) -> str | None:
        """None where the lock is ours now, else who holds it, in words.  Takes over a dead owner's.

        Waits three beats where a lock was left by another machine.  Raises OSError where the folder is not writable.
        """
        if self.path in _held:
            return _words(_held[self.path].owner)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(TRIES):
            file, free = _try(self.path, "a+")
            if free is not False:
                break
            owner = _read(file)
            file.close()
            time.sleep(PAUSE)
        else:
            return _words(owner)
        owner = _read(file)
        if owner and not _is_dead(owner, free) and _beats(self.path):
            file.close()
            return _words(owner)
        self.owner = _me()
        file.truncate(0)
        file.write(json.dumps(self.owner))
        file.flush()
        self._file, _held[self.path] = file, self
        threading.Thread(target=self._beat, daemon=True).start()
        return None

    def release(self) -> None:
        """Gives the lock back; nothing where it is not held."""
        if self._file:
            self._ended.set()
            del _held[self.path]
            with contextlib.suppress(OSError):  # Windows removes no open file
                self.path.unlink()
            self._file.close()
            self._file = None

    def _beat(self) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError):  # the folder has been removed: nothing to hold any more
                os.utime(self.path)


def holder(folder: Path) -> str | None:
    """Who holds the lock of a folder, in words; None where nobody does.  Never waits."""
    path = folder.resolve() / LOCK
    if path in _held:
        return _words(_held[path].owner)
    try:
        file, free = _try(path, "r+")
    except OSError:  # no lock, or none of ours to open
        return None
    with file:
        owner = _read(file)
        silent = time.time() - os.fstat(file.fileno()).st_mtime > 3 * BEAT
    dead = free is not False and (not owner or _is_dead(owner, free) or silent)
    return None if dead else _words(owner)


def _try(path: Path, mode: str) -> tuple[IO[str], bool | None]:
    """The open file, and whether the kernel's lock on it was to be had and is ours now; None where it has none."""
    file = path.open(mode, encoding="utf-8")
    free = _locks(file)
    return file, free if _same(file, path) else False  # not one that its owner removed in between


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
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
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
