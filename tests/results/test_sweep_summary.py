"""The table and the verdicts at the end of a sweep, of run folders that the package's own writer made."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from statistics import stdev

import pytest
from rich.console import Console

from anomaly_bench.results.collect import collect_runs
from anomaly_bench.results.comparisons import compare_settings
from anomaly_bench.results.sweep_summary import print_sweep, verdicts
from anomaly_bench.runs.folder import RunFolder


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"\s{2,}", line.strip())]


def test_means_over_seeds_of_several_categories_and_verdicts(
    run: Callable[..., RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for label, gain in (("rd", 0.0), ("rd method.lr=0.1", 0.05)):
        for category, base in (("screw", 0.80), ("bottle", 0.90)):
            for seed in range(6):
                value = base + gain + 0.001 * seed
                paths.append(run(category, seed, label=label, image_auroc=value, pixel_auroc=0.9).path)
    other = run("cable", 0, image_auroc=0.1).path  # of no sweep
    print_sweep(paths, Console(width=120))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert lines[0] == "mvtec  mean of 2 categories"
    deviation = stdev(0.001 * seed for seed in range(6))
    assert cells(lines[3]) == ["rd", "12", "6", f"0.8525 ± {deviation:.4f}", "0.9000 ± 0.0000"]
    assert cells(lines[4]) == ["rd lr=0.1", "12", "6", f"0.9025 ± {deviation:.4f}", "0.9000 ± 0.0000"]
    (told,) = [line for line in lines if line.startswith("mvtec image_auroc: ")]
    assert told.startswith("mvtec image_auroc: rd minus rd lr=0.1 -0.0500: rd lr=0.1 better")
    assert str(other) not in "".join(lines)
    compared = compare_settings(collect_runs(paths[:4]).rows)
    assert verdicts(compared) == []  # one setting alone


def test_what_is_not_finished_makes_no_table(
    run: Callable[..., RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_sweep([run("screw", finish=False).path, tmp_path / "rd/mvtec/screw/s9-00000000"])
    assert capsys.readouterr().out == ""
