"""`bench submit`: a small MVTec AD 2 in its real layout, an archive of it, and archives that break one rule each."""

from __future__ import annotations

import gzip
import io
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image

from anomaly_bench import config
from anomaly_bench.commands.main import main
from anomaly_bench.errors import UserError
from anomaly_bench.inference.load import load
from anomaly_bench.inference.submission import half
from anomaly_bench.runs.benchmarks import benchmark
from anomaly_bench.runs.calibration import read_rows
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.json_files import write_json
from anomaly_bench.runs.runner import run
from anomaly_bench.runs.stored_run import CALIBRATION
from tests.small_runs import ROOT, save

COUNTS = {"can": 3, "vial": 2}
SIZES = {"can": (24, 16), "vial": (20, 28)}  # width, height
SETS = {"test_private": "regular", "test_private_mixed": "mixed"}
MAPS, MARKS = "anomaly_images", "anomaly_images_thresholded"
FIRST = f"sub/{MAPS}/can/test_private/000_regular.tiff"
MARK = f"sub/{MARKS}/can/test_private/000_regular.png"
LAYOUT = """
from anomaly_bench.loading.image_files import data_root
from anomaly_bench.records import Dataset, Record

class Layout(Dataset):
    def __init__(self, category: str, root: str | None) -> None:
        self.category, self.root = category, root

    def listed(self, *places: str) -> list[Record]:
        root = data_root(self.root, "mvtec_ad2", self.category)
        found = []
        for place in places:
            for path in sorted((root / self.category / place).glob("*.png")):
                kind, mask = path.parent.name, path.parents[1] / "ground_truth" / "bad" / f"{path.stem}_mask.png"
                found.append(Record(str(path.relative_to(root)), kind, path, mask if kind == "bad" else None))
        return found

    def records(self, split: str) -> list[Record]:
        return self.listed("train/good") if split == "train" else self.listed("test_public/bad", "test_public/good")

    def validation_records(self) -> list[Record]:
        return self.listed("validation/good")
"""
Bench = Callable[..., str]
Entries = dict[str, bytes]


def make_ad2(root: Path) -> Path:
    """<root>/<object>/{train,validation}/good, test_public/{good,bad,ground_truth/bad} and the two private sets."""
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        places = {"train/good": 6, "validation/good": 4, "test_public/good": 2, "test_public/bad": 2}
        for place, count in (places | dict.fromkeys(SETS, COUNTS[name])).items():
            for i in range(count):
                image = rng.integers(90, 130, (height, width, 3), dtype=np.uint8)
                suffix = SETS.get(place, "regular")
                if place.endswith("bad") or (place in SETS and i % 2):
                    image[2:8, 3:9] = 250
                save(root / name / place / f"{i:03}_{suffix}.png", image)
                if place.endswith("bad"):
                    mask = np.zeros((height, width), np.uint8)
                    mask[2:8, 3:9] = 255
                    save(root / name / f"test_public/ground_truth/bad/{i:03}_{suffix}_mask.png", mask)
    return root


