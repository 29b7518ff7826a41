"""`bench list` and `bench show`: what there is, each number with its source, read from yaml comments and headers."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from anomaly_bench import config
from anomaly_bench.errors import Mistakes, UserError, none_of
from anomaly_bench.report.index import indexed, state
from anomaly_bench.report.summary import MAIN
from anomaly_bench.store import LARGE, SMALL, RunFolder, find

SOURCES = {"paper": "paper", "code": "authors' code", "ours": "ours", "unknown": "unknown in the source"}
LISTS = {
    "methods": "method",
    "datasets": "dataset",
    "hardware": "hardware",
    "loggers": "logger",
    "experiments": "experiment",
}
FILTERS = ("method", "dataset", "category", "seed")  # of `bench list runs`, besides status
STATES = ("done", "running", "interrupted", "failed", "damaged", "new")
LINE = re.compile(r"^(?P<key>\w+):\s*(?P<value>.*?)(?:\s+#\s*(?:\[(?P<source>\w+)\])?\s*(?P<note>.*))?$")
HEADING = re.compile(r"^(Deviation|Unknown): ", re.MULTILINE)


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


def show_command(words: list[str]) -> int:
    """bench show [--config-dir DIR] [method=NAME] [dataset=NAME] [KEY=VALUE ...]"""
    extra, words = config.split_config_dir(words)
    if flags := [w for w in words if w.startswith("-")]:
        raise none_of("bench show", flags[0], ("--config-dir",))
    given = {w.split("=")[0].split(".")[0] for w in words}
    if not given & {"method", "dataset", "experiment"} and all("=" in word for word in words):
        raise UserError("bench show", "nothing to show", "bench show method=rd, bench show dataset=mvtec/bottle")
    choices = dict(w.split("=", 1) for w in words if "=" in w)
    with config.hydra_context(extra) as loader:
        job = config.for_its_method(words, loader)
        cfg = config.compose_known(loader, job, strict=True)
        if wrong := [m for m in config.value_mistakes(cfg, job) if m.what != config.NOT_GIVEN]:
            raise Mistakes(wrong)
    for group in ("method", "dataset", "hardware"):
        if group in cfg and (group in given or group == "method"):
            name = choices.get(group) or cfg[group].get("name") or "auto"
            sys.stdout.write("\n".join(section(group, name, cfg[group], extra)) + "\n\n")
    if "method" in given:
        rest = {str(key): cfg[key] for key in cfg if key not in LISTS.values()}
        sys.stdout.write("run\n" + "\n".join(rows(rest, notes_of(config.conf_dir() / "config.yaml"))) + "\n")
    return 0


def section(group: str, name: str, cfg: DictConfig, extra: str | None) -> list[str]:
    """A part of the configuration: header, keys with value, source and note, deviations."""
    lines, target = [f"{group} {name}"], str(cfg.get("_target_", ""))
    if target:
        lines += [f"  {target}", f"  {heading(target)}".rstrip()]
    files = [folder / group / f"{name}.yaml" for folder in (Path(extra or config.conf_dir()), config.conf_dir())]
    lines += rows(OmegaConf.to_container(cfg, resolve=True), next((notes_of(f) for f in files if f.exists()), {}))
    for kind, title in (("Deviation", "deviations from the paper"), ("Unknown", "unknown in the source")):
        said = [text for k, text in remarks(target) if k == kind]
        lines += [f"  {title}:", *(f"    - {text}" for text in said)] if said else []
    return lines


def rows(cfg: Any, notes: dict[str, tuple[str, str, str]]) -> list[str]:
    """key, value, source and note in columns; a value that differs from the yaml's is marked with the yaml's."""
    table = []
    for key, value in cfg.items():
        if key in config.NOT_ARGUMENTS:
            continue
        written, source, note = notes.get(key, ("", "", ""))
        if written and "${" not in written and parse(f"x: {written}")["x"] != value:
            origin = f"{written} in the yaml [{SOURCES.get(source, source)}] {note}"
            source, note = "overridden", origin.replace(" []", "")
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        table.append((key, shown, SOURCES.get(source, source), note))
    widths = [max((len(r[i]) for r in table), default=0) for i in range(3)]
    return ["  " + "  ".join(f"{c:{w}}" for c, w in zip(r, [*widths, 0], strict=True)).rstrip() for r in table]


def parse(text: str) -> dict[str, Any]:
    """A yaml as plain values."""
    values: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(text))  # type: ignore[assignment]
    return values


def notes_of(file: Path) -> dict[str, tuple[str, str, str]]:
    """(value as written, source tag, note) of each commented key of a yaml, those it starts from included."""
    found: dict[str, tuple[str, str, str]] = {}
    text = file.read_text(encoding="utf-8")
    for base in parse(text).get("defaults", []):
        if isinstance(base, str) and base != "_self_":
            places = [folder / f"{base}.yaml" for folder in (file.parent, config.conf_dir() / file.parent.name)]
            found |= notes_of(next((place for place in places if place.exists()), places[0]))
    for line in text.splitlines():
        if match := LINE.match(line):
            _, source, note = found.get(match["key"], ("", "", ""))
            found[match["key"]] = (match["value"], match["source"] or source, match["note"] or note)
    return found


def docstring(target: str) -> str:
    """The docstring of the module that holds a `_target_`, read without importing it."""
    if not config.is_allowed(target.rpartition(".")[0]):
        return ""
    try:
        spec = importlib.util.find_spec(target.rpartition(".")[0])
    except (ImportError, ValueError):
        return ""
    return (
        ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or ""
        if spec and spec.origin
        else ""
    )


def heading(target: str) -> str:
    return docstring(target).partition("\n")[0]


def remarks(target: str) -> Iterator[tuple[str, str]]:
    """The `Deviation:` and `Unknown:` lines of a method's header, as (kind, text)."""
    parts = HEADING.split(docstring(target))[1:]
    for kind, text in zip(parts[::2], parts[1::2], strict=True):
        yield kind, " ".join(text.split("\n\n")[0].split())
