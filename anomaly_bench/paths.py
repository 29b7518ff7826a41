"""Where cache folder and configuration are, and the environment variables that name folders.  Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from anomaly_bench.errors import UserError

CACHE_VARIABLE = "ANOMALY_BENCH_CACHE"
WEIGHTS_VARIABLE = "ANOMALY_BENCH_WEIGHTS"
DATA_VARIABLE = "ANOMALY_BENCH_DATA"


def conf_dir() -> Path:
    """Return $BENCH_CONF, else the checkout's conf/, else the copy inside the installed package."""
    if given := os.environ.get("BENCH_CONF"):
        if not (Path(given) / "config.yaml").is_file():
            raise UserError("BENCH_CONF", f"no config.yaml in {given}")
        return Path(given).resolve()
    package = Path(__file__).resolve().parent
    checkout = package.parent / "conf"
    return checkout if (checkout / "config.yaml").is_file() else package / "conf"


def cache_root() -> Path:
    """Return the folder of all that can be made again: decoded images, features, teachers, drawn images, checksums.

    It is $ANOMALY_BENCH_CACHE, else ~/.cache/anomaly_bench; inside `cache_at`, the folder that was given there.
    """
    return Path(os.environ.get(CACHE_VARIABLE) or "~/.cache/anomaly_bench").expanduser()


@contextmanager
def cache_at(folder: Path | None) -> Iterator[Path]:
    """Inside the block, let `folder` be the cache root of this process and of those that it starts; None: no change."""
    before = os.environ.get(CACHE_VARIABLE)
    if folder is not None:
        os.environ[CACHE_VARIABLE] = str(folder.expanduser().absolute())
    try:
        yield cache_root()
    finally:
        if before is None:
            os.environ.pop(CACHE_VARIABLE, None)
        else:
            os.environ[CACHE_VARIABLE] = before
