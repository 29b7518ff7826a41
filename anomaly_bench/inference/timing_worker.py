"""What a process of its own measures for `bench time`: from files to decisions, with and without clocks inside.

It reads a request, JSON, from standard input and writes answers, a line of JSON each, to standard output.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle, islice, pairwise
from pathlib import Path
from statistics import median
from textwrap import shorten
from typing import Any

import numpy as np
import torch

from anomaly_bench.contracts import Size
from anomaly_bench.errors import UserError
from anomaly_bench.inference.exported import ExportedModel
from anomaly_bench.inference.load import load
from anomaly_bench.inference.predict import Model, computing
from anomaly_bench.inference.runtimes import RUNTIMES, File, Runtime
from anomaly_bench.inference.timing_sizes import time_size
from anomaly_bench.loading.anomaly_maps import enlarge_map
from anomaly_bench.loading.decode import read_image
from anomaly_bench.metrics.calibration import p_values
from anomaly_bench.runs.fit import process_peak_mb

WARM_UP_IMAGES, WARM_UP_SECONDS = 10, 2.0  # at least so many, and so long; not longer than is measured
ROUNDS = 3  # a cell's figures are medians over them
LEAST = 4  # batches in a round
MOST_OFF = 0.05  # by which the sum of the parts may differ from the whole
TRIES = 3  # of a cell where it differs more: something else ran
BATCHES = (1, 2, 4, 8, 16, 32)  # among which the best one is looked for
ENOUGH = 0.8  # of the best images/s so far: below it no larger batch is tried
Clock = Callable[[], float]  # seconds


@dataclass
class Batch:
    """A batch on its way along the line."""

    paths: Sequence[Path]
    pixels: list[np.ndarray] = field(default_factory=list)  # uint8 [h, w, 3] each
    images: Any = None  # what the runtime makes of them
    scores: np.ndarray | None = None  # [B]
    maps: np.ndarray | None = None  # [B, H, W]
    large: list[np.ndarray] = field(default_factory=list)  # the maps at the images' own sizes
    labels: np.ndarray | None = None  # [B], whether the score is above the threshold; None without one

    @property
    def shapes(self) -> list[Size]:
        """Height and width of each file."""
        return [(each.shape[0], each.shape[1]) for each in self.pixels]


class Line:
    """The line from files to decisions; `steps` are its parts, by name and in order."""

    def __init__(self, model: Model, runtime: Runtime, maps: bool) -> None:
        """maps: bring each map to its image's own size."""
        self.model, self.runtime = model, runtime
        self.steps: dict[str, Callable[[Batch], None]] = {
            "decode": self._decode,
            "resize": self._resize,
            "transfer": self._transfer,
            "network": self._run,
            **({"map": self._enlarge} if maps else {}),
            "label": self._label,
        }

    def _decode(self, batch: Batch) -> None:
        batch.pixels = [read_image(path) for path in batch.paths]

    def _resize(self, batch: Batch) -> None:
        batch.images = [self.runtime.resize(each) for each in batch.pixels]

    def _transfer(self, batch: Batch) -> None:
        batch.images = self.runtime.transfer(batch.images)

    def _run(self, batch: Batch) -> None:
        batch.scores, batch.maps = self.runtime.run(batch.images, batch.shapes)

    def _enlarge(self, batch: Batch) -> None:
        if batch.maps is None:
            raise UserError("--maps", "the method gives no anomaly maps")
        boxes = [self.model.view.frame.taken(shape) for shape in batch.shapes]
        sides = [(rows.stop - rows.start, columns.stop - columns.start) for rows, columns in boxes]
        batch.large = [enlarge_map(each, *side) for each, side in zip(batch.maps, sides, strict=True)]

    def _label(self, batch: Batch) -> None:
        assert batch.scores is not None
        if threshold := self.model.thresholds.get("image"):
            batch.labels = batch.scores > threshold["threshold"]
        if self.model.calibration is not None:
            p_values(self.model.calibration, batch.scores)

    def whole(self, batch: Batch, clock: Clock = time.perf_counter) -> float:
        """Return the milliseconds from files to decisions, by two looks at the clock."""
        began = clock()
        for step in self.steps.values():
            step(batch)
        return 1000 * (clock() - began)

    def parts(self, batch: Batch, clock: Clock = time.perf_counter) -> list[float]:
        """Return the milliseconds of each step, in order."""
        marks = [clock()]
        for step in self.steps.values():
            step(batch)
            marks.append(clock())
        return [1000 * (after - before) for before, after in pairwise(marks)]


