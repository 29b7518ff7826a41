from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import stat
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from small_arrays import digits, idx, pictures, python2
from small_images import grey, save, square

from anomaly_bench.commands.main import main, run_verb
from anomaly_bench.config import conf_dir
from anomaly_bench.datasets import download as archive
from anomaly_bench.datasets import one_class, prepare
from anomaly_bench.datasets.one_class import CATEGORIES
from anomaly_bench.errors import UserError

MASK = "ground_truth/cut/000_mask.png"
INCOMPLETE = "mvtec: partial, 8 of 12 images; incomplete: screw (8 of 9 images); missing: bottle"
DAMAGED = "mvtec: damaged, 9 of 12 images; damaged: screw (1 cannot be used); missing: bottle"
TOO_MANY = "mvtec: damaged, 10 of 12 images; damaged: screw (more than expected: 10 of 9 images); missing: bottle"
COUNTS = OmegaConf.load(conf_dir() / "download" / "mvtec.yaml").counts


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data set of this machine is seen, and a dead address fails at once."""
    monkeypatch.setattr(archive, "TRIES", 1)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("ANOMALY_BENCH_DATA", raising=False)
    monkeypatch.setenv("ANOMALY_BENCH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def small_inventory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fixtures `category` and `tiles` as if they were the whole data sets."""
    mvtec = {"screw": {"train": 4, "good": 2, "defective": 3}, "bottle": {"train": 1, "good": 1, "defective": 1}}
    mtd = {f"MT_{kind}": {"images": 2} for kind in ("Blowhole", "Break", "Crack", "Fray", "Uneven")}
    counts = {"mvtec": mvtec, "mtd": {"MT_Free": {"images": 10}, **mtd}}
    source = {"urls": [], "size": None, "sha256": None}
    monkeypatch.setattr(prepare, "_source", lambda name: source | {"counts": counts.get(name, {})})


def test_the_inventory_of_mvtec_adds_up() -> None:
    assert len(COUNTS) == 15
    totals = [sum(row[column] for row in COUNTS.values()) for column in ("train", "good", "defective")]
    assert totals == [3629, 467, 1258]


def test_the_inventory_of_mtd() -> None:
    counts = OmegaConf.load(conf_dir() / "download" / "mtd.yaml").counts
    assert [row.images for row in counts.values()] == [952, 115, 85, 57, 32, 103]


@pytest.mark.usefixtures("small_inventory")
def test_a_subset_is_no_error(category: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for root in (category.parent, category.parent.parent):
        assert run_verb(["data", "verify", "mvtec", f"root={root}", "decode=true"]) == 0
        out = capsys.readouterr().out
        assert "1 of 2 folders are here" in out
        assert "mvtec: partial, 9 of 12 images; missing: bottle" in out.splitlines()
        assert [line.split("│")[1:-1] for line in out.splitlines() if "screw" in line and " ok " in line] == [
            [" screw  ", "     4 ", "    2 ", "         3 ", " ok      "]
        ]
        assert "missing" in out


@pytest.mark.usefixtures("small_inventory")
@pytest.mark.parametrize(
    ("damage", "said", "verdict"),
    [
        (lambda base: (base / "train/good/000.png").unlink(), "3 of 4", INCOMPLETE),
        (lambda base: shutil.rmtree(base / "train/good"), "0 of 4", INCOMPLETE.replace("8 of", "5 of")),
        (lambda base: (base / "ground_truth/cut/000_mask.png").unlink(), "cut/000.png: has no mask", DAMAGED),
        (lambda base: shutil.rmtree(base / "ground_truth"), "there is no ground_truth", DAMAGED.replace("1 c", "3 c")),
        (lambda base: save(base / MASK, grey(0, 9)), "9 x 9 pixels, its image 8 x 8", DAMAGED),
        (lambda base: (base / MASK).write_bytes(b""), "cannot identify image file", DAMAGED),
        (lambda base: save(base / "train/good/9.png", grey(9)), "5 of 4", TOO_MANY),
    ],
)
def test_what_is_not_in_order_is_named(
    category: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object], said: str, verdict: str
) -> None:
    damage(category)
    assert run_verb(["data", "verify", "mvtec", f"root={category.parent}"]) == 1
    out = capsys.readouterr().out
    assert said in out
    assert verdict in out.splitlines()


