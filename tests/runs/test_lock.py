"""One process at a time works in a run folder, and a dead one's lock is no lock."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from small_runs import Train, environment

from anomaly_bench.errors import RunningElsewhere, UserError
from anomaly_bench.runs import lock as module
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.lock import LOCK, Lock, holder

Capsys = pytest.CaptureFixture[str]
HOLD = """
import sys, time
from pathlib import Path
from anomaly_bench.runs import lock
lock.BEAT = float(sys.argv[2])
print(lock.Lock(Path(sys.argv[1])).acquire(), flush=True)
time.sleep(60)
"""
LOOK = """
import sys
from pathlib import Path
from anomaly_bench.runs.lock import holder
print(holder(Path(sys.argv[1])))
"""
RACE = """
import sys, time
from pathlib import Path
from anomaly_bench.runs.lock import Lock
folder = Path(sys.argv[1])
for _ in range(60):
    lock = Lock(folder / "run")
    if lock.acquire() is None:
        (folder / "inside").mkdir()  # fails where another one is inside too
        time.sleep(0.002)
        (folder / "inside").rmdir()
        lock.release()
        print("had it", flush=True)
"""

TOGETHER = """
import errno, fcntl, json, multiprocessing, os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from anomaly_bench.runs import lock
runs, stale, links, records = int(sys.argv[2]), *(word == "True" for word in sys.argv[3:6])
lock.BEAT = 0.2
def refused(*_): raise OSError(errno.ENOLCK, "No locks available")
def no_links(*_): raise PermissionError(errno.EPERM, "Operation not permitted")
if not records: fcntl.lockf = refused
if not links: os.link = no_links
folders = [Path(sys.argv[1]) / f"run{i}" for i in range(runs)]
together = min(runs, 50) if stale else 1  # the silence of a dead owner is waited for in many runs at a time
owner = {"host": "far", "machine": "away", "pid": 1, "since": "2026-01-01T00:00:00+00:00"}
for folder in folders if stale else []:
    folder.mkdir()
    (folder / ".lock").write_text(json.dumps(owner))
fork = multiprocessing.get_context("fork")
barrier, owners = fork.Barrier(3), fork.Array("i", runs)
def acquire(i):
    held = lock.Lock(folders[i])
    if held.acquire() is None:
        with owners: owners[i] += 1
    return held
def work():
    with ThreadPoolExecutor(together) as pool:
        for first in range(0, runs, together):
            barrier.wait()
            locks = list(pool.map(acquire, range(first, first + together)))
            barrier.wait()
            for held in locks: held.release()
