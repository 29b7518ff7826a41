"""A watched folder: each image once, whatever happens to the process, the file or the power."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from forks import Forked
from small_runs import TOYS, Begin, Bench, save

from anomaly_bench.commands.main import main
from anomaly_bench.errors import UserError
from anomaly_bench.inference.load import load
from anomaly_bench.inference.output import COLUMNS, csv_line
from anomaly_bench.inference.predict import Result
from anomaly_bench.inference.watch import DriftAlarm, RowLog, Stamp, stable_images, whole_rows
from anomaly_bench.runs.folder import RunFolder

Capsys = pytest.CaptureFixture[str]
CONF = ["--config-dir", str(TOYS / "conf")]
WATCH = ["predict", "run", "--watch", "in", "--out", "out", *CONF]
UNTIL_IDLE = ["--until-idle", "0.1"]


def image(name: str, grey: int = 110) -> Path:
    """An image that appears complete, as a camera's program does it, or half of one where `grey` is negative."""
    path = Path("in", name)
    save(Path("being written.png"), np.full((32, 32, 3), abs(grey), np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    Path("being written.png").rename(path)
    return path


def rows(place: str = "out") -> list[dict[str, str]]:
    file = Path(place, "scores.csv")
    if not file.exists():
        return []
    with file.open(newline="", encoding="utf-8") as opened:
        return list(csv.DictReader(opened))


def names() -> list[str]:
    """Of the images in scores.csv, below the watched folder."""
    return [str(Path(row["path"]).relative_to(Path("in").resolve())) for row in rows()]


def wait_for(condition: Callable[[], object], watcher: Forked | None = None) -> None:
    """Until it holds, at most for a minute."""
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until, watcher and watcher.err.read_text()
        assert watcher is None or watcher.poll() is None, watcher.err.read_text()
        time.sleep(0.02)


def test_a_killed_watcher_goes_on(calibrated: RunFolder, begin: Begin, bench: Bench) -> None:
    """SIGKILL at any time: each image has one row, and its map and overlay."""
    given = [str(image(f"{i % 3}/{i:03}.png", 90 + i).relative_to("in")) for i in range(60)]
    for rows_until_then in (1, 25):
        watcher = begin(*WATCH, "--maps", "tiff", "--overlays")
        wait_for(lambda n=rows_until_then: len(rows()) > n, watcher)  # type: ignore[misc]
        os.kill(watcher.pid, signal.SIGKILL)
        watcher.wait()
    assert len(rows()) < 60  # it was at work
    more = [str(image(f"later/{i}.png").relative_to("in")) for i in range(3)]
    done = bench(*WATCH, "--maps", "tiff", "--overlays", *UNTIL_IDLE)
    assert done.returncode == 0, done.stderr
    assert Counter(names()) == Counter(given + more)
    expected = {f"{kind}/{name}{suffix}" for name in given + more for kind, suffix in KINDS}
    assert {str(p.relative_to("out")) for p in Path("out").rglob("*.*") if p.is_file()} == {
        *expected,
        *("scores.csv", "predict.json"),
    }
    for result in load("run", config_dir=CONF[1]).predict([Path("in") / name for name in names()], batch_size=1):
        (row,) = (row for row in rows() if row["path"] == str(Path(result.path).resolve()))
        assert (float(row["score"]), row["label"]) == (result.score, str(result.label))


KINDS = (("maps", ".tiff"), ("overlays", ".png"))


def test_images_that_come_while_it_watches(calibrated: RunFolder, begin: Begin) -> None:
    Path("in").mkdir()
    watcher = begin(*WATCH, "--json")
    wait_for(lambda: "watching in" in watcher.err.read_text(), watcher)
    for name in ("a.png", "below/b.png"):
        image(name)
        wait_for(lambda n=name: n in names(), watcher)  # type: ignore[misc]
    Path("in/broken.png").write_bytes(b"no image")
    wait_for(lambda: "broken.png: cannot be read" in watcher.err.read_text(), watcher)
    Path("in/.hidden.png").write_bytes(b"")
    Path("in/text.txt").write_bytes(b"")
    image("c.png")
    wait_for(lambda: "c.png" in watcher.out.read_text(), watcher)  # printed after its row is written
    os.kill(watcher.pid, signal.SIGINT)
    ended = watcher.wait()
    assert ended.returncode == 130
    assert names() == ["a.png", "below/b.png", "broken.png", "c.png"]
    assert [json.loads(line)["path"] for line in ended.stdout.splitlines()] == [row["path"] for row in rows()]
    assert ended.stderr.count("broken.png") == 1
    assert "3 images scored: " in ended.stderr
    assert "1 not scored" in ended.stderr
    assert not Path("out/.lock").exists()


def test_one_watcher_at_a_time(calibrated: RunFolder, begin: Begin, bench: Bench) -> None:
    image("a.png")
    watcher = begin(*WATCH)
    wait_for(lambda: names() == ["a.png"], watcher)
    second = bench(*WATCH, *UNTIL_IDLE)
    assert second.returncode == 3
    assert "out: is running elsewhere" in second.stderr
    other = bench("predict", "run", "in", "--out", "out", *CONF)
    assert other.returncode == 3
    os.kill(watcher.pid, signal.SIGTERM)
    watcher.wait()
    image("b.png")
    assert bench(*WATCH, *UNTIL_IDLE).returncode == 0
    assert names() == ["a.png", "b.png"]


def test_a_file_that_is_written_again_is_a_new_image(calibrated: RunFolder) -> None:
    path = image("a.png", 100)
    Path("in/b.png").write_bytes(b"half a")
    assert main([*WATCH, *UNTIL_IDLE]) == 1
    assert main([*WATCH, *UNTIL_IDLE]) == 0
    first = rows()
    assert names() == ["a.png", "b.png"]
    image("a.png", 250)
    image("b.png")
    assert main([*WATCH, *UNTIL_IDLE]) == 0
    assert names() == ["a.png", "b.png", "a.png", "b.png"]
    assert rows()[:2] == first
    assert float(rows()[2]["score"]) > float(first[0]["score"])
    assert (rows()[2]["bytes"], rows()[2]["modified"]) == (str(path.stat().st_size), str(path.stat().st_mtime_ns))
    assert rows()[3]["error"] == ""


def test_exit_codes_and_other_paths_to_the_same_folder(calibrated: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    image("a.png", 255)
    assert main([*WATCH, *UNTIL_IDLE, "--fail-on-anomaly"]) == 4
    Path("link").symlink_to("in")
    watch = [str(Path("link").absolute()) if word == "in" else word for word in WATCH]
    assert main([*watch, *UNTIL_IDLE, "--fail-on-anomaly"]) == 0
    assert names() == ["a.png"]


def test_an_output_inside_the_watched_folder_is_not_scored(calibrated: RunFolder) -> None:
    image("a.png")
    words = [word if word != "out" else "in/out" for word in WATCH]
    for _ in range(2):
        assert main([*words, *UNTIL_IDLE, "--maps", "png16", "--overlays"]) == 0
    assert [Path(row["path"]).name for row in rows("in/out")] == ["a.png"]


def test_results_of_something_else_are_refused(calibrated: RunFolder, capsys: Capsys) -> None:
    image("a.png")
    assert main([*WATCH, *UNTIL_IDLE]) == 0
    before = Path("out/scores.csv").read_bytes()
    image("b.png")
    Path("other").mkdir()
    shutil.copytree("run", "other run")
    manifest = json.loads(Path("other run/manifest.json").read_text())
    Path("other run/manifest.json").write_text(json.dumps({**manifest, "id": "0123abcd"}))
    assert main(["threshold", "run", "--false-alarms", "0.5"]) == 0
    capsys.readouterr()
    for words, said in {
        ("run", "--watch", "in"): "other thresholds",
        ("other run", "--watch", "in"): "another run",
        ("run", "--watch", "other"): f"--watch {Path('in').resolve()}",
        ("run", "in"): "--watch",
    }.items():
        assert main(["predict", *words, "--out", "out", *CONF, *(UNTIL_IDLE if "--watch" in words else [])]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert "out/predict.json" in line
        assert said in line
    assert Path("out/scores.csv").read_bytes() == before
    assert main(["predict", "run", "in", "--out", "finite", *CONF]) == 0
    assert main(["predict", "run", "--watch", "in", "--out", "finite", *CONF, *UNTIL_IDLE]) == 2
    assert "a call without --watch" in capsys.readouterr().err


def a_log(path: Path, count: int) -> list[tuple[Result, Stamp]]:
    given = [
        (Result(f'in/{i}, "a"\nb\rc\r\n.png', i / 3, None, None, i % 2, 8, 8, 1.0), Stamp(10 * i, 10**18 + i))
        for i in range(count)
    ]
    log = RowLog(path)
    for result, stamp in given:
        log.append(result, stamp)
    log.close()
    return given


def test_a_row_that_was_cut_off_anywhere_is_written_again(tmp_path: Path) -> None:
    file = tmp_path / "scores.csv"
    given = a_log(file, 3)
    whole = file.read_bytes()
    ends = [end for end, _ in whole_rows(file)]
    assert len(ends) == 4
    assert ends[-1] == len(whole)
    for length in range(len(whole)):
        file.write_bytes(whole[:length])
        log = RowLog(file)
        kept = max(0, sum(end <= length for end in ends) - 1)
        assert list(log.scores) == [result.score for result, _ in given[:kept]]
        assert log.done == {hash((result.path, stamp)) for result, stamp in given[:kept]}
        for result, stamp in given[kept:]:
            log.append(result, stamp)
        log.close()
        assert file.read_bytes() == whole


@pytest.mark.parametrize(
    "damage", [b"a,b\n", b"a,0.5,8,1\n", b"\n", csv_line([*["x"] * (len(COLUMNS) + 2)]), b"\0" * 40 + b"\n"]
)
def test_a_damaged_row_in_the_middle_is_named(tmp_path: Path, damage: bytes) -> None:
    file = tmp_path / "scores.csv"
    a_log(file, 3)
    (_, (end, _), *_) = whole_rows(file)
    content = file.read_bytes()
    file.write_bytes(content[:end] + damage + content[end:])
    with pytest.raises(UserError, match=r"scores\.csv: is damaged: row 3 "):
        RowLog(file)
    assert file.read_bytes() == content[:end] + damage + content[end:]


def test_a_file_that_grows_is_waited_for(tmp_path: Path) -> None:
    """It is taken when two looks have found the same size and time, the second one later."""
    file, sizes = tmp_path / "a.png", []
    file.write_bytes(b"1")
    done: set[int] = set()
    grow = iter([b"2", b"3"])

    def later(seconds: float) -> None:
        sizes.append(file.stat().st_size)
        file.write_bytes(file.read_bytes() + next(grow, b""))
        if len(sizes) > 2:  # written no more
            os.utime(file, ns=(0, 5))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("anomaly_bench.inference.watch.time.sleep", later)
        ((found, stamp),) = next(stable_images(tmp_path, [], done, None))
    assert (found.path, stamp) == (str(file), Stamp(3, 5))
    assert sizes == [1, 2, 3, 3]


def test_drift_is_said_once_and_after_a_restart_at_the_same_image(calibrated: RunFolder, capsys: Capsys) -> None:
    model = load("run", config_dir=CONF[1])
    rng = np.random.default_rng(0)
    model.calibration = rng.normal(0, 1, 200)
    model.thresholds = {"image": {"threshold": float(model.calibration.max())}}
    like, shifted = rng.normal(0, 1, 300), rng.normal(1, 1, 300)
    alarm = DriftAlarm(model, [])
    for score in [*like, float("nan")]:
        alarm.update(score)
    assert not alarm.said
    at = next(i for i, score in enumerate(shifted) if alarm.update(score) or alarm.said)
    for score in shifted:
        alarm.update(score)
    (line,) = capsys.readouterr().err.splitlines()
    assert "no longer look like those of the calibration images" in line
    assert "1 %" in line
    again = DriftAlarm(model, [*like, *shifted[:at]])
    assert not again.said
    again.update(shifted[at])
    assert again.said
    model.thresholds = {}
    assert not DriftAlarm(model, [*like, *shifted]).said
