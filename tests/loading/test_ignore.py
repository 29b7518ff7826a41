"""What is ignored in images: read from masks and from one file for all images, brought to the method's size, stored."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_bench.contracts import Record
from anomaly_bench.errors import UserError
from anomaly_bench.files import sha256
from anomaly_bench.loading.decode import read_marks, read_mask
from anomaly_bench.loading.frame import FILL, Frame
from anomaly_bench.loading.ignore import Ignore
from anomaly_bench.loading.image_cache import VERSION, cached_rows
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.loading.image_list import list_images
from anomaly_bench.loading.resize import RESIZE_RULE, resize_image, resize_marks, resize_mask
from tests.small_images import grey, save, square

MARKS = np.array([[0, 1, 128], [255, 128, 0]], np.uint8)
READ = [[0, 1, 2], [1, 2, 0]]


@pytest.mark.parametrize("kind", ["grey", "colour", "grey with alpha", "array", "16 bits"])
def test_a_value_of_a_mask(kind: str, tmp_path: Path) -> None:
    arrays = {"grey": MARKS, "colour": np.dstack([MARKS] * 3), "16 bits": MARKS.astype(np.uint16)}
    arrays["grey with alpha"] = np.dstack([MARKS, MARKS])
    source = MARKS if kind == "array" else save(tmp_path / "mask.png", arrays[kind])
    assert read_marks(source, (2, 3), (), 128).tolist() == READ
    assert read_marks(source, (2, 3)).tolist() == (MARKS > 0).tolist() == read_mask(source, (2, 3)).tolist()
    assert read_mask(source, (2, 3)).dtype == bool


def test_a_colour_with_one_channel_of_the_value_is_anomalous(tmp_path: Path) -> None:
    colour = np.dstack([MARKS, MARKS, np.where(MARKS, 7, 0).astype(np.uint8)])
    file = save(tmp_path / "mask.png", colour)
    assert read_marks(file, (2, 3), (), 128).tolist() == (MARKS > 0).tolist()


def test_of_several_files_any_may_say_so(tmp_path: Path) -> None:
    files = tuple(save(tmp_path / f"{i}.png", mask) for i, mask in enumerate((MARKS, MARKS[::-1].copy())))
    assert read_marks(files, (2, 3), (), 128).tolist() == [[1, 2, 2], [1, 2, 2]]


def test_a_value_of_floating_point_numbers(tmp_path: Path) -> None:
    file = tmp_path / "mask.tif"
    Image.fromarray(MARKS.astype(np.float32)).save(file)
    assert read_mask(file, (2, 3)).tolist() == (MARKS > 0).tolist()
    with pytest.raises(UserError, match=r"mask.tif: the mask holds floating-point numbers; 128 is ignored in integers"):
        read_marks(file, (2, 3), (), 128)


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (8, 6), (16, 20)])
def test_a_pixel_is_ignored_as_soon_as_an_ignored_one_falls_into_it(size: tuple[int, int]) -> None:
    draw = np.random.default_rng(0)
    for y, x in draw.integers(0, (8, 12), (20, 2)):
        marks = (draw.random((8, 12)) < 0.5).astype(np.uint8)
        marks[y, x] = 2
        found = resize_marks(marks, size)
        assert found.shape == size
        centre = [int((at + 0.5) * new / old) for at, new, old in zip((y, x), size, marks.shape, strict=True)]
        assert found[tuple(centre)] == 2
        plain = resize_marks(np.where(marks == 2, 0, marks), size)
        assert np.array_equal(found[found != 2], plain[found != 2])  # the others are as without it, never anomalous
        assert np.array_equal(plain, resize_mask(marks == 1, size))


def test_an_ignored_block_is_exactly_itself_at_half_the_size() -> None:
    marks = np.zeros((8, 8), np.uint8)
    marks[2:6, 4:8] = 2
    assert np.array_equal(resize_marks(marks, 4) == 2, (marks == 2)[::2, ::2])


def region_file(folder: Path, side: int = 8) -> Path:
    mask = grey(0, side)
    mask[:2] = 255
    return save(folder / "region.png", mask)


def test_the_region_is_filled_before_resizing(tmp_path: Path) -> None:
    frame = Frame((4, 4), ignore=Ignore.of(None, region_file(tmp_path)))
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    before, by_hand = image.copy(), image.copy()
    by_hand[:2] = FILL
    assert np.array_equal(frame.image(image), resize_image(by_hand, 4))
    assert np.array_equal(image, before)
    assert frame.ignored_region is not None
    assert frame.ignored_region.tolist() == [[True] * 4] + [[False] * 4] * 3
    assert frame.marks(square() // 255).tolist() == [[2] * 4, [0, 1, 1, 0], [0, 1, 1, 0], [0] * 4]
    padded = Frame((4, 8), "pad", ignore=frame.ignore)
    assert padded.image(image)[:, 2:6].tolist() == resize_image(by_hand, 4).tolist()


@pytest.mark.parametrize(
    ("array", "what"),
    [
        (grey(0), "marks no pixel"),
        (grey(9), "marks every pixel"),
        (np.full((8, 8), np.nan, np.float32), "not finite"),
        (None, "cannot be read as an image"),
    ],
)
def test_regions_that_are_none(array: np.ndarray | None, what: str, tmp_path: Path) -> None:
    file = tmp_path / "region.tif"
    if array is not None:
        save(file, array)
    with pytest.raises(UserError, match=what) as error:
        Ignore.of(None, file)
    assert "region.tif" in str(error.value)


def test_a_region_that_leaves_nothing_of_the_frame(tmp_path: Path) -> None:
    mask = grey(255)
    mask[0, 0] = 0
    frame = Frame((2, 2), ignore=Ignore.of(None, save(tmp_path / "region.png", mask)))
    with pytest.raises(UserError, match=r"dataset.ignore_mask: .*region.png leaves no pixel at 2 x 2 pixels"):
        _ = frame.ignored_region


def records(folder: Path) -> list[Record]:
    """A normal image, one with a square and one in whose mask a column is ignored."""
    marks = square()
    marks[:, 3] = 128
    masks = [None, save(folder / "1_mask.png", square()), save(folder / "2_mask.png", marks)]
    images = [save(folder / f"{i}.png", grey(100 + i)) for i in range(3)]
    return [
        Record(f"{i}.png", "bad" if mask else "good", image, mask)
        for i, (image, mask) in enumerate(zip(images, masks, strict=True))
    ]


def test_images_with_both(tmp_path: Path) -> None:
    frame = Frame((8, 8), ignore=Ignore.of(128, region_file(tmp_path)))
    images = ImageSet(records(tmp_path), frame, tmp_path / "cache")
    assert images.masks is not None
    assert images.ignored is not None
    region, column = np.zeros((8, 8), bool), np.zeros((8, 8), bool)
    region[:2], column[:, 3] = True, True
    assert [each.tolist() for each in images.ignored] == [each.tolist() for each in (region, region, region | column)]
    expected = [np.zeros((8, 8), bool), square() > 0, (square() > 0) & ~column]
    assert [each.tolist() for each in images.masks] == [each.tolist() for each in expected]
    assert all(images[i]["mask"].numpy().tolist() == each.tolist() for i, each in enumerate(expected))
    assert images.picture(0)[1, 1].tolist() == [*FILL]
    assert images.picture(0)[2, 1].tolist() == [100] * 3


def test_images_without_masks_share_the_region(tmp_path: Path) -> None:
    normal = records(tmp_path)[:1]
    frame = Frame((8, 8), ignore=Ignore.of(128, region_file(tmp_path)))
    images = ImageSet(normal, frame, tmp_path / "cache")
    assert images.masks is None
    assert images.ignored is not None
    assert [each.sum() for each in images.ignored] == [16]
    assert ImageSet(normal, Frame((8, 8), ignore=Ignore(128)), tmp_path / "cache").ignored is None


def test_stored_rows_are_those_of_earlier_versions_where_nothing_is_ignored(tmp_path: Path) -> None:
    every, cache = records(tmp_path), tmp_path / "cache"

    def key(some: list[Record], ignore: Ignore | None) -> str:
        return cached_rows(some, Frame((8, 8), ignore=ignore), cache).header.key

    digests = [(entry.image, entry.mask) for entry in list_images([], every)]
    assert key(every, None) == sha256(json.dumps([VERSION, RESIZE_RULE, 8, digests]))
    both = [Ignore.of(None, region_file(tmp_path)), Ignore(128), Ignore(255)]
    assert len({key(every, ignore) for ignore in (None, *both)}) == 4
    assert key(every[:1], Ignore(128)) == key(every[:1], None) != key(every[:1], both[0])
    again = Ignore.of(None, region_file(tmp_path / "elsewhere"))
    assert again == both[0]
    assert key(every, again) == key(every, both[0])


def test_another_size_names_both_files(tmp_path: Path) -> None:
    frame = Frame((8, 8), ignore=Ignore.of(None, region_file(tmp_path, side=9)))
    with pytest.raises(UserError, match=r"dataset.ignore_mask: .*region.png has 9 x 9 pixels, .*0.png 8 x 8 \(width"):
        ImageSet(records(tmp_path), frame, tmp_path / "cache")
