"""What is said on the standard streams: errors, lines, tables, progress; and what happens where they are closed."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from anomaly_bench.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

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


def explain(error: BaseException) -> int:
    """Say what went wrong and return the exit code; a traceback only for what no user can have meant."""
    if isinstance(error, UserError):
        say(str(error))
        return error.code
    if isinstance(error, OSError) and (lost := output_error()):
        if isinstance(lost, BrokenPipeError):  # `bench list runs | head`
            return 0
        say(f"standard output: {lost.strerror}")
        return 1
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        say(f"{error.filename or 'a file'}: {error.strerror} (free some space or choose another output_dir=DIR)")
        return 2
    to_stderr("".join(traceback.format_exception(error)))
    say(f"failed: {type(error).__name__}: {error}")
    return 1


def say(text: str) -> None:
    """Write lines on standard error, each after the command's name."""
    to_stderr("".join(f"bench: {line}\n" for line in text.splitlines()))


def to_stderr(text: str) -> None:
    """Write to standard error, if that can be written."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        lead_nowhere(sys.stderr.fileno())


def output_error() -> OSError | None:
    """Return why standard output cannot be written, if so; what goes there is lost from then on."""
    try:
        sys.stdout.flush()
    except OSError as error:
        lead_nowhere(sys.stdout.fileno())
        return error
    return None


def open_streams() -> None:
    """Let standard streams that are closed (`>&-`) lead nowhere, so that no file gets their number."""
    closed = [name for name in STREAMS if getattr(sys, name) is None]
    for name in closed:
        number = STREAMS.index(name)
        lead_nowhere(number)
        setattr(sys, name, os.fdopen(number, "r" if name == "stdin" else "w", closefd=False))
    if "stdout" in closed:
        say("standard output is closed; what goes there is lost")


def lead_nowhere(number: int) -> None:
    """Lose what is written to a file descriptor from now on."""
    opened = os.open(os.devnull, os.O_RDWR)
    if opened != number:
        os.dup2(opened, number)
        os.close(opened)


def print_lines(lines: Iterable[object], console: Console | None = None, **style: Any) -> None:
    """Print each line as it is: not wrapped, and nothing in it taken for markup.  console: None: standard output."""
    from rich.console import Console

    console = console or Console()
    for line in lines:
        console.print(str(line), markup=False, highlight=False, soft_wrap=True, **style)


def print_table(
    cells: Sequence[Sequence[str | Text]],
    sides: str,
    console: Console | None = None,
    *,
    rule: int | None = None,
    widths: Sequence[int | None] = (),
    **options: Any,
) -> None:
    """Print a table: its headings, then its lines.

    sides: `l` or `r` for each column.  rule: the line, counted from 0, above which a rule is drawn; none above the
    first.  widths: the least of each column.  options: of `rich.table.Table`.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(**options)
    headings, *lines = [[Text(cell) if isinstance(cell, str) else cell for cell in line] for line in cells]
    for heading, side, width in zip(headings, sides, widths or [None] * len(headings), strict=True):
        table.add_column(heading, justify="right" if side == "r" else "left", overflow="fold", min_width=width)
    for i, line in enumerate(lines, 1):
        table.add_row(*line, end_section=i == rule)
    (console or Console()).print(table)


def progress_bar() -> Any:
    """Return rich's `track` on standard error, silent unless that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return partial(track, console=console, transient=True, disable=not console.is_terminal)
