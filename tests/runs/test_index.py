from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from anomaly_bench.commands import listing
from anomaly_bench.commands.main import run_verb
from anomaly_bench.console import age
from anomaly_bench.errors import UserError
from anomaly_bench.files import read_sealed
from anomaly_bench.results import collect as collecting
from anomaly_bench.results.collect import collect
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.index import INDEX

Run = Callable[..., RunFolder]


@pytest.fixture
def three(run: Run, tmp_path: Path) -> list[RunFolder]:
    """One that is done, one that failed, one that was interrupted."""
    folders = [run("screw", seed, image_auroc=0.9, pixel_auroc=0.5, finish=not seed) for seed in range(3)]
    folders[1].fail(RuntimeError("out of\nmemory"))
    return folders


def listed(outputs: Path, *arguments: str) -> list[str]:
    """The lines of `bench list runs`."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        run_verb(["list", "runs", str(outputs), *arguments])
    return out.getvalue().splitlines()


def kept(outputs: Path) -> dict[str, Any]:
    files: dict[str, Any] = read_sealed(outputs / INDEX)["files"]
    return files


@pytest.fixture
def no_reading(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From the call on, parsing any file of a run is an error."""

    def forbid() -> None:
        def fail(*_: object) -> Any:
            raise AssertionError("a file of a run was parsed")

        monkeypatch.setattr(RunFolder, "_parsed", fail)
        monkeypatch.setattr(collecting, "method_config", fail)

    return forbid


@pytest.mark.usefixtures("three")
def test_what_was_read_once_is_not_read_again(tmp_path: Path, no_reading: Callable[[], None]) -> None:
    first, lines = collect(tmp_path), listed(tmp_path)
    no_reading()
    again = collect(tmp_path)
    assert again == first
    assert again.rows[0].config == first.rows[0].config != {}
    assert [line.split()[:2] for line in listed(tmp_path)] == [line.split()[:2] for line in lines]
    assert first.left_out_line() == "1 failed, 1 interrupted"


def test_a_changed_manifest_is_read_again(three: list[RunFolder], tmp_path: Path) -> None:
    (before,) = collect(tmp_path).rows
    file = three[0].path / "manifest.json"
    text, found = file.read_text(), file.stat()
    file.write_text(text.replace("812", "813"))
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))  # as long and as old as before
    (after,) = collect(tmp_path).rows
    assert (before.peak_memory_mb, after.peak_memory_mb) == (812, 813)


@pytest.mark.parametrize("name", ["metrics.json", "config.yaml", "scores.csv", "curves.json", "images.csv"])
def test_a_flipped_bit_in_a_small_file_is_seen_at_once(three: list[RunFolder], tmp_path: Path, name: str) -> None:
    file = three[0].path / name
    if not file.exists():
        file.write_text("0,1,2\n")
        three[0].finish()
    assert [line.split()[0] for line in listed(tmp_path)] == ["done", "failed", "interrupted"]
    before, found = collect(tmp_path), file.stat()
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert listed(tmp_path)[0].split()[0] == "damaged"
    assert f"{name} was changed or damaged" in listed(tmp_path)[0]
    assert len(listed(tmp_path, "status=damaged")) == 1
    after = collect(tmp_path)
    assert after.rows == []
    assert [item.status for item in after.left_out] == ["damaged", "failed", "interrupted"]
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert collect(tmp_path) == before


def sealed(text: str) -> str:
    return f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}"


