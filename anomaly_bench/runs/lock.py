"""A lock that a process holds on a run folder while it works there: the file `.lock`, with its owner and its age.

It appears complete and in one instant, as a hard link, so that of processes that start together one owns it, on any
file system.  The kernel's record lock on it tells a living owner from a dead one on one machine.  Where there are no
record locks, or the owner is on another machine, the file tells: its owner touches it every BEAT seconds, and is dead
when it has missed three beats.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import signal
import socket
import threading
import time
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from anomaly_bench.errors import UserError

LOCK = ".lock"
GUARD = f"{LOCK}.takeover"  # there for the moment in which the lock gets another file
BEAT = 20.0  # seconds
TRIES, PAUSE = 5, 0.1  # a look at the lock takes it for a moment
YOUNG = 2.0  # seconds; the files of a process that is just asking for the lock
_held: dict[Path, Lock] = {}  # a record lock does not keep out its own process, and falls when that closes any handle
log = logging.getLogger("anomaly_bench")


class Lock:
    """The lock of one folder; `acquire` and `release` are called by its owner."""

    def __init__(self, folder: Path) -> None:
        self.path = folder.resolve() / LOCK
        self.owner: dict[str, Any] = {}
        self._file: IO[str] | None = None
        self._ended = threading.Event()

    def acquire(self) -> str | None:
        """None where the lock is ours now, else who holds it, in words.  Takes over a dead owner's.

        Waits up to three beats where only the heartbeat tells whether the owner lives.  Raises OSError where the folder
        is not writable, UserError where the lock is a symbolic link.
        """
        self.owner = _me()
        holding = _held.setdefault(self.path, self)
        if holding is not self or self._file:
            return _words(holding.owner)
        holds: str | None = _words({})
        try:
            for _ in range(TRIES):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # the folder was removed by the one who had made it
                    holds, settled = self._try()
                    if settled:
                        return holds
                time.sleep(PAUSE)
            return holds
        finally:
            if not self._file:
                del _held[self.path]

    def release(self) -> None:
        """Gives the lock back; nothing where it is not held."""
        if self._file:
            self._ended.set()
            if _same(self._file, self.path):
                with contextlib.suppress(OSError):  # the folder cannot be written any more
                    self.path.unlink()
            self._file.close()
            self._file = None
            del _held[self.path]

    def _try(self) -> tuple[str | None, bool]:
        """Who holds the lock, None where it is ours now, and whether that is settled or needs another look.

        A file beside the lock becomes it: complete, and locked where there are record locks.
        """
        if self.path.is_symlink():
            raise UserError(str(self.path), "is a symbolic link; nothing is written through it", "remove it")
        absent = not os.path.lexists(self.path)
        candidate = self.path.with_name(f"{LOCK}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
        file = _open(candidate, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            _locks(file)
            file.write(json.dumps(self.owner))
            file.flush()
            os.fsync(file.fileno())
            _clear(candidate, now=os.fstat(file.fileno()).st_mtime)
            try:
                os.link(candidate, self.path)
            except FileExistsError:
                pass
            except OSError:  # no hard links there
                _replace(self.path, None, candidate)
            if _same(file, self.path):  # whatever `link` says: over NFS its answer can get lost
                return self._own(file)
            return self._take_over(candidate, file, absent)
        finally:
            candidate.unlink(missing_ok=True)
            if self._file is not file:
                file.close()

    def _take_over(self, candidate: Path, file: IO[str], absent: bool) -> tuple[str | None, bool]:
        """As `_try`, where there is a lock.  absent: there was none a moment ago, so that its owner lives."""
        with _open(self.path) as existing:
            free, owner, same = _locks(existing), _read(existing), _same(existing, self.path)
            if free is False or not same:
                return _words(owner), absent and same
            if not _is_dead(owner, free) and (absent or _beats(self.path)):
                return _words(owner), True
            _replace(self.path, existing, candidate)
            return self._own(file) if _same(file, self.path) else (_words({}), False)

    def _own(self, file: IO[str]) -> tuple[None, bool]:
        self._file = file
        self._ended.clear()
        threading.Thread(target=self._beat, args=[file], daemon=True).start()
        return None, True

    def _beat(self, file: IO[str]) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError, ValueError):  # the folder has been removed, or the lock given back
                if os.path.lexists(self.path) and not _same(file, self.path) and not self._ended.is_set():
                    log.error("%s was taken over: this process was silent for too long, and stops", self.path)
                    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # in the background of a script
                    os.kill(os.getpid(), signal.SIGTERM if ignored else signal.SIGINT)
                    return
                os.utime(self.path)
                os.fsync(file.fileno())


def holder(folder: Path) -> str | None:
    """Who holds the lock of a folder, in words; None where nobody does.  Never waits."""
    path = folder.resolve() / LOCK
    if path in _held:
        return _words(_held[path].owner)
    try:
        file = _open(path, os.O_RDONLY)
    except OSError:  # no lock, or none of ours to open
        return None
    with file:
        free = _locks(file, shared=True) if _same(file, path) else False
        owner = _read(file)
        silent = time.time() - os.fstat(file.fileno()).st_mtime > 3 * BEAT
    return None if free is not False and (_is_dead(owner, free) or silent) else _words(owner)


def _replace(path: Path, dead: IO[str] | None, candidate: Path) -> None:
    """Make the candidate the lock, unless somebody else is at it; `dead`: what has to be there, None: nothing."""
    guard = path.with_name(GUARD)
    try:
        guard.touch(exist_ok=False)
    except FileExistsError:
        return
    try:
        if _same(dead, path) if dead else not os.path.lexists(path):
            candidate.replace(path)
    finally:
        guard.unlink(missing_ok=True)


def _clear(candidate: Path, now: float) -> None:
    """Remove what killed processes left while they asked for the lock.  now: by the clock of the file system."""
    for file in candidate.parent.glob(f"{LOCK}.*"):
        with contextlib.suppress(OSError):
            age = now - file.stat().st_mtime
            if age < YOUNG or file.name.startswith(f"{LOCK}.{os.getpid()}-"):
                continue
            with _open(file) as opened:
                free = _locks(opened)
            if (free and file.name != GUARD) or (free is not False and age > 3 * BEAT):
                file.unlink()


def _open(path: Path, flags: int = os.O_RDWR) -> IO[str]:
    """Never through a symbolic link, and without waiting for a fifo's other end."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    return os.fdopen(descriptor, "r+" if flags & os.O_RDWR else "r", encoding="utf-8")


def _locks(file: IO[str], shared: bool = False) -> bool | None:
    """Try the kernel's lock on an open file; it falls when the file is closed.  None: no record locks there."""
    try:
        fcntl.lockf(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # which of the two is the system's choice
        return False
    except OSError:
        return None
    return True


def _same(file: IO[str], path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat(follow_symlinks=False))
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
    """An owner on this machine, or without a name, lost the kernel's lock with its life; else the heartbeat tells."""
    return bool(free) and owner.get("machine", _machine()) == _machine()


def _machine() -> str:
    """The same for all processes of one running system, containers included."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else socket.gethostname()


def _me() -> dict[str, Any]:
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "machine": _machine(), "pid": os.getpid(), "since": since}


def _read(file: IO[str]) -> dict[str, Any]:
    """The owner, or nothing where the file is empty or was cut off."""
    try:
        file.seek(0)
        owner: dict[str, Any] = json.loads(file.read())
        _words(owner)
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return owner or {}


def _words(owner: dict[str, Any]) -> str:
    if not owner:
        return "another process"
    minutes = (datetime.now(timezone.utc) - datetime.fromisoformat(owner["since"])).total_seconds() / 60
    return f"process {owner['pid']} on {owner['host']}, for {minutes:.0f} min"
