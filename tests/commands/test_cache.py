"""`bench data cache`: what the cache folder holds, and that nothing but the cache's own files is ever removed."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from small_images import grey, save
from small_runs import TOY

from anomaly_bench import checksums
from anomaly_bench.commands.cache import find, sides
from anomaly_bench.commands.main import main, run_verb
from anomaly_bench.contracts import FrozenFeatures, Record
from anomaly_bench.errors import UserError
from anomaly_bench.files import write_sealed
from anomaly_bench.loading.feature_cache import FeatureSet
from anomaly_bench.loading.frame import Frame
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.nets.patch_descriptors import PatchDescriptor
from anomaly_bench.paths import cache_root
from anomaly_bench.runs.folder import find as runs
from tests.nets.small_teachers import teachers

Capsys = pytest.CaptureFixture[str]
HEX = "0123456789abcdef" * 2
HOUR, DAY = 3600, 86400
SHA = "ab12cd34" + "0" * 56


def aged(path: Path, seconds: float) -> Path:
    os.utime(path, (time.time(), time.time() - seconds))
    return path


def file(path: Path, content: bytes, seconds: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return aged(path, seconds)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pixels (2 hours), features (3 days), a teacher (40 days), images of the demo (7 days), checksums (6 days), an old
    format, parts, and what others put there."""
    monkeypatch.setenv("COLUMNS", "200")
    cache = tmp_path / "cache"
    monkeypatch.setenv("ANOMALY_BENCH_CACHE", str(cache))
    images = ImageSet([Record(f"x/{i}.png", "good", grey(i)) for i in range(3)], 8, cache)
    FeatureSet(images, FrozenFeatures(lambda x: [x], f"resnet18 layer3 sha256 {SHA}", "float16", torch.device("cpu")))
    aged(*cache.glob("*.pixels"), 2 * HOUR + 60)
    aged(*cache.glob("*.features"), 3 * DAY + 60)
    metadata = {"patch_size": "17", "recipe": json.dumps({"backbone": "resnet18", "steps": 10000})}
    (cache / "teachers").mkdir()
    save_file({"w": np.zeros(9)}, cache / "teachers" / "p17-0123456789abcdef.safetensors", metadata)
    aged(cache / "teachers" / "p17-0123456789abcdef.safetensors", 40 * DAY + 60)
    file(cache / f"{HEX}.pixels", b"anomaly_bench pixels 1\n".ljust(128) + bytes(99), 5 * DAY)
    file(cache / f"{HEX}.{HEX}.part", bytes(5000), 90 * 60)
    file(cache / f"{HEX[::-1]}.{HEX}.part", bytes(6000), 90)
    file(cache / "teachers" / ".p17-0123456789abcdef.safetensors.4711", bytes(7), DAY)
    for folder, name in (("train/good", "000.png"), ("ground_truth/hole", "005_mask.png")):
        aged(file(cache / DEMO / folder / name, bytes(9), 7 * DAY).parent, 7 * DAY)
    for folder in ("train", "ground_truth", "."):
        aged(cache / DEMO / folder, 7 * DAY)
    file(cache / "demo/v1-seed0/.grass-x_1/grass/train/good/000.png", bytes(9), 0)
    write_sealed(cache / "checksums.json", {"/a.png": [[1, 2, 3], SHA], "/b.png": [[1, 2, 3], SHA]})
    aged(cache / "checksums.json", 6 * DAY)
    for name in ("mine.pixels", "mine.features", "mnist.archive.part", "teachers/mine.safetensors", "teachers/.mine"):
        file(cache / name, b"mine", 100 * DAY)
    save_file({"w": np.zeros(9)}, cache / "teachers" / "p17-0000000000000000.safetensors", {"format": "pt"})
    file(cache / "demo" / "a.pixels", b"anomaly_bench pixels 1\n", 100 * DAY)  # not where the cache puts any
    for name in ("train/good/000.png", "notes.txt"):
        file(cache / "demo" / "v1-seed0" / "gravel" / name, b"mine", 0)
    return cache


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