@contextmanager
def own_conf(root: Path) -> Iterator[None]:
    """The configuration that knows a benchmark of these counts, beside the data set at `root`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CONF", str(root.parents[1] / "conf"))
        yield


@pytest.fixture(autouse=True)
def with_own_conf(request: pytest.FixtureRequest) -> Iterator[None]:
    """For each test that has the data set, and for no other test of the process."""
    if "ad2" not in request.fixturenames:
        yield
        return
    with own_conf(request.getfixturevalue("ad2")[0]):
        yield


@pytest.fixture(scope="module")
def ad2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, RunFolder]]:
    """The data set, and a finished run of each object; the configuration knows a benchmark of these counts."""
    place = tmp_path_factory.mktemp("ad2")
    conf = Path(shutil.copytree(ROOT / "conf", place / "conf"))
    own = conf / "benchmark" / "mvtec_ad2.yaml"
    values = yaml.safe_load(own.read_text())
    sizes = {name: dict(zip(("width", "height"), size, strict=True)) for name, size in SIZES.items()}
    values["submission"]["images"] = {name: {"count": COUNTS[name], **sizes[name]} for name in COUNTS}
    own.write_text(yaml.safe_dump(values))
    extra = place / "own"
    (extra / "dataset").mkdir(parents=True)
    (extra / "ad2_layout.py").write_text(LAYOUT)
    about = {"_target_": "ad2_layout.Layout", "name": "mvtec_ad2", "category": "can", "root": None}
    (extra / "dataset" / "small_ad2.yaml").write_text(yaml.safe_dump(about))
    root = make_ad2(place / "data" / "mvtec_ad2")
    runs = {}
    with own_conf(root):
        for name in COUNTS:
            given = ["method=brightness", "method.image_size=16", "dataset=small_ad2", f"dataset.category={name}"]
            more = [f"dataset.root={root}", "hardware=cpu", "save_heatmaps=false", "resamples=0"]
            cfg = config.compose([*given, *more, f"output_dir={place / 'outputs'}"], extra=str(extra))
            runs[name] = run(cfg)
    return root, runs


@pytest.fixture
def submit(capsys: pytest.CaptureFixture[str]) -> Bench:
    """submit(*words, code=0): what the command says, on standard error if it fails; then all of it is `bench: ...`."""

    def call(*words: object, code: int = 0) -> str:
        capsys.readouterr()
        assert main(["submit", "--benchmark", "mvtec_ad2", *map(str, words)]) == code
        out, err = capsys.readouterr()
        if code:
            assert out == ""
            assert all(line.startswith("bench: ") for line in err.splitlines())
        return err if code else out

    return call


@pytest.fixture(scope="module")
def archive(ad2: tuple[Path, dict[str, RunFolder]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with images thresholded at the runs' own thresholds."""
    out = tmp_path_factory.mktemp("archive") / "sub.tar.gz"
    words = [str(folder.path) for folder in ad2[1].values()]
    with own_conf(ad2[0]):
        assert main(["submit", *words, "--benchmark", "mvtec_ad2", "--threshold", "certified", "--out", str(out)]) == 0
    return out


def entries(file: Path) -> Entries:
    with tarfile.open(file) as opened:
        return {member.name: opened.extractfile(member).read() for member in opened}  # type: ignore[union-attr]


def pack(found: Entries | list[tuple[tarfile.TarInfo, bytes]], file: Path) -> Path:
    pairs = found if isinstance(found, list) else [(tarfile.TarInfo(name), content) for name, content in found.items()]
    with tarfile.open(file, "w:gz") as opened:
        for info, content in pairs:
            info.size = len(content)
            opened.addfile(info, io.BytesIO(content))
    return file


def tiff(array: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_archive_holds_each_image_once_at_its_own_size(
    ad2: tuple[Path, dict[str, RunFolder]], archive: Path, submit: Bench
) -> None:
    root, runs = ad2
    found = entries(archive)
    names = [
        f"sub/{folder}/{name}/{each}/{i:03}_{suffix}.{ending}"
        for folder, ending in ((MAPS, "tiff"), (MARKS, "png"))
        for name in COUNTS
        for each, suffix in SETS.items()
        for i in range(COUNTS[name])
    ]
    assert list(found) == sorted(names)
    for name, folder in runs.items():
        model = load(folder.path)
        threshold = max(row.map_max for row in read_rows(folder, CALIBRATION))  # four images: the largest of them
        for each, suffix in SETS.items():
            for i, result in enumerate(model.predict(root / name / each)):
                stem = f"{name}/{each}/{i:03}_{suffix}"
                scores = tifffile.imread(io.BytesIO(found[f"sub/{MAPS}/{stem}.tiff"]))
                marks = np.asarray(Image.open(io.BytesIO(found[f"sub/{MARKS}/{stem}.png"])))
                assert (scores.dtype, scores.shape) == (np.float16, SIZES[name][::-1])
                assert np.array_equal(scores, result.map_at_source().astype(np.float16))
                assert np.array_equal(marks > 0, result.map_at_source() > np.float32(threshold))
                assert marks.any() or not i % 2  # a bright square is found
    assert "20 files, all as the server's rules say" in submit("--check", archive)
    assert f"the images in {root}" in submit("--check", archive, f"dataset.root={root}")


def test_the_same_bytes_again_and_none_of_owner_or_time(
    ad2: tuple[Path, dict[str, RunFolder]], archive: Path, submit: Bench, tmp_path: Path
) -> None:
    again = tmp_path / "sub.tar.gz"
    said = submit(*[folder.path for folder in [*ad2[1].values()][::-1]], "--threshold", "certified", "--out", again)
    assert again.read_bytes() == archive.read_bytes()
    assert said.splitlines()[-1] == f"2 objects written to {again}"
    assert said.startswith("can: above ")
    with tarfile.open(again) as opened:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.isreg()) for m in opened} == {(0, 0, 0, "", "", True)}


