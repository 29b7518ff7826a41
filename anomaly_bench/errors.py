"""User errors, in one line for each mistake: where, what was given, what is allowed, nearest match."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")  # of a method, a data set, a category


class UserError(Exception):
    """A user error.  `bench` prints it as one line and exits with code 2.

    where: the config key or the file.  what: what was found, and what is allowed.  hint: the nearest match, or what to
    do.
    """

    code = 2  # the command's exit code

    def __init__(self, where: str, what: str = "", hint: str = "") -> None:
        if not what:  # a worker process sends its traceback as text, whose last line is `<class>: <the one line>`
            where, _, what = where.strip().rpartition("\n")[2].partition(": ")[2].partition(": ")
        self.where, self.what, self.hint = where, what, hint
        super().__init__(where, what, hint)  # all three, so that it survives pickling between processes

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" + (f" ({self.hint})" if self.hint else "")
        return " ".join(text.split())


class RunningElsewhere(UserError):
    """Another process works on that run now."""

    code = 3


class NotHere(UserError):
    """What a run needs can be downloaded, and is not on this machine yet."""


class Mistakes(UserError):
    """Several mistakes at once, a line each."""

    def __init__(self, errors: list[UserError]) -> None:
        self.errors = errors
        Exception.__init__(self, errors)

    def __str__(self) -> str:
        return "\n".join(str(error) for error in self.errors)


def nearest(name: str, names: Iterable[str]) -> str:
    """Return a hint that names the nearest of `names`, or an empty string where none is near.

    >>> nearest("botle", ["bottle", "cable"])
    "did you mean 'bottle'?"
    """
    by_lower = {each.lower(): each for each in names}
    match = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f"did you mean '{by_lower[match[0]]}'?" if match else ""


def none_of(where: str, name: str, names: Iterable[str]) -> UserError:
    """Return the error for a name that is not one of `names`: it lists them and names the nearest match."""
    names = sorted(names)
    return UserError(where, f"'{name}' is none of {', '.join(names) or '(nothing)'}", nearest(name, names))


def check_name(where: str, name: object) -> None:
    """Raise UserError unless a name can be that of a folder below `output_dir`, and of nothing else."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        what = f"{name!r} given; allowed: letters, digits, '.', '_' and '-', at most 64, the first no '.' or '-'"
        raise UserError(where, what)
