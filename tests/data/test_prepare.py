from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from small_images import grey, save, square

from anomaly_bench.config import conf_dir
from anomaly_bench.data import archive, prepare
from anomaly_bench.data.prepare import data_command
from anomaly_bench.errors import UserError

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
    monkeypatch.setattr(prepare, "_source", lambda name: source | {"counts": counts[name]})


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
        assert data_command(["verify", "mvtec", f"root={root}", "decode=true"]) == 0
        out = capsys.readouterr().out
        assert "1 of 2 folders are here" in out
        assert [line.split("│")[1:-1] for line in out.splitlines() if "screw" in line and "│" in line] == [
            [" screw  ", "     4 ", "    2 ", "         3 ", " ok      "]
        ]
        assert "missing" in out


@pytest.mark.usefixtures("small_inventory")
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda base: (base / "train/good/000.png").unlink(), "3 of 4"),
        (lambda base: (base / "ground_truth/cut/000_mask.png").unlink(), "cut/000.png: has no mask"),
        (lambda base: shutil.rmtree(base / "ground_truth"), "there is no ground_truth"),
        (lambda base: save(base / "ground_truth/cut/000_mask.png", grey(0, 9)), "9 x 9 pixels, its image 8 x 8"),
        (lambda base: (base / "ground_truth/cut/000_mask.png").write_bytes(b""), "cannot identify image file"),
    ],
)
def test_what_is_not_in_order_is_named(
    category: Path, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], object], said: str
) -> None:
    damage(category)
    assert data_command(["verify", "mvtec", f"root={category.parent}"]) == 1
    out = capsys.readouterr().out
    assert said in out
    assert "differs" in out


@pytest.mark.usefixtures("small_inventory")
def test_only_decoding_finds_a_file_that_is_cut_short(category: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = category / "train/good/002.png"
    file.write_bytes(file.read_bytes()[:45])
    words = ["verify", "mvtec", f"root={category.parent}"]
    assert data_command(words) == 0
    assert data_command([*words, "decode=true"]) == 1
    assert "002.png: cannot be read as an image" in capsys.readouterr().out


@pytest.mark.usefixtures("small_inventory")
def test_tiles(tiles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data_command(["verify", "mtd", f"root={tiles}", "decode=true"]) == 0
    (tiles / "MT_Fray/Imgs/exp1_num_Fray.png").unlink()
    assert data_command(["verify", "mtd", f"root={tiles}"]) == 1
    assert "exp1_num_Fray.jpg: has no mask exp1_num_Fray.png" in capsys.readouterr().out
    shutil.rmtree(tiles / "MT_Fray")  # all its folders are needed
    assert data_command(["verify", "mtd", f"root={tiles}"]) == 1


def test_demo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert data_command(["prepare", "demo"]) == 0
    assert "3 of 3 folders are here" in capsys.readouterr().out
    (tmp_path / "cache/demo/v1-seed0/brick/test/hole/000.png").unlink()
    assert data_command(["verify", "demo"]) == 1
    assert data_command(["list"]) == 0
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
    assert data_command(["prepare", "mtd", f"root={tmp_path / 'new'}", f"urls=[file:///absent.zip, {url}]"]) == 0
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["mtd"]
    assert (tmp_path / "new/mtd/MT_Free/Imgs/exp0_num_Free.jpg").is_file()
    assert (tmp_path / "new/mtd").stat().st_mode & 0o055  # others may read it
    capsys.readouterr()
    assert data_command(["prepare", "mtd", f"root={tmp_path / 'new'}"]) == 0
    assert "already" in capsys.readouterr().out


@pytest.mark.usefixtures("small_inventory")
def test_prepare_goes_to_the_place_where_it_is_looked_for(
    tiles: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = wrapped(tiles, tmp_path / "tiles.zip").as_uri()
    assert data_command(["prepare", "mtd", f"urls=[{url}]"]) == 0
    assert Path("data/mtd/MT_Free").is_dir()
    monkeypatch.setenv("ANOMALY_BENCH_DATA", str(tmp_path / "shared"))
    assert data_command(["prepare", "mtd", f"root={tmp_path / 'named' / 'mtd'}", f"urls={url}"]) == 0
    assert (tmp_path / "named/mtd/MT_Free").is_dir()
    shutil.rmtree("data")
    assert data_command(["prepare", "mtd", f"urls={url}"]) == 0
    assert (tmp_path / "shared/mtd/MT_Free").is_dir()


@pytest.mark.usefixtures("small_inventory")
def test_an_archive_with_other_content_is_not_put_in_place(tiles: Path, tmp_path: Path) -> None:
    (tiles / "MT_Break/Imgs/exp0_num_Break.jpg").unlink()
    url = wrapped(tiles, tmp_path / "tiles.zip").as_uri()
    with pytest.raises(UserError, match=r"its content is not what was expected"):
        data_command(["prepare", "mtd", f"root={tmp_path / 'new'}", f"urls=[{url}]"])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["mtd.archive"]
    with pytest.raises(UserError, match=r"holds none of MT_Free"):
        data_command(
            ["prepare", "mtd", f"root={tmp_path / 'b'}", f"urls={wrapped(tmp_path / 'here', tmp_path / 'z').as_uri()}"]
        )


@pytest.mark.usefixtures("small_inventory")
def test_a_place_that_is_taken_or_cannot_be_written(tmp_path: Path) -> None:
    save(tmp_path / "mtd" / "mine.png", square())
    with pytest.raises(UserError, match=r"root: .*mtd is there and holds nothing of mtd"):
        data_command(["prepare", "mtd", f"root={tmp_path}"])
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"root: cannot be written: .*Not a directory"):
        data_command(["prepare", "mtd", f"root={tmp_path / 'file' / 'deep'}", "urls=[file:///absent]"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "bench data: says what to do"),
        (["verfy", "mtd"], "did you mean 'verify'"),
        (["verify"], "takes one name of demo, mtd, mvtec"),
        (["verify", "mvtek"], "did you mean 'mvtec'"),
        (["verify", "mtd", "mvtec"], "takes one name"),
        (["verify", "mtd", "rot=x"], "did you mean 'root'"),
        (["verify", "mtd", "urls=x"], "'urls' is none of decode, root"),
        (["verify", "mtd", "decode=maybe"], "decode: 'maybe' is none of false, true"),
        (["verify", "mtd"], "nothing of mtd in data/mtd (bench data prepare mtd)"),
        (["list", "mtd"], "takes no name"),
    ],
)
def test_misuse(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as error:
        data_command(words)
    assert said in str(error.value)


def test_torch_is_not_imported() -> None:
    lines = (
        "import sys",
        "from anomaly_bench.data.prepare import data_command",
        "data_command(['prepare', 'demo'])",
        "print('torch' in sys.modules)",
    )
    done = subprocess.run([sys.executable, "-c", "; ".join(lines)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
