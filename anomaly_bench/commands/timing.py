"""`bench time`: how long finished runs take from a file to a decision."""

from __future__ import annotations

import json
import math
import sys
from argparse import Namespace
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from textwrap import fill
from typing import Any

from anomaly_bench.console import print_lines, say, track
from anomaly_bench.errors import UserError
from anomaly_bench.files import write_text
from anomaly_bench.results.grid import ABSENT, Grid, markdown_table
from anomaly_bench.results.terminal import print_table

Cell = dict[str, Any]
narrow = partial(fill, width=80, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
LATENCY = "From the files of a batch to its decisions, ms; images/s; peak memory, MiB"
PARTS = "Parts of the line, ms for an image; their sum, and the whole timed by itself"
MVTEC = "One random image, height x width, from host to map on the host, ms; warm-up + timed runs"
PERCENTILES = ("p50", "p95", "p99")
WARM_UP = (
    "Each cell has a process of its own; warm-up: 10 images and 2 s, or as long as is measured; medians of 3 rounds."
)


def time_command(arguments: Namespace) -> int:
    """Run `bench time`."""
    if not arguments.run:
        raise UserError("bench time", "RUN is not given", "`bench list runs` shows where runs are")
    if arguments.seconds <= 0:
        raise UserError("--seconds", f"{arguments.seconds:g} given, allowed: a number above 0")
    if arguments.out and not arguments.out.absolute().parent.is_dir():
        raise UserError("--out", f"no such folder: {arguments.out.parent}")
    from rich.box import SIMPLE_HEAD

    from anomaly_bench.inference.timing import TimingRequest, machine, time_runs

    request = TimingRequest(
        *([Path(path) for path in dict.fromkeys(arguments.run)], arguments.images),
        *(arguments.threads, arguments.batch, arguments.device, arguments.runtime, arguments.protocol),
        *(arguments.seconds, arguments.maps, arguments.config_dir),
    )
    cells = list(track(time_runs(request), "timing"))
    about = machine()
    if arguments.json:
        sys.stdout.write(json.dumps({"machine": about, "cells": cells}) + "\n")
    else:
        for title, grid in tables(cells):
            print_lines(title)
            print_table(*grid[:2], box=SIMPLE_HEAD, padding=(0, 1, 0, 0))  # a number may fold, and is never cut
        print_lines(*(narrow(line) for line in [*notes(cells), *machine_lines(about)]))
    if arguments.out:
        write_text(arguments.out, markdown(cells, about))
        say(f"wrote {arguments.out}")
    return int(any("error" in cell for cell in cells))


def tables(cells: Sequence[Cell]) -> list[tuple[str, Grid]]:
    """Return each table with its title: latency, its parts, MVTec's sizes; none that would be empty."""
    numbered = list(enumerate(cells, 1))
    line = [(number, cell) for number, cell in numbered if "parts_ms" in cell]
    mvtec = [(number, cell) for number, cell in numbered if "timed" in cell]
    found = [(LATENCY, latency_grid(line)), (PARTS, parts_grid(line))] if line else []
    return found + ([(MVTEC, sizes_grid(mvtec))] if mvtec else [])


def latency_grid(cells: Sequence[tuple[int, Cell]]) -> Grid:
    """Return a line for each cell: how it was measured, latency, images/s, memory."""
    grid = [["#", "run", "runtime", "on", "batch", *PERCENTILES, "images/s", "MiB"]]
    for number, cell in cells:
        figures = [*percentiles(cell, *PERCENTILES), digits(cell["images_per_second"]), memory(cell)]
        grid.append([*setting(number, cell), str(cell["batch"]), *figures])
    return Grid(grid, "rlllrrrrrr")


def parts_grid(cells: Sequence[tuple[int, Cell]]) -> Grid:
    """Return a line for each cell: its parts, their sum, the whole, and by how much these two differ."""
    names = list(dict.fromkeys(name for _, cell in cells for name in cell["parts_ms"]))
    grid = [["#", *names, "sum", "whole", "differs"]]
    for number, cell in cells:
        parts = [cell["parts_ms"].get(name) for name in names]
        figures = [digits(value) for value in (*parts, cell["sum_ms"], cell["whole_ms"])]
        grid.append([str(number), *figures, f"{100 * cell['sum_off']:+.1f} %"])
    return Grid(grid, "r" * len(grid[0]))


def sizes_grid(cells: Sequence[tuple[int, Cell]]) -> Grid:
    """Return a line for each of MVTec's sizes that could be timed, with how often it was."""
    grid = [["#", "run", "runtime", "on", "size", "mean", *PERCENTILES, "runs"]]
    for number, cell in cells:
        size = "{}x{}".format(*cell["size"])
        figures = [*percentiles(cell, "mean", *PERCENTILES), f"{cell['warm_up']}+{cell['timed']}"]
        grid.append([*setting(number, cell), size, *figures])
    return Grid(grid, "rlllrrrrrr")


def setting(number: int, cell: Cell) -> list[str]:
    """Return the texts that say which cell this is: number, method, runtime, device and threads."""
    return [str(number), str(cell["method"]), cell["runtime"], f"{cell['device']} {cell['threads']}"]


def percentiles(cell: Cell, *names: str) -> list[str]:
    """Return these figures of a cell's latency as text."""
    return [digits(cell["latency_ms"][name]) for name in names]


def memory(cell: Cell) -> str:
    """Return the peak memory of a cell's process and, of the GPU's, what PyTorch allocated."""
    gpu = cell["gpu_memory_mb"]
    return f"{cell['peak_memory_mb']:.0f}" + ("" if gpu is None else f" + GPU {gpu:.0f}")


def digits(value: float | None) -> str:
    """Return a number with three digits before or after its point, a dash for none.

    >>> digits(1234.5), digits(56.78), digits(0.01234), digits(None)
    ('1234', '56.8', '0.0123', '–')
    """
    if value is None:
        return ABSENT
    places = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:.{min(max(places, 0), 4)}f}"