def time_line(line: Line, batches: Iterator[Batch], seconds: float, clock: Clock = time.perf_counter) -> dict[str, Any]:
    """Return latencies, images/s and parts of one round, in ms.

    Each batch goes down the line twice, once timed as a whole and once by its parts; which comes first alternates,
    because a file's second reading is quicker.
    """
    whole: list[float] = []
    parts: list[list[float]] = []
    images, began = 0, clock()
    while len(whole) < LEAST or clock() - began < seconds:
        batch = next(batches)
        measures = [lambda b: whole.append(line.whole(b, clock)), lambda b: parts.append(line.parts(b, clock))]
        for measure in measures[:: 1 if len(whole) % 2 else -1]:
            measure(Batch(batch.paths))
        images += len(batch.paths)
    size = images / len(whole)
    return {
        "images": images,
        "images_per_second": 1000 * images / sum(whole),
        "latency_ms": dict(zip(("p50", "p95", "p99"), np.percentile(whole, (50, 95, 99)).tolist(), strict=True)),
        "parts_ms": {
            name: median(each) / size for name, each in zip(line.steps, zip(*parts, strict=True), strict=True)
        },
    }


def summary(rounds: Sequence[dict[str, Any]], batch: int) -> dict[str, Any]:
    """Return the medians over rounds, and by how much the sum of the parts differs from the whole."""

    def middle(*keys: str) -> float:
        values: list[Any] = list(rounds)
        for key in keys:
            values = [each[key] for each in values]
        return round(median(values), 4)

    found: dict[str, Any] = {
        key: {name: middle(key, name) for name in rounds[0][key]} for key in ("latency_ms", "parts_ms")
    }
    whole, total = found["latency_ms"]["p50"] / batch, sum(found["parts_ms"].values())
    return {
        "images": sum(each["images"] for each in rounds),
        "images_per_second": middle("images_per_second"),
        **found,
        "sum_ms": round(total, 4),
        "whole_ms": round(whole, 4),
        "sum_off": round(total / whole - 1, 4),
        "adds_up": abs(total / whole - 1) <= MOST_OFF,
    }


def batches_of(paths: Sequence[Path], size: int) -> Iterator[Batch]:
    """Yield batches of this size without end; after the last image comes the first one."""
    endless = cycle(paths)
    while True:
        yield Batch(list(islice(endless, size)))


def warm_up(line: Line, batches: Iterator[Batch], seconds: float) -> None:
    """Go through batches until there were enough images and it took long enough."""
    images, began = 0, time.perf_counter()
    while images < WARM_UP_IMAGES or time.perf_counter() - began < min(WARM_UP_SECONDS, seconds):
        batch = next(batches)
        line.whole(batch)
        images += len(batch.paths)


def probe(line: Line, paths: Sequence[Path], seconds: float) -> Iterator[dict[str, Any]]:
    """Yield images/s for batches of each size, after one to warm up, while larger ones are not clearly slower."""
    best = 0.0
    for size in BATCHES:
        batches, spent, images = batches_of(paths, size), 0.0, 0
        line.whole(next(batches))
        while not images or spent < 1000 * seconds:
            spent += line.whole(next(batches))
            images += size
        speed = 1000 * images / spent
        yield {"batch": size, "images_per_second": round(speed, 4)}
        if speed < ENOUGH * best:
            return
        best = max(best, speed)


def answers(request: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield what a request is answered with.  Raises UserError for what a user can mend."""
    device = "cuda" if request["device"] == "gpu" else "cpu"
    model = load(request["run"], device, request["config_dir"])
    runtime = File() if isinstance(model, ExportedModel) else RUNTIMES[request["runtime"]]()
    seconds = request["seconds"]
    with computing(request["threads"]), torch.inference_mode():
        runtime.prepare(model)
        if request["task"] == "size":
            yield time_size(model, runtime, tuple(request["size"]), seconds)
            return
        line, paths = Line(model, runtime, request["maps"]), [Path(path) for path in request["images"]]
        if request["task"] == "probe":
            yield from probe(line, paths, seconds / 10)
            return
        batches = batches_of(paths, request["batch"])
        warm_up(line, batches, seconds)
        for _ in range(TRIES):
            rounds = [time_line(line, batches, seconds / ROUNDS) for _ in range(ROUNDS)]
            found = summary(rounds, request["batch"])
            if found["adds_up"]:
                break
    gpu = torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else None
    yield {**found, "peak_memory_mb": process_peak_mb(), "gpu_memory_mb": gpu}


def main() -> None:
    """Answer the request on standard input; what libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    write = partial(print, file=out, flush=True)
    try:
        for answer in answers(json.load(sys.stdin)):
            write(json.dumps(answer))
    except UserError as error:
        write(json.dumps({"error": str(error)}))
    except Exception as error:  # of a compiler, an exporter or a runtime: anything
        text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        write(json.dumps({"error": shorten(text, 200)}))


if __name__ == "__main__":
    main()
