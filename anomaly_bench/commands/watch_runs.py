"""`bench list runs --watch`: every run's state, how far it is, its loss and the time left, again and again."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.live import Live

from anomaly_bench.commands.listing import Line, line_of, refuse_unknown_names
from anomaly_bench.commands.parser import RUN_STATES
from anomaly_bench.console import new_table, print_at_once
from anomaly_bench.runs.folder import find
from anomaly_bench.runs.stored_run import MANIFEST

ON_TERMINAL, ELSEWHERE, LEAST = 2.0, 30.0, 0.1  # seconds between two looks
FIRST = ("running", "interrupted", "failed", "damaged", "new", "done")  # in this order


def watch_runs(outputs: Path, wanted: Mapping[str, list[str]], interval: float | None = None) -> None:
    """Show the wanted runs below `outputs` until Ctrl-C: in place on a terminal, else a block of lines with
    what has changed.

    interval: seconds between two looks.  Raises KeyboardInterrupt in the end, UserError where there is no such folder.
    """
    refuse_unknown_names(wanted, list(find(outputs)))
    console = Console()
    pause = max(LEAST, interval if interval is not None else ON_TERMINAL if console.is_terminal else ELSEWHERE)
    try:
        if console.is_terminal:
            _redraw(console, looks(outputs, wanted), pause, outputs)
        else:
            _print_changes(looks(outputs, wanted), pause)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("no longer watching; the runs go on") from None


def looks(outputs: Path, wanted: Mapping[str, list[str]]) -> Iterator[list[Line]]:
    """Yield the wanted runs, those at work first, each time as they are now.

    A run that has come to an end is read again only when its manifest has changed.
    """
    ended: dict[Path, tuple[int, Line]] = {}
    while True:
        lines = []
        for folder in find(outputs):
            with suppress(FileNotFoundError):  # removed in this moment
                changed = (folder.path / MANIFEST).stat().st_mtime_ns
                if folder.path not in ended or ended[folder.path][0] != changed:
                    ended[folder.path] = changed, line_of(folder)
                line = ended[folder.path][1]
                if line.status not in ("done", "failed"):
                    del ended[folder.path]
                lines.append(line)
        yield sorted((line for line in lines if line.is_wanted(wanted)), key=lambda line: FIRST.index(line.status))


def counts(lines: list[Line]) -> str:
    """Return the time and how many runs are in each state: `12:30:05  5 runs: 4 done, 1 running`."""
    found = Counter(line.status for line in lines)
    states = ", ".join(f"{found[name]} {name}" for name in RUN_STATES if found[name])
    return f"{time.strftime('%H:%M:%S')}  {len(lines)} runs" + (f": {states}" if states else "")


def _redraw(console: Console, pictures: Iterator[list[Line]], pause: float, outputs: Path) -> None:
    with Live(console=console, auto_refresh=False) as live:
        for lines in pictures:
            table = new_table(["state", "run", counts(lines)], "lll", no_wrap=["state", "run"], box=None)
            for line in lines[: max(1, console.height - 2)]:  # what is at work is above
                table.add_row(line.status, str(line.path.relative_to(outputs)), line.details)
            live.update(table, refresh=True)
            time.sleep(pause)


def _print_changes(pictures: Iterator[list[Line]], pause: float) -> None:
    shown: dict[Path, tuple[str, str]] | None = None
    for lines in pictures:
        known = {line.path: (line.status, line.text) for line in lines}
        if known != shown:
            changed = [str(line) for line in lines if not shown or shown.get(line.path) != known[line.path]]
            print_at_once("\n".join([counts(lines), *changed]))
            shown = known
        time.sleep(pause)
