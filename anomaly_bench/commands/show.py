"""`bench show`: every key of a configuration with its value and source, read from yaml comments and module headers."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from argparse import Namespace
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from anomaly_bench import config
from anomaly_bench.config.yaml_files import lines_of_keys
from anomaly_bench.errors import Mistakes, UserError

SOURCES = {"paper": "paper", "code": "authors' code", "ours": "ours", "unknown": "unknown in the source"}
LINE = re.compile(r"^\w+:\s*(?P<value>.*?)(?:\s+#\s*(?:\[(?P<source>\w+)\])?\s*(?P<note>.*))?$")
HEADING = re.compile(r"^(Deviation|Unknown): ", re.MULTILINE)
GROUPS = ("method", "dataset", "hardware", "logger", "experiment")


def show_command(arguments: Namespace) -> int:
    """Run `bench show`."""
    overrides, extra = arguments.overrides, arguments.config_dir
    given = {each.split("=")[0].split(".")[0] for each in overrides}
    if not given & {"method", "dataset", "experiment"} and all("=" in each for each in overrides):
        raise UserError("bench show", "nothing to show", "bench show method=rd, bench show dataset=mvtec/bottle")
    choices = dict(each.split("=", 1) for each in overrides if "=" in each)
    with config.hydra_context(extra) as loader:
        job = config.for_method(overrides, loader)
        cfg = config.compose_known(loader, job, strict=True)
        _, mistakes = config.check_values(cfg, job)
        if wrong := [m for m in mistakes if m.what != config.NOT_GIVEN]:
            raise Mistakes(wrong)
    for group in ("method", "dataset", "hardware"):
        if group in cfg and (group in given or group == "method"):
            name = choices.get(group) or cfg[group].get("name") or "auto"
            sys.stdout.write("\n".join(section(group, name, cfg[group], extra)) + "\n\n")
    if "method" in given:
        rest = {str(key): cfg[key] for key in cfg if key not in GROUPS}
        notes = notes_of(config.conf_dir() / "config.yaml") | notes_of(config.conf_dir() / "save" / "full.yaml")
        sys.stdout.write("run\n" + "\n".join(rows(rest, notes)) + "\n")
    return 0


def section(group: str, name: str, cfg: DictConfig, extra: str | None) -> list[str]:
    """Return the lines of a group's section: header, keys with value, source and note, deviations."""
    lines, target = [f"{group} {name}"], str(cfg.get("_target_", ""))
    if target:
        lines += [f"  {target}", f"  {heading(target)}".rstrip()]
    yamls = [folder / group / f"{name}.yaml" for folder in (Path(extra or config.conf_dir()), config.conf_dir())]
    lines += rows(OmegaConf.to_container(cfg, resolve=True), next((notes_of(f) for f in yamls if f.exists()), {}))
    for kind, title in (("Deviation", "deviations from the paper"), ("Unknown", "unknown in the source")):
        said = [text for k, text in remarks(target) if k == kind]
        lines += [f"  {title}:", *(f"    - {text}" for text in said)] if said else []
    return lines


def rows(cfg: Any, notes: dict[str, tuple[str, str, str]]) -> list[str]:
    """Return key, value, source and note in columns; a value other than the yaml's is marked with the yaml's."""
    table, shipped = [], shipped_teachers(cfg)
    for key, value in _with_blocks(cfg, notes):
        if key in config.NOT_ARGUMENTS:
            continue
        written, source, note = notes.get(key, ("", "", ""))
        if written and "${" not in written and parse(f"x: {written}")["x"] != value:
            origin = f"{written} in the yaml [{SOURCES.get(source, source)}] {note}"
            source, note = "overridden", origin.replace(" []", "")
        note = "; ".join(filter(None, [note, shipped.get(key, "")]))
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
        table.append((key, shown, SOURCES.get(source, source), note))
    widths = [max((len(r[i]) for r in table), default=0) for i in range(3)]
    return ["  " + "  ".join(f"{c:{w}}" for c, w in zip(r, [*widths, 0], strict=True)).rstrip() for r in table]


def shipped_teachers(cfg: Any) -> dict[str, str]:
    """Return what the shipped teachers were distilled with where a configuration that loads them says something else.

    {"teacher.layer": "the shipped p33: 3"}, from the recipes in their cards.
    """
    block = cfg.get("teacher")
    found: dict[str, str] = {}
    if not isinstance(block, dict) or block.get("file") or block.get("images"):
        return {}
    for size in cfg.get("patch_sizes") or [cfg.get("patch_size")]:
        card = files("anomaly_bench.nets") / "teachers" / f"p{size}.md"
        _, _, recipe = card.read_text(encoding="utf-8").partition("Recipe:") if card.is_file() else ("", "", "")
        for name, value in re.findall(r"^- (\w+): (.*)$", recipe, re.MULTILINE):
            shown = value.replace("(", "[").replace(")", "]")
            if name in block and parse(f"x: {shown.replace('None', 'null')}")["x"] != block[name]:
                key = f"teacher.{name}"
                found[key] = f"{found[key]}, p{size}: {shown}" if key in found else f"the shipped p{size}: {shown}"
    return found


def _with_blocks(cfg: Any, notes: dict[str, tuple[str, str, str]]) -> Iterator[tuple[str, Any]]:
    """Yield the keys and values of a configuration, in place of a block its keys in dotted form."""
    for key, value in cfg.items():
        block = {f"{key}.{name}": each for name, each in value.items()} if isinstance(value, dict) else {}
        yield from block.items() if block.keys() & notes.keys() else [(key, value)]


def parse(text: str) -> dict[str, Any]:
    """Return the plain values of a yaml text."""
    values: dict[str, Any] = OmegaConf.to_container(OmegaConf.create(text))  # type: ignore[assignment]
    return values


def notes_of(file: Path) -> dict[str, tuple[str, str, str]]:
    """Return (value as written, source tag, note) of each key of a yaml and of the yamls in its `defaults`."""
    found: dict[str, tuple[str, str, str]] = {}
    text = file.read_text(encoding="utf-8")
    for base in parse(text).get("defaults", []):
        if isinstance(base, str) and base != "_self_":
            places = [folder / f"{base}.yaml" for folder in (file.parent, config.conf_dir() / file.parent.name)]
            found |= notes_of(next((place for place in places if place.exists()), places[0]))
    for key, _, line in lines_of_keys(text):
        if match := LINE.match(line):
            _, source, note = found.get(key, ("", "", ""))
            found[key] = (match["value"], match["source"] or source, match["note"] or note)
    return found


def docstring(target: str) -> str:
    """Return the docstring of the module that holds a `_target_`, which is not imported."""
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
    """Return the first line of that docstring."""
    return docstring(target).partition("\n")[0]


def remarks(target: str) -> Iterator[tuple[str, str]]:
    """Yield the `Deviation:` and `Unknown:` lines of a method's header as (kind, text)."""
    _, *found = HEADING.split(docstring(target))  # kind, text, kind, text ...
    for kind, text in zip(found[::2], found[1::2], strict=True):
        yield kind, " ".join(text.split("\n\n")[0].split())