def notes(cells: Sequence[Cell]) -> list[str]:
    """Return the lines below the tables: the runs, how it was measured, what could not be, which sums differ."""
    runs = dict.fromkeys(cell["run"] for cell in cells)
    numbers = {run: [i for i, cell in enumerate(cells, 1) if cell["run"] == run] for run in runs}
    lines = [f"#{each[0]} to #{each[-1]}: {run}" if each[1:] else f"#{each[0]}: {run}" for run, each in numbers.items()]
    lines.append(WARM_UP)
    for number, cell in enumerate(cells, 1):
        where = "#{} {} {}".format(*setting(number, cell)[:3])
        if why := cell.get("error") or cell.get("why_not"):
            size = " {} x {}".format(*cell["size"]) if "size" in cell else f", batch {cell['batch']}"
            lines.append(f"{where}{size}: not timed: {why}")
        elif not cell.get("adds_up", True):
            lines.append(f"{where}: sum and whole differ, each time it was tried: time it again on a quiet machine")
        elif "probed" in cell:
            speeds = ", ".join(f"{size}: {digits(speed)}" for size, speed in cell["probed"].items())
            lines.append(f"{where}: batch {cell['batch']} is the best by images/s of a short trial ({speeds})")
    return lines


def machine_lines(about: Cell) -> list[str]:
    """Return the lines that say where and with what it was measured."""
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    gpu = f"; {about['gpu']}" if about["gpu"] else ""
    return [
        f"hardware: {about['cpu']}, {about['cpu_threads']} threads{gpu}",
        f"versions: {versions}",
        f"date: {about['date']}",
    ]


def markdown(cells: Sequence[Cell], about: Cell) -> str:
    """Return the page of `--out`."""
    text = ["# From a file to a decision", "", "Written by `bench time`; docs/timing.md says what is timed.", ""]
    for title, grid in tables(cells):
        text += [title, "", *markdown_table(grid), ""]
    return "\n".join([*text, *(f"- {line}" for line in [*notes(cells), *machine_lines(about)]), ""])