def test_the_baseline_is_three_deviations_above_the_mean_of_the_validation_pixels(
    ad2: tuple[Path, dict[str, RunFolder]], submit: Bench, tmp_path: Path
) -> None:
    root, runs = ad2
    out = tmp_path / "sub.tar.gz"
    said = submit(*[folder.path for folder in runs.values()], "--threshold", "baseline", "--out", out)
    for line, (name, folder) in zip(said.splitlines(), runs.items(), strict=False):
        maps = [result.map_at_source() for result in load(folder.path).predict(root / name / "validation/good")]
        pixels = np.concatenate([each.ravel() for each in maps]).astype(np.float64)
        assert len(maps) == 4
        assert line == f"{name}: above {np.mean(pixels) + 3 * np.std(pixels):.6g} is anomalous"
    assert len(entries(out)) == 20


def test_without_a_threshold_there_are_maps_only(
    ad2: tuple[Path, dict[str, RunFolder]], submit: Bench, tmp_path: Path
) -> None:
    out = tmp_path / "sub.tar.gz"
    assert submit(*[f.path for f in ad2[1].values()], "--out", out) == f"2 objects written to {out}\n"
    assert {name.split("/")[1] for name in entries(out)} == {MAPS}
    assert "10 files" in submit("--check", out)


def replaced(name: str, content: bytes) -> Callable[[Entries], Entries]:
    return lambda found: found | {name: content}


def renamed(name: str, new: str) -> Callable[[Entries], Entries]:
    return lambda found: {new if each == name else each: content for each, content in found.items()}


def without(part: str) -> Callable[[Entries], Entries]:
    return lambda found: {name: content for name, content in found.items() if part not in name}


HALF = np.zeros((16, 24), np.float16)
GREY = np.zeros((16, 24), np.uint8)
NO_PLACE = "belongs to no submission"
SPOILT: dict[str, tuple[Callable[[Entries], Entries], str]] = {
    "a file is missing": (without("can/test_private/001_regular.tiff"), "lacks files"),
    "a set is missing": (without(f"{MAPS}/vial/test_private_mixed"), "lacks files: each image .*; 2 files, the first"),
    "an object is missing": (without("/vial/"), "lacks files"),
    "no maps at all": (without(f"{MAPS}/"), "lacks files"),
    "a thresholded image is missing": (without(f"{MARKS}/can/test_private/000"), "lacks files"),
    "one too many": (replaced(FIRST.replace("000", "003"), tiff(HALF)), NO_PLACE),
    "another file": (replaced("sub/readme.txt", b"hello"), NO_PLACE),
    "a wrong name": (renamed(FIRST, FIRST.replace("000_regular", "0_regular")), NO_PLACE),
    "a wrong ending": (renamed(FIRST, FIRST.replace(".tiff", ".tif")), NO_PLACE),
    "the other suffix": (renamed(FIRST, FIRST.replace("regular", "mixed")), NO_PLACE),
    "a wrong folder": (renamed(FIRST, FIRST.replace("test_private", "test_public")), NO_PLACE),
    "a wrong object": (renamed(FIRST, FIRST.replace("can", "bottle")), NO_PLACE),
    "no top folder": (lambda found: {name[4:]: content for name, content in found.items()}, NO_PLACE),
    "two top folders": (renamed(FIRST, f"b{FIRST}"), "all files lie in one folder"),
    "float32": (replaced(FIRST, tiff(HALF.astype(np.float32))), "maps are of type float16: .*float32"),
    "a wrong size": (replaced(FIRST, tiff(HALF.T)), "as large as their image: .*16 x 24 pixels, the image has 24 x 16"),
    "NaN": (replaced(FIRST, tiff(HALF + np.float16("nan"))), "maps are finite: .*nan at row 0, column 0"),
    "infinite": (replaced(FIRST, tiff(HALF + np.float16("inf"))), "maps are finite: .*inf at row 0"),
    "three channels": (
        replaced(FIRST, tiff(np.zeros((16, 24, 3), np.float16), photometric="rgb")),
        r"one channel, \[H, W\]",
    ),
    "two pages": (replaced(FIRST, tiff(np.stack([HALF, HALF]), photometric="minisblack")), "one channel"),
    "a truncated map": (lambda found: found | {FIRST: found[FIRST][:-100]}, "readable TIFF"),
    "a PNG for a map": (replaced(FIRST, png(GREY)), "readable TIFF"),
    "an empty map": (replaced(FIRST, b""), "readable TIFF"),
    "a map too large": (replaced(FIRST, bytes(2**20 + 8 * 560 + 1)), "too large for its image"),
    "1 in place of 255": (replaced(MARK, png(GREY + 1)), "hold 0 and 255 only: .*value 1"),
    "a coloured mask": (replaced(MARK, png(np.zeros((16, 24, 3), np.uint8))), "one channel of 8 bits: .*mode RGB"),
    "a mask of bits": (replaced(MARK, png(GREY > 0)), "one channel of 8 bits: .*mode 1"),
    "a mask of another size": (replaced(MARK, png(np.zeros((8, 12), np.uint8))), "as large as their image: .*12 x 8"),
    "a truncated mask": (lambda found: found | {MARK: found[MARK][:40]}, "readable PNG"),
    "a map for a mask": (lambda found: found | {MARK: found[FIRST]}, "readable PNG"),
}


