"""What `bench` shows on the terminal: lines, tables, progress bars, errors; and streams that cannot be written.

rich is imported only where something is shown, so that `bench --help` starts at once.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import traceback
import warnings
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

from anomaly_bench.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

UNWRITABLE = {
    errno.ENOSPC,
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EFBIG,
    errno.EDQUOT,
    errno.EEXIST,
}
STREAMS = ("stdin", "stdout", "stderr")  # by number
OUTPUT = "standard output"
Item = TypeVar("Item")
_bars_hidden = False


def print_lines(*lines: str, console: Console | None = None, style: str = "", stderr: bool = False) -> None:
    """Print each text on a line of its own, exactly as it is: no markup, no line breaks at the terminal's width."""
    from rich.console import Console

    console = console or Console(stderr=stderr)
    for line in lines:
        console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def new_table(headers: Sequence[str], sides: str, no_wrap: Container[str] = (), **options: Any) -> Table:
    """Return an empty rich table whose texts are not read as markup; long words are broken to fit.

    sides: a letter for each column, `l` or `r`.  no_wrap: headers of columns that stay on one line.  options: of
    `rich.table.Table`.
    """
    from rich.table import Table
    from rich.text import Text

    table = Table(**options)
    for header, side in zip(headers, sides, strict=True):
        table.add_column(
            Text(header), justify="right" if side == "r" else "left", overflow="fold", no_wrap=header in no_wrap
        )
    return table


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterable[Item]:
    """Return the items for a loop, with a progress bar on standard error if that is a terminal, or in a notebook.

    total: how many there are, where `items` has no length.
    """
    from rich import progress

    return progress.track(items, description, total, **_bar_options())


def byte_bar() -> Progress:
    """Return a progress bar on standard error that counts bytes, their speed and the time left."""
    from rich import progress

    columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.DownloadColumn())
    return progress.Progress(*columns, progress.TransferSpeedColumn(), progress.TimeRemainingColumn(), **_bar_options())


def open_with_bar(path: Path, description: str) -> AbstractContextManager[IO[bytes]]:
    """Open a file for reading, with a progress bar on standard error."""
    from rich import progress

    return progress.open(path, "rb", description=description, **_bar_options())


def _bar_options() -> dict[str, Any]:
    from rich.console import Console

    console = Console(stderr=True)
    shown = (console.is_terminal or console.is_jupyter) and not _bars_hidden
    return {"console": console, "transient": True, "disable": not shown}


def training_bar_shown() -> bool:
    """Return whether a training draws a progress bar: on a terminal, and in a Jupyter notebook, which has none."""
    from rich.console import Console

    return (Console().is_jupyter or (sys.stderr.isatty() and sys.stdout.isatty())) and not _bars_hidden


@contextmanager
def bars_hidden() -> Iterator[None]:
    """Show no progress bar within the block, whatever the terminal."""
    global _bars_hidden
    before, _bars_hidden = _bars_hidden, True
    try:
        yield
    finally:
        _bars_hidden = before


def transient(text: str) -> None:
    """Show a line on the terminal until the next call, which replaces it; nothing where standard error is none."""
    if sys.stderr.isatty():
        to_stderr(f"\r\x1b[K{text[: shutil.get_terminal_size().columns - 1]}")


def age(seconds: float) -> str:
    """Return a duration in the largest unit of which it holds two: `9 days`, `47 h`, `2 min`, `3 s`."""
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(seconds, 0):.0f} s"


def size_text(size: float) -> str:
    """Return bytes in MB, or GB from 1000 MB on: `12.3 MB`."""
    return f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"


def explain(error: BaseException) -> int:
    """Print what went wrong and return the exit code; a traceback only for errors that are no user errors."""
    if isinstance(error, UserError):
        say(str(error))
        return error.code
    if isinstance(error, OSError) and (lost := output_error() or (error if error.filename == OUTPUT else None)):
        if isinstance(lost, BrokenPipeError):  # `bench list runs | head`
            return 0
        say(f"{OUTPUT}: {lost.strerror}")
        return 1
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        say(f"{error.filename or 'a file'}: {error.strerror} (free some space or choose another output_dir=DIR)")
        return 2
    to_stderr("".join(traceback.format_exception(error)))
    say(f"failed: {type(error).__name__}: {error}")
    return 1


def print_at_once(line: str) -> None:
    """Print a line for a program that waits for it.  Raises OSError, with the file name OUTPUT."""
    try:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()
    except OSError as error:  # an unbuffered stream keeps nothing that would tell `output_error`
        error.filename = OUTPUT
        raise


def say(text: str) -> None:
    """Write lines on standard error, each after the command's name."""
    to_stderr("".join(f"bench: {line}\n" for line in text.splitlines()))


@contextmanager
def warnings_in_lines(name: str = "") -> Iterator[None]:
    """Print each warning of the block as one line on standard error, after `name`."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        say(f"{name}{message}")


def to_stderr(text: str) -> None:
    """Write to standard error, if that can be written."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        discard_output(sys.stderr.fileno())


def output_error() -> OSError | None:
    """Return why standard output cannot be written, if so; what is written there later is discarded."""
    try:
        sys.stdout.flush()
    except OSError as error:
        discard_output(sys.stdout.fileno())
        return error
    return None


def open_streams() -> None:
    """Open standard streams that are closed (`>&-`) on the null device, so that no file gets their number."""
    closed = [name for name in STREAMS if getattr(sys, name) is None]
    for name in closed:
        number = STREAMS.index(name)
        discard_output(number)
        setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", closefd=False))
    if "stdout" in closed:
        say("standard output is closed; what goes there is lost")


def discard_output(number: int) -> None:
    """Discard what is written to a file descriptor from now on."""
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)