@pytest.mark.usefixtures("small_inventory")
def test_only_decoding_finds_a_file_that_is_cut_short(category: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = category / "train/good/002.png"
    file.write_bytes(file.read_bytes()[:45])
    words = ["verify", "mvtec", f"root={category.parent}"]
    assert run_verb(["data", *words]) == 0
    assert run_verb(["data", *words, "decode=true"]) == 1
    assert "002.png: cannot be read as an image" in capsys.readouterr().out


@pytest.mark.usefixtures("small_inventory")
def test_what_plain_statistics_separate_is_said(category: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(["data", "verify", "mvtec", f"root={category.parent}"]) == 0
    out = capsys.readouterr().out
    (row,) = [
        line.split("│")[1:-1] for line in out.splitlines() if "screw" in line and " 1.000 " in line and "│" in line
    ]
    assert [cell.strip() for cell in row][:2] == ["screw", "1.000"]  # each anomalous image is brighter
    assert "mvtec/screw: mean grey alone separates normal from anomalous test images with AUROC 1.000" in out
    file = category / "test/good/001.png"
    file.write_bytes(file.read_bytes()[:45])
    assert run_verb(["data", "verify", "mvtec", f"root={category.parent}"]) == 1
    assert "good/001.png: cannot be read as an image" in capsys.readouterr().out


@pytest.mark.usefixtures("small_inventory")
def test_tiles(tiles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(["data", "verify", "mtd", f"root={tiles}", "decode=true"]) == 0
    (tiles / "MT_Fray/Imgs/exp1_num_Fray.png").unlink()
    assert run_verb(["data", "verify", "mtd", f"root={tiles}"]) == 1
    assert "exp1_num_Fray.jpg: has no mask exp1_num_Fray.png" in capsys.readouterr().out
    shutil.rmtree(tiles / "MT_Fray")  # all its folders are needed
    assert run_verb(["data", "verify", "mtd", f"root={tiles}"]) == 1


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_verb(["data", "prepare", "demo"]) == 0
    assert "6 of 6 folders are here" in capsys.readouterr().out
    (tmp_path / "cache/demo/v1-seed0/brick/test/hole/000.png").unlink()
    assert run_verb(["data", "verify", "demo"]) == 1
    assert run_verb(["data", "list"]) == 0
    out = capsys.readouterr().out
    assert "mvtec: not in data/mvtec; bench data prepare mvtec" in out
    assert "demo in" in out


def wrapped(folder: Path, file: Path) -> Path:
    """A zip of a folder with all inside one more folder, as code hosts make them."""
    with zipfile.ZipFile(file, "w") as out:
        for path in sorted(folder.rglob("*")):
            out.write(path, Path("repository-abc") / path.relative_to(folder))
    return file


@pytest.mark.usefixtures("small_inventory")
def test_prepare_downloads_unpacks_and_checks(tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    url = wrapped(tiles, tmp_path / "tiles.zip").as_uri()
    for name, age in ((".mtd-killed", 2 * 86400), (".mtd-unpacking", 0)):
        (tmp_path / "new" / name / "mtd").mkdir(parents=True)
        os.utime(tmp_path / "new" / name, times=(time.time() - age,) * 2)
    assert run_verb(["data", "prepare", "mtd", f"root={tmp_path / 'new'}", f"urls=[file:///absent.zip, {url}]"]) == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [".mtd-unpacking", "mtd"]
    assert (tmp_path / "new/mtd/MT_Free/Imgs/exp0_num_Free.jpg").is_file()
    assert (tmp_path / "new/mtd").stat().st_mode & 0o055  # others may read it
    capsys.readouterr()
    assert run_verb(["data", "prepare", "mtd", f"root={tmp_path / 'new'}"]) == 0
    assert "already" in capsys.readouterr().out


@pytest.mark.usefixtures("small_inventory")
def test_prepare_goes_to_the_place_where_it_is_looked_for(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = wrapped(tiles, tmp_path / "tiles.zip").as_uri()
    assert run_verb(["data", "prepare", "mtd", f"urls=[{url}]"]) == 0
    assert Path("data/mtd/MT_Free").is_dir()
    monkeypatch.setenv("ANOMALY_BENCH_DATA", str(tmp_path / "shared"))
    assert run_verb(["data", "prepare", "mtd", f"root={tmp_path / 'named' / 'mtd'}", f"urls={url}"]) == 0
    assert (tmp_path / "named/mtd/MT_Free").is_dir()
    shutil.rmtree("data")
    assert run_verb(["data", "prepare", "mtd", f"urls={url}"]) == 0
    assert (tmp_path / "shared/mtd/MT_Free").is_dir()


@pytest.mark.usefixtures("small_inventory")
def test_an_archive_with_other_content_is_not_put_in_place(tiles: Path, tmp_path: Path) -> None:
    (tiles / "MT_Break/Imgs/exp0_num_Break.jpg").unlink()
    url = wrapped(tiles, tmp_path / "tiles.zip").as_uri()
    with pytest.raises(UserError, match=r"its content is not what was expected"):
        run_verb(["data", "prepare", "mtd", f"root={tmp_path / 'new'}", f"urls=[{url}]"])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mtd.archive"]
    archive = wrapped(tmp_path / "here", tmp_path / "z").as_uri()
    with pytest.raises(UserError, match=r"holds none of MT_Free"):
        run_verb(["data", "prepare", "mtd", f"root={tmp_path / 'b'}", f"urls={archive}"])


@pytest.mark.usefixtures("small_inventory")
def test_a_place_that_is_taken_or_cannot_be_written(tmp_path: Path) -> None:
    save(tmp_path / "mtd" / "mine.png", square())
    with pytest.raises(UserError, match=r"root: .*mtd is there and holds nothing of mtd"):
        run_verb(["data", "prepare", "mtd", f"root={tmp_path}"])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"root: .*file is no folder"):
        run_verb(["data", "prepare", "mtd", f"root={tmp_path / 'file' / 'deep'}", "urls=[file:///absent]"])


# --- one-class sets: several files, or an archive of arrays


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to download from: the official files, but with one image of each class in every one of them."""
    host = tmp_path / "host"
    (host / "cifar-10-batches-py").mkdir(parents=True)
    for stem in ("train", "t10k"):
        for part, array in (("images-idx3", digits(10, 0)), ("labels-idx1", np.arange(10, dtype=np.uint8))):
            (host / f"{stem}-{part}-ubyte.gz").write_bytes(gzip.compress(idx(array)))
    for name in (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"):
        batch = python2({"data": pictures(10, 0), "labels": list(range(10))})
        (host / "cifar-10-batches-py" / name).write_bytes(batch)
    with tarfile.open(host / "cifar.tar.gz", "w:gz") as out:
        out.add(host / "cifar-10-batches-py", "cifar-10-batches-py")
    files = {"mnist": sorted(host.glob("*ubyte.gz")), "cifar10": [host / "cifar.tar.gz"]}
    md5 = {name: {f.name: hashlib.md5(f.read_bytes()).hexdigest() for f in files[name]} for name in files}
    each = {"mnist": {"train": 1, "test": 1}, "cifar10": {"train": 5, "test": 1}}
    counts = {name: dict.fromkeys(CATEGORIES[name], each[name]) for name in files}
    monkeypatch.setattr(prepare, "_source", lambda name: {"urls": [], "files": md5[name], "counts": counts[name]})
    return host


@pytest.mark.parametrize(
    ("name", "arrives"), [("mnist", "t10k-labels-idx1-ubyte.gz"), ("cifar10", "cifar-10-batches-py/test_batch")]
)
def test_prepare_brings_arrays(
    host: Path, tmp_path: Path, name: str, arrives: str, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "new"
    assert run_verb(["data", "prepare", name, f"root={new}", f"urls=[file:///absent,{host.as_uri()}/]"]) == 0
    assert "10 of 10 classes are here" in capsys.readouterr().out
    assert [path.name for path in new.iterdir()] == [name]
    assert (new / name / arrives).is_file()
    assert not list(new.rglob("*.tar.gz"))
    assert run_verb(["data", "prepare", name, f"root={new}"]) == 0
    assert "already" in capsys.readouterr().out
    (new / name / arrives).write_bytes(b"damaged")
    assert run_verb(["data", "verify", name, f"root={new}"]) == 1
    out = capsys.readouterr().out
    assert f"{new / name / arrives}: " in out
    assert "0 of 1" in out


def test_another_file_is_refused_and_what_has_arrived_is_kept(host: Path, tmp_path: Path) -> None:
    file = host / "train-images-idx3-ubyte.gz"
    right = file.read_bytes()
    file.write_bytes(right + b"more")
    words = ["prepare", "mnist", f"root={tmp_path / 'new'}", f"urls={host.as_uri()}"]
    with pytest.raises(UserError, match=r"train-images-idx3-ubyte.gz: is another file: MD5 \w{32}, expected \w{32}"):
        run_verb(["data", *words])
    kept = sorted(path.name for path in (tmp_path / "new/mnist.part").iterdir())
    assert kept == ["t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"]
    file.write_bytes(right)
    (host / kept[0]).unlink()  # is not asked for again
    assert run_verb(["data", *words]) == 0


@pytest.mark.usefixtures("host")
def test_a_class_that_is_not_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "host"
    fewer = gzip.compress(idx(np.array([0, 1, 2, 3, 4, 5, 6, 7, 8, 8], np.uint8)))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(fewer)
    assert run_verb(["data", "verify", "mnist", f"root={folder}"]) == 1
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert [line for line in lines if line.startswith(("│ 8", "│ 9")) and " of " in line] == [
        "│ 8 │ 2 of 1 │ 1 │ damaged │",
        "│ 9 │ 0 of 1 │ 1 │ incomplete │",
    ]


@pytest.mark.parametrize("name", CATEGORIES)
def test_the_inventory_of_the_one_class_sets(name: str) -> None:
    source = OmegaConf.load(conf_dir() / "download" / f"{name}.yaml")
    sums = tuple(sum(row[split] for row in source.counts.values()) for split in ("train", "test"))
    assert sums == one_class.ROWS[name]
    assert all(len(md5) == 32 for md5 in source.files.values())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "bench data: no verb given, allowed: list, prepare"),
        (["verfy", "mtd"], "did you mean 'verify'"),
        (["verify"], "NAME is not given, one of demo, mtd, mvtec"),
        (["verify", "mvtek"], "did you mean 'mvtec'"),
        (["verify", "mtd", "mvtec"], "too many arguments, 'mvtec' given"),
        (["verify", "mtd", "rot=x"], "did you mean 'root'"),
        (["verify", "mtd", "urls=x"], "'urls' is none of decode, root"),
        (["verify", "mtd", "decode=maybe"], "decode: 'maybe' is none of false, true"),
        (["verify", "mtd"], "nothing of mtd in data/mtd (bench data prepare mtd)"),
        (["list", "mtd"], "too many arguments, 'mtd' given"),
        (["list", "--nonsense"], "'--nonsense' is none of"),
        (["list", "nonsense=1"], "'nonsense' is none of root"),
        (["verify", "mtd", "--decode"], "'--decode' is none of"),
        (["prepare", "mtd", "nonsense"], "too many arguments, 'nonsense' given"),
        (["cache", "--nonsense"], "'--nonsense' is none of"),
        (["cache", "urls=x"], "'urls' is none of"),
        (["cache", "clear", "older=1", "older=2"], "older: is given twice"),
        (["list", "root="], "root: is given without a value"),
        (["list", "root=file"], "root: file is no folder"),
        (["list", "root=file/deep"], "root: file is no folder"),
        (["verify", "mtd", "root=file"], "root: file is no folder"),
        (["verify", "mtd", f"root={'a' * 5000}"], "root: nothing of mtd in aaaa"),
        (["prepare", "mtd", "root=file"], "root: file is no folder"),
        (["prepare", "demo", "root=file"], "root: file is no folder"),
        (["prepare", "mtd", f"root={'a' * 5000}", "urls=file:///x"], "File name too long"),
        (["cache", "root=file"], "root: file is no folder"),
        (["prepare", "demo", "urls=http://a"], "urls: the images of demo are drawn"),
        (["prepare", "mtd", "urls="], "urls: is given without a value"),
        (["prepare", "mtd", "urls=[]"], "urls: '' is no address"),
        (["prepare", "mtd", "urls=nonsense"], "urls: 'nonsense' is no address; allowed: what begins with https://"),
        (["prepare", "mtd", "urls=[file:///a,nonsense]"], "urls: 'nonsense' is no address"),
        (["prepare", "mtd", "urls=[file:///a"], "urls: '[file:///a' is no address"),
    ],
)
def test_misuse(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").touch()
    assert main(["data", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err
    assert [path.name for path in Path().iterdir()] == ["file"]


@pytest.mark.usefixtures("small_inventory")
@pytest.mark.parametrize("name", ["mtd", pytest.param("demo", marks=pytest.mark.slow)])
def test_permissions_are_those_that_the_umask_gives(name: str, tiles: Path, tmp_path: Path) -> None:
    url = wrapped(tiles, tmp_path / "tiles.zip").as_uri()
    before = os.umask(0o027)
    try:
        words = [f"urls={url}"] if name == "mtd" else []
        assert run_verb(["data", "prepare", name, f"root={tmp_path / 'new'}", *words]) == 0
    finally:
        os.umask(before)
    modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in (tmp_path / "new").rglob("*")}
    assert modes == {(True, 0o750), (False, 0o640)}


@pytest.mark.usefixtures("small_inventory")
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_an_archive_that_would_fill_the_disk(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, archive = tmp_path / "large.jpg", tmp_path / "mtd.zip"
    image.write_bytes(bytes(200_000_000))
    if kind == "zip":
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as out:
            out.write(image, "repository/MT_Free/Imgs/a.jpg")
    else:
        with tarfile.open(archive, "w:gz") as packed:
            packed.add(image, "repository/MT_Free/Imgs/a.jpg")
    new = tmp_path / "new"
    assert main(["data", "prepare", "mtd", f"root={new}", f"urls={archive.as_uri()}"]) == 2
    err = capsys.readouterr().err
    assert f"{new / 'mtd.archive'}: unpacks to more than" in err
    assert err.count("\n") == 1
    assert [path.name for path in new.iterdir()] == ["mtd.archive"]


@pytest.mark.parametrize("name", ["mvtec", "mtd", "cifar10"])
def test_how_much_an_archive_may_unpack_to_is_known(name: str) -> None:
    source = OmegaConf.load(conf_dir() / "download" / f"{name}.yaml")
    images = sum(sum(row.values()) for row in source.counts.values())
    assert source.unpacked > {"mvtec": source.get("size", 0), "mtd": 51_952_426, "cifar10": images * 3 * 32**2}[name]