MINE = {
    *("mine.pixels", "mine.features", "mnist.archive.part", "teachers/mine.safetensors", "teachers/.mine"),
    *("teachers/p17-0000000000000000.safetensors", "demo/a.pixels"),
    *("demo/v1-seed0/gravel/train/good/000.png", "demo/v1-seed0/gravel/notes.txt"),
}
DEMO = "demo/v1-seed0/brick"
DRAWN = {f"{DEMO}/train/good/000.png", f"{DEMO}/ground_truth/hole/005_mask.png"}
TEACHER = {"teachers/p17-0123456789abcdef.safetensors"}
YOUNG = {f"{HEX[::-1]}.{HEX}.part", "demo/v1-seed0/.grass-x_1/grass/train/good/000.png"}


def table(capsys: Capsys) -> tuple[str, list[list[str]]]:
    """The first line, and the cells of each row."""
    first, *lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    return first, [[re.sub(r"^\d+ s$", "seconds", cell) for cell in row] for row in rows]


@pytest.mark.parametrize("words", [["cache"], ["cache", "list"]])
def test_the_list(words: list[str], cache: Path, capsys: Capsys) -> None:
    before = names(cache)
    assert run_verb(["data", *words]) == 0
    first, rows = table(capsys)
    assert first.startswith(f"{cache}: 16 files, 0.0 MB")
    assert rows == [
        ["pixels", "3 images of 8 x 8, x/0.png", "0.0", "2 h", ""],
        ["pixels", f"{HEX}.pixels", "0.0", "5 days", "damaged"],
        ["pixels", "mine.pixels", "0.0", "100 days", "foreign"],
        ["features", "3 images of 8 x 8, x/0.png, resnet18 layer3 sha256 ab12cd34, float16", "0.0", "3 days", ""],
        ["features", "mine.features", "0.0", "100 days", "foreign"],
        ["teachers", "p17-0000000000000000.safetensors", "0.0", "seconds", "foreign"],
        ["teachers", "patches of 17 pixels, resnet18, 10000 steps", "0.0", "40 days", ""],
        ["teachers", "mine.safetensors", "0.0", "100 days", "foreign"],
        ["demo", "gravel", "0.0", "seconds", "foreign"],
        ["demo", "2 images and masks, v1-seed0/brick", "0.0", "7 days", ""],
        ["checksums", "checksums of 2 files", "0.0", "6 days", ""],
        ["parts", "an interrupted write", "0.0", "seconds", "young"],
        ["parts", "an interrupted write", "0.0", "seconds", "young"],
        ["parts", "an interrupted write", "0.0", "90 min", ""],
        ["parts", "an interrupted write", "0.0", "24 h", ""],
        ["parts", "mnist.archive.part", "0.0", "100 days", "foreign"],
    ]
    assert names(cache) == before


