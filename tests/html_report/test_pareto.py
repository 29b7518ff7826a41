"""The Pareto page: figures as they are stored, fronts by definition, and nothing of two machines in one chart."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_runs import TOYS, Train
from test_html import Page, written

from anomaly_bench.commands.main import main
from anomaly_bench.inference import timing
from anomaly_bench.inference.timing_worker import answers
from anomaly_bench.results.collect import collect
from anomaly_bench.results.pareto import pareto_front, pareto_lines
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.promise import percent
from anomaly_bench.runs.stored_run import TIMING

Run = Callable[..., RunFolder]
MACHINE = {
    "cpu": "CPU A",
    "cpu_threads": 4,
    "gpu": None,
    "date": "2026-01-02",
    "versions": {"torch": "2.9", "onnx": None},
}
PROMISE = "5 %, 95 % confidence"


def threshold(found: int, rate: float = 0.05) -> dict[str, Any]:
    """Of a run that finds so many of ten defects."""
    test = {"false_alarms": 1, "normal": 20, "interval": [0.001, 0.2], "found": {"cut": [found, 10]}}
    entry = {"threshold": 1.0, "n": 60, "rate": rate, "confidence": 0.95, "promised": rate - 0.001}
    return {"image": {**entry, "file": "calibration.csv", "source": "held out", "test": test}}


def cell(p99: float, **more: Any) -> dict[str, Any]:
    """What `bench time` stores of one measurement."""
    how = {"protocol": "line", "runtime": "eager", "device": "cpu", "threads": 1, "batch": 1}
    figures = {"latency_ms": {"p50": p99 / 2, "p95": p99, "p99": p99}, "images_per_second": 2000 / p99}
    return {**how, **figures, "parts_ms": {"network": 1.0}, "peak_memory_mb": 512.0, "gpu_memory_mb": None, **more}


def timed(folder: RunFolder, *cells: dict[str, Any], **machine: Any) -> RunFolder:
    (folder.path / TIMING).write_text(json.dumps({"machine": MACHINE | machine, "cells": cells}))
    return folder


@pytest.fixture
def deciding(run: Run) -> Run:
    """deciding(7, seed, label="rd x"): a run on screw that finds 7 of 10 defects; rate: of promised false alarms."""

    def make(found: int, seed: int = 0, rate: float = 0.05, **more: Any) -> RunFolder:
        folder = run("screw", seed, image_auroc=0.9, **more)
        folder.update(thresholds=threshold(found, rate))
        return folder

    return make


def table(page: Page, setting: str) -> list[list[str]]:
    return [cells for cells in page.cells if cells[0] == setting]


def drawn(page: Page) -> list[tuple[str, int, int]]:
    """Title, number of points and number of rings of each chart."""
    charts = page.text.split("<svg viewBox")[1:]
    found = [(re.search('aria-label="([^"]+)"', each), each) for each in charts]
    return [(name[1], each.count('class="mark'), each.count("<circle")) for name, each in found if name]


def test_a_run_that_was_timed_stands_with_its_stored_figures(trained: Train, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "ask", lambda request: list(answers(request)))  # in this process
    folder = trained("calibration_share=0.25")
    options = ["--threads", "1", "--batch", "1,2", "--seconds", "0.1", "--config-dir", str(TOYS / "conf")]
    assert main(["time", str(folder.path), *options]) == 0
    stored = json.loads((folder.path / TIMING).read_text())
    pages = written(Path("outputs"))
    page, limit = pages["pareto.html"], folder.manifest["thresholds"]["image"]["threshold"]
    above = {label: [row.score > limit for row in folder.scores if row.label == label] for label in (0, 1)}
    counts = {label: (sum(flags), len(flags)) for label, flags in above.items()}
    texts = {label: f"{some} of {every}{percent(some / every)}" for label, (some, every) in counts.items()}
    lines = [cells for cells in page.cells if cells[0].startswith("toy")]
    assert len(lines) == 2
    for line, kept in zip(lines, stored["cells"], strict=True):
        name = folder.manifest["dataset"] + "/" + folder.manifest["category"]
        auroc = f"{folder.metrics['image_auroc']:.4f}"
        assert line[1:7] == [name, "1", "63 % 95 % confidence", texts[1], texts[0], auroc]
        assert line[7:11] == ["eager", "cpu", "1", str(kept["batch"])]
        assert float(line[12].replace(",", "")) == pytest.approx(kept["latency_ms"]["p99"], rel=0.005)
        assert float(line[14].replace(",", "")) == pytest.approx(kept["peak_memory_mb"], rel=0.005)
        assert line[15] == "–"
    assert stored["machine"]["cpu"] in page.text
    assert f"torch {stored['machine']['versions']['torch']}" in page.text
    assert "pareto.html" in pages["index.html"].ways
    for way in page.ways:
        target, _, anchor = way.partition("#")
        file = (page.file.parent / target).resolve() if target else page.file
        assert way == "data:," or (file.is_file() and (not anchor or anchor in Page(file).ids))


def test_the_front_is_drawn_and_marked_in_the_table(deciding: Run, tmp_path: Path) -> None:
    for label, found, p99 in (("rd a", 9, 40.0), ("rd b", 5, 10.0), ("rd c", 5, 20.0), ("rd d", 8, 50.0)):
        timed(deciding(found, label=label), cell(p99))
    page = written(tmp_path)["pareto.html"]
    assert drawn(page) == [(f"mvtec/screw: {PROMISE}", 4, 2)]
    marked = re.findall(r'class="best"><b title="on the Pareto front">(\d) of 10', page.text)
    assert marked == ["9", "5"]
    (steps,) = [given["d"] for tag, given in page.tags if tag == "path" and given.get("class") == "front"]
    rings = [(given["cx"], given["cy"]) for tag, given in page.tags if tag == "circle"]
    assert steps == f"M{rings[0][0]} 230" + "".join(f"H{x}V{y}" for x, y in rings) + "H348"
    assert float(rings[0][0]) < float(rings[1][0])  # quicker
    assert float(rings[0][1]) > float(rings[1][1])  # finds less
    assert "rd a, eager, cpu, 1 thread, batch 1: found 9 of 10 (90 %), p99 40 ms" in page.text


def test_fronts_are_what_a_sweep_from_the_cheapest_finds() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = [(float(x), float(y)) for x, y in rng.integers(0, 6, (12, 2))]
        best, expected = -1.0, []
        for cost in sorted({x for x, _ in points}):
            most = max(y for x, y in points if x == cost)
            expected += [(cost, most)] * (points.count((cost, most)) if most > best else 0)
            best = max(best, most)
        assert [points[i] for i in pareto_front(points)] == expected


def test_machines_and_promises_stay_apart(deciding: Run, tmp_path: Path) -> None:
    timed(deciding(9, label="rd a"), cell(40.0), cell(20.0, runtime="onnxruntime"))
    timed(deciding(8, label="rd b", rate=0.1), cell(30.0))
    timed(deciding(7, label="rd c"), cell(10.0), cpu="CPU B")
    timed(deciding(6, label="rd d"), cell(10.0), versions={"torch": "2.8"})
    page = written(tmp_path)["pareto.html"]
    one, other = f"mvtec/screw: {PROMISE}", "mvtec/screw: 10 %, 95 % confidence"
    assert drawn(page) == [(one, 2, 1), (other, 1, 1), (one, 1, 1), (one, 1, 1)]
    assert {"machine-1", "machine-2", "machine-3"} <= page.ids
    assert [cells[7] for cells in table(page, "rda")] == ["eager", "onnxruntime"]


def test_accuracy_is_of_all_seeds_and_latency_of_those_that_were_timed(deciding: Run, tmp_path: Path) -> None:
    timed(deciding(9, 0), cell(40.0, peak_memory_mb=300.0), cell(7.0, threads=4))
    timed(deciding(6, 1), cell(20.0))
    deciding(3, 2)
    lines, _ = pareto_lines(collect(tmp_path).rows)
    assert [line.recall for line in lines] == pytest.approx([0.6, 0.6])
    assert [line.recall_std for line in lines] == pytest.approx([0.3, 0.3])
    assert [(line.figure("p99"), line.figure("peak_memory_mb")) for line in lines] == [(30.0, 512.0), (7.0, 512.0)]
    (first, _) = table(written(tmp_path)["pareto.html"], "rd")
    assert first[2:6] == ["3", "5 % 95 % confidence", "60 %30 % to 90 %", "5 %5 % to 5 %"]


def test_what_was_not_timed_is_listed_and_the_overview_says_how(deciding: Run, run: Run, tmp_path: Path) -> None:
    folder = deciding(9, label="rd a")
    run("grid", label="rd b", image_auroc=0.7)
    pages = written(tmp_path)
    assert "pareto.html" not in pages
    assert "No run is timed: after <code>bench time RUN</code>" in pages["index.html"].text
    timed(run("grid", label="rd c", image_auroc=0.8), cell(40.0))
    page = written(tmp_path)["pareto.html"]
    assert "not-timed" in page.ids
    assert [len(cells) for cells in (*table(page, "rda"), *table(page, "rdc"))] == [7, 16]
    assert table(page, "rdb") == []
    assert table(page, "rdc")[0][3:7] == ["–", "–", "–", "0.8000"]
    assert drawn(page) == []  # a threshold without latency, a latency without a threshold
    (folder.path.parents[1] / "grid").rename(tmp_path / "elsewhere")
    assert "pareto.html" not in written(tmp_path)


def test_cells_that_failed_and_random_images_are_no_lines(deciding: Run, tmp_path: Path) -> None:
    failed = {
        "protocol": "line",
        "runtime": "compile",
        "device": "cpu",
        "threads": 1,
        "batch": 1,
        "error": "no compiler",
    }
    size = {**failed, "protocol": "mvtec", "size": [256, 256], "why_not": "one size"}
    timed(deciding(9), failed, size, cell(5.0, parts_ms={"network": 1.0, "map": 1.0}))
    assert [cells[7] for cells in table(written(tmp_path)["pareto.html"], "rd")] == ["eager with maps"]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "Expecting property name"),
        ("[]", "list indices"),
        (json.dumps({"machine": MACHINE}), "no &#39;cells&#39;"),
        (json.dumps({"machine": MACHINE, "cells": [cell(-1.0)]}), "p50 -0.5"),
        (json.dumps({"machine": MACHINE, "cells": [cell(1.0, batch=None)]}), "NoneType"),
    ],
)
def test_a_damaged_timing_is_named_and_hides_no_other(deciding: Run, tmp_path: Path, text: str, why: str) -> None:
    damaged = deciding(9, label="rd a").path / TIMING
    damaged.write_text(text)
    timed(deciding(8, label="rd b"), cell(5.0))
    pages = written(tmp_path)
    for page in (pages["index.html"], pages["pareto.html"]):
        assert re.search(f"{damaged}: is damaged: .*{why}.*bench time RUN measures it anew", page.text)
    assert len(table(pages["pareto.html"], "rdb")[0]) == 16
