"""A sweep loses nothing: one job raises, one is killed, the machine stops, two sweeps run at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from small_runs import FILES, QUICK, TOY, Begin, Bench, contents, environment, equal

from anomaly_bench import config
from anomaly_bench.runs.folder import RunFolder, find
from anomaly_bench.runs.lock import holder
from anomaly_bench.runs.runner import run
from anomaly_bench.sweeps.plan import plan, summary

SWEEP = ["train", "-m", *TOY[:2]]
FIXED = [*TOY[2:], "method.kind=one", "method.epochs=2", *QUICK]


def words(images: Path, tmp_path: Path, seeds: int) -> list[str]:
    return [
        *FIXED,
        f"dataset.root={images}",
        "method.notes=notes",
        f"seed=range({seeds})",
        f"output_dir={tmp_path / 'o'}",
    ]


def statuses(outputs: Path) -> dict[int, str]:
    return {folder.manifest["seed"]: folder.status for folder in find(outputs)} if outputs.is_dir() else {}


def trained(notes: Path) -> dict[int, dict[int, int]]:
    """seed -> process -> steps it took."""
    steps: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for line in map(json.loads, (notes / "notes.jsonl").read_text().splitlines()):
        if line["what"] == "step":
            steps[line["seed"]][line["pid"]] += 1
    return {seed: dict(by) for seed, by in steps.items()}


def wait_until(happened: Callable[[], object]) -> None:
    until = time.monotonic() + 100
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.02)


def wait_for(outputs: Path, seed: int) -> None:
    """Until that run has begun."""
    wait_until(lambda: seed in statuses(outputs))


def test_one_raises_one_is_killed_the_machine_stops_and_nothing_is_lost(
    begin: Begin, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    notes, outputs, seeds = tmp_path / "notes", tmp_path / "o", range(6)
    notes.mkdir()
    (notes / "raise.1").touch()
    (notes / "die.2").touch()  # SIGKILL, while it scores
    given = words(images, tmp_path, len(seeds))
    first = begin(*SWEEP, *given)
    wait_for(outputs, 4)
    os.killpg(first.pid, signal.SIGKILL)
    said = first.wait().stderr
    before = statuses(outputs)
    assert "6 runs: 6 to run\n" in said
    assert [seed for seed, status in before.items() if status == "failed"] == [1, 2]
    assert {before[seed] for seed in (0, 3)} == {"done"}
    failed = {f.manifest["seed"]: f.manifest["error"] for f in find(outputs) if f.status == "failed"}
    assert failed == {1: "RuntimeError: the toy was told to fail", 2: "killed by SIGKILL (out of memory?)"}
    once = trained(notes)

    (notes / "die.2").unlink()
    second = begin(*SWEEP, *given).wait()
    assert second.returncode == 1  # the one that raises still does
    finished = sum(status == "done" for status in before.values())
    assert f"6 runs: {finished} done, " in second.stderr
    assert "6 runs: 5 done, 1 failed\nfailed      " in second.stderr
    assert statuses(outputs) == {seed: "failed" if seed == 1 else "done" for seed in seeds}

    (notes / "raise.1").unlink()
    third = begin(*SWEEP, *given).wait()
    assert third.returncode == 0, third.stderr
    assert "6 runs: 5 done, 1 to resume\nto resume " in third.stderr

    steps = trained(notes)
    whole = sum(steps[0].values())
    for seed in seeds:
        if before.get(seed) == "done" or seed not in before:
            assert sorted(steps[seed].values()) == [whole]  # in one process, once
    assert steps[2] == once[2]  # killed after its training, which was not repeated
    for seed in seeds:
        again = run(config.compose([*given[:-2], f"seed={seed}", f"output_dir={tmp_path / 'clean'}"], TOY[1]))
        (same,) = (folder for folder in find(outputs) if folder.manifest["seed"] == seed)
        assert equal(same, again)
        assert contents(same) == FILES - {"heatmaps"}


def test_two_sweeps_at_once_share_the_runs(begin: Begin, images: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    given = words(images, tmp_path, seeds=4)
    sweeps = [begin(*SWEEP, *given) for _ in range(2)]
    ended = [sweep.wait() for sweep in sweeps]
    assert [sweep.returncode for sweep in ended] == [0, 0], ended
    assert set(statuses(tmp_path / "o").values()) == {"done"}
    steps = trained(tmp_path / "notes")
    assert len(steps) == 4
    assert {len(by) for by in steps.values()} == {1}  # each was trained by one process only


def test_what_another_process_finished_just_before_the_lock_is_not_trained_again(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    cfg = config.compose([*words(images, tmp_path, 1)[:-2], "seed=0"], TOY[1])
    locked, noted = RunFolder.locked, tmp_path / "notes" / "notes.jsonl"
    once: list[str] = []

    def after_the_other(folder: RunFolder) -> AbstractContextManager[None]:
        monkeypatch.setattr(RunFolder, "locked", locked)
        run(cfg)  # the other one, from its start to its end
        once.append(noted.read_text())
        return locked(folder)

    monkeypatch.setattr(RunFolder, "locked", after_the_other)
    assert run(cfg).status == "done"
    assert once == [noted.read_text()]  # neither trained nor scored
    assert '"score"' in once[0]


def test_the_plan_is_told_before_anything_is_trained(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes").mkdir()
    given = [*words(images, tmp_path, 4), f"dataset.root={images},nowhere"]
    for seed in (0, 1):
        run(config.compose([*given[:-3], f"seed={seed}", given[-2], f"dataset.root={images}"], TOY[1]))
    done, unfinished = sorted(find(tmp_path / "o"), key=lambda folder: folder.manifest["seed"])
    unfinished.update(status="running")
    jobs = plan(given, TOY[1])
    asked = [dict(word.split("=", 1) for word in job.overrides) for job in jobs]
    states = {(a["dataset.root"], int(a["seed"])): job.state for a, job in zip(asked, jobs, strict=True)}
    there = {0: "done", 1: "to resume", 2: "to run", 3: "to run"}
    assert states == {
        **{(str(images), seed): state for seed, state in there.items()},
        **{("nowhere", seed): "cannot run" for seed in range(4)},
    }
    assert summary(jobs) == "8 runs: 1 done, 1 to resume, 2 to run, 4 cannot run"
    assert {job.why for job in jobs if job.state == "cannot run"} == {"dataset.root: no such folder: nowhere"}
    assert [job.folder.path for job in jobs if job.folder and job.state == "done"] == [done.path]
    with unfinished.locked():
        (held,) = (job for job in plan(given, TOY[1]) if job.state == "running elsewhere")
        assert held.why == holder(unfinished.path)
    assert len(list(find(tmp_path / "o"))) == 2
    forced = plan([*given, "force=true"], TOY[1])
    assert {job.state for job in forced} == {"to run", "cannot run"}


def test_what_cannot_run_is_told_and_the_rest_runs(bench: Bench, images: Path, tmp_path: Path) -> None:
    done = bench("train", "-m", *TOY[:2], *FIXED, f"dataset.root=nowhere,{images}")
    assert done.returncode == 2
    assert "2 runs: 1 to run, 1 cannot run\n" in done.stderr
    assert "dataset.root: no such folder: nowhere" in done.stderr
    assert "2 runs: 1 done, 1 cannot run\n" in done.stderr
    assert [folder.status for folder in find(tmp_path / "outputs")] == ["done"]


def test_what_lacks_weights_or_a_teacher_is_told_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ANOMALY_BENCH_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    jobs = plan(
        ["method=rd", "dataset=demo/brick,demo/grass", f"output_dir={tmp_path}", f"method.weights=null,{tmp_path}/x"]
    )
    assert {(job.state, job.why.partition(":")[0]) for job in jobs} == {("cannot run", "method.weights")}
    assert [f"{tmp_path}/x" in job.why for job in jobs] == [False, True, False, True]
    every = plan(["method=us,us_fast", "dataset=demo/brick", f"output_dir={tmp_path}"])
    assert [(job.state, job.why.partition(":")[0]) for job in every] == [
        ("cannot run", "method.teacher.file"),
        ("to run", ""),
    ]
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_the_sweep_and_its_run(begin: Begin, images: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    sweep = begin(*SWEEP, *words(images, tmp_path, seeds=3), "method.epochs=3000")
    wait_for(tmp_path / "o", 0)
    wait_until(lambda: (tmp_path / "notes" / "notes.jsonl").exists())
    os.kill(sweep.pid, signal.SIGINT)  # the run is not told by a terminal
    ended = sweep.wait()
    assert ended.returncode == 130
    assert ended.stderr.rstrip().endswith("bench: interrupted; the same command goes on where it stopped")
    assert "Traceback" not in ended.stderr
    (folder,) = find(tmp_path / "o")
    assert folder.status == "running"
    assert holder(folder.path) is None


@pytest.mark.parametrize("interrupt", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_sweep_that_is_killed_takes_its_run_with_it(
    interrupt: bool, begin: Begin, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "notes").mkdir()
    given = [*words(images, tmp_path, seeds=2), "method.epochs=3000"]
    if interrupt:  # once with all that a sweep starts: Python's own server of forks, which these tests do without
        command = [sys.executable, "-m", "anomaly_bench", *SWEEP, *given]
        sweep: Any = subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL)
    else:
        sweep = begin(*SWEEP, *given, interrupt=False)
    wait_for(tmp_path / "o", 0)
    os.kill(sweep.pid, signal.SIGKILL)
    sweep.wait()
    (folder,) = find(tmp_path / "o")
    wait_until(lambda: not holder(folder.path))
    assert folder.status == "running"  # to be resumed
