"""`bench list`: what there is to choose from, and the runs that are there."""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from anomaly_bench import config
from anomaly_bench.commands.parser import LISTS, RUN_KEYS
from anomaly_bench.commands.show import heading, parse
from anomaly_bench.console import age
from anomaly_bench.errors import UserError, none_of
from anomaly_bench.results.aggregate import MAIN, four
from anomaly_bench.runs.folder import CHECKED, LARGE, RunFolder, find
from anomaly_bench.runs.index import indexed, state


def list_command(arguments: Namespace) -> int:
    """Run `bench list methods`, or another group of the configuration."""
    for line in names(LISTS[arguments.command]):
        sys.stdout.write(f"{line}\n")
    return 0


def runs_command(arguments: Namespace) -> int:
    """Run `bench list runs`: 1 where --verify finds a file that is not as its run wrote it."""
    wanted = {key: values.split(",") for key, values in arguments.keys.items()}
    if wrong := [seed for seed in wanted.get("seed", []) if not seed.isdecimal()]:
        raise UserError("seed", f"'{wrong[0]}' given, allowed: whole numbers from 0")
    code = 0
    for line in runs(Path(arguments.outputs), wanted, arguments.verify):
        sys.stdout.write(f"{line}\n")
        code |= arguments.verify and line.startswith("damaged")
    return code


def names(group: str) -> Iterator[str]:
    """Yield each choice of a group with its first line of description."""
    with config.hydra_context() as loader:
        choices = config.options(loader, group)
    width = max((len(c) for c in choices), default=0)
    for choice in choices:
        file = config.conf_dir() / group / f"{choice}.yaml"
        text = file.read_text(encoding="utf-8")
        header = heading(parse(text).get("_target_", "")) or re.sub(r"^# @package.*\n", "", text).partition("\n")[
            0
        ].lstrip("# ")
        yield f"{choice:{width}}  {header}".rstrip()


def runs(outputs: Path, wanted: Mapping[str, list[str]], verify: bool) -> Iterator[str]:
    """Yield one line for each run folder below `outputs` with the wanted values.  verify: read each of its files."""
    found = [folder.path for folder in find(outputs)]
    with indexed(outputs, found) as folders:
        _refuse_unknown_names(wanted, folders)
        for folder in folders:
            try:
                damage = folder.damage((*CHECKED, *LARGE) if verify else CHECKED)
                status = "damaged" if damage else state(folder)
                manifest, line = folder.manifest, "; ".join(damage) or _figures(folder)
            except UserError as error:
                manifest, status, line = {}, "damaged", str(error)
            except (AttributeError, TypeError, ValueError) as error:
                manifest, status, line = {}, "damaged", f"its files hold something else than a run: {error}"
            values = values_of(manifest) | {"status": {status}}
            if all(values[key] & set(allowed) for key, allowed in wanted.items()):
                yield f"{status:11} {folder.path}  {line}".rstrip()


def values_of(manifest: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return what a run may be called by each of RUN_KEYS; a category also by `mvtec/bottle`."""
    values = {key: {str(manifest.get(key))} for key in RUN_KEYS}
    values["dataset"].add(f"{manifest.get('dataset')}/{manifest.get('category')}")
    return values


def _refuse_unknown_names(wanted: Mapping[str, list[str]], folders: Sequence[RunFolder]) -> None:
    """Raises UserError for a method, data set or category that neither the configuration knows nor any of the runs."""
    with config.hydra_context() as loader:
        methods, datasets = (config.options(loader, group) for group in ("method", "dataset"))
    known = {"method": set(methods), "dataset": {*datasets, *(name.partition("/")[0] for name in datasets)}}
    known["category"] = {name.rpartition("/")[2] for name in datasets}
    for key, names in known.items():
        if not set(wanted.get(key, [])) <= names:
            for folder in folders:
                with suppress(UserError, AttributeError):  # damaged
                    names |= values_of(folder.manifest)[key]
        if unknown := [value for value in wanted.get(key, []) if value not in names]:
            raise none_of(key, unknown[0], names)


def _figures(folder: RunFolder) -> str:
    """Return the main metrics, when the run ended or began, what went wrong."""
    manifest, metrics = folder.manifest, folder.metrics
    figures = [f"{key} {four(metrics[key])}" for key in MAIN if key in metrics]
    if when := manifest.get("finished") or manifest.get("started"):
        seconds = (datetime.now(timezone.utc) - datetime.fromisoformat(when)).total_seconds()
        figures.append(f"{age(seconds)} ago")
    return "  ".join([*figures, " ".join(str(manifest.get("error") or "").split())[:80]]).rstrip()
