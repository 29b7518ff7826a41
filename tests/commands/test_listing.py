"""`bench list` and `bench show`: every choice, and each number with its source."""

from __future__ import annotations

import re

import pytest
from small_runs import ROOT, TOY, Bench, Train

from anomaly_bench.commands.main import main
from anomaly_bench.methods import reverse_distillation


def test_lists_name_every_choice(capsys: pytest.CaptureFixture[str]) -> None:
    for group in ("method", "dataset", "logger", "experiment", "hardware"):
        folder = ROOT / "conf" / group
        files = {f.relative_to(folder).with_suffix("").as_posix() for f in folder.rglob("[!_]*.yaml")}
        assert main(["list", group if group == "hardware" else f"{group}s"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert {line.split()[0] for line in lines} == files != set()
        assert group == "dataset" or all(len(line.split()) > 2 for line in lines)  # what it is, in words


def test_list_runs_shows_status_and_figures(trained: Train, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained()
    assert main(["list", "runs"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.split()[:2] == ["done", str(folder.path)]
    assert f"image_auroc {folder.metrics['image_auroc']:.4f}" in line


def test_show_names_sources_overrides_and_deviations(bench: Bench) -> None:
    done = bench("show", "method=rd", "method.lr=0.1", "hardware=cpu")
    assert done.returncode == 0
    lines = {line.split()[0]: " ".join(line.split()) for line in done.stdout.splitlines() if line.strip()}
    words = {"paper": "paper", "code": "authors' code", "ours": "ours", "unknown": "unknown in the source"}
    sources = re.findall(r"^(\w+): +(.*?) +# \[(\w+)\]", (ROOT / "conf/method/rd.yaml").read_text(), re.MULTILINE)
    assert len(sources) >= 7
    for key, value, source in sources:
        assert lines[key].startswith(f"{key} {value} {words[source]} ") or key == "lr"
    assert lines["lr"] == "lr 0.1 overridden 0.005 in the yaml [authors' code] Adam, no schedule"
    assert lines["accelerator"] == "accelerator cpu auto | cpu | gpu"  # hardware/cpu.yaml's own, not the user's
    assert lines["seed"].startswith("seed 0 set before anything is built")
    deviations = re.findall(r"^Deviation: (.{30})", reverse_distillation.__doc__ or "", re.MULTILINE)
    assert deviations
    assert f"deviations from the paper:\n    - {deviations[0]}" in done.stdout
    assert all(f"    - {text}" in done.stdout for text in deviations)


def test_show_finds_a_method_of_the_users_own(bench: Bench) -> None:
    done = bench("show", *TOY[:3], "method.epochs=5")
    assert done.returncode == 0
    assert "A method that trains within a second" in done.stdout
    assert "3 in the yaml" in next(line for line in done.stdout.splitlines() if line.startswith("  epochs"))
