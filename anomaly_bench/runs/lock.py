"""A lock that a process holds on a run folder while it works there: the file `.lock`, which names its owner.

The file appears complete and in one instant, as a hard link, so that on any file system one of several processes that
start together owns it.  On one machine the kernel's record lock on the file tells a living owner from a dead one.
Where there are no record locks, or the owner is on another machine, the age of the file does: a living owner touches it
every BEAT seconds, and one that missed three beats is taken for dead.
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
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from anomaly_bench.errors import UserError
from anomaly_bench.files import try_lock

LOCK = ".lock"
GUARD = f"{LOCK}.takeover"  # exists for the moment in which another file becomes the lock
BEAT = 20.0  # seconds
TRIES, PAUSE = 5, 0.1  # seconds; who only examines the lock holds it for a moment
YOUNG = 2.0  # seconds; younger files may belong to a process that is about to take the lock
_held: dict[Path, Lock] = {}  # a record lock does not exclude its own process, and ends when that closes any handle
log = logging.getLogger("anomaly_bench")


class Lock:
    """The lock of one folder; `acquire` and `release` are called by its owner."""

    def __init__(self, folder: Path) -> None:
        self.path = folder.resolve() / LOCK
        self.owner: dict[str, Any] = {}
        self._file: IO[str] | None = None
        self._ended = threading.Event()

    def acquire(self) -> str | None:
        """Take the lock, also over from a dead owner; return None, or a description of the process that holds it.

        Waits up to three beats where only the age of the file tells whether the owner lives.  Raises OSError where the
        folder is not writable, UserError where the lock is a symbolic link.
        """
        self.owner = _this_process()
        holding = _held.setdefault(self.path, self)
        if holding is not self or self._file:
            return _describe(holding.owner)
        holds: str | None = _describe({})
        try:
            for _ in range(TRIES):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError):  # the process that had made the folder has removed it
                    holds, settled = self._try()
                    if settled:
                        return holds
                time.sleep(PAUSE)
            return holds
        finally:
            if not self._file:
                del _held[self.path]

    def release(self) -> None:
        """Give the lock back, if it is held."""
        if self._file:
            self._ended.set()
            if _is_at(self._file, self.path):
                with contextlib.suppress(OSError):  # the folder cannot be written any more
                    self.path.unlink()
            self._file.close()
            self._file = None
            del _held[self.path]

    def _try(self) -> tuple[str | None, bool]:
        """Return who holds the lock, None where this process does now, and whether that is final or to be tried again.

        A file beside the lock becomes the lock: complete, and locked where there are record locks.
        """
        if self.path.is_symlink():
            raise UserError(str(self.path), "is a symbolic link; nothing is written through it", "remove it")
        absent = not os.path.lexists(self.path)
        candidate = self.path.with_name(f"{LOCK}.{os.getpid()}-{uuid.uuid4().hex[:8]}")
        file = _open(candidate, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            try_lock(file)
            file.write(json.dumps(self.owner))
            file.flush()
            os.fsync(file.fileno())
            _remove_leftovers(candidate, now=os.fstat(file.fileno()).st_mtime)
            try:
                os.link(candidate, self.path)
            except FileExistsError:
                pass
            except OSError:  # no hard links there
                _put_in_place(self.path, None, candidate)
            if _is_at(file, self.path):  # whatever `link` says: over NFS its answer can get lost
                return self._keep(file)
            return self._take_over(candidate, file, absent)
        finally:
            candidate.unlink(missing_ok=True)
            if self._file is not file:
                file.close()

    def _take_over(self, candidate: Path, file: IO[str], absent: bool) -> tuple[str | None, bool]:
        """Return the same where there is a lock.  absent: there was none a moment ago, so that its owner lives."""
        with _open(self.path) as existing:
            free, owner, same = try_lock(existing), _read_owner(existing), _is_at(existing, self.path)
            if free is False or not same:
                return _describe(owner), absent and same
            if not _is_dead(owner, free) and (absent or _is_touched(self.path)):
                return _describe(owner), True
            _put_in_place(self.path, existing, candidate)
            return self._keep(file) if _is_at(file, self.path) else (_describe({}), False)

    def _keep(self, file: IO[str]) -> tuple[None, bool]:
        self._file = file
        self._ended.clear()
        threading.Thread(target=self._beat, args=[file], daemon=True).start()
        return None, True

    def _beat(self, file: IO[str]) -> None:
        while not self._ended.wait(BEAT):
            with contextlib.suppress(OSError, ValueError):  # the folder has been removed, or the lock given back
                if os.path.lexists(self.path) and not _is_at(file, self.path) and not self._ended.is_set():
                    log.error("%s was taken over: this process was silent for too long, and stops", self.path)
                    ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # in the background of a script
                    os.kill(os.getpid(), signal.SIGTERM if ignored else signal.SIGINT)
                    return
                os.utime(self.path)
                os.fsync(file.fileno())


def holder(folder: Path) -> str | None:
    """Return a description of the process that holds the lock of a folder; None where none does.  Never waits."""
    path = folder.resolve() / LOCK
    if path in _held:
        return _describe(_held[path].owner)
    try:
        file = _open(path, os.O_RDONLY)
    except OSError:  # no lock, or no permission to open it
        return None
    with file:
        free = try_lock(file, shared=True) if _is_at(file, path) else False
        owner = _read_owner(file)
        silent = time.time() - os.fstat(file.fileno()).st_mtime > 3 * BEAT
    return None if free is not False and (_is_dead(owner, free) or silent) else _describe(owner)


def _put_in_place(path: Path, dead: IO[str] | None, candidate: Path) -> None:
    """Make the candidate the lock, unless another process does so.  dead: the lock to replace; None: there is none."""
    guard = path.with_name(GUARD)
    try:
        guard.touch(exist_ok=False)
    except FileExistsError:
        return
    try:
        if _is_at(dead, path) if dead else not os.path.lexists(path):
            candidate.replace(path)
    finally:
        guard.unlink(missing_ok=True)


def _remove_leftovers(candidate: Path, now: float) -> None:
    """Remove what processes left that were killed while taking the lock.  now: by the clock of the file system."""
    for file in candidate.parent.glob(f"{LOCK}.*"):
        with contextlib.suppress(OSError):
            age = now - file.stat().st_mtime
            if age < YOUNG or file.name.startswith(f"{LOCK}.{os.getpid()}-"):
                continue
            with _open(file) as opened:
                free = try_lock(opened)
            if (free and file.name != GUARD) or (free is not False and age > 3 * BEAT):
                file.unlink()


def _open(path: Path, flags: int = os.O_RDWR) -> IO[str]:
    """Open a file, never through a symbolic link, and without waiting for the other end of a fifo."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    return os.fdopen(descriptor, "r+" if flags & os.O_RDWR else "r", encoding="utf-8")