processes = [fork.Process(target=work) for _ in range(3)]
for process in processes: process.start()
for process in processes: process.join()
print("left", *(file for folder in folders for file in folder.iterdir()))
print("owners", *owners)
"""


def other(folder: Path, beat: float = module.BEAT, **more: Any) -> subprocess.Popen[str]:
    """A process that holds the lock."""
    argv = [sys.executable, "-c", HOLD, str(folder), str(beat)]
    process = subprocess.Popen(argv, env=environment(), stdout=subprocess.PIPE, text=True, **more)
    assert process.stdout
    assert process.stdout.readline() == "None\n"
    return process


def test_a_living_process_keeps_others_out_and_a_killed_one_does_not(tmp_path: Path) -> None:
    child = other(tmp_path)
    try:
        said = f"process {child.pid} on {os.uname().nodename}, for 0 min"
        assert Lock(tmp_path).acquire() == holder(tmp_path) == said
        assert holder(tmp_path) == said  # looking takes nothing away
        line = rf"{tmp_path}: is running elsewhere: process {child.pid} on .* \(wait for it"
        refused = pytest.raises(RunningElsewhere, match=line)
        with refused, RunFolder(tmp_path).locked():
            pytest.fail("two in one folder")
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == child.pid
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    assert (tmp_path / LOCK).exists()
    assert holder(tmp_path) is None
    with RunFolder(tmp_path).locked():
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()
    assert not (tmp_path / LOCK).exists() if tmp_path.exists() else True


def test_a_stopped_process_keeps_its_lock(tmp_path: Path) -> None:
    child = other(tmp_path)
    try:
        child.send_signal(signal.SIGSTOP)
        assert holder(tmp_path)
        assert Lock(tmp_path).acquire()
    finally:
        child.kill()
        child.communicate()


def test_the_same_process_is_kept_out_too_and_looking_does_not_open_the_door(tmp_path: Path) -> None:
    first, second = Lock(tmp_path / "run"), Lock(tmp_path / "run")
    assert first.acquire() is None
    assert str(os.getpid()) in str(second.acquire())
    assert str(os.getpid()) in str(holder(tmp_path / "run"))
    words = [sys.executable, "-c", LOOK, str(tmp_path / "run")]
    seen = subprocess.run(words, env=environment(), capture_output=True, text=True, check=True)
    assert f"process {os.getpid()} on " in seen.stdout
    second.release()  # never had it
    assert holder(tmp_path / "run")
    first.release()
    assert holder(tmp_path / "run") is None
    assert second.acquire() is None
    second.release()
    assert list((tmp_path / "run").iterdir()) == []


def test_processes_that_race_for_it_are_never_inside_together(tmp_path: Path) -> None:
    words = [sys.executable, "-c", RACE, str(tmp_path)]
    racers = [
        subprocess.Popen(words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    ended = [racer.communicate(timeout=60) for racer in racers]
    assert [racer.returncode for racer in racers] == [0, 0, 0], ended
    assert sum(out.count("had it") for out, _ in ended) >= 60


@pytest.mark.parametrize(
    ("runs", "stale", "links", "records"),
    [
        (25, False, True, False),
        (25, False, False, False),
        (25, True, True, False),
        pytest.param(200, False, True, False, marks=pytest.mark.slow),
        pytest.param(100, False, False, False, marks=pytest.mark.slow),
        pytest.param(200, True, True, False, marks=pytest.mark.slow),
        (25, True, False, False),
        (20, False, False, True),
        (25, True, False, True),
    ],
)
def test_of_processes_that_start_in_the_same_instant_one_owns_it(
    tmp_path: Path, runs: int, stale: bool, links: bool, records: bool
) -> None:
    """Also where the file system has no record locks or no hard links, and where a dead owner's lock is there."""
    argv = [sys.executable, "-c", TOGETHER, str(tmp_path), str(runs), str(stale), str(links), str(records)]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, timeout=100)
    assert done.stderr == ""
    left, line = done.stdout.splitlines()
    assert left == "left"
    owners = [int(n) for n in line.split()[1:]]
    assert len(owners) == runs
    assert set(owners) == {1}


def test_what_killed_processes_left_goes(tmp_path: Path) -> None:
    for name in (f"{LOCK}.123-abcdef01", f"{LOCK}.takeover"):
        (tmp_path / name).write_text("")
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / f"{LOCK}.124-abcdef01").write_text("")  # somebody is just asking
    with RunFolder(tmp_path).locked():
        assert {path.name for path in tmp_path.iterdir()} == {LOCK, f"{LOCK}.124-abcdef01"}


def test_an_owner_that_was_taken_for_dead_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT", 0.05)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where tests run in the background
    try:
        lock = Lock(tmp_path)
        assert lock.acquire() is None
        with pytest.raises(KeyboardInterrupt):  # noqa: PT012  it comes at any time
            (tmp_path / "other").write_text("{}")
            (tmp_path / "other").replace(tmp_path / LOCK)
            time.sleep(5)
        lock.release()
    finally:
        signal.signal(signal.SIGINT, before)
    assert (tmp_path / LOCK).read_text() == "{}"