INDICES = {
    "cut off": lambda text: text[: len(text) // 2],
    "empty": lambda text: "",
    "no object": lambda text: "[1, 2]",
    "no files": lambda text: sealed('{"format": 2}'),
    "files that are none": lambda text: sealed('{"format": 2, "files": [[]]}'),
    "short entries": lambda text: sealed('{"format": 2, "files": {"rd/mvtec/screw/s0/manifest.json": [1]}}'),
    "numbers as entries": lambda text: sealed('{"format": 2, "files": {"rd/mvtec/screw/s0/manifest.json": 3}}'),
    "contents of another kind": lambda text: sealed(
        json.dumps({"format": 2, "files": {key: [e[0], [1]] for key, e in json.loads(text[65:])["files"].items()}})
    ),
    "another version": lambda text: sealed(text[65:].replace('"format":2', '"format":0').replace("0.9", "0.1")),
    "a flipped bit": lambda text: text.replace("0.9", "0.8"),
}


@pytest.mark.usefixtures("three")
@pytest.mark.parametrize("damage", INDICES)
def test_a_damaged_index_is_made_anew(tmp_path: Path, damage: str) -> None:
    found = collect(tmp_path)
    index = tmp_path / INDEX
    text = index.read_text()
    index.write_text(INDICES[damage](text))
    assert index.read_text() != text
    assert collect(tmp_path) == found
    assert index.read_text() == text
    index.unlink()
    assert collect(tmp_path) == found
    assert index.read_text() == text


@pytest.mark.usefixtures("three")
def test_a_folder_that_is_read_only_needs_no_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = collect(tmp_path)
    (tmp_path / INDEX).unlink()

    def refuse(path: Path, *_: object) -> None:
        raise UserError(str(path), "cannot be written: Permission denied")

    monkeypatch.setattr("anomaly_bench.runs.index.write_sealed", refuse)  # root may write anywhere
    assert collect(tmp_path) == found
    assert len(listed(tmp_path)) == 3
    assert not (tmp_path / INDEX).exists()


def test_runs_that_are_gone_leave_the_index(three: list[RunFolder], tmp_path: Path) -> None:
    collect(tmp_path)
    for file in three[0].path.iterdir():
        file.unlink()
    three[0].path.rmdir()
    assert len(listed(tmp_path)) == 2
    assert {key.split("/")[3] for key in kept(tmp_path)} == {folder.path.name for folder in three[1:]}


def test_listing_keeps_what_only_the_report_reads(three: list[RunFolder], tmp_path: Path) -> None:
    collect(tmp_path)
    three[0].replace_metrics({"image_auroc": 0.25}, {}, {})
    assert "image_auroc 0.2500" in listed(tmp_path)[0]
    assert [key for key in kept(tmp_path) if key.endswith("config.yaml")] != []
    assert collect(tmp_path).rows[0].metrics == {"image_auroc": 0.25}


@pytest.mark.usefixtures("three")
def test_two_at_once_do_no_harm(tmp_path: Path) -> None:
    found, wrong = collect(tmp_path), []

    def work() -> None:
        for _ in range(10):
            (tmp_path / INDEX).unlink(missing_ok=True)
            if collect(tmp_path) != found:
                wrong.append("read")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert kept(tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == [INDEX]


def test_a_run_that_somebody_works_on_is_running(three: list[RunFolder], tmp_path: Path) -> None:
    assert [line.split()[0] for line in listed(tmp_path)] == ["done", "failed", "interrupted"]
    with three[2].locked():
        assert [line.split()[0] for line in listed(tmp_path)] == ["done", "failed", "running"]
    assert re.search(r"RuntimeError: out of memory  \d+ s ago$", listed(tmp_path)[1])


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        (["status=failed"], [1]),
        (["status=done,interrupted"], [0, 2]),
        (["seed=1,2", "status=interrupted"], [2]),
        (["method=rd", "dataset=mvtec"], [0, 1, 2]),
        (["dataset=mvtec/screw", "category=screw", "seed=0"], [0]),
        (["dataset=mvtec/grid"], []),
        (["method=us"], []),
    ],
)
@pytest.mark.usefixtures("three")
def test_words_pick_runs(tmp_path: Path, words: list[str], seeds: list[int]) -> None:
    lines = listed(tmp_path, *words)
    assert [int(line.split()[1].rpartition("/s")[2][0]) for line in lines] == seeds


def test_a_damaged_run_is_listed(three: list[RunFolder], tmp_path: Path) -> None:
    (three[0].path / "metrics.json").write_text('{"image_auroc": "high"}')
    assert listed(tmp_path)[0].startswith("damaged ")
    for text in ('{"status": "done"', "[1]"):
        (three[0].path / "manifest.json").write_text(text)
        assert listed(tmp_path)[0].split()[:2] == ["damaged", str(three[0].path)]
        assert len(listed(tmp_path, "status=damaged")) == 1
        assert len(listed(tmp_path, "method=rd")) == 2


def test_mistakes_in_words_are_said(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"'sead' is none of category, dataset, method, seed, status \(did you mean 'seed'"
    ):
        listed(tmp_path, "sead=1")
    with pytest.raises(UserError, match="too many arguments, 'elsewhere' given"):
        listed(tmp_path, "elsewhere")
    with pytest.raises(UserError, match="no such folder of runs"):
        listed(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("back", "text"),
    [
        ({"seconds": 3}, "3 s"),
        ({"seconds": 150}, "2 min"),
        ({"hours": 47}, "47 h"),
        ({"days": 9.5}, "9 days"),
    ],
)
def test_age_is_in_the_largest_unit(back: dict[str, float], text: str) -> None:
    assert age(timedelta(**back).total_seconds()) == text


def test_listing_many_runs_is_instant_and_needs_no_torch(run: Run, tmp_path: Path) -> None:
    for seed in range(40):
        run("screw", seed, image_auroc=0.9)
    command = [sys.executable, "-X", "importtime", "-m", "anomaly_bench", "list", "runs", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=Path(listing.__file__).parents[1])
    assert len(done.stdout.splitlines()) == 40
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "anomaly_bench.runs.index" in loaded
    assert {"torch", "scipy", "rich"} & loaded == set()
