"""`bench list`: what there is to choose from, and the runs that are there."""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple

from anomaly_bench import config
from anomaly_bench.commands.parser import LISTS, RUN_KEYS
from anomaly_bench.commands.show import heading, parse
from anomaly_bench.console import age, size_text
from anomaly_bench.errors import UserError, none_of
from anomaly_bench.results.aggregate import MAIN, four
from anomaly_bench.runs.folder import RunFolder, find
from anomaly_bench.runs.index import indexed, state
from anomaly_bench.runs.progress import progress_line
from anomaly_bench.runs.stored_run import CHECKED, LARGE


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
    if arguments.interval is not None and not arguments.watch:
        raise UserError("--interval", "goes with --watch only")
    if arguments.verify and arguments.watch:
        raise UserError("--watch", "does not go with --verify, which reads every file")
    if arguments.watch:
        from anomaly_bench.commands.watch_runs import watch_runs

        watch_runs(Path(arguments.outputs), wanted, arguments.interval)
    code = 0
    for line in runs(Path(arguments.outputs), wanted, arguments.verify):
        sys.stdout.write(f"{line}\n")
        code |= arguments.verify and line.status == "damaged"
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


class Line(NamedTuple):
    """What is shown of a run."""

    status: str  # of RUN_STATES
    path: Path
    text: str  # how far it is, its figures, or what is wrong
    when: datetime | None  # it ended or began
    values: dict[str, set[str]]  # of RUN_KEYS and `status`, to choose by

    def __str__(self) -> str:
        return f"{self.status:11} {self.path}  {self.details}".rstrip()

    @property
    def details(self) -> str:
        """The text, and how long ago it ended or began."""
        if not self.when:
            return self.text
        seconds = (datetime.now(timezone.utc) - self.when).total_seconds()
        return "  ".join(filter(None, [self.text, f"{age(seconds)} ago"]))

    def is_wanted(self, wanted: Mapping[str, list[str]]) -> bool:
        """Whether the run has one of the wanted values for each key."""
        return all(self.values[key] & set(allowed) for key, allowed in wanted.items())


def runs(outputs: Path, wanted: Mapping[str, list[str]], verify: bool) -> Iterator[Line]:
    """Yield one line for each run folder below `outputs` with the wanted values.  verify: read each of its files."""
    found = [folder.path for folder in find(outputs)]
    with indexed(outputs, found) as folders:
        refuse_unknown_names(wanted, folders)
        yield from (line for folder in folders if (line := line_of(folder, verify)).is_wanted(wanted))


def line_of(folder: RunFolder, verify: bool = False) -> Line:
    """Return the line of one run; whatever is wrong with its files is said in it."""
    try:
        damage = folder.damage((*CHECKED, *LARGE) if verify else CHECKED)
        status = "damaged" if damage else state(folder)
        manifest, text = folder.manifest, "; ".join(damage) or _figures(folder)
        since = "" if damage else manifest.get("finished") or manifest.get("started") or ""
        when = datetime.fromisoformat(since).astimezone(timezone.utc) if since else None
        return Line(status, folder.path, text, when, values_of(manifest) | {"status": {status}})
    except UserError as error:
        text = str(error)
    except (AttributeError, TypeError, ValueError, OSError) as error:
        text = f"its files hold something else than a run: {error}"
    return Line("damaged", folder.path, text, None, values_of({}) | {"status": {"damaged"}})


def values_of(manifest: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return what a run may be called by each of RUN_KEYS; a category also by `mvtec/bottle`."""
    values = {key: {str(manifest.get(key))} for key in RUN_KEYS}
    values["dataset"].add(f"{manifest.get('dataset')}/{manifest.get('category')}")
    return values


def refuse_unknown_names(wanted: Mapping[str, list[str]], folders: Sequence[RunFolder]) -> None:
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
    """Return the main metrics and the size of a finished run; how far another one is, and what went wrong."""
    manifest, metrics = folder.manifest, folder.metrics
    if manifest.get("status") != "done":
        error = " ".join(str(manifest.get("error") or "").split())[:80]
        return "  ".join(filter(None, [progress_line(folder.path), error]))
    size = [size_text(manifest["bytes"])] if "bytes" in manifest else []
    return "  ".join([*(f"{key} {four(metrics[key])}" for key in MAIN if key in metrics), *size])
