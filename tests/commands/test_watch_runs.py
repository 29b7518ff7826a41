"""`bench list runs --watch`, while other processes write, raise and are killed."""

from __future__ import annotations

import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import pytest
from small_runs import QUICK, TOY, Begin, Train, environment

from anomaly_bench.commands.main import main
from anomaly_bench.commands.watch_runs import looks
from anomaly_bench.runs.folder import find
from anomaly_bench.runs.lock import holder
from anomaly_bench.runs.progress import FILE, Progress


def wait_until(happened: Callable[[], object]) -> None:
    until = time.monotonic() + 100
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_blocks_of_what_changed_until_ctrl_c(begin: Begin, images: Path, tmp_path: Path) -> None:
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    watching = begin("list", "runs", "--watch", "--interval", "0.1")
    wait_until(lambda: "  0 runs\n" in watching.out.read_text())
    run = begin("train", *TOY, f"dataset.root={images}", "method.epochs=100000", *QUICK)
    wait_until(lambda: "loss" in watching.out.read_text())
    os.killpg(run.pid, signal.SIGKILL)
    wait_until(lambda: "1 runs: 1 interrupted" in watching.out.read_text())
    os.killpg(watching.pid, signal.SIGINT)
    ended = watching.wait()
    assert ended.returncode == 130
    assert ended.stderr == "bench: no longer watching; the runs go on\n"
    (folder,) = find(outputs)
    place = re.escape(str(folder.path.relative_to(tmp_path)))
    far = r"template  epoch \d+ of 100000  step \d+ of 300000  loss [\d.]+  (\d+ \w+ left  )?\d+ s ago"
    line = rf"running     {place}  {far}"
    blocks = re.split(r"^\d\d:\d\d:\d\d  ", ended.stdout, flags=re.MULTILINE)[1:]
    assert blocks[0] == "0 runs\n"
    assert any(re.fullmatch(rf"1 runs: 1 running\n{line}\n", block) for block in blocks)
    assert re.fullmatch(rf"1 runs: 1 interrupted\ninterrupted {place}  template  epoch .* s ago\n", blocks[-1])
    assert len(set(blocks)) == len(blocks)  # a block for each change only


def test_in_place_on_a_terminal(trained: Train, tmp_path: Path) -> None:
    folder = trained(*QUICK)
    controller, terminal = pty.openpty()
    words = [sys.executable, "-m", "anomaly_bench", "list", "runs", "--watch", "--interval", "0.1"]
    kind = environment(TERM="xterm", COLUMNS="120", LINES="30")
    process = subprocess.Popen(
        words,
        cwd=tmp_path,
        env=kind,
        stdout=terminal,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # what a shell starts with & ignores it
    )
    os.close(terminal)
    seen, until = "", time.monotonic() + 100
    while seen.count("\x1b[1A") < 2 and time.monotonic() < until:  # the cursor goes up: drawn a second time
        if select.select([controller], [], [], 0.1)[0]:
            seen += os.read(controller, 65536).decode()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    os.close(controller)
    assert (process.returncode, said) == (130, b"bench: no longer watching; the runs go on\n")
    drawn = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", seen)
    place, auroc = folder.path.relative_to("outputs"), folder.metrics["image_auroc"]
    assert re.search(rf"done +{place} +image_auroc {auroc:.4f}", drawn)


def test_runs_at_work_come_first_and_what_vanishes_is_left_out(trained: Train, tmp_path: Path) -> None:
    done, other, third = trained(*QUICK), trained(*QUICK, seed=1), trained(*QUICK, seed=2)
    other.update(status="running")
    Progress(other.path, "template").tell(1, 10)
    pictures = looks(tmp_path / "outputs", {})
    with other.locked():
        first = next(pictures)
        assert [line.status for line in first] == ["running", "done", "done"]
        assert "template  step 1 of 10" in str(first[0])
    assert holder(other.path) is None
    (other.path / FILE).write_text("{")  # cut off
    (done.path / "manifest.json").write_text("{")
    third.path.rename(tmp_path / "elsewhere")
    second = next(pictures)
    assert [line.status for line in second] == ["interrupted", "damaged"]
    (chosen,) = islice(looks(tmp_path / "outputs", {"status": ["damaged"]}), 1)
    assert [line.status for line in chosen] == ["damaged"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--interval", "3"], "bench: --interval: goes with --watch only"),
        (["--watch", "--verify"], "bench: --watch: does not go with --verify, which reads every file"),
        (["--watch", "nowhere"], "bench: nowhere: no such folder of runs (the first `bench train` makes it)"),
    ],
)
def test_what_does_not_go(words: list[str], line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "runs", *words]) == 2
    assert capsys.readouterr().err == f"{line}\n"
