"""`bench list` and `bench show`: what there is, each number with its source.  Reads yaml comments and docstrings, imports no torch."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from anomaly_bench import config
from anomaly_bench.errors import UserError, none_of
from anomaly_bench.store import find

SOURCES = {"paper": "paper", "code": "authors' code", "ours": "ours", "unknown": "unknown in the source"}
LISTS = {"methods": "method", "datasets": "dataset", "hardware": "hardware", "loggers": "logger", "experiments": "experiment"}
COMMENT = re.compile(r"^(?P<key>\w+):(?P<value>.*?)\s+#\s*(?:\[(?P<source>\w+)\])?\s*(?P<note>.*)$")
HEADING = re.compile(r"^(Deviation|Unknown): ", re.MULTILINE)


def list_command(words: list[str]) -> int:
    """bench list methods|datasets|hardware|loggers|experiments|runs"""
    if not words or words[0] not in (*LISTS, "runs"):
        raise none_of("bench list", words[0] if words else "", (*LISTS, "runs"))
    for line in runs(words[1] if words[1:] else "outputs") if words[0] == "runs" else names(LISTS[words[0]]):
        sys.stdout.write(f"{line}\n")
    return 0


def names(group: str) -> Iterator[str]:
    """Each choice of a group with its first line of description."""
    with config.hydra_context() as loader:
        choices = config.options(loader, group)
    width = max((len(c) for c in choices), default=0)
    for choice in choices:
        file = yaml_file(group, choice)
        cfg = OmegaConf.load(file)
        header = heading(cfg._target_) if group == "method" and isinstance(cfg, DictConfig) and "_target_" in cfg else first_comment(file)
        yield f"{choice:{width}}  {header}".rstrip()


def runs(outputs: str) -> Iterator[str]:
    """One line for each run folder."""
    for folder in find(outputs):
        m = folder.metrics
        figures = "  ".join(f"{key} {m[key]:.4f}" for key in ("image_auroc", "pixel_auroc", "aupro_0.3") if key in m)
        yield f"{folder.status:8} {folder.path}  {figures}".rstrip()


def show_command(words: list[str]) -> int:
    """bench show [method=NAME] [dataset=NAME] [KEY=VALUE ...]"""
    given = {w.split("=")[0].split(".")[0] for w in words}
    if not given & {"method", "dataset", "experiment"}:
        raise UserError("bench show", "nothing to show", "bench show method=rd, bench show dataset=mvtec/bottle")
    with config.hydra_context() as loader:
        cfg = config.compose_known(loader, words, strict=True)
    chosen = {g: next((w.split("=")[1] for w in reversed(words) if w.startswith(f"{g}=")), None) for g in LISTS.values()}
    for group in ("method", "dataset", "hardware"):
        if group in cfg and (group in given or group == "method"):
            sys.stdout.write("\n".join(section(group, chosen[group], cfg[group])) + "\n\n")
    if "method" in given:
        rest = OmegaConf.masked_copy(cfg, [k for k in cfg if k not in LISTS.values()])
        sys.stdout.write("run\n" + "\n".join(rows(rest, annotations(config.conf_dir() / "config.yaml"))) + "\n")
    return 0


def section(group: str, choice: str | None, cfg: Any) -> list[str]:
    """A part of the configuration: header, keys with value, source and note, deviations."""
    name = choice or cfg.get("name") or "auto"
    lines = [f"{group} {name}"]
    if target := cfg.get("_target_"):
        lines.append(f"  {target}")
        lines += [f"  {line}" for line in (heading(target),) if line]
    file = yaml_file(group, name)
    lines += rows(cfg, annotations(file) if file.exists() else {})
    for kind, title in (("Deviation", "deviations from the paper"), ("Unknown", "unknown in the source")):
        said = [text for k, text in remarks(target or "") if k == kind]
        lines += [f"  {title}:", *(f"    - {text}" for text in said)] if said else []
    return lines


def rows(cfg: Any, notes: dict[str, tuple[str, str, str]]) -> list[str]:
    """key, value, source and note in columns; a value that differs from the yaml's is marked with the yaml's."""
    table = []
    for key in cfg:
        if key in config.NOT_ARGUMENTS:
            continue
        written, source, note = notes.get(str(key), ("", "", ""))
        node = OmegaConf.select(cfg, str(key))
        value = "null" if node is None else str(node).lower() if isinstance(node, bool) else str(node)
        if written and OmegaConf.create(f"x: {written}").get("x") != node and "${" not in written:
            source, note = "your override", f"{written} in the yaml [{SOURCES.get(source, source)}] {note}".replace(" []", "")
        table.append((str(key), value, SOURCES.get(source, source), note))
    widths = [max((len(r[i]) for r in table), default=0) for i in range(3)]
    return ["  " + "  ".join(f"{c:{w}}" for c, w in zip(r, [*widths, 0], strict=True)).rstrip() for r in table]


def yaml_file(group: str, choice: str) -> Path:
    return config.conf_dir() / group / f"{choice}.yaml"


def annotations(file: Path) -> dict[str, tuple[str, str, str]]:
    """(value as written, source tag, note) of each commented key of a yaml, those it starts from included."""
    found: dict[str, tuple[str, str, str]] = {}
    text = file.read_text(encoding="utf-8")
    for base in (OmegaConf.load(file).get("defaults") or []) if file.name != "config.yaml" else []:
        if isinstance(base, str) and base != "_self_":
            found |= annotations(file.parent / f"{base}.yaml")
    for line in text.splitlines():
        if match := COMMENT.match(line):
            found[match["key"]] = (match["value"].strip(), match["source"] or "", match["note"])
    return found


def first_comment(file: Path) -> str:
    return next((line.lstrip("# ").strip() for line in file.read_text(encoding="utf-8").splitlines() if line.startswith("#")), "")


def docstring(target: str) -> str:
    """The docstring of the module that holds a `_target_`, read without importing it."""
    try:
        spec = importlib.util.find_spec(target.rpartition(".")[0])
    except (ImportError, ValueError):
        return ""
    return ast.get_docstring(ast.parse(Path(spec.origin).read_text(encoding="utf-8"))) or "" if spec and spec.origin else ""


def heading(target: str) -> str:
    return docstring(target).partition("\n")[0]


def remarks(target: str) -> Iterator[tuple[str, str]]:
    """The `Deviation:` and `Unknown:` lines of a method's header, as (kind, text)."""
    parts = HEADING.split(docstring(target))[1:]
    for kind, text in zip(parts[::2], parts[1::2], strict=True):
        yield kind, " ".join(text.split("\n\n")[0].split())