def test_nothing_is_written_through_a_link(train: Train, tmp_path: Path, capsys: Capsys) -> None:
    (tmp_path / "notes" / "raise").touch()
    folder = train(code=1)
    (tmp_path / "notes" / "raise").unlink()
    (tmp_path / "target").write_text("untouched")
    for name in (LOCK, "log.txt"):
        (folder.path / name).unlink(missing_ok=True)
        (folder.path / name).symlink_to(tmp_path / "target")
        capsys.readouterr()
        train(code=2)
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bench: ")]
        assert f"{name}: is a symbolic link" in line
        assert (tmp_path / "target").read_text() == "untouched"
        (folder.path / name).unlink()
        assert folder.status == "failed"
    train()
    assert (folder.path / "log.txt").is_file()


def test_so_does_one_in_the_background_of_a_script(tmp_path: Path) -> None:
    """Where interrupts are ignored."""
    child = other(tmp_path, beat=0.1, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    try:
        (tmp_path / "other").write_text("{}")
        (tmp_path / "other").replace(tmp_path / LOCK)
        assert child.wait(10) == -signal.SIGTERM
    finally:
        child.kill()
        child.communicate()


@pytest.mark.parametrize("kind", ["directory", "fifo"])
def test_a_lock_that_is_no_file_is_named(kind: str, tmp_path: Path) -> None:
    (tmp_path / LOCK).mkdir() if kind == "directory" else os.mkfifo(tmp_path / LOCK)
    assert holder(tmp_path) in (None, "another process")
    with pytest.raises(UserError, match=rf"{tmp_path / LOCK}: cannot be written"), RunFolder(tmp_path).locked():
        pytest.fail("not reached")
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]


@pytest.mark.parametrize("alive", [True, False])
def test_a_lock_of_another_machine_lives_as_long_as_its_file_is_touched(
    alive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BEAT", 0.2)
    file, ended = tmp_path / LOCK, threading.Event()
    file.write_text(json.dumps({"host": "far", "machine": "away", "pid": 1, "since": "2026-01-01T00:00:00+00:00"}))

    def beat() -> None:
        while not ended.wait(0.1):
            os.utime(file)

    if alive:
        threading.Thread(target=beat, daemon=True).start()
    try:
        owner = Lock(tmp_path).acquire()
        assert (owner or "").startswith("process 1 on far, for ") == alive
        assert (owner is None) != alive
        assert alive == (holder(tmp_path) == owner)
    finally:
        ended.set()
    if not alive:
        module._held[file].release()


@pytest.mark.parametrize("alive", [True, False])
def test_a_file_system_without_record_locks(alive: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    child = other(tmp_path)

    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    try:
        monkeypatch.setattr("fcntl.lockf", refused)
        monkeypatch.setattr(module, "_is_touched", lambda _: alive)
        assert (Lock(tmp_path).acquire() is None) != alive
        if alive:
            assert f"process {child.pid} on " in str(holder(tmp_path))
            os.utime(tmp_path / LOCK, (0, 0))  # silent for long
            assert holder(tmp_path) is None
        else:
            module._held[tmp_path / LOCK].release()
    finally:
        child.kill()
        child.communicate()


def test_a_lock_that_goes_while_it_is_watched_was_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT", 1.0)
    file = tmp_path / LOCK
    file.write_text(json.dumps({"host": "far", "machine": "away", "pid": 1, "since": "2026-01-01T00:00:00+00:00"}))
    threading.Timer(0.2, file.unlink).start()
    assert str(Lock(tmp_path).acquire()).startswith("process 1 on far")
    assert Lock(tmp_path).acquire() is None
    module._held[file].release()


def test_the_owner_touches_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT", 0.05)
    lock = Lock(tmp_path)
    assert lock.acquire() is None
    os.utime(tmp_path / LOCK, (0, 0))
    time.sleep(0.3)
    assert (tmp_path / LOCK).stat().st_mtime > 0
    lock.release()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"host": "a", "pid": 1, "since": "yesterday"}', "[" * 9999])
def test_a_damaged_lock_that_nobody_holds_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text(text)
    assert holder(tmp_path) is None
    with RunFolder(tmp_path).locked():
        assert str(os.getpid()) in str(holder(tmp_path))


def test_no_folder_is_left_behind_by_a_run_that_never_began(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path / "run").locked():
        raise ZeroDivisionError
    assert not (tmp_path / "run").exists()
