"""A damaged checkpoint costs the time since the one before, says so in a line, and is never believed."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import random
import shutil
import signal
import sys
import zipfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_runs import QUICK, Noted, Train, curve, equal

from anomaly_bench.errors import UserError
from anomaly_bench.runs import checkpoints
from anomaly_bench.runs.checkpoints import MARK, TRAINING, DamagedCheckpoint, find_usable, previous, read, write
from anomaly_bench.runs.folder import RunFolder, find

Capsys = pytest.CaptureFixture[str]


class Attack:
    """What a pickle can do to whoever loads it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.target}",)


def pickled(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def sealed(content: bytes) -> bytes:
    return content + MARK + hashlib.sha256(content).hexdigest().encode()


def flipped(content: bytes, seed: int) -> bytes:
    draw, changed = random.Random(seed), bytearray(content)
    changed[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def foreign_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", b"no pickle")
    return buffer.getvalue()


DAMAGES: dict[str, Callable[[bytes, Path], bytes | None]] = {
    "bit": lambda content, _: flipped(content, 0),
    "cut": lambda content, _: content[:-1],
    "half": lambda content, _: content[: len(content) // 2],
    "empty": lambda content, _: b"",
    "zeros": lambda content, _: bytes(len(content)),
    "missing": lambda content, _: None,
    "zip": lambda content, _: foreign_zip(),
    "sealed zip": lambda content, _: sealed(foreign_zip()),
    "unsealed": lambda content, _: content[: content.index(MARK)],
    "number": lambda content, _: sealed(pickled(3)),
    "weights alone": lambda content, _: sealed(pickled({"state_dict": {"mean": torch.zeros(3, 16, 16)}})),
    "attack": lambda content, target: pickled(Attack(target)),
    "sealed attack": lambda content, target: sealed(pickled({**state(0), "x": Attack(target)})),
    "sealed bare attack": lambda content, target: sealed(pickle.dumps(Attack(target))),
}


def harm(file: Path, damage: str, target: Path) -> None:
    harmed = DAMAGES[damage](file.read_bytes(), target)
    file.unlink() if harmed is None else file.write_bytes(harmed)


def state(value: float) -> dict[str, Any]:
    content: dict[str, Any] = {key: [1, None, "b"] for key in TRAINING}
    return content | {"state_dict": {"x": torch.full((100,), value)}}


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """last.ckpt with 2, previous.ckpt with 1."""
    path = tmp_path / "stage" / "last.ckpt"
    write(path, state(1))
    write(path, state(2))
    return path


def value(path: Path) -> float:
    return float(read(path)["state_dict"]["x"][0])


def test_what_is_written_is_read_and_the_one_before_stays(both: Path) -> None:
    assert (value(both), value(previous(both))) == (2, 1)
    found = find_usable(both)
    assert found is not None
    assert found[0] == both
    assert found[1].keys() == state(2).keys()
    write(both, state(3))
    assert (value(both), value(previous(both))) == (3, 2)
    assert sorted(file.name for file in both.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_one_before_is_taken_and_it_is_said(
    both: Path, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    harm(both, damage, tmp_path / "ran")
    with caplog.at_level("WARNING", logger="anomaly_bench"):
        found = find_usable(both)
    assert found is not None
    assert found[0] == previous(both)
    (line,) = caplog.messages
    assert line.startswith(f"{both} ")
    write(both, state(3))  # the damaged one does not push out the good one
    assert (value(both), value(previous(both))) == (3, 1)
    assert not (tmp_path / "ran").exists()


def test_two_bad_ones_are_none(both: Path, caplog: pytest.LogCaptureFixture) -> None:
    both.write_bytes(b"")
    previous(both).write_bytes(b"x")
    with caplog.at_level("WARNING", logger="anomaly_bench"):
        assert find_usable(both) is None
    assert len(caplog.messages) == 3
    assert "starts anew" in caplog.messages[-1]
    assert find_usable(both) is None


def test_one_that_cannot_be_read_now_is_not_called_damaged(both: Path) -> None:
    both.unlink()
    both.mkdir()
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        find_usable(both)
    assert value(previous(both)) == 1


def stays(both: Path, content: dict[str, Any], line: str) -> None:
    with pytest.raises(UserError) as refused:
        write(both, content)
    assert line in str(refused.value)
    assert str(both) in str(refused.value)
    assert (value(both), value(previous(both))) == (2, 1)
    assert sorted(file.name for file in both.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_what_does_not_read_back_replaces_nothing(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def lossy(descriptor: int) -> None:
        os.pwrite(descriptor, b"lost", 500)
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", lossy)
        stays(both, state(3), "cannot be written: what was written does not fit its checksum")


def test_what_could_not_be_read_is_not_written(both: Path) -> None:
    stays(both, {**state(3), "x": np.zeros(3)}, "numpy.ndarray, only tensors and plain values")


def test_a_full_disk_is_named(both: Path) -> None:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        stays(both, state(3), f"cannot be written: {os.strerror(errno.EFBIG)} (free some space")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


# Whole runs.  A training of three epochs of three steps, with a checkpoint of each, then a stage of two steps.


@pytest.fixture
def whole(trained_once: Callable[..., Path]) -> RunFolder:
    """An undisturbed run."""
    return next(find(trained_once(0) / "outputs"))


@pytest.fixture(scope="module")
def killed_runs() -> dict[int, Path]:
    """What `killed` left behind."""
    return {}


@pytest.fixture
def killed(
    train: Train, killed_runs: dict[int, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[int], RunFolder]:
    """killed(n): a run that is killed before the (n + 1)-th checkpoint of a training is written."""

    def attempt(n: int) -> RunFolder:
        begun = Path("outputs").exists()
        if n in killed_runs and not begun:
            shutil.copytree(killed_runs[n], ".", dirs_exist_ok=True)
        else:
            die(n)
            if not begun:
                killed_runs[n] = tmp_path_factory.mktemp("killed")
                shutil.copytree(".", killed_runs[n], dirs_exist_ok=True)
        (folder,) = find("outputs")
        return folder

    def die(n: int) -> None:
        if not (child := os.fork()):
            calls = count()

            def dying(path: Path, content: dict[str, Any]) -> None:
                if next(calls) == n:
                    os.kill(os.getpid(), signal.SIGKILL)
                write(path, content)

            checkpoints.write = dying
            sys.stderr = sys.stdout = io.StringIO()
            try:
                train("checkpoint_seconds=0", *QUICK)
            finally:
                os._exit(1)
        assert os.waitpid(child, 0)[1] == signal.SIGKILL

    return attempt


def finish(train: Train, notes: Noted, capsys: Capsys, whole: RunFolder) -> tuple[int, list[str]]:
    """Go on with a run, and compare it with an undisturbed one.  Steps of its first stage, lines on checkpoints."""
    before = len(notes("step"))
    capsys.readouterr()
    folder = train("checkpoint_seconds=0", *QUICK)
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert equal(folder, whole)
    assert curve(folder) == curve(whole)
    weights = [(each.path / "weights.safetensors").read_bytes() for each in (folder, whole)]
    assert weights[0] == weights[1]
    assert not (folder.path / "checkpoints").exists()
    lines = [line for line in err.splitlines() if ".ckpt" in line and "resumes from" not in line]
    return sum(step["shape"][0] != 3 for step in notes("step")[before:]), lines


@pytest.mark.parametrize("at", [2, 4], ids=["running", "fitted"])
def test_every_bit_of_a_real_checkpoint_counts(killed: Callable[[int], RunFolder], at: int, spots: int) -> None:
    place = killed(at).path / "checkpoints" / "template"
    for file in (place / "last.ckpt", place / "previous.ckpt"):
        content = file.read_bytes()
        assert ("loops" in read(file)) == (at == 2 or file.name == "previous.ckpt")
        for seed in range(spots):
            file.write_bytes(flipped(content, seed))
            with pytest.raises(DamagedCheckpoint):
                read(file)
            file.write_bytes(content[: random.Random(seed).randrange(len(content))])
            with pytest.raises(DamagedCheckpoint):
                read(file)


@pytest.mark.parametrize(
    ("at", "last", "before", "steps", "named"),
    [
        (2, "", "", 3, []),
        (2, "", "zeros", 3, []),  # not needed
        (2, "bit", "", 6, ["last"]),
        (2, "missing", "", 6, ["last"]),
        (2, "weights alone", "", 6, ["last"]),
        (2, "sealed attack", "", 6, ["last"]),
        (2, "half", "attack", 9, ["last", "previous"]),
        (4, "", "", 0, []),
        (4, "bit", "", 0, ["last"]),
        (4, "missing", "", 0, ["last"]),
        (4, "sealed attack", "", 0, ["last"]),
        (4, "empty", "bit", 9, ["last", "previous"]),
        (4, "missing", "missing", 9, ["last"]),
    ],
)
def test_a_run_with_a_damaged_checkpoint_ends_like_an_undisturbed_one(
    train: Train, killed: Callable[[int], RunFolder], notes: Noted, capsys: Capsys, whole: RunFolder, tmp_path: Path,
    at: int, last: str, before: str, steps: int, named: list[str],
) -> None:  # fmt: skip
    folder = killed(at)
    assert list(folder.manifest["stages"]) == ["template"][: at == 4]
    for name, damage in (("last", last), ("previous", before)):
        if damage:
            harm(folder.path / "checkpoints" / "template" / f"{name}.ckpt", damage, tmp_path / "ran")
    trained, lines = finish(train, notes, capsys, whole)
    assert trained == steps
    assert [line.split(".ckpt ")[0].rpartition("/")[2] for line in lines] == named
    assert not (tmp_path / "ran").exists()


def test_a_stage_that_is_fitted_again_and_stopped_is_not_taken_for_fitted(
    train: Train, killed: Callable[[int], RunFolder], notes: Noted, capsys: Capsys, whole: RunFolder
) -> None:
    shutil.rmtree(killed(4).path / "checkpoints")
    assert list(killed(1).manifest["stages"]) == ["template"]
    assert finish(train, notes, capsys, whole) == (6, [])


def test_the_checkpoint_before_a_fitted_stage_may_be_of_its_middle(
    train: Train, killed: Callable[[int], RunFolder], notes: Noted, capsys: Capsys, whole: RunFolder
) -> None:  # killed between the manifest's word on the stage and its weights
    place = killed(1).path / "checkpoints" / "template"
    middle = (place / "last.ckpt").read_bytes()
    assert list(killed(3).manifest["stages"]) == ["template"]
    (place / "previous.ckpt").write_bytes(middle)
    harm(place / "last.ckpt", "cut", place)
    trained, lines = finish(train, notes, capsys, whole)
    assert (trained, len(lines)) == (6, 1)


@pytest.mark.parametrize("at", [2, 4], ids=["running", "fitted"])
def test_weights_of_something_else_are_refused(
    train: Train, killed: Callable[[int], RunFolder], capsys: Capsys, at: int
) -> None:
    path = killed(at).path / "checkpoints" / "template" / "last.ckpt"
    content = read(path)
    for weights in ({}, {"mean": torch.zeros(3, 8, 8)}, {"other": torch.zeros(2)}, 3):
        write(path, content | {"state_dict": weights})
        capsys.readouterr()
        train(*QUICK, code=2)
        line = f"bench: {path}: does not fit this method (force=true trains the run anew)"
        assert capsys.readouterr().err.splitlines()[-1] == line


def test_nothing_is_written_through_a_link(train: Train, tmp_path: Path, capsys: Capsys) -> None:
    (tmp_path / "notes" / "raise").touch()
    place = train(code=1).path / "checkpoints" / "template"
    shutil.rmtree(place, ignore_errors=True)
    (tmp_path / "elsewhere").mkdir()
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(tmp_path / "elsewhere")
    train("checkpoint_seconds=0", code=2)
    assert f"{place}: is a symbolic link" in capsys.readouterr().err
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_finished_run_keeps_no_checkpoint_not_even_after_a_kill(train: Train, trained: Train) -> None:
    folder = trained()
    assert not (folder.path / "checkpoints").exists()
    (folder.path / "checkpoints" / "template").mkdir(parents=True)
    (folder.path / "checkpoints" / "template" / "last.ckpt").write_bytes(b"killed before it was removed")
    train()
    assert not (folder.path / "checkpoints").exists()
