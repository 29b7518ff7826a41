from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomaly_bench.errors import UserError
from anomaly_bench.runs import heatmaps as figures
from anomaly_bench.runs.heatmaps import colour_range, write_heatmaps
from anomaly_bench.runs.mistakes import find_mistakes, worst_first
from anomaly_bench.runs.png import write_png
from anomaly_bench.runs.sheet import CYAN, GAP, HATCHED, HEADER, IMAGE, OUTLINED, OWN, SHARED, Sheet, colours, outlined
from anomaly_bench.runs.stored_run import ScoreRow

SIDE = 200  # between the sizes that are enlarged and shrunk: one pixel of a map is one pixel of the picture
ROWS = [
    ScoreRow("test/good/000.png", "good", 0, 1.0),
    ScoreRow("test/good/001.png", "good", 0, 5.0),
    ScoreRow("test/cut/000.png", "cut", 1, 4.0),
    ScoreRow("test/cut/001.png", "cut", 1, 0.5),
    ScoreRow("test/big hole/ü.png", "big hole", 1, 9.0),
]


def load(i: int) -> tuple[np.ndarray, np.ndarray]:
    image = np.full((SIDE, SIDE, 3), 40 * i, np.uint8)
    mask = np.zeros((SIDE, SIDE), bool)
    mask[50:60, 70:90] = ROWS[i].label == 1
    return image, mask


def make_maps() -> np.ndarray:
    """Background 0.1; a square of the image's own score, and one of value 2 that all share."""
    maps = np.full((len(ROWS), SIDE, SIDE), 0.1, np.float32)
    for i, row in enumerate(ROWS):
        maps[i, 10:20, 10:20] = row.score
        maps[i, 100:110, 100:110] = 2.0
    return maps


def panel(picture: np.ndarray, k: int) -> np.ndarray:
    left = GAP + k * (SIDE + GAP)
    return picture[HEADER : HEADER + SIDE, left : left + SIDE]


