"""`bench list`: what there is to choose from, and the runs that are there."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from anomaly_bench import config
from anomaly_bench.commands.show import heading, parse
from anomaly_bench.errors import UserError, none_of
from anomaly_bench.results.aggregate import MAIN
from anomaly_bench.runs.folder import LARGE, SMALL, RunFolder, find
from anomaly_bench.runs.index import indexed, state

LISTS = {
    "methods": "method",
    "datasets": "dataset",
    "hardware": "hardware",
    "loggers": "logger",
    "experiments": "experiment",
}
FILTERS = ("method", "dataset", "category", "seed")  # of `bench list runs`, besides status
STATES = ("done", "running", "interrupted", "failed", "damaged", "new")


def list_command(words: list[str]) -> int:
    """bench list methods|datasets|hardware|loggers|experiments|runs"""
    if not words:
        raise UserError("bench list", "says what to list", f"bench list {'|'.join((*LISTS, 'runs'))}")
    if words[0] not in (*LISTS, "runs"):
        raise none_of("bench list", words[0], (*LISTS, "runs"))
    if words[0] != "runs" and words[1:]:
        raise UserError(f"bench list {words[0]}", f"takes nothing more, '{words[1]}' given")
    code = 0
    for line in runs(words[1:]) if words[0] == "runs" else names(LISTS[words[0]]):
        sys.stdout.write(f"{line}\n")
        code |= "--verify" in words and line.startswith("damaged")
    return code


def names(group: str) -> Iterator[str]:
    """Each choice of a group with its first line of description."""
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


def runs(words: list[str]) -> Iterator[str]:
    """[OUTPUTS] [KEY=VALUE[,VALUE] ...] [--verify]: one line for each run folder with these values."""
    outputs, wanted, verify = _request(words)
    found = [folder.path for folder in find(outputs)]
    with indexed(outputs, found) as folders:
        _refuse_unknown_names(wanted, folders)
        for folder in folders:
            try:
                damage = folder.damage((*SMALL, *LARGE) if verify else SMALL)
                status = "damaged" if damage else state(folder)
                manifest, line = folder.manifest, "; ".join(damage) or _figures(folder)
            except UserError as error:
                manifest, status, line = {}, "damaged", str(error)
            except (AttributeError, TypeError, ValueError) as error:
                manifest, status, line = {}, "damaged", f"its files hold something else than a run: {error}"
            values = values_of(manifest) | {"status": {status}}
            if all(values[key] & set(allowed) for key, allowed in wanted.items()):
                yield f"{status:11} {folder.path}  {line}".rstrip()


def _request(words: list[str]) -> tuple[Path, dict[str, list[str]], bool]:
    """The folder of runs, the values that a run may have of each key, and whether every file is to be read."""
    wanted = {key: values.split(",") for key, _, values in (w.partition("=") for w in words if "=" in w)}
    places = [w for w in words if "=" not in w and w != "--verify"] or ["outputs"]
    if flags := [w for w in words if w.startswith("-") and w != "--verify"]:
        raise none_of("bench list runs", flags[0], ("--verify",))
    if unknown := [key for key in wanted if key not in (*FILTERS, "status")]:
        raise none_of("bench list runs", unknown[0], (*FILTERS, "status"))
    if wrong := [value for value in wanted.get("status", []) if value not in STATES]:
        raise none_of("status", wrong[0], STATES)
    if wrong := [value for value in wanted.get("seed", []) if not value.isdecimal()]:
        raise UserError("seed", f"'{wrong[0]}' given, allowed: whole numbers from 0")
    if len(places) > 1:
        raise UserError("bench list runs", f"too many words: {' '.join(places)}", "it takes OUTPUTS and KEY=VALUE")
    return Path(places[0]), wanted, "--verify" in words


def values_of(manifest: Mapping[str, Any]) -> dict[str, set[str]]:
    """What a run may be called by each of FILTERS; a category also by `mvtec/bottle`."""
    values = {key: {str(manifest.get(key))} for key in FILTERS}
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
    """The main metrics, when the run ended or began, what went wrong."""
    manifest, metrics = folder.manifest, folder.metrics
    parts = [f"{key} {metrics[key]:.4f}" for key in MAIN if key in metrics]
    if when := manifest.get("finished") or manifest.get("started"):
        parts.append(ago(when))
    return "  ".join([*parts, " ".join(str(manifest.get("error") or "").split())[:80]]).rstrip()


def ago(when: str) -> str:
    """How long an ISO time lies back, in its largest unit."""
    seconds = (datetime.now(timezone.utc) - datetime.fromisoformat(when)).total_seconds()
    for unit, size in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{max(seconds, 0):.0f} s ago"
