"""What one verb of the command line takes: parsing, usage, help and tab completion from one description."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from anomaly_bench.errors import UserError, none_of

Choices = Iterable[str] | Callable[[], Iterable[str]]  # a function is called only when they are needed
KEY_VALUE = re.compile(r"[+~]*\w[\w./@-]*=")
HELP = ("-h", "--help")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Raise UserError in place of printing and leaving."""
        raise UserError(self.prog, message.removeprefix("argument "), "--help explains it")


class Verb:
    """One verb of `bench`, or a group of verbs: options, arguments, and arguments KEY=VALUE.

    function: `module:function` below anomaly_bench.commands that carries the verb out: it gets what `parse` returns and
    returns the exit code.  default: of a group, the verb that is meant where none is named.
    """

    def __init__(self, prog: str, description: str, function: str = "", default: str = "", epilog: str = "") -> None:
        self.prog, self.function, self.default = prog, function, default
        self.verbs: dict[str, Verb] = {}
        self.options: dict[str, Choices | None] = {}  # None: takes no value
        self.arguments: dict[str, Choices] = {}
        self.required: set[str] = set()  # of the arguments
        self.keys: dict[str, Choices] = {}
        self.any_key = False
        self._parser = _Parser(prog, allow_abbrev=False, add_help=False)
        layout = argparse.RawDescriptionHelpFormatter
        self._help = _Parser(prog, description=description, epilog=epilog, formatter_class=layout)  # also has the keys
        self._verbs = self._help.add_argument_group("verbs")
        self._arguments = self._help.add_argument_group("arguments")

    def verb(self, name: str, summary: str, description: str = "", **settings: Any) -> Verb:
        """Add a verb to this group and return it.  summary: its line in the group's help."""
        text = description or f"{summary[:1].upper()}{summary[1:]}."
        self.verbs[name] = Verb(f"{self.prog} {name}", text, **settings)
        self._verbs.add_argument(name, help=summary)
        self._help.usage = f"{self.prog} {'[VERB]' if self.default else 'VERB'} ..."
        return self.verbs[name]

    def option(self, *names: str, choices: Choices = (), **settings: Any) -> None:
        """Add an option, with `add_argument`'s settings.  choices: what its value may be; empty: anything."""
        settings |= {"choices": list_of(choices)} if choices else {}
        for parser in (self._parser, self._help):
            action = parser.add_argument(*names, **settings)
        self.options |= dict.fromkeys(names, None if action.nargs == 0 else choices)

    def argument(
        self,
        metavar: str,
        summary: str,
        nargs: str | None = None,
        choices: Choices = (),
        default: str | None = None,
        name: str = "",
    ) -> None:
        """Add an argument that is neither option nor key.  choices: all that it may be; empty: anything."""
        name, summary = name or metavar.lower(), f"{summary}; default: {default}" if default else summary
        self._parser.add_argument(name, nargs=nargs or "?", default=default)
        self._arguments.add_argument(name, metavar=metavar, nargs=nargs, help=summary)
        self.arguments[name] = choices
        self.required |= set() if nargs else {name}

    def key(self, name: str, metavar: str, summary: str, choices: Choices = ()) -> None:
        """Add an argument NAME=VALUE, to be given once at most.  choices: what each of its values, with commas between
        them, may be; empty: anything."""
        self._arguments.add_argument(name, metavar=f"{name}={metavar}", nargs="?", help=summary)
        self.keys[name] = choices

    def other_keys(self, summary: str) -> None:
        """Take any other KEY=VALUE too: the list `overrides` of the arguments."""
        self._arguments.add_argument("overrides", metavar="KEY=VALUE", nargs="*", help=summary)
        self.any_key = True

    def find(self, argv: Sequence[str], complete: bool = True) -> tuple[Verb, list[str]]:
        """Return the verb that argv begins with, below this one, and the words after its name.

        complete: nothing follows that could name a verb, so that a group's default is meant where none is named.
        """
        if argv and argv[0] in self.verbs:
            return self.verbs[argv[0]].find(argv[1:], complete)
        if self.default and (KEY_VALUE.match(argv[0]) if argv else complete):
            return self.verbs[self.default], list(argv)
        return self, list(argv)

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Return the options and arguments; `keys` is {name: value}, `overrides` has the other KEY=VALUE in order,
        `command` is the verb's name.

        Raises UserError with the verb, the word, what is allowed and the nearest match.
        """
        if self.verbs and argv:
            raise none_of(self.prog, argv[0], [*self.options, *HELP] if argv[0].startswith("-") else self.verbs)
        if self.verbs:
            raise UserError(self.prog, f"no verb given, allowed: {', '.join(self.verbs)}", self.usage)
        pairs = [word for word in argv if self._is_pair(word)]
        known, unknown = self._parser.parse_known_intermixed_args([word for word in argv if word not in pairs])
        for word in unknown:
            if word.startswith("-"):
                raise none_of(self.prog, word.partition("=")[0], [*self.options, *HELP])
            raise UserError(self.prog, f"too many arguments, '{word}' given", self.usage)
        for name, choices in self.arguments.items():
            given = getattr(known, name)
            if name in self.required and given is None:
                allowed = f", one of {', '.join(list_of(choices))}" if choices else ""
                raise UserError(self.prog, f"{name.upper()} is not given{allowed}", self.usage)
            check_choice(self.prog, given if isinstance(given, list) else [given] if given else [], choices)
        known.command, known.keys, known.overrides = self.prog.split()[-1], {}, list(vars(known).get("overrides", []))
        for word in pairs:
            key, _, value = word.partition("=")
            if key not in self.keys and self.any_key:
                known.overrides.append(word)
            elif key not in self.keys:
                raise none_of(self.prog, key, self.keys)
            elif key in known.keys or not value:
                raise UserError(key, "is given twice" if value else "is given without a value", self.usage)
            else:
                known.keys[key] = value
                check_choice(key, value.split(","), self.keys[key])
        return known

    @property
    def usage(self) -> str:
        """The usage in one line."""
        return " ".join(self._help.format_usage().split()[1:])

    @property
    def help(self) -> str:
        """The text of `--help`."""
        return self._help.format_help()

    def _is_pair(self, word: str) -> bool:
        """Whether a word is KEY=VALUE, and not a file of such a name where the verb takes files."""
        if not KEY_VALUE.match(word) or not (self.keys or self.any_key):
            return False
        return not (self.arguments and os.path.lexists(word))


def check_choice(where: str, values: Iterable[str], choices: Choices) -> None:
    """Raise UserError for a value that is not one of the choices; without choices, anything goes."""
    allowed = list_of(choices)
    for value in values:
        if allowed and value not in allowed:
            raise none_of(where, value, allowed)


def list_of(choices: Choices) -> list[str]:
    """Return choices as a list."""
    return list(choices() if callable(choices) else choices)


def share(text: str) -> float:
    """Return a text as a number between 0 and 1, neither of them; raises ArgumentTypeError."""
    with suppress(ValueError):
        if 0 < float(text) < 1:
            return float(text)
    raise argparse.ArgumentTypeError(f"'{text}' given, allowed: a number above 0 and below 1, as 0.05")


def seconds(text: str) -> float:
    """Return a text as a finite number of seconds, 0 or more; raises ArgumentTypeError."""
    with suppress(ValueError):
        if 0 <= float(text) < float("inf"):
            return float(text)
    raise argparse.ArgumentTypeError(f"'{text}' given, allowed: a number of seconds, 0 or more")


def whole_number(least: int, most: int) -> Callable[[str], int]:
    """Return a converter of text to an integer from least to most; it raises ArgumentTypeError."""

    def convert(text: str) -> int:
        if not re.fullmatch(r"\d{1,18}", text) or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"'{text}' given, allowed: an integer from {least} to {most}")
        return int(text)

    return convert


def several(text: str) -> list[str]:
    """Return a text with commas between names as a list without repetitions; raises ArgumentTypeError for none."""
    if names := list(dict.fromkeys(filter(None, text.split(",")))):
        return names
    raise argparse.ArgumentTypeError(f"'{text}' given, allowed: one name, or several with commas between them")


def several_numbers(least: int, most: int, word: str) -> Callable[[str], list[int | str]]:
    """Return a converter of text to integers from least to most, or this word, with commas between them."""

    def convert(text: str) -> list[int | str]:
        try:
            return [each if each == word else whole_number(least, most)(each) for each in several(text)]
        except argparse.ArgumentTypeError as error:
            what = f"'{text}' given, allowed: integers from {least} to {most} and '{word}', with commas between them"
            raise argparse.ArgumentTypeError(what) from error

    return convert
