"""The command `bench`: finds the verb, hands it its arguments; a user error becomes one line and exit code 2."""

from __future__ import annotations

import sys
from argparse import Namespace
from importlib import import_module
from typing import Any

from anomaly_bench.commands.parser import grammar
from anomaly_bench.commands.verb import HELP
from anomaly_bench.console import explain, open_streams, say, to_stderr
from anomaly_bench.errors import UserError


def main(argv: list[str] | None = None) -> int:
    """Run `bench ARGV`.

    Exit codes: 0 done, 1 failed, or done in part, 2 user error, 3 running elsewhere, 4 an image is anomalous (of
    `bench predict --fail-on-anomaly`), 130 interrupted.
    """
    open_streams()
    try:
        code = run_verb(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()  # while it can be said that it failed
        return code
    except KeyboardInterrupt as stopped:
        say(str(stopped) or "interrupted; the same command goes on where it stopped")
        return 130
    except Exception as error:
        return explain(error)
    finally:
        to_stderr("")


def run_verb(argv: list[str]) -> int:
    """Find the verb, import what it needs and no more, and return its exit code.  Raises UserError."""
    if targets := sys.modules.get("anomaly_bench.config.targets"):  # of an earlier command in this process
        targets.forget_folders()
    if argv[:1] == ["--complete"]:  # what the shell's function calls
        from anomaly_bench.commands.completion import candidates

        sys.stdout.write("".join(f"{each}\n" for each in candidates(argv[1:])))
        return 0
    if argv[:1] == ["--version"]:
        if more := argv[1:]:
            raise UserError("bench --version", f"takes nothing more, '{more[0]}' given")
        from anomaly_bench import __version__

        sys.stdout.write(f"{__version__}\n")
        return 0
    verb, rest = grammar().find(argv)
    if not argv or not {*HELP}.isdisjoint(rest):
        sys.stdout.write(verb.help)
        return 0
    arguments = verb.parse(rest)
    module, _, name = verb.function.partition(":")
    function: Any = getattr(import_module(f"anomaly_bench.commands.{module}"), name)
    return int(function(arguments))


def help_command(arguments: Namespace) -> int:
    """Run `bench help [VERB ...]`."""
    verb, rest = grammar().find(arguments.verb, complete=False)
    if rest:
        verb.parse(rest)  # says what is allowed
    sys.stdout.write(verb.help)
    return 0
