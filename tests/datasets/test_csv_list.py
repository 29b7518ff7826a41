"""A list of a user's own images in a CSV file."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_images import grey, save, square

from anomaly_bench import config
from anomaly_bench.datasets.csv_list import CsvList
from anomaly_bench.errors import UserError
from anomaly_bench.records import Record

HEADER = "path,split,kind,mask,category"
LINES = [
    "shots/1.png,train,good,,bolt",
    "shots/0.png,train,good,,bolt",
    "shots/2.png,validation,good,,bolt",
    "shots/3.png,test,good,,bolt",
    "shots/4.png,test,bent,marks/b.png;marks/a.png,bolt",
    "shots/5.png,test,cut,marks/a.png,bolt",
    "shots/6.png,train,good,,nut",
    "shots/7.png,test,cut,marks/b.png,nut",
]


@pytest.fixture
def parts(tmp_path: Path) -> Path:
    """A folder with the images and masks that LINES name, and that list."""
    for i in range(8):
        save(tmp_path / "parts/shots" / f"{i}.png", grey(i))
    for name in ("a.png", "b.png"):
        save(tmp_path / "parts/marks" / name, square())
    write(tmp_path / "parts", LINES)
    return tmp_path / "parts"


def write(parts: Path, lines: list[str], header: str = HEADER) -> None:
    (parts / "list.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")


def listed(parts: Path, category: str | None = None, root: Path | None = None) -> CsvList:
    return CsvList(str(parts / "list.csv"), str(root) if root else None, category)


def refused(parts: Path, split: str = "test", category: str | None = None) -> str:
    with pytest.raises(UserError) as caught:
        listed(parts, category).records(split)  # type: ignore[arg-type]
    return str(caught.value).replace(f"{parts}/", "")


def test_each_line_is_an_image(parts: Path) -> None:
    data = listed(parts)
    assert [r.path for r in data.records("train")] == ["shots/0.png", "shots/1.png", "shots/6.png"]
    assert [(r.path, r.kind) for r in data.validation_records()] == [("shots/2.png", "good")]
    marks = parts / "marks"
    assert data.records("test") == [
        Record("shots/4.png", "bent", parts / "shots/4.png", (marks / "a.png", marks / "b.png")),
        Record("shots/5.png", "cut", parts / "shots/5.png", marks / "a.png"),
        Record("shots/7.png", "cut", parts / "shots/7.png", marks / "b.png"),
        Record("shots/3.png", "good", parts / "shots/3.png"),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "\ufeffkind,path,split\r\ngood,a.png,train\r\n\r\nbent,./b c.png,test\r\n",
        'split,kind,path\ntrain, good ,"a.png"\n,,\ntest,bent,"b c.png"',
    ],
)
def test_columns_in_any_order_with_or_without_a_mark_in_front(tmp_path: Path, text: str) -> None:
    for name in ("a.png", "b c.png"):
        save(tmp_path / name, grey(0))
    (tmp_path / "list.csv").write_bytes(text.encode())
    data = listed(tmp_path)
    assert [(r.path, r.kind) for r in (*data.records("train"), *data.records("test"))] == [
        ("a.png", "good"),
        ("b c.png", "bent"),
    ]
    assert data.records("test")[0].mask is None
    with pytest.raises(UserError, match=r"list.csv: has no category"):
        data.categories()


def test_the_order_of_the_lines_changes_nothing(parts: Path) -> None:
    before = [listed(parts).records(split) for split in ("train", "test")]
    write(parts, LINES[::-1])
    assert [listed(parts).records(split) for split in ("train", "test")] == before


def test_paths_may_be_relative_to_another_folder(parts: Path, tmp_path: Path) -> None:
    (parts / "list.csv").rename(tmp_path / "list.csv")
    assert listed(tmp_path, root=parts).records("train")[0].image == parts / "shots/0.png"
    with pytest.raises(UserError, match=r"list.csv:3: names shots/0.png, which is not there \(paths are relative to"):
        listed(tmp_path).records("train")
    with pytest.raises(UserError, match=r"dataset.root: no such folder: /nowhere"):
        listed(tmp_path, root=Path("/nowhere")).records("train")


def test_categories(parts: Path) -> None:
    assert listed(parts).categories() == ["bolt", "nut"]
    assert [r.path for r in listed(parts, "nut").records("test")] == ["shots/7.png"]
    line = "dataset.category: 'nuts' is none of bolt, nut, which list.csv holds (did you mean 'nut'?)"
    assert refused(parts, category="nuts") == line
    words = ["method=brightness", "dataset=csv", f"dataset.file={parts / 'list.csv'}"]
    jobs = config.check([*words, "dataset.category=all"], multirun=True, types=False)
    assert [job[-1] for job in jobs] == ["dataset.category=bolt", "dataset.category=nut"]
    write(parts, [*LINES, "shots/8.png,test,good,,"])
    assert refused(parts, category="nut").startswith("list.csv:10: has no category (a column 'category' says ")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("x.png,tset,good,,", "list.csv:2: split: 'tset' is none of test, train, validation (did you mean 'test'?)"),
        ("x.png,test,bent,,", "list.csv:2: names x.png, which is not there (paths are relative to "),
        (r"shots\1.png,test,bent,,", r"list.csv:2: names shots\1.png, which is not there (paths have forward slashes)"),
        ("../x.png,test,bent,,", "list.csv:2: '../x.png' is no path below the folder of the list (dataset.root=DIR "),
        ("/x.png,test,bent,,", "list.csv:2: '/x.png' is no path below"),
        (",test,bent,,", "list.csv:2: '' is no path below"),
        ("shots/1.png,train,bent,,", "list.csv:2: shots/1.png is of kind 'bent', and images of split 'train' are"),
        ("shots/1.png,validation,cut,,", "list.csv:2: shots/1.png is of kind 'cut', and images of split 'validation' "),
        ("shots/1.png,test,,,", "list.csv:2: the kind is ''; 'good', or the name of a kind of defect"),
        ("shots/1.png,test,Good,,", "list.csv:2: the kind is 'Good'; 'good', or"),
        ("shots/1.png,test,a/b,,", "list.csv:2: the kind is 'a/b'; "),
        ("shots/1.png,test,good,marks/a.png,", "list.csv:2: shots/1.png is of kind 'good', and has a mask, marks"),
        ("shots/1.png,test,cut,marks/a.jpg,", "list.csv:2: the mask marks/a.jpg is not read; allowed: .png, "),
        ("shots/1.png,test,cut,marks/c.png,", "list.csv:2: names marks/c.png, which is not there"),
        ("shots/1.png,test,cut,../c.png,", "list.csv:2: '../c.png' is no path below"),
        ("shots/1.png,test,cut", "list.csv:2: has 3 values, and the first line has 5 columns"),
        ('"shots/1.png,test', "list.csv:2: cannot be read as CSV: unexpected end of data"),
        ("shots/1.png,test,cut,,\nshots/4.png,test,cut,marks/a.png,", "list.csv:2: shots/1.png has no mask, and sho"),
        ("shots/1.png,test,cut,,\n./shots/1.png,train,good,,", "list.csv:3: shots/1.png is in list.csv:2 too (each im"),
        ("shots/1.png,train,good,,", "list.csv: lists no image of split 'test'"),
        ("", "list.csv: lists no image below its first line"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_line(parts: Path, line: str, said: str) -> None:
    write(parts, [line])
    assert refused(parts).startswith(said)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (
            "path,splits,kind",
            "list.csv:1: the columns are 'path,splits,kind', without split; a list has path, split, kin",
        ),
        (
            "path;split;kind",
            "list.csv:1: the columns are 'path;split;kind', without path and split and kind; a list has",
        ),
        ("path,split,kind,mask,mask", "list.csv:1: has the column 'mask' twice"),
        ("", "list.csv:2: the columns are 'shots/1.png,train,good', without path and split and kind"),
    ],
)
def test_a_mistake_in_the_columns_is_named(parts: Path, header: str, said: str) -> None:
    write(parts, ["shots/1.png,train,good"], header)
    assert (line := refused(parts, "train")).startswith(said)
    if ";" in header:
        assert line.endswith("(it is separated by ';', not by commas)")


def test_columns_that_are_not_read_are_said(parts: Path) -> None:
    write(parts, ["shots/1.png,train,good,x,y"], "path,split,kind,masks,camera")
    with pytest.warns(UserWarning, match=r"list.csv:1: not used: the columns 'masks', 'camera' \(did you mean 'mask'"):
        listed(parts).records("train")


def test_a_file_that_is_no_list_is_named(parts: Path) -> None:
    (parts / "list.csv").write_bytes("path,split,kind\nü.png,train,good".encode("latin-1"))
    assert refused(parts).startswith("list.csv: cannot be read: 'utf-8' codec can't decode byte")
    (parts / "list.csv").write_text("\n")
    assert refused(parts) == "list.csv: is empty; its first line names the columns path, split, kind"
    (parts / "list.csv").unlink()
    assert refused(parts) == "dataset.file: no such file: list.csv"
    with pytest.raises(UserError, match=r"dataset.file: is not given .dataset.file=LIST.csv"):
        CsvList(None, None, None).records("train")


def test_a_list_is_identified_by_its_place() -> None:
    def identity(*words: str) -> config.Identity:
        return config.identify(config.validate(config.compose(["method=brightness", "dataset=csv", *words])))

    one, other = identity("dataset.file=/a/x.csv"), identity("dataset.file=/b/x.csv")
    assert (one.setting, one.run != other.run) == (other.setting, True)
    assert identity("dataset.file=/a/x.csv", "dataset.root=/c") == one
    assert identity("dataset.file=/a/x.csv", "dataset.category=nut").run != one.run
    assert identity("dataset.file=/a/x.csv", "dataset.name=x") == identity("dataset.file=/b/x.csv", "dataset.name=x")