def test_sizes_are_added(tmp_path: Path, capsys: Capsys) -> None:
    for i in range(2):
        file(tmp_path / f"{i}.pixels", b"anomaly_bench pixels 1\n" + bytes(1_270_000), 0)
    assert run_verb(["data", "cache", f"cache_dir={tmp_path}"]) == 0
    first, rows = table(capsys)
    assert first == f"{tmp_path}: 2 files, 2.5 MB"
    assert [row[2] for row in rows] == ["1.3", "1.3"]
    assert run_verb(["data", "cache", "clear", f"root={tmp_path}"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}: removed 2 files, 2.5 MB\n"


@pytest.mark.parametrize("kind", ["pixels", "features"])
def test_damaged_rows_are_seen_by_size_and_header_and_removed(kind: str, cache: Path) -> None:
    (whole,) = [entry.path for entry in find(cache) if entry.kind == kind and not entry.state]
    content = whole.read_bytes()
    before = {entry.path for entry in find(cache) if entry.state == "damaged"}  # of another format
    for damaged in (content[:-1], content + b"\0", content[:300], content.replace(b"x/0.png", b"x/1.png")):
        whole.write_bytes(damaged)
        assert {entry.path for entry in find(cache) if entry.state == "damaged"} - before == {whole}
    assert run_verb(["data", "cache", "clear", kind]) == 0
    assert not whole.exists()


def test_a_damaged_teacher(cache: Path) -> None:
    (teacher,) = (cache / name for name in TEACHER)
    teacher.write_bytes(teacher.read_bytes()[:-1])
    assert teacher in [entry.path for entry in find(cache) if entry.state == "damaged"]
    assert run_verb(["data", "cache", "clear", "teachers"]) == 0
    assert names(cache) & TEACHER == set()
    assert names(cache) >= MINE


def test_a_teacher_that_was_stored_is_known(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALY_BENCH_CACHE", str(tmp_path))
    for i in range(2):
        save(tmp_path / "images" / f"{i}.png", grey(i))
    teachers(weights, images=tmp_path / "images", layer=1, steps=7).store(PatchDescriptor(17))
    (entry,) = find(tmp_path)
    assert (entry.kind, entry.state) == ("teachers", "")
    assert entry.what == "patches of 17 pixels, resnet18, 7 steps"


@pytest.mark.parametrize(
    ("words", "goes"),
    [
        ([], {"pixels", "features", "old part"}),
        (["pixels"], {"pixels"}),
        (["features", "teachers"], {"features", "teachers"}),
        (["parts"], {"old part", "young part"}),
        (["older=1"], {"features", "old format", "teacher's part"}),
        (["older=4"], {"old format"}),
        (["older=30"], set()),
        (["teachers", "older=30"], {"teachers"}),
        (["teachers", "older=50"], set()),
        (["parts", "older=0.05"], {"old part"}),
        (["pixels", "older=1000"], set()),
        (["demo"], {"demo"}),
        (["demo", "checksums", "older=6.5"], {"demo"}),
        (["checksums"], {"checksums"}),
    ],
)
def test_clear(words: list[str], goes: set[str], cache: Path, capsys: Capsys) -> None:
    """A word that is missing in `goes` stays; foreign files always do."""
    (pixels,) = {path.name for path in cache.glob("*.pixels")} - {"mine.pixels", f"{HEX}.pixels"}
    features = next(path.name for path in cache.glob("*.features") if path.name != "mine.features")
    part = "teachers/.p17-0123456789abcdef.safetensors.4711"
    files = {
        "pixels": {pixels, f"{HEX}.pixels"},
        "old format": {f"{HEX}.pixels"},
        "features": {features},
        "teachers": TEACHER,
        "old part": {f"{HEX}.{HEX}.part", part},
        "teacher's part": {part},
        "young part": YOUNG,
        "demo": DRAWN,
        "checksums": {"checksums.json"},
    }
    before = names(cache)
    gone = set().union(*(files[word] for word in goes))
    freed = sum((cache / name).stat().st_size for name in gone)
    count = len(gone - DRAWN) + bool(gone & DRAWN)
    assert run_verb(["data", "cache", "clear", *words]) == 0
    assert before - names(cache) == gone
    assert names(cache) >= MINE
    first, second = capsys.readouterr().out.splitlines()
    assert first == f"{cache}: removed {count} file{'s' * (count != 1)}, {freed / 1e6:.1f} MB"
    assert second.startswith("left: pixels ")
    assert second.endswith(" (teachers, demo, checksums and young parts go when they are named, foreign files never)")


def test_what_is_cleared_is_made_again(cache: Path) -> None:
    assert run_verb(["data", "cache", "clear"]) == 0
    images = ImageSet([Record(f"x/{i}.png", "good", grey(i)) for i in range(3)], 8, cache)
    assert images[2]["image"][0, 0, 0] == 2 / 255
    assert run_verb(["data", "cache", "clear", "pixels"]) == 0
    assert images[1]["image"][0, 0, 0] == 1 / 255  # a run that has them open keeps them


def test_checksums_that_are_damaged_and_those_of_another_program(cache: Path) -> None:
    (cache / "checksums.json").write_bytes((cache / "checksums.json").read_bytes()[:-1])
    damaged = [entry.kind for entry in find(cache) if entry.state == "damaged"]
    assert damaged == ["pixels", "checksums"]  # the pixels are of another format
    assert run_verb(["data", "cache", "clear", "checksums"]) == 0
    file(cache / "checksums.json", b'{"theirs": 1}', 0)
    assert run_verb(["data", "cache", "clear", "checksums"]) == 0
    assert (cache / "checksums.json").exists()


@pytest.mark.usefixtures("train")
def test_a_run_keeps_everything_below_its_cache_dir(
    tmp_path: Path, capsys: Capsys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(checksums, "SETTLED", 0)  # new files are remembered too
    default, place = cache_root(), tmp_path / "B"
    before = names(default)
    assert main(["train", *TOY, "dataset=demo/brick", f"cache_dir={place}", "resamples=0", "method.epochs=1"]) == 0
    assert len(list(place.glob("*.pixels"))) == 3  # of the training, the validation and the test
    assert len(list((place / "demo/v1-seed0/brick").rglob("*.png"))) == 104
    (folder,) = runs("outputs")
    assert main(["eval", str(folder.path)]) == 0
    assert names(default) == before
    capsys.readouterr()
    assert main(["data", "cache", f"cache_dir={place}"]) == 0
    (demo, kept) = [row[:2] for row in table(capsys)[1]][3:]
    assert demo == ["demo", "104 images and masks, v1-seed0/brick"]
    assert kept[0] == "checksums"  # of at least these files
    assert main(["data", "cache", "clear", "pixels", "demo", "checksums", f"cache_dir={place}"]) == 0
    assert names(place) == set()


def test_links_and_folders_are_passed_over(tmp_path: Path) -> None:
    theirs = file(tmp_path / "theirs", b"anomaly_bench pixels 1\n", 0)
    cache = tmp_path / "cache"
    (cache / "folder.pixels").mkdir(parents=True)
    (cache / "link.pixels").symlink_to(theirs)
    (cache / "broken.features").symlink_to(tmp_path / "nowhere")
    assert find(cache) == []
    assert run_verb(["data", "cache", "clear", f"root={cache}"]) == 0
    assert len(list(cache.iterdir())) == 3


@pytest.mark.parametrize("words", [["cache"], ["cache", "clear"]])
def test_nothing_is_there(words: list[str], tmp_path: Path, capsys: Capsys) -> None:
    for folder in (tmp_path / "absent", tmp_path):
        assert run_verb(["data", *words, f"root={folder}"]) == 0
        out = capsys.readouterr().out
        assert out == (f"{folder}: the cache is empty\n" if len(words) == 1 else f"{folder}: removed 0 files, 0.0 MB\n")


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems refuse such a name")
def test_names_that_are_no_text(tmp_path: Path, capsys: Capsys) -> None:
    file(tmp_path / os.fsdecode(b"[red]\xff.pixels"), b"", 0)
    assert run_verb(["data", "cache", f"root={tmp_path}"]) == 0
    assert table(capsys)[1][0][1] == "[red]?.pixels"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["lst"], "bench data cache: 'lst' is none of clear, list (did you mean 'list'?)"),
        (["clear", "pixel"], "bench data cache clear: 'pixel' is none of checksums, demo, features, parts, pixels,"),
        (["clear", "rot=x"], "'rot' is none of cache_dir, older, root (did you mean 'root'?)"),
        (["list", "pixels"], "bench data cache list: too many arguments, 'pixels' given"),
        (["older=3"], "bench data cache list: 'older' is none of cache_dir, root"),
        *((["clear", f"older={x}"], f"older: '{x}' given, allowed: a number") for x in ("-1", "nan", "inf", "x")),
        (["clear", "older="], "older: is given without a value"),
        (["root=file"], "root: file is no folder"),
        (["cache_dir=file"], "cache_dir: file is no folder"),
        (["cache_dir=a", "root=b"], "takes cache_dir=DIR or root=DIR, which mean the same, not both"),
    ],
)
def test_misuse(words: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(UserError) as error:
        run_verb(["data", "cache", *words])
    assert said in str(error.value)


def test_sizes_of_images_in_words() -> None:
    frames = [Frame((8, 8)), Frame((8, 12)), Frame((8, 8), "pad")]
    assert [sides(frame.key) for frame in frames] == ["8 x 8", "8 x 12", "8 x 8, pad"]
