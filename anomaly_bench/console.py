"""The command's standard streams: what they say of an error, and what becomes of them where they cannot be written."""

from __future__ import annotations

import errno
import os
import sys
import traceback

from anomaly_bench.errors import UserError

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
