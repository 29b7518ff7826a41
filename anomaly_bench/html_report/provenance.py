"""Where the numbers of a page come from: command, versions, device, commit, seeds, checksums, protocol, failures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anomaly_bench.html_report.evidence import Run
from anomaly_bench.html_report.markup import Markup, el, section, setting, table
from anomaly_bench.results.collect import LeftOut
from anomaly_bench.results.published import Published
from anomaly_bench.results.text import CELLS_NOTE, PUBLISHED_NOTE


def protocol_section(runs: Sequence[Run]) -> Markup:
    """What was chosen how, of all runs of a page; a line that not all of them share names its settings."""
    said: dict[str, set[str]] = {}
    for run in runs:
        for line in run.manifest.get("protocol", []):
            said.setdefault(str(line), set()).add(run.head)
    every = {run.head for run in runs}
    lines = [line if heads == every else f"{line} ({', '.join(sorted(heads))})" for line, heads in said.items()]
    ways = dict.fromkeys(f"{run.row.measured}" for run in runs)
    items = [el("li", line) for line in [*lines, *ways, CELLS_NOTE]]
    return section("Protocol", el("ul", items))


def provenance_section(runs: Sequence[Run]) -> Markup:
    """Of each run all that is needed to repeat it."""
    return section(
        "Runs", [el("details", el("summary", run.title), _facts(run), id=run.row.path.name) for run in runs],
        note=f"{len(runs)} finished runs; open one for its command, versions, device, commit and checksums.",
    )  # fmt: skip


def summary_section(runs: Sequence[Run]) -> Markup:
    """Of many runs what differs: seeds, devices, versions, commits."""
    columns = {
        "seeds": lambda run: run.row.seed,
        "devices": lambda run: run.manifest.get("device", "?"),
        "anomaly_bench": lambda run: run.manifest.get("versions", {}).get("anomaly_bench", "?"),
        "torch": lambda run: run.manifest.get("versions", {}).get("torch", "?"),
        "commits": lambda run: (run.manifest.get("git_commit") or "not recorded")[:10],
        "weights": lambda run: _line({k: str(v)[:12] for k, v in run.manifest.get("provenance", {}).items()}),
    }
    heads: dict[str, list[Run]] = {}
    for run in runs:
        heads.setdefault(run.head, []).append(run)
    lines = [
        [setting(head), len(of), *(", ".join(dict.fromkeys(str(get(run)) for run in of)) for get in columns.values())]
        for head, of in heads.items()
    ]
    note = "The command and all checksums of a run are on its category's page."
    return section("Provenance", table(["setting", "runs", *columns], lines), note=note)


def left_out_section(items: Sequence[LeftOut], outputs: Path) -> Markup | None:
    """The runs that no table counts, with their errors."""
    if not items:
        return None
    lines = [[el("span", i.status, class_="status"), _below(i.path, outputs), i.reason] for i in items]
    note = f"{len(items)} run folders are in no table and no picture. The same `bench train` command goes on with them."
    return section("Unfinished and failed runs", table(["status", "run", "reason"], lines), name="left-out", note=note)


def sources_section(figures: Sequence[Published]) -> Markup | None:
    """Where published figures come from, and whether anybody has checked them."""
    sources = dict.fromkeys(map(str, figures))
    if not sources:
        return None
    return section("Published figures", el("ul", [el("li", source) for source in sources]), note=PUBLISHED_NOTE)


def _facts(run: Run) -> Markup:
    m = run.manifest
    facts = {
        "command": el("code", m.get("command", "not recorded")),
        "folder": run.row.path,
        "run, setting": f"{m.get('id', '?')}, {run.row.setting}; seed {run.row.seed}",
        "time": f"{m.get('started', '?')} to {m.get('finished', '?')}",
        "device": m.get("device"),
        "commit": m.get("git_commit") or "not recorded",
        "versions": _line(m.get("versions")),
        "images": _line(m.get("images")),
        "parameters": _line(m.get("parameters")),
        "weights and more": _line(m.get("provenance")),
        "data checksum": _line(m.get("checksums")),
        "stages": "; ".join(f"{name}: {_line(stage)}" for name, stage in m.get("stages", {}).items()),
        "hardware": _line(m.get("hardware")),
        "error": m.get("error"),
    }
    return el("dl", [[el("dt", name), el("dd", value)] for name, value in facts.items() if value])


def _below(path: Path, outputs: Path) -> str:
    return str(path.relative_to(outputs)) if path.is_relative_to(outputs) else str(path)


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {v}" for key, v in value.items() if v is not None)
    return str(value or "")
