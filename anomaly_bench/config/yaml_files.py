"""The yaml files of a `--config-dir`: which of them cannot be read, and where in them a key is written."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from textwrap import shorten

import yaml  # type: ignore[import-untyped]
from omegaconf import DictConfig, OmegaConf

from anomaly_bench.config.targets import config_folders
from anomaly_bench.errors import UserError

KEY = re.compile(r"( *)(\w+):")


def damaged_yaml() -> UserError | None:
    """The first yaml of a `--config-dir` that cannot be read, with the line; None where all are in order."""
    for folder in config_folders():
        for file in sorted(folder.rglob("*.yaml")):
            try:
                read = OmegaConf.create(file.read_text(encoding="utf-8"))
            except UnicodeDecodeError as error:
                return UserError(
                    str(file), f"is no UTF-8 text: {error.reason} at byte {error.start}", "save it as UTF-8"
                )
            except yaml.MarkedYAMLError as error:
                line = error.problem_mark.line + 1 if error.problem_mark else 1
                return UserError(f"{file}:{line}", " ".join(filter(None, (error.context, error.problem))))
            except RecursionError:
                return UserError(str(file), "holds a value that is part of itself")
            except Exception as error:
                return UserError(str(file), shorten(f"cannot be read as yaml: {error}", 300))
            if not isinstance(read, DictConfig):
                return UserError(str(file), f"holds a {type(read).__name__.removesuffix('Config').lower()}, no keys")
            if numbers := [key for key in read if not isinstance(key, str)]:
                return UserError(str(file), f"the key {numbers[0]!r} is no text")
    return None


def with_its_line(mistake: UserError, choices: Mapping[str, str]) -> UserError:
    """The mistake, with the file and the line of a `--config-dir` that hold its key, where there is such a file.

    choices: what is chosen of each group, `{"method": "mine"}`.
    """
    group, _, key = mistake.where.partition(".")
    files = [folder / group / f"{choices[group]}.yaml" for folder in config_folders() if group in choices]
    file = next(filter(Path.is_file, files), None)
    if not file:
        return mistake
    lines = lines_of_keys(file.read_text(encoding="utf-8"))
    numbers = [number for name, number, _ in lines if name == key]
    place = ":".join(map(str, [file, *numbers[:1]]))
    return UserError(mistake.where, mistake.what, "; ".join(filter(None, [mistake.hint, place])))


def lines_of_keys(text: str) -> Iterator[tuple[str, int, str]]:
    """Yield each key of a yaml and of its blocks, in dotted form, with the number of its line, from 1, and the line."""
    block = ""
    for number, line in enumerate(text.splitlines(), 1):
        if match := KEY.match(line):
            indent, key = match.groups()
            block = block if indent else key
            yield f"{block}.{key}" if indent else key, number, line.strip()