def _is_at(file: IO[str], path: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(file.fileno()), path.stat(follow_symlinks=False))
    return False


def _is_touched(path: Path) -> bool:
    """Return whether the file is touched within three beats, or removed, as its owner does in the end."""
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
    """Return whether a free record lock proves the owner's death: it is on this machine, or not known."""
    return bool(free) and owner.get("machine", _this_machine()) == _this_machine()


def _this_machine() -> str:
    """Return a name that all processes of one running system share, containers included."""
    boot = Path("/proc/sys/kernel/random/boot_id")
    return boot.read_text().strip() if boot.exists() else socket.gethostname()


def _this_process() -> dict[str, Any]:
    since = datetime.now(timezone.utc).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "machine": _this_machine(), "pid": os.getpid(), "since": since}


def _read_owner(file: IO[str]) -> dict[str, Any]:
    """Return the owner that the file names; empty where the file is empty or was cut off."""
    try:
        file.seek(0)
        owner: dict[str, Any] = json.loads(file.read())
        _describe(owner)
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return owner or {}


def _describe(owner: dict[str, Any]) -> str:
    if not owner:
        return "another process"
    minutes = (datetime.now(timezone.utc) - datetime.fromisoformat(owner["since"])).total_seconds() / 60
    return f"process {owner['pid']} on {owner['host']}, for {minutes:.0f} min"
