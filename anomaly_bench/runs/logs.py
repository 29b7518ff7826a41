"""The log of a run: log.txt, the console; a failure is also recorded in the manifest."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from anomaly_bench.errors import UserError
from anomaly_bench.files import unwritable
from anomaly_bench.runs.folder import RunFolder

log = logging.getLogger("anomaly_bench")


@contextmanager
def recorded(folder: RunFolder) -> Iterator[None]:
    """Append what happens inside to log.txt, warnings too; record in the manifest why it failed."""
    try:
        handler = file_log(folder.path)
    except UserError as error:
        folder.fail(error)
        raise
    log.addHandler(handler)
    try:
        with warned():
            yield
    except KeyboardInterrupt:
        log.debug("interrupted; the same command goes on from the last checkpoint")  # on the console, `bench` says so
        raise
    except Exception as error:
        log.debug("stopped", exc_info=True)
        folder.fail(error)
        raise
    finally:
        log.removeHandler(handler)
        handler.close()


@contextmanager
def warned() -> Iterator[None]:
    """Turn warnings of this package into lines on the console; those of libraries reach log.txt only."""
    with warnings.catch_warnings():
        warnings.showwarning = _warn
        yield


def _warn(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, file: Any = None, line: Any = None
) -> None:
    ours = Path(filename).resolve().is_relative_to(Path(__file__).resolve().parents[1])
    log.log(logging.WARNING if ours else logging.DEBUG, "%s: %s", category.__name__, message)


class _LogFile(logging.FileHandler):
    """Warns once where the file can no longer be written; the run goes on."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  logging's name
        """Warn, and write no more; called while an error is handled."""
        if not isinstance(error := sys.exc_info()[1], OSError):
            return super().handleError(record)
        self.setLevel(logging.CRITICAL + 1)
        return log.warning("%s cannot be written: %s; what follows is missing there", self.baseFilename, error.strerror)

    def close(self) -> None:
        """Close the file; what could not be written is lost."""
        with suppress(OSError):
            super().close()


def file_log(folder: Path) -> logging.FileHandler:
    """Return what appends to a run's log.txt.  Raises UserError where that is a symbolic link."""
    file = folder / "log.txt"
    try:
        stream = open(file, "a", encoding="utf-8", opener=_open_no_link)  # noqa: SIM115  closed by its handler
    except OSError as error:
        if file.is_symlink():
            raise UserError(str(file), "is a symbolic link; nothing is written through it", "remove it") from error
        raise unwritable(file, error) from error
    handler = _LogFile(file, encoding="utf-8", delay=True)
    handler.setStream(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)  # no waiting for the reader of a fifo


def console_log(level: int = logging.INFO) -> None:
    """Print what happens on standard error, in plain lines, from this level on."""
    if not _consoles():
        log.addHandler(logging.StreamHandler(sys.stderr))
    for handler in _consoles():
        handler.setLevel(level)
    log.setLevel(logging.DEBUG)
    log.propagate = False


def console_level() -> int:
    """Return from which level on the console shows what happens; INFO where there is none."""
    return max((handler.level for handler in _consoles()), default=logging.INFO)


def _consoles() -> list[logging.Handler]:
    return [handler for handler in log.handlers if type(handler) is logging.StreamHandler]
