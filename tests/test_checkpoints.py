"""A damaged checkpoint costs the time since the one before, says so in a line, and is never believed."""

from __future__ import annotations

import io
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import Noted, Train, curve, equal

from anomaly_bench.run import checkpoints
from anomaly_bench.run.checkpoints import MARK, DamagedCheckpoint, previous, read, usable, write
from anomaly_bench.store import RunFolder

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
    import hashlib

    return content + MARK + hashlib.sha256(content).hexdigest().encode()


def state(value: float) -> dict[str, Any]:
    return {"state_dict": {"x": torch.full((100,), value)}, "epoch": 3, "loops": {"a": [1, None, "b"]}}


@pytest.fixture
def both(tmp_path: Path) -> Path:
    """last.ckpt with 2, previous.ckpt with 1."""
    path = tmp_path / "stage" / "last.ckpt"
    write(path, state(1))
    write(path, state(2))
    return path


def value(path: Path | None) -> float:
    assert path is not None
    return float(read(path)["state_dict"]["x"][0])


def test_what_is_written_is_read_and_the_one_before_stays(both: Path) -> None:
    assert (value(both), value(previous(both))) == (2, 1)
    assert read(both).keys() == state(2).keys()
    assert usable(both) == both
    write(both, state(3))
    assert (value(both), value(previous(both))) == (3, 2)
    assert sorted(file.name for file in both.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_flipped_bits_all_over_are_noticed(both: Path) -> None:
    content = both.read_bytes()
    for seed in range(50):
        draw = random.Random(seed)
        flipped = bytearray(content)
        flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
        both.write_bytes(flipped)
        with pytest.raises(DamagedCheckpoint):
            read(both)


DAMAGES: dict[str, Callable[[bytes, Path], bytes | None]] = {
    "cut": lambda content, _: content[:-1],
    "half": lambda content, _: content[: len(content) // 2],
    "empty": lambda content, _: b"",
    "zeros": lambda content, _: bytes(len(content)),
    "missing": lambda content, _: None,
    "another file": lambda content, _: b"PK\x03\x04 a zip, perhaps",
    "a plain checkpoint": lambda content, _: content[: content.index(MARK)],
    "a number": lambda content, _: sealed(pickled(3)),
    "an attack": lambda content, target: pickled(Attack(target)),
    "an attack with a checksum": lambda content, target: sealed(pickled({"state_dict": {}, "x": Attack(target)})),
    "a bare attack": lambda content, target: sealed(pickle.dumps(Attack(target))),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_one_before_is_taken_and_it_is_said(
    both: Path, damage: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    harmed = DAMAGES[damage](both.read_bytes(), tmp_path / "ran")
    both.unlink() if harmed is None else both.write_bytes(harmed)
    with caplog.at_level("WARNING", logger="anomaly_bench"):
        found = usable(both)
    assert value(found) == 1
    (line,) = caplog.messages
    assert line.startswith(f"{both} ")
    write(both, state(3))  # the damaged one does not push out the good one
    assert value(both) == 3
    assert value(previous(both)) == 1
    assert not (tmp_path / "ran").exists()


def test_two_bad_ones_are_none(both: Path, caplog: pytest.LogCaptureFixture) -> None:
    both.write_bytes(b"")
    previous(both).write_bytes(b"x")
    with caplog.at_level("WARNING", logger="anomaly_bench"):
        assert usable(both) is None
    assert len(caplog.messages) == 3
    assert "starts anew" in caplog.messages[-1]
    assert usable(both) is None


def test_what_does_not_read_back_replaces_nothing(both: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def torn(_: Path) -> None:
        raise DamagedCheckpoint("does not fit its checksum")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "verify", torn)
        with pytest.raises(OSError, match="does not read back"):
            write(both, state(3))
    assert (value(both), value(previous(both))) == (2, 1)
    assert sorted(file.name for file in both.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]


@pytest.fixture
def begun(train: Train, tmp_path: Path) -> Callable[[], RunFolder]:
    """A run that failed in its second epoch and was brought past it: a checkpoint of each of three epochs, not done."""

    def make() -> RunFolder:
        (tmp_path / "notes" / "die").touch()
        import sys

        pid = os.fork()
        if not pid:  # killed by itself while it scores
            sys.stderr = sys.stdout = io.StringIO()
            train("checkpoint_seconds=0")
            os._exit(1)
        os.waitpid(pid, 0)
        (tmp_path / "notes" / "die").unlink()
        from anomaly_bench.store import find

        (folder,) = find("outputs")
        assert folder.status == "running"
        return folder

    return make


@pytest.mark.parametrize("harmed", [["last"], ["previous"], ["last", "previous"]])
@pytest.mark.parametrize("stage", ["template", "again"])
def test_a_finished_stage_goes_on_or_is_fitted_again(
    train: Train, begun: Callable[[], RunFolder], notes: Noted, capsys: Capsys, stage: str, harmed: list[str]
) -> None:
    whole = train("checkpoint_seconds=0", outputs="whole")
    folder = begun()
    steps = len(notes("step"))
    for name in harmed:
        file = folder.path / "checkpoints" / stage / f"{name}.ckpt"
        file.write_bytes(file.read_bytes()[:-9])
    capsys.readouterr()
    train("checkpoint_seconds=0")
    err = capsys.readouterr().err
    assert ("last.ckpt was cut off" in err) == ("last" in harmed)
    assert "Traceback" not in err
    trained = len(notes("step")) - steps
    assert trained == (0 if len(harmed) == 1 else 9 if stage == "template" else 2)
    assert ("starts anew" in err) == (len(harmed) == 2)
    assert equal(folder, whole)
    assert sorted(curve(folder)) == sorted(curve(whole))
    assert not (folder.path / "checkpoints").exists()


@pytest.mark.parametrize("damage", ["half", "missing", "an attack with a checksum"])
def test_a_training_goes_on_from_the_checkpoint_before(
    train: Train, notes: Noted, tmp_path: Path, capsys: Capsys, damage: str
) -> None:
    whole = train("checkpoint_seconds=0", "method.epochs=4", outputs="whole")
    assert train("checkpoint_seconds=0", "method.epochs=2", outputs="two").status == "done"
    (tmp_path / "notes" / "raise").touch()  # in the second epoch
    folder = train("checkpoint_seconds=0", "method.epochs=4", code=1)
    place = folder.path / "checkpoints" / "template"
    (tmp_path / "notes" / "raise").unlink()
    shutil.copy(place / "last.ckpt", place / "previous.ckpt")
    harmed = DAMAGES[damage]((place / "last.ckpt").read_bytes(), tmp_path / "ran")
    (place / "last.ckpt").unlink() if harmed is None else (place / "last.ckpt").write_bytes(harmed)
    steps = len(notes("step"))
    capsys.readouterr()
    train("checkpoint_seconds=0", "method.epochs=4")
    err = capsys.readouterr().err
    assert f"resumes from {place / 'previous.ckpt'}" in err
    assert len([line for line in err.splitlines() if "last.ckpt" in line]) == 1
    assert len(notes("step")) - steps == 3 * 3 + 2
    assert equal(folder, whole)
    assert curve(folder) == curve(whole)
    assert not (tmp_path / "ran").exists()


def test_a_finished_run_keeps_no_checkpoint_not_even_after_a_kill(train: Train) -> None:
    folder = train()
    assert not (folder.path / "checkpoints").exists()
    (folder.path / "checkpoints" / "template").mkdir(parents=True)
    (folder.path / "checkpoints" / "template" / "last.ckpt").write_bytes(b"killed before it was removed")
    train()
    assert not (folder.path / "checkpoints").exists()
