"""Where new images come from, in which order, and what leads to none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from anomaly_bench.errors import UserError
from anomaly_bench.inference.sources import images_below, open_source
from tests.small_images import grey, save

ARRAY = np.zeros((4, 5, 3), np.uint8)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory with a few images."""
    names = ["b/2.png", "b/10.PNG", "a/1.jpeg", "z.bmp", ".hidden/3.png", "a/.4.png", "a/x.png/5.tif"]
    for name in names:
        save(tmp_path / name, grey(7))
    (tmp_path / "a/notes.txt").write_text("no image")
    save(tmp_path / "odd/name[1]*.png", grey(7))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(source: object) -> list[str]:
    return [image.path for image in open_source(source)[0]]


def test_files_folders_patterns_and_arrays(place: Path) -> None:
    assert names("z.bmp") == names(Path("z.bmp")) == ["z.bmp"]
    assert names("a") == ["a/1.jpeg", "a/x.png/5.tif"]
    assert names("b") == ["b/10.PNG", "b/2.png"]
    assert names("b/*.png") == ["b/2.png"]
    assert names("**/*.tif") == ["a/x.png/5.tif"]
    assert names("odd/name[1]*.png") == ["odd/name[1]*.png"]  # a file of that name comes before the pattern
    assert names(ARRAY) == ["array 0"]
    assert names(str(place / "b/2.png")) == [str(place / "b/2.png")]


def test_a_folder_is_sorted_by_path_and_what_is_hidden_is_left_out(place: Path) -> None:
    draw = np.random.default_rng(0)
    for i in draw.permutation(30):
        save(place / f"many/{i % 3}/{i:02}.png", grey(7))
    many = [f"many/{i % 3}/{i:02}.png" for i in sorted(range(30), key=lambda i: (i % 3, i))]
    assert names("many") == many
    others = ["a/1.jpeg", "a/x.png/5.tif", "b/10.PNG", "b/2.png", *many, "odd/name[1]*.png", "z.bmp"]
    assert names(".") == others


def test_lists_mix_them_and_iterators_give_one_at_a_time(place: Path) -> None:
    images, known = open_source(["b", ARRAY, "z.bmp", Path("a"), ARRAY])
    mixed = ["b/10.PNG", "b/2.png", "array 0", "z.bmp", "a/1.jpeg", "a/x.png/5.tif", "array 1"]
    assert [image.path for image in images] == mixed
    assert known
    images, known = open_source(iter(["missing.png", ARRAY, Path("z.bmp")]))
    assert [image.path for image in images] == ["missing.png", "array 0", "z.bmp"]
    assert not known


def test_an_iterator_is_asked_only_when_its_image_is_wanted() -> None:
    def one_then_a_mistake() -> Iterator[object]:
        yield ARRAY
        yield 7

    images, _ = open_source(one_then_a_mistake())
    assert next(images).image is ARRAY
    with pytest.raises(UserError, match="gave a int"):
        next(images)


def test_home_is_filled_in(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(place))
    assert names("~/b") == [str(place / "b/10.PNG"), str(place / "b/2.png")]


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("missing", "missing: no such file or folder"),
        ("b/*.jpg", "no image fits it as a pattern"),
        ("", "an empty name given"),
        ("empty", "empty: holds no image (.png"),
        ([], "an empty list given"),
        (["z.bmp", "missing"], "missing: no such file or folder"),
        (["z.bmp", 7], "holds a int"),
        (7, "int given"),
        (None, "NoneType given"),
        ("a" * 5000, "no such file or folder"),
        ("a\0b", "no such file or folder"),
    ],
)
def test_what_leads_to_no_image(place: Path, source: object, what: str) -> None:
    (place / "empty").mkdir()
    with pytest.raises(UserError) as refused:
        open_source(source)
    assert what in str(refused.value)
    assert len(str(refused.value).splitlines()) == 1


def test_a_folder_that_cannot_be_read_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from anomaly_bench.inference import sources

    scandir = sources.os.scandir

    def forbidden(path: str) -> object:
        if Path(path).name == "x.png":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(sources.os, "scandir", forbidden)
    with pytest.raises(UserError, match=r"a/x\.png: cannot be read: Permission denied"):
        images_below(Path("a"))