@pytest.mark.parametrize(("spoil", "rule"), SPOILT.values(), ids=SPOILT)
def test_a_spoilt_archive_is_refused_with_the_rule(
    spoil: Callable[[Entries], Entries], rule: str, archive: Path, submit: Bench, tmp_path: Path
) -> None:
    said = submit("--check", pack(spoil(entries(archive)), tmp_path / "sub.tar.gz"), code=2)
    assert [line for line in said.splitlines() if re.search(rule, line)], said


def link(name: str, kind: bytes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, "/etc/passwd"
    return info


@pytest.mark.parametrize(
    ("member", "rule"),
    [
        (link("sub/anomaly_images/a.tiff", tarfile.SYMTYPE), "no links and devices"),
        (link("sub/anomaly_images/a.tiff", tarfile.LNKTYPE), "no links and devices"),
        (link("sub/pipe", tarfile.FIFOTYPE), "no links and devices"),
        (tarfile.TarInfo("/etc/cron.d/job"), "stay inside the archive"),
        (tarfile.TarInfo("sub/../../job"), "stay inside the archive"),
        (tarfile.TarInfo(FIRST), "holds a file twice"),
    ],
)
def test_members_that_no_archive_may_have(
    member: tarfile.TarInfo, rule: str, archive: Path, submit: Bench, tmp_path: Path
) -> None:
    found = entries(archive)
    content = found[FIRST] if member.name == FIRST else b""
    pairs = [(tarfile.TarInfo(name), value) for name, value in found.items()]
    said = submit("--check", pack([*pairs, (member, content)], tmp_path / "sub.tar.gz"), code=2)
    assert rule in said


def test_an_archive_that_is_not_whole(archive: Path, submit: Bench, tmp_path: Path) -> None:
    file, content = tmp_path / "sub.tar.gz", archive.read_bytes()
    tar = gzip.decompress(content)
    for broken in (content[: len(content) // 2], content[:-6], gzip.compress(tar[:700]), b"", b"no archive"):
        file.write_bytes(broken)
        assert "is no whole .tar.gz" in submit("--check", file, code=2)
    damaged = bytearray(content)
    damaged[-7] ^= 1  # of the checksum
    file.write_bytes(damaged)
    assert "is no whole .tar.gz" in submit("--check", file, code=2)
    assert "cannot be read" in submit("--check", tmp_path / "none.tar.gz", code=2)


def test_every_rule_that_is_broken_has_a_line(archive: Path, submit: Bench, tmp_path: Path) -> None:
    found = entries(archive) | {FIRST: tiff(HALF.T), MARK: png(GREY + 1), "sub/more.txt": b""}
    said = submit("--check", pack(found, tmp_path / "sub.tar.gz"), code=2)
    assert said.count("\n") == 3


def edited(folder: RunFolder, place: Path, **values: object) -> Path:
    """A copy of a run with other values in its manifest."""
    shutil.copytree(folder.path, place)
    write_json(place / "manifest.json", {**folder.manifest, **values})
    return place


def test_runs_that_make_no_submission(ad2: tuple[Path, dict[str, RunFolder]], submit: Bench, tmp_path: Path) -> None:
    can, vial = (folder.path for folder in ad2[1].values())
    out = tmp_path / "sub.tar.gz"
    assert "no run of vial is given" in submit(can, "--out", out, code=2)
    assert f"{can}: is a second run of can, beside {can}" in submit(can, vial, can, "--out", out, code=2)
    copies = {
        "is a run of mtd, not of mvtec_ad2": {"dataset": "mtd"},
        "'botle' is none of can, vial": {"category": "botle"},
        "not finished": {"status": "failed"},
    }
    for i, (message, values) in enumerate(copies.items()):
        copy = edited(ad2[1]["can"], tmp_path / str(i), **values)
        assert message in submit(copy, vial, "--out", out, code=2)
    copy = edited(ad2[1]["can"], tmp_path / "without")
    RunFolder(copy).update(thresholds={})
    said = submit(copy, vial, "--out", out, "--threshold", "certified", code=2)
    assert f"{copy}: has no threshold of its maps' pixels" in said
    damaged = edited(ad2[1]["can"], tmp_path / "damaged")
    (damaged / "weights.safetensors").write_bytes(b"")
    assert "weights.safetensors: was changed or damaged" in submit(damaged, vial, "--out", out, code=2)
    assert "no run is here" in submit(tmp_path / "none", vial, "--out", out, code=2)
    assert not out.exists()


def test_a_threshold_from_test_images_is_refused(
    ad2: tuple[Path, dict[str, RunFolder]], submit: Bench, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, runs = ad2
    (tmp_path / "normals").mkdir()
    stolen = shutil.copy(root / "can/test_private_mixed/000_mixed.png", tmp_path / "normals/mine.png")
    copy = Path(shutil.copytree(runs["can"].path, tmp_path / "run"))
    assert main(["threshold", str(copy), "--normals", str(tmp_path / "normals")]) == 0
    words = (copy, runs["vial"].path, "--threshold", "certified", "--out", tmp_path / "sub.tar.gz")
    assert "its threshold was calibrated on test images" in submit(*words, code=2)
    Path(stolen).unlink()
    assert "mine.png, which cannot be read" in submit(*words, code=2)
    assert [each.name for each in tmp_path.iterdir() if "sub" in each.name] == []


def test_images_that_are_missing_or_too_many(
    ad2: tuple[Path, dict[str, RunFolder]], submit: Bench, tmp_path: Path
) -> None:
    root = Path(shutil.copytree(ad2[0], tmp_path / "mvtec_ad2"))
    words = (*(f.path for f in ad2[1].values()), f"dataset.root={root}", "--out", tmp_path / "sub.tar.gz")
    more = root / "vial/test_private/002_regular.png"
    shutil.copy(root / "vial/test_private/001_regular.png", more)
    assert f"{more}: is no image of this set, which has 2" in submit(*words, code=2)
    more.unlink()
    lost = root / "can/test_private_mixed/001_mixed.png"
    lost.write_bytes(b"damaged")
    assert str(lost) in submit(*words, code=2)
    lost.unlink()
    assert f"{lost}: no such file; the folder holds 2 of 3 images" in submit(*words, code=2)
    shutil.rmtree(lost.parent)
    assert f"{lost.parent}: no such folder" in submit(*words, code=2)
    assert [each for each in tmp_path.iterdir() if each != root] == []


def test_a_score_that_float16_cannot_hold() -> None:
    assert half(Path("a.png"), np.float32([[65504, -1]])).tolist() == [[65504, -1]]
    with pytest.raises(UserError, match="its map reaches 70000"):
        half(Path("a.png"), np.float32([[70000, 0]]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no RUN is given"),
        (["run"], "--out is not given"),
        (["run", "--out", "maps"], "the server takes NAME.tar.gz"),
        (["run", "--check", "a.tar.gz"], "is given with RUN"),
        (["--check", "a.tar.gz", "--out", "b.tar.gz"], "is given with --out"),
        (["--check", "a.tar.gz", "dataset.rot=x"], "did you mean 'dataset.root'"),
    ],
)
def test_words_that_do_not_go_together(words: list[str], message: str, submit: Bench) -> None:
    assert message in submit(*words, code=2)


def test_the_benchmark_is_one_with_a_server(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["submit", "run", "--out", "a.tar.gz"]) == 2
    assert "--benchmark is not given (one of mvtec_ad2)" in capsys.readouterr().err
    assert main(["submit", "run", "--out", "a.tar.gz", "--benchmark", "mvtec_ad"]) == 2
    assert "did you mean 'mvtec_ad2'" in capsys.readouterr().err


def test_the_published_counts() -> None:
    layout = benchmark("mvtec_ad2").submission
    assert layout is not None
    assert sum(each.count for each in layout.images.values()) == 2045
    names = [member.name for member in layout.members(thresholded=False)]
    assert names[0] == f"{MAPS}/can/test_private/000_regular.tiff"
    assert names[-1] == f"{MAPS}/walnuts/test_private_mixed/227_mixed.tiff"
    assert len(set(names)) == len(names) == 4090
