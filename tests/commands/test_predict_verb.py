"""`bench predict` as a user calls it: what it prints, writes, refuses, and its exit codes."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from small_runs import Train, environment, save

from anomaly_bench.commands.main import main
from anomaly_bench.inference.load import load
from anomaly_bench.inference.output import COLUMNS
from anomaly_bench.loading.anomaly_maps import read_map
from anomaly_bench.runs.folder import RunFolder

Capsys = pytest.CaptureFixture[str]
CONF = ["--config-dir", str(Path(__file__).parents[1] / "toys" / "conf")]
SUFFIXES = (".png", ".jpg", ".bmp", ".tif", ".webp")


def predict(*words: object) -> int:
    return main(["predict", "run", *map(str, words), *CONF])


def rows(folder: str = "out") -> list[dict[str, str]]:
    with Path(folder, "scores.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def parts(count: int, broken: int = 0, place: str = "parts", side: int | None = None) -> list[Path]:
    """Images of mixed sizes and formats in folders, some of them damaged; returns the damaged ones."""
    rng, damaged = np.random.default_rng(0), []
    for i in range(count):
        path = Path(place, f"shift {i % 3}", f"{i:04}{SUFFIXES[i % 5]}")
        shape = (side, side) if side else tuple(rng.integers(8, 90, 2))
        image = rng.integers(90, 130, (*shape, 3), np.uint8)
        save(path, image[..., 0] if i % 7 == 0 else image)
        if i < broken:
            data = path.read_bytes()
            path.write_bytes((data[: len(data) // 3], b"", b"no image")[i % 3])
            damaged.append(path)
    return damaged


def below(folder: str) -> set[str]:
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


def test_the_test_images_get_the_scores_of_the_run(calibrated: RunFolder, shared_images: Path, capsys: Capsys) -> None:
    assert predict(shared_images / "test", "--out", "out") == 0
    found = {str(Path(row["path"]).relative_to(shared_images / "test")): row for row in rows()}
    threshold = calibrated.manifest["thresholds"]["image"]["threshold"]
    assert len(found) == len(calibrated.scores) == 10
    for wanted in calibrated.scores:
        row = found[wanted.path.removeprefix("test/")]
        assert float(row["score"]) == wanted.score
        assert float(row["threshold"]) == threshold
        assert row["label"] == str(int(wanted.score > threshold))
        assert (row["width"], row["height"], row["error"]) == ("32", "32", "")
    out, err = capsys.readouterr()
    assert out == ""
    assert f"10 images scored: {sum(row['label'] == '1' for row in found.values())} anomalous" in err


def test_mixed_images_and_broken_ones(calibrated: RunFolder, capsys: Capsys) -> None:
    damaged = parts(200, broken=10)
    assert predict("parts", "--out", "out", "--maps", "tiff", "--overlays") == 1
    found = rows()
    assert tuple(found[0]) == COLUMNS
    assert [row["path"] for row in found] == sorted(row["path"] for row in found)
    assert {Path(row["path"]) for row in found if row["error"]} == set(damaged)
    err = capsys.readouterr().err.splitlines()
    assert "190 images scored" in err[0]
    assert "10 not scored" in err[0]
    assert all(any(line.startswith(f"bench: {path}: ") for line in err[1:]) for path in damaged)
    names = {str(Path(row["path"]).relative_to("parts")) for row in found if not row["error"]}
    assert below("out") == {"scores.csv", "predict.json", *(f"{d}/{n}{s}" for n in names for d, s in KINDS)}
    for result in load("run", config_dir=CONF[1]).predict("parts"):
        row = found.pop(0)
        if not result.error:
            assert (row["path"], float(row["score"])) == (result.path, result.score)
            name = Path(result.path).relative_to("parts")
            assert np.array_equal(read_map(Path(f"out/maps/{name}.tiff")), result.map)
            with Image.open(f"out/overlays/{name}.png") as overlay:
                assert overlay.size == (int(row["width"]), int(row["height"]))


KINDS = (("maps", ".tiff"), ("overlays", ".png"))


def test_an_overlay_outlines_what_is_above_the_pixel_threshold(calibrated: RunFolder) -> None:
    image = np.full((64, 64, 3), 110, np.uint8)
    image[16:48, 20:44] = 255
    save(Path("part.png"), image)
    assert predict("part.png", "--out", "out", "--overlays") == 0
    drawn = np.asarray(Image.open("out/overlays/part.png.png"))
    changed = (drawn != image).any(2)
    (result,) = load("run", config_dir=CONF[1]).predict("part.png")
    assert result.pixel_threshold is not None
    region = result.map_at_source() > result.pixel_threshold
    assert region[32, 32]
    assert changed.any()
    assert not changed[region].any()
    assert {(0, 255, 255), (0, 0, 0)} == set(map(tuple, drawn[changed]))


def test_png16_maps_come_back_with_their_scale(calibrated: RunFolder) -> None:
    parts(3)
    assert predict("parts", "--out", "out", "--maps", "png16") == 0
    for result in load("run", config_dir=CONF[1]).predict("parts"):
        assert result.map is not None
        found = read_map(Path(f"out/maps/{Path(result.path).relative_to('parts')}.png"))
        assert np.abs(found - result.map).max() <= np.ptp(result.map) / 65535


def test_json_lines_have_the_names_of_the_columns_and_no_nan(calibrated: RunFolder, capsys: Capsys) -> None:
    parts(6, broken=2)
    assert predict("parts", "--json", "--out", "out") == 1
    lines = [json.loads(line, parse_constant=pytest.fail) for line in capsys.readouterr().out.splitlines()]
    assert [tuple(line) for line in lines] == [COLUMNS] * 6
    as_text = [{k: "" if v is None else str(v) for k, v in line.items()} for line in lines]
    assert as_text == rows()
    assert [line["score"] is None for line in lines].count(True) == 2


def test_lines_for_people(calibrated: RunFolder, capsys: Capsys) -> None:
    parts(2, broken=1, side=32)
    save(Path("parts/z.png"), np.full((32, 80, 3), 255, np.uint8))
    assert predict("parts") == 1
    broken, normal, odd = capsys.readouterr().out.splitlines()
    assert broken.startswith("not scored")
    assert "parts/shift 0/0000.png  (cannot be read as an image" in broken
    assert "parts/shift 1/0001.jpg" in normal
    assert odd.startswith("anomalous")
    assert "p 0.25" in odd  # above all three calibration images
    assert "parts/z.png  (unlike the training images: aspect ratio 2.5, trained on 1-1" in odd


def test_names_from_standard_input(calibrated: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> None:
    damaged = parts(5, broken=1)
    names = [*sorted(Path("parts").rglob("*.*")), Path("nix.png")]
    typed("".join(f"{name}\r\n" for name in names).encode() + b"\n", monkeypatch)
    assert predict("-", "--json") == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["path"] for line in lines] == list(map(str, names))
    assert {line["path"] for line in lines if line["error"]} == {str(damaged[0]), "nix.png"}


def typed(content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


def test_each_name_is_answered_before_the_next_one_is_given(
    calibrated: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts(3)
    (names_out, names_in), (lines_out, lines_in) = os.pipe(), os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(names_out))
    monkeypatch.setattr(sys, "stdout", os.fdopen(lines_in, "w"))
    with ThreadPoolExecutor() as pool, os.fdopen(lines_out) as lines:
        code = pool.submit(predict, "-", "--json")
        for name in sorted(Path("parts").rglob("*.*")):
            os.write(names_in, f"{name}\n".encode())
            assert json.loads(lines.readline())["path"] == str(name)
        os.close(names_in)
        assert code.result() == 0


@pytest.mark.parametrize("content", [b"\x89PNG\r\n\x1a\n...", b"\xff\xd8\xff\xe0..", b"BM\x36\x00\x00", b"x" * 9000])
def test_an_image_in_place_of_names(
    calibrated: RunFolder, content: bytes, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    typed(content, monkeypatch)
    assert predict("-") == 2
    assert capsys.readouterr().err.startswith("bench: standard input: holds no names of images")


def test_exit_codes_of_an_inspection_line(calibrated: RunFolder) -> None:
    save(Path("good.png"), np.full((32, 32, 3), 110, np.uint8))
    save(Path("bad.png"), np.full((32, 32, 3), 255, np.uint8))
    Path("broken.png").write_bytes(b"")
    flag = "--fail-on-anomaly"
    codes = {words: predict(*words.split()) for words in ("good.png", "bad.png", f"good.png {flag}", f"bad.png {flag}")}
    assert list(codes.values()) == [0, 0, 0, 4]
    assert predict("bad.png", "broken.png", flag) == 1  # an image that nobody has seen counts more
    assert predict("nix.png", flag) == 2


def test_a_run_without_calibration_images(trained: Train, capsys: Capsys) -> None:
    save(Path("good.png"), np.full((32, 32, 3), 110, np.uint8))
    other = str(trained().path)
    capsys.readouterr()
    for words in (["--fail-on-anomaly"], ["--overlays", "--out", "out"], ["--lot", "0.1"]):
        assert main(["predict", other, "good.png", *words, *CONF]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert all(way in line for way in (words[0], "calibration_share=0.1", "validation/good", "--normals DIR"))
    assert main(["predict", other, "good.png", *CONF]) == 0
    assert capsys.readouterr().out.startswith("scored ")
    assert not Path("out").exists()


def test_a_lot(calibrated: RunFolder, capsys: Capsys) -> None:
    for i in range(10):
        save(Path(f"lot/{i}.png"), np.full((32, 32, 3), 255 if i >= 4 else 110, np.uint8))
    assert predict("lot", "--lot", "0.5", "--out", "out") == 0  # six p-values of 1/4 <= 0.5 * 6 / 10
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines[:-1]] == [f"lot/{i}.png" for i in range(4, 10)]
    assert "6 of 10 images rejected" in lines[-1]
    assert predict("lot", "--lot", "0.2", "--out", "out") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "0 of 10 images rejected" in lines[0]
    assert "with 3 calibration images none can be rejected; it takes 4 of them" in lines[1]


def test_an_output_inside_the_scored_folder_is_not_scored(calibrated: RunFolder) -> None:
    parts(4)
    for _ in range(2):
        assert predict("parts", "--out", "parts/out", "--maps", "png16", "--overlays") == 0
        assert len(rows("parts/out")) == 4
    assert predict("parts/out", "--out", "parts/out") == 2


def test_an_output_is_replaced_as_a_whole(calibrated: RunFolder) -> None:
    parts(4)
    assert predict("parts", "--out", "out", "--maps", "tiff", "--overlays") == 0
    assert predict("parts/shift 1", "--out", "out", "--maps", "png16") == 0
    assert below("out") == {"scores.csv", "predict.json", "maps/0001.jpg.png"}


def test_an_end_that_comes_too_soon_leaves_the_former_output(
    calibrated: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts(4)
    for former in (False, True):
        before = {name: Path("out", name).read_bytes() for name in below("out")} if former else {}
        typed(b"parts/shift 1/0001.jpg\n\x89PNG", monkeypatch)
        assert predict("-", "--out", "out", "--maps", "tiff", "--batch-size", "1") == 2
        assert (below("out") if former else Path("out").exists()) == (before.keys() if former else False)
        assert predict("parts", "--out", "out", "--maps", "tiff") == 0
        assert {name: Path("out", name).read_bytes() for name in before if "maps" in name} == {
            name: content for name, content in before.items() if "maps" in name
        }
    assert not list(Path("out").glob(".*"))


def test_ctrl_c_leaves_no_file(calibrated: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> None:
    parts(4)

    class Interrupted(io.BytesIO):
        def readline(self, size: int | None = -1) -> bytes:
            if self.tell() == len(self.getvalue()):
                raise KeyboardInterrupt
            return super().readline(size)

    stream = Interrupted(b"parts/shift 1/0001.jpg\n")
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=stream))
    assert predict("-", "--out", "out", "--maps", "tiff") == 130
    assert capsys.readouterr().err == "bench: interrupted; no file is written\n"
    assert not Path("out").exists()


@pytest.mark.parametrize("name", ["scores.csv", "maps/mine.tiff", "overlays/mine.png", "predict.json"])
def test_files_of_others_are_not_replaced(calibrated: RunFolder, name: str, capsys: Capsys) -> None:
    parts(1)
    place = Path("out", name)
    place.parent.mkdir(parents=True)
    place.write_text("{}")
    assert predict("parts", "--out", "out", "--maps", "tiff") == 2
    assert f"out/{name.split('/')[0]}: was not written by bench predict" in capsys.readouterr().err
    assert below("out") == {name}
    assert place.read_text() == "{}"


def test_names_of_maps_are_unique_and_stay_inside(calibrated: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    image = np.full((8, 8, 3), 110, np.uint8)
    for name in ("x.png", "a/x.png", "a/x.jpg", "work/x.png", "work/a/x.png", "work/__/x.png", "work/__/a/x.png"):
        save(Path(name), image)
    Path("work/notes").mkdir()
    monkeypatch.chdir("work")
    given = [
        "../x.png",
        "../a",
        str(Path("a").resolve()),
        "./__/*.png",
        "__/a/x.png",
        "x.png",
        str(Path("x.png").resolve()),
    ]
    assert main(["predict", "../run", *given, "--out", "../out", "--maps", "tiff", *CONF]) == 0
    assert len(rows("../out")) == 8
    wanted = {"__/x.png", "__/a/x.png", "__/a/x.jpg", "a/x.png", "___/x.png", "___/a/x.png", "x.png"}
    assert {name for name in below("../out") if "maps" in name} == {f"maps/{name}.tiff" for name in wanted}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ("", "SOURCE"),
        ("- a.png", "-"),
        ("a.png --maps tiff", "--maps"),
        ("a.png --overlays", "--overlays"),
        ("a.png --until-idle 1", "--until-idle"),
        ("a.png --json --lot 0.1", "--lot"),
        ("a.png --watch in --out out", "--watch"),
        ("--watch in", "--out"),
        ("--watch in --out out --lot 0.1", "--lot"),
        ("--watch in --out out --until-idle -1", "--until-idle"),
        ("a.png --batch-size 0", "--batch-size"),
        ("a.png --device nix", "device"),
        ("a.png --lot 1", "--lot"),
        ("nix*.png", "nix*.png"),
        ("empty", "empty"),
        ("--watch nix --out out", "nix"),
    ],
)
def test_mistakes(calibrated: RunFolder, words: str, names: str, capsys: Capsys) -> None:
    parts(1)
    Path("empty").mkdir()
    Path("parts/shift 0/0000.png").rename("a.png")
    assert predict(*words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bench: ")
    assert names in line
    assert not Path("out").exists()


@pytest.mark.parametrize("unbuffered", [False, True])
def test_head_ends_it_quietly(
    calibrated: RunFolder, unbuffered: bool, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    parts(6)
    out, into = os.pipe()
    os.close(out)  # as `head` does
    raw = io.FileIO(into, "w")
    stream = io.TextIOWrapper(raw if unbuffered else io.BufferedWriter(raw), write_through=unbuffered)
    monkeypatch.setattr(sys, "stdout", stream)
    assert predict("parts") == 0
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images(calibrated: RunFolder, capsys: Capsys) -> None:
    peaks = {}
    for place, count, broken in (("few", 50, 0), ("many", 2000, 20)):
        parts(count, broken, place)
        command = [sys.executable, "-m", "anomaly_bench", "predict", "run", place, "--out", f"out {place}", *CONF]
        process = subprocess.Popen(
            [*command, "--maps", "tiff", "--overlays"], env=environment(), stderr=subprocess.PIPE
        )
        assert process.stderr
        err = process.stderr.read().decode().splitlines()
        _, status, usage = os.wait4(process.pid, 0)
        peaks[place] = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)  # MB
        assert os.waitstatus_to_exitcode(status) == (1 if broken else 0)
        assert f"{count - broken} images scored" in err[0]
        assert len(err) - 1 == broken
    assert peaks["many"] - peaks["few"] < 200, peaks
