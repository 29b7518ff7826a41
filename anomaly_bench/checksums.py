"""SHA-256 of files that many runs read (images, masks, weights), stored as long as a file does not change.

`<cache>/checksums.json` stores them between processes, by path, size, time of modification and time of change.  Its
first line is the SHA-256 of the rest: a damaged file is ignored.  It can be deleted at any time.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from anomaly_bench import files
from anomaly_bench.errors import UserError
from anomaly_bench.paths import cache_root

NAME = "checksums.json"
SETTLED = 2e9  # nanoseconds; a file younger than this could change once more without a change of its times
THREADS = 4
Stamp = list[int]  # size in bytes, modification and change in nanoseconds

_known: dict[str, tuple[Stamp, str]] = {}  # by absolute path
_new: dict[str, tuple[Stamp, str]] = {}  # what is not on disk yet
_lock = threading.Lock()


def checksum(path: Path) -> str:
    """Return the SHA-256 of a file's content; the file is read once, and again when it changes.

    Raises UserError naming a file that cannot be read.
    """
    try:
        found, key = os.stat(path), os.path.abspath(path)  # noqa: PTH100, PTH116  called for each file of each plan
        stamp = [found.st_size, found.st_mtime_ns, found.st_ctime_ns]
        known = _known.get(key)
        if known and known[0] == stamp:
            return known[1]
        digest = files.sha256_of(path)
    except OSError as error:
        raise files.unreadable(path, error) from error
    if time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > SETTLED:
        with _lock:
            _known[key] = _new[key] = (stamp, digest)
    return digest


def checksums(paths: Iterable[Path]) -> list[str]:
    """Return the `checksum` of each path, in their order; several files are read at once."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(checksum, paths))


@contextmanager
def remembered() -> Iterator[None]:
    """Inside the block, use the checksums that earlier processes stored; at its end, store the new ones."""
    file = cache_root() / NAME
    _known.update(_load(file))
    try:
        yield
    finally:
        with _lock:
            new = dict(_new)
            _new.clear()
        if new:
            with suppress(UserError):  # a cache that cannot be written: the files are then read again
                files.write_sealed(file, {**_load(file), **new})


def _load(file: Path) -> dict[str, tuple[Stamp, str]]:
    stored = files.read_sealed(file)
    items = stored.items() if isinstance(stored, dict) else ()
    return {key: (item[0], item[1]) for key, item in items if isinstance(item, list) and len(item) == 2}
