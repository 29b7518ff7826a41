"""What was typed after `bench eval`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from anomaly_bench.errors import UserError, none_of

MEMORY_MB, RESAMPLES = 2048, 1000  # where neither the words nor a run's configuration says anything
OPTIONS = (
    *("--maps", "--masks", "--resize-masks", "--write-tiff", "--accept-changes", "--config-dir"),
    *("--json", "--memory-mb", "--resamples", "--threads"),
)


@dataclass(frozen=True)
class Asked:
    """Either `runs` or `maps` and `masks`; None where an option was not given."""

    runs: list[Path]
    overrides: dict[str, str]  # dataset.root=DIR ...
    maps: Path | None
    masks: Path | None
    resize_masks: bool
    write_tiff: Path | None
    accept_changes: bool  # files that are not as the run wrote them are its own from now on
    config_dir: Path | None  # where the data sets' classes may come from, besides this package
    json: bool
    memory_mb: int | None  # MiB of maps that are measured exactly
    resamples: int | None  # of the bootstrap; 0: no intervals
    threads: int


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError("bench eval", message.removeprefix("argument "))


def parse(words: list[str]) -> Asked:
    """Raises UserError for words that do not go together."""
    parser = _Parser(add_help=False, allow_abbrev=False)
    for name in ("--maps", "--masks", "--write-tiff", "--config-dir"):
        parser.add_argument(name, type=Path)
    for name in ("--resize-masks", "--json", "--accept-changes"):
        parser.add_argument(name, action="store_true")
    parser.add_argument("--memory-mb", type=_integer(0, 10**9))
    parser.add_argument("--resamples", type=_integer(0, 100_000))
    parser.add_argument("--threads", type=_integer(1, 1024), default=1)
    options, rest = parser.parse_known_args(words)
    for word in rest:
        if word.startswith("-"):
            raise none_of("bench eval", word.partition("=")[0], OPTIONS)
    overrides = [word for word in rest if re.match(r"\w+(\.\w+)*=", word) and not Path(word).exists()]
    options.runs = [Path(word) for word in dict.fromkeys(rest) if word not in overrides]
    options.overrides = dict(word.split("=", 1) for word in overrides)
    asked = Asked(**vars(options))
    _check(asked)
    return asked


def _integer(least: int, most: int) -> Callable[[str], int]:
    def convert(word: str) -> int:
        if not re.fullmatch(r"\d{1,18}", word) or not least <= int(word) <= most:
            raise argparse.ArgumentTypeError(f"'{word}' given, allowed: an integer from {least} to {most}")
        return int(word)

    return convert


def _check(asked: Asked) -> None:
    if not (asked.runs or asked.maps or asked.masks):
        raise UserError("bench eval", "nothing to measure", "bench eval RUN, or bench eval --maps DIR --masks DIR")
    if asked.runs and (asked.maps or asked.masks):
        raise UserError("bench eval", f"measures runs or --maps, not both; {asked.runs[0]} was taken for a run")
    if not asked.runs and not (asked.maps and asked.masks):
        missing, given = ("--masks", "--maps") if asked.maps else ("--maps", "--masks")
        raise UserError("bench eval", f"{missing} is not given", f"it goes with {given}")
    for value, name, wants in (
        (asked.overrides, next(iter(asked.overrides), ""), "RUN"),
        (asked.write_tiff, "--write-tiff", "RUN"),
        (asked.resize_masks, "--resize-masks", "--maps"),
        (asked.accept_changes, "--accept-changes", "RUN"),
        (asked.config_dir, "--config-dir", "RUN"),
    ):
        if value and bool(asked.runs) != (wants == "RUN"):
            raise UserError("bench eval", f"{name} goes with {wants} only")
    if asked.write_tiff and asked.json:
        raise UserError("bench eval", "--write-tiff writes maps and measures nothing", "leave out --json")