def read(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


def test_the_worst_mistakes_come_first(tmp_path: Path) -> None:
    write_heatmaps(tmp_path, ROWS, make_maps(), load)
    names = sorted(path.name for path in (tmp_path / "heatmaps").iterdir())
    # of the other class: cut/001 meets 2 of 2 wrongly, good/001 2 of 3, cut/000 1 of 2, good/000 1 of 3, big_hole none
    assert names == [
        "0001_cut_001.png",
        "0002_good_001.png",
        "0003_cut_000.png",
        "0004_good_000.png",
        "0005_big_hole_.png",
    ]


def test_of_very_many_images_the_worst_mistakes_of_either_class_are_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(figures, "MOST", 1)
    for name, value in {"handlers": [], "propagate": True}.items():  # what an earlier run set
        monkeypatch.setattr(logging.getLogger("anomaly_bench"), name, value)
    with caplog.at_level(logging.INFO, "anomaly_bench"):
        write_heatmaps(tmp_path, ROWS, make_maps(), load)
    assert sorted(path.name for path in (tmp_path / "heatmaps").iterdir()) == ["0001_cut_001.png", "0002_good_001.png"]
    assert caplog.messages == ["heatmaps: 2 of 5 test images, at most the 1 worst mistakes of either class"]


def test_mistakes_are_counted_against_the_other_class() -> None:
    found = find_mistakes(ROWS)
    assert [(m.wrong, m.others, m.rank) for m in found] == [(1, 3, 4), (2, 3, 2), (1, 2, 3), (2, 2, 5), (0, 2, 1)]
    assert found[3].among == "2 of 2 normal images score as high"
    assert found[1].among == "2 of 3 anomalous images score as low"
    assert found[4].among == "above all 2 normal images"


ENTRY = {"threshold": 4.5, "rate": 0.05, "promised": 0.04}


@pytest.mark.parametrize(("i", "side", "wrong"), [(0, "below", False), (1, "above", True), (3, "below", True)])
def test_a_caption_says_rank_and_promise(i: int, side: str, wrong: bool) -> None:
    mistake = find_mistakes(ROWS)[i]
    caption = mistake.caption(ENTRY)
    assert f"ranked {mistake.rank} of 5" in caption.lines[1]
    assert caption.lines[2] == f"{side} the threshold that promises 5 % false alarms at most"
    assert caption.wrong == wrong
    assert mistake.caption(None).lines[2] == "no threshold was set"
    assert not mistake.caption(None).wrong


def test_equal_scores_are_mistakes_of_both() -> None:
    found = find_mistakes([ScoreRow("a", "good", 0, 1.0), ScoreRow("b", "cut", 1, 1.0)])
    assert [m.share for m in found] == [1.0, 1.0]
    assert worst_first(found) == [1, 0]  # a missed defect before a false alarm


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_sorted_by_score_alone(tmp_path: Path, label: int) -> None:
    rows = [ScoreRow(f"test/{i}.png", "good", label, score) for i, score in enumerate([0.3, 0.9, 0.1])]
    write_heatmaps(tmp_path, rows, make_maps()[:3], load)
    stems = [path.stem[-1] for path in sorted((tmp_path / "heatmaps").iterdir())]
    assert stems == (["2", "0", "1"] if label else ["1", "0", "2"])
    assert "to compare with" in find_mistakes(rows)[0].among


def test_the_same_value_has_the_same_colour_in_all_pictures(tmp_path: Path) -> None:
    maps = make_maps()
    write_heatmaps(tmp_path, ROWS, maps, load)
    pictures = [read(path) for path in sorted((tmp_path / "heatmaps").iterdir())]
    shared = {tuple(panel(picture, 3)[105, 105]) for picture in pictures}
    low, high = colour_range(maps, np.array([row.label for row in ROWS]))
    assert shared == {tuple(colours(np.array(2.0), low, high))}
    assert low < 2.0 < high
    calm, glowing = panel(pictures[3], 3)[15, 15], panel(pictures[4], 3)[15, 15]  # scores 1 and 9
    assert int(calm.sum()) < int(glowing.sum())


def test_panels_hold_the_image_the_outline_and_the_map(tmp_path: Path) -> None:
    write_heatmaps(tmp_path, ROWS, make_maps(), load)
    picture = read(tmp_path / "heatmaps" / "0003_cut_000.png")
    image, mask = load(2)
    assert np.array_equal(panel(picture, 0), image)
    cyan = (panel(picture, 1) == CYAN).all(-1)
    ring = np.zeros_like(mask)
    ring[49:61, 69:91] = True  # one pixel around the mask's 50:60, 70:90
    assert np.array_equal(cyan, ring & ~mask)
    normal = read(tmp_path / "heatmaps" / "0004_good_000.png")
    assert np.array_equal(panel(normal, 1), panel(normal, 0))


@pytest.mark.parametrize("ground", [0, 255])
def test_the_outline_shows_on_any_ground_and_leaves_the_defect_bare(ground: int) -> None:
    image, mask = np.full((9, 9, 3), ground, np.uint8), np.zeros((9, 9), bool)
    mask[4, 4] = True
    drawn = outlined(image, mask)
    contrast = np.abs(drawn.astype(int) - ground).max(-1)
    assert contrast[3, 3] == 255 or contrast[2, 2] == 255  # the cyan line or the black one around it
    assert (drawn[4, 4] == ground).all()
    assert (image == ground).all()  # the caller's array is not drawn on


def test_colours_rise_evenly_in_lightness() -> None:
    ramp = colours(np.linspace(0, 1, 256), 0, 1) / 255
    linear = np.where(ramp <= 0.04045, ramp / 12.92, ((ramp + 0.055) / 1.055) ** 2.4)
    y = linear @ [0.2126, 0.7152, 0.0722]
    lightness = np.where(y > 0.008856, 116 * np.cbrt(y) - 16, 903.3 * y)  # CIE L*
    assert (np.diff(lightness) > -0.2).all()
    assert np.abs(lightness - np.linspace(lightness[0], lightness[-1], 256)).max() < 6


def test_values_outside_the_range_keep_the_end_colours() -> None:
    ends = colours(np.array([-5.0, 0.0, 1.0, 7.0]), 0, 1)
    assert (ends[0] == ends[1]).all()
    assert (ends[2] == ends[3]).all()


def test_constant_maps_are_dark(tmp_path: Path) -> None:
    write_heatmaps(tmp_path, ROWS, np.ones((len(ROWS), SIDE, SIDE), np.float32), load)
    assert panel(read(tmp_path / "heatmaps" / "0001_cut_001.png"), 3).max() < 10


@pytest.mark.parametrize(("side", "shown"), [(32, 192), (28, 196), (200, 200), (1024, 512), (1025, 342)])
def test_small_maps_are_enlarged_and_large_ones_keep_a_single_hot_pixel(tmp_path: Path, side: int, shown: int) -> None:
    maps = np.zeros((2, side, side), np.float32)
    maps[1, 3, 5] = 1.0
    rows = [ScoreRow("a.png", "good", 0, 0.0), ScoreRow("b.png", "cut", 1, 1.0)]
    image, mask = np.zeros((side, side, 3), np.uint8), maps[1] > 0
    write_heatmaps(tmp_path, rows, maps, lambda i: (image, mask))
    picture = read(tmp_path / "heatmaps" / "0001_cut_b.png")
    left = GAP + 3 * (shown + GAP)
    heat = picture[HEADER : HEADER + shown, left : left + shown]
    assert heat.shape == (shown, shown, 3)
    zoom = max(1, shown // side)
    assert (heat == colours(np.array(1.0), 0, 1)).all(-1).sum() == zoom**2


def test_a_method_without_maps_gets_no_pictures(tmp_path: Path) -> None:
    write_heatmaps(tmp_path, ROWS, None, load)
    assert list(tmp_path.iterdir()) == []


def test_an_older_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    write_heatmaps(tmp_path, ROWS, make_maps(), load)
    write_heatmaps(tmp_path, ROWS[:2], make_maps()[:2], load)
    assert [path.name for path in tmp_path.iterdir()] == ["heatmaps"]
    assert len(list((tmp_path / "heatmaps").iterdir())) == 2


def test_a_failure_keeps_the_older_folder_and_leaves_no_litter(tmp_path: Path) -> None:
    write_heatmaps(tmp_path, ROWS, make_maps(), load)
    asked: list[int] = []

    def unreadable(i: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append(i)
        if len(asked) == 3:
            raise UserError("003.png", "is truncated")
        return load(i)

    with pytest.raises(UserError, match="truncated"):
        write_heatmaps(tmp_path, ROWS, make_maps(), unreadable)
    assert [path.name for path in tmp_path.iterdir()] == ["heatmaps"]
    assert len(list((tmp_path / "heatmaps").iterdir())) == len(ROWS)


def test_a_place_that_cannot_be_written_is_a_user_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_heatmaps(tmp_path / "file", ROWS, make_maps(), load)


def test_images_are_asked_for_one_at_a_time_and_maps_may_stay_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "maps.npy", make_maps())
    asked: list[int] = []

    def counted(i: int) -> tuple[np.ndarray, np.ndarray]:
        asked.append(i)
        return load(i)

    write_heatmaps(tmp_path, ROWS, np.load(tmp_path / "maps.npy", mmap_mode="r"), counted)
    assert sorted(asked) == list(range(len(ROWS)))


def test_the_panels_are_cut_by_name_also_of_earlier_pictures(tmp_path: Path) -> None:
    write_heatmaps(tmp_path, ROWS, make_maps(), load)
    with Image.open(tmp_path / "heatmaps" / "0003_cut_000.png") as picture:
        panels = Sheet.panels(picture.convert("RGB"))
    assert [*panels] == [IMAGE, OUTLINED, OWN, SHARED]
    assert np.array_equal(panels[IMAGE], load(2)[0])
    former = Image.new("RGB", (3 * (SIDE + GAP) + GAP + figures_bar(), HEADER + SIDE + 60))
    assert {name: panel.size for name, panel in Sheet.panels(former).items()} == dict.fromkeys(
        (IMAGE, OUTLINED, SHARED), (SIDE, SIDE)
    )


def figures_bar() -> int:
    sheet = Sheet(SIDE, SIDE, 0.0, 1.0)
    return sheet.empty.width - 4 * (SIDE + GAP) - GAP


def test_without_masks_nothing_is_outlined(tmp_path: Path) -> None:
    write_heatmaps(tmp_path, ROWS, make_maps(), load, masks=False)
    with Image.open(tmp_path / "heatmaps" / "0003_cut_000.png") as picture:
        assert [*Sheet.panels(picture)] == [IMAGE, OWN, SHARED]
    write_heatmaps(tmp_path, ROWS, make_maps(), load, [np.eye(SIDE, dtype=bool)] * len(ROWS), masks=False)
    with Image.open(tmp_path / "heatmaps" / "0003_cut_000.png") as picture:
        assert [*Sheet.panels(picture)] == [IMAGE, HATCHED, OWN, SHARED]


def test_a_map_in_its_own_scale_is_never_just_dark(tmp_path: Path) -> None:
    maps = make_maps()
    maps[0] /= 100  # far below the others
    write_heatmaps(tmp_path, ROWS, maps, load)
    picture = read(tmp_path / "heatmaps" / "0004_good_000.png")
    shared, own = panel(picture, 3), panel(picture, 2)
    assert shared.max() < 10
    low, high = maps[0].min(), maps[0].max()
    assert np.array_equal(own, colours(maps[0], float(low), float(high)))
    assert own.max() > 200


@pytest.mark.parametrize("label", [0, 1])
def test_ignored_pixels_do_not_count_for_the_colours(label: int) -> None:
    maps, labels = make_maps(), np.array([row.label for row in ROWS])
    ignored = np.zeros(maps.shape, bool)
    ignored[labels == label, :60] = True  # not where all have the value 2
    raised = maps.copy()
    raised[ignored] = 1e6
    kept = [maps[i][~ignored[i]] for i in range(len(maps))]
    low = np.quantile(np.concatenate([kept[i].ravel() for i in range(len(maps)) if not labels[i]]), 0.95)
    high = np.median([kept[i].max() for i in range(len(maps)) if labels[i]])
    assert colour_range(raised, labels, ignored) == pytest.approx((low, high), abs=0.01)
    assert colour_range(raised, labels)[label] > 1e5
    assert colour_range(raised, labels, np.ones_like(ignored)) == (0.0, 1.0)


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (64, 48)])
def test_a_written_picture_is_the_one_that_was_drawn(tmp_path: Path, size: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    drawn = Image.fromarray(pixels)
    drawn.info["panels"] = "image|map, its own scale"
    write_png(tmp_path / "a.png", drawn)
    with Image.open(tmp_path / "a.png") as image:
        image.verify()
    with Image.open(tmp_path / "a.png") as image:
        assert image.mode == "RGB"
        assert image.info == drawn.info
        assert np.array_equal(np.asarray(image), pixels)
