"""What a model says of new images: the scores of its own run, in bounded memory, whatever comes."""

from __future__ import annotations

import math
import os
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from PIL import Image

from anomaly_bench.errors import UserError
from anomaly_bench.inference.load import load
from anomaly_bench.inference.predict import Model, Result
from anomaly_bench.runs.calibration import read_rows
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.stored_run import CALIBRATION
from tests.inference.small_models import METHODS, images_of, predicted, write_odd_images
from tests.references.bilinear import bilinear
from tests.small_runs import save

VARIANTS = ("weights_dtype=float16", "hardware.memory_format=channels_last")
SLOW = pytest.mark.slow


def require_equal_scores(folder: RunFolder) -> None:
    """Bit for bit in the run's batches; in others up to float32's rounding."""
    model, images, stored = load(folder.path, "cpu"), images_of(folder), [row.score for row in folder.scores]
    together, one_by_one = predicted(model, images), predicted(model, images, 1)
    assert [result.score for result in together] == stored
    assert folder.maps is not None
    assert np.array_equal(np.stack([result.map for result in together]), folder.maps)  # type: ignore[arg-type]
    assert [result.path for result in one_by_one] == list(map(str, images))
    close = 1e-6 * max(map(abs, stored))  # scores may lie on both sides of 0
    np.testing.assert_allclose([result.score for result in one_by_one], stored, rtol=1e-6, atol=close)
    close = 1e-6 * float(np.abs(folder.maps).max())
    np.testing.assert_allclose(np.stack([r.map for r in one_by_one]), folder.maps, rtol=0, atol=close)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
def test_a_finished_run_gives_its_own_scores_again(method: str, finished: Callable[..., RunFolder]) -> None:
    require_equal_scores(finished(method))


@pytest.mark.parametrize(
    "method", ["rd", *(pytest.param(name, marks=SLOW) for name in ("us", "csflow", "glf", "padim", "patchcore"))]
)
def test_also_with_weights_in_float16_and_channels_last(method: str, finished: Callable[..., RunFolder]) -> None:
    folder = finished(method, *VARIANTS)
    assert folder.manifest["hardware"]["memory_format"] == "channels_last"
    require_equal_scores(folder)


def test_also_with_networks_in_bfloat16(finished: Callable[..., RunFolder]) -> None:
    exact, folder = finished("rd"), finished("rd", "hardware.scoring_precision=bf16-mixed")
    model, stored = load(folder.path, "cpu"), [row.score for row in folder.scores]
    assert [result.score for result in predicted(model, images_of(folder))] == stored
    assert stored != [row.score for row in exact.scores]
    assert stored == pytest.approx([row.score for row in exact.scores], rel=0.1)
    assert "networks computed in lower precision: scoring in bf16-mixed" in folder.manifest["protocol"]
    assert not any("lower precision" in line for line in exact.manifest["protocol"])


def test_p_value_and_label_follow_from_the_calibration_scores(toy: Model, toy_run: RunFolder) -> None:
    held_out = [row.score for row in read_rows(toy_run, CALIBRATION)]
    threshold = toy_run.manifest["thresholds"]["image"]["threshold"]
    results = predicted(toy, images_of(toy_run))
    for result in results:
        assert result.p_value == (1 + sum(s >= result.score for s in held_out)) / (len(held_out) + 1)
        assert result.label == int(result.score > threshold)
        assert result.threshold == threshold == max(held_out)
        assert result.pixel_threshold == toy_run.manifest["thresholds"]["pixel"]["threshold"]
        assert result.ms > 0
        assert (result.width, result.height, result.error) == (32, 32, "")
    assert {result.label for result in results} == {0, 1}
    place = Path(toy_run.manifest["place"])
    own = predicted(toy, [place / row.path for row in read_rows(toy_run, CALIBRATION)])
    assert [result.score for result in own] == held_out
    assert [result.label for result in own] == [0] * 6  # as high as the threshold is not above it
    assert min(result.p_value for result in own if result.p_value) == 2 / 7
    assert "anomalous" in repr(max(results, key=lambda r: r.score))


def test_without_calibration_there_is_a_score_and_no_verdict(toy: Model) -> None:
    bare = Model(toy.folder, toy.manifest, toy.method, {}, None)
    (result,) = bare.predict(np.zeros((9, 9), np.uint8))
    assert math.isfinite(result.score)
    assert (result.p_value, result.label, result.threshold) == (None, None, None)
    assert "no threshold" in repr(bare)
    assert "needs 59 normal images, you have 6" in repr(toy)


def test_the_map_at_the_size_of_the_image(toy: Model) -> None:
    small = np.random.default_rng(2).normal(size=(16, 16)).astype(np.float32)
    (known,) = toy.predict(np.zeros((5, 7), np.uint8))
    for height, width in ((37, 53), (1, 1), (16, 16), (3, 2), (1, 40)):
        result = replace(known, map=small, height=height, width=width)
        found = result.map_at_source()
        assert (found.dtype, found.shape) == (np.float32, (height, width))
        np.testing.assert_allclose(found, bilinear(small, height, width), rtol=1e-4, atol=1e-5)
    with pytest.raises(UserError, match="gives no map"):
        replace(known, map=None).map_at_source()


def test_a_result_shows_itself_as_a_picture(toy: Model, tmp_path: Path) -> None:
    (result,) = toy.predict(np.full((9, 9), 200, np.uint8))
    shown = result._repr_png_()
    assert shown is not None
    (tmp_path / "shown.png").write_bytes(shown)
    picture = np.asarray(Image.open(tmp_path / "shown.png"))
    assert picture.shape == (16, 16 + 8 + 16, 3)
    assert result.map is not None
    outlined = replace(result, pixel_threshold=float(np.median(result.map)))._repr_png_()
    assert outlined != shown
    assert replace(result, map=None)._repr_png_() is not None
    assert replace(result, image=None)._repr_png_() is None


def test_odd_images_are_scored_or_named_and_the_others_keep_their_order(toy: Model, tmp_path: Path) -> None:
    sizes = write_odd_images(tmp_path / "odd")
    os.mkfifo(tmp_path / "odd/pipe.png")  # nobody writes into it
    (tmp_path / "odd/link.png").symlink_to(tmp_path / "nowhere")
    (tmp_path / "odd/folder.png").mkdir()
    save(tmp_path / "odd/folder.png/inside.png", np.zeros((4, 6, 3), np.uint8))
    odd = {**sizes, "pipe.png": None, "link.png": None, "folder.png/inside.png": (6, 4)}
    results = predicted(toy, tmp_path / "odd", 3)
    assert [Path(r.path).relative_to(tmp_path / "odd").as_posix() for r in results] == sorted(
        odd, key=lambda name: Path(name).parts
    )
    for result in results:
        size = odd[Path(result.path).relative_to(tmp_path / "odd").as_posix()]
        if size is None:
            assert math.isnan(result.score)
            assert (result.map, result.p_value, result.label) == (None, None, None)
            assert len(result.error.splitlines()) == 1
            assert result._repr_png_() is None
            with pytest.raises(UserError):
                result.map_at_source()
        else:
            assert (result.width, result.height, result.error) == (*size, "")
            (alone,) = toy.predict(result.path)
            assert alone.score == result.score
            assert result.map_at_source().shape == size[::-1]
    errors = {Path(r.path).name: r.error for r in results if r.error}
    assert "holds 2 images" in errors["pages.tiff"]
    assert "cannot identify" in errors["text.png"]
    assert (errors["pipe.png"], errors["link.png"]) == ("is no file", "no such file")


def test_names_that_are_not_utf_8(toy: Model, tmp_path: Path) -> None:
    name = os.fsdecode(bytes(tmp_path) + b"/gr\xfcn.png")
    save(tmp_path / "image.png", np.zeros((8, 8, 3), np.uint8))
    try:
        (tmp_path / "image.png").rename(name)
    except OSError:
        pytest.skip("this file system has names in UTF-8 only")
    (result,) = toy.predict(tmp_path)
    assert result.path == name
    assert math.isfinite(result.score)
    assert repr(result).encode()


def test_arrays_of_another_kind_are_errors(toy: Model) -> None:
    good = np.zeros((6, 5, 3), np.uint8)
    bad = [good.astype(np.float32), good[None], good[:, :, :2], good[:0], np.zeros((), np.uint8)]
    results = predicted(toy, [good, *bad, good[..., 0]])
    assert [bool(result.error) for result in results] == [False, *[True] * len(bad), False]
    assert results[0].score == results[-1].score
    assert results[1].error == "image array is float32 [6, 5, 3]; uint8 or uint16 [H, W] or [H, W, 3] is read"
    assert [result.path for result in results] == [f"array {i}" for i in range(len(results))]


def test_an_iterator_is_never_read_ahead(toy: Model) -> None:
    given = 0

    def camera() -> Iterator[np.ndarray]:
        nonlocal given
        while True:
            given += 1
            yield np.full((8, 8), given % 256, np.uint8)

    results = toy.predict(camera(), 1)
    for count in range(1, 6):
        next(results)
        assert given == count
    results = toy.predict(camera(), 3)
    given = 0
    for count in range(1, 8):
        next(results)
        assert given == -(-count // 3) * 3


def test_a_stream_is_not_kept_in_memory(toy: Model) -> None:
    alive: set[int] = set()
    most = 0

    def stream() -> Iterator[np.ndarray]:
        nonlocal most
        for i in range(60):
            image = np.full((32, 32, 3), i, np.uint8)
            alive.add(i)
            weakref.finalize(image, alive.discard, i)
            most = max(most, len(alive))
            yield image
            del image

    maps: set[int] = set()
    for i, result in enumerate(toy.predict(stream(), 5)):
        assert result.map is not None
        maps.add(i)
        weakref.finalize(result, maps.discard, i)
        assert len(maps) <= 10
    assert most <= 10


def test_a_score_that_is_not_finite_is_an_error(toy: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    score = toy.method.score

    def broken(images: torch.Tensor) -> object:
        found = score(images)
        found.image[1] = math.inf
        assert found.map is not None
        found.map[2, 0, 0] = math.nan
        return found

    monkeypatch.setattr(toy.method, "score", broken)
    results = predicted(toy, [np.zeros((8, 8), np.uint8)] * 4)
    assert [result.error for result in results] == ["", *["its score is not finite as float32"] * 2, ""]


def test_an_image_unlike_the_training_images_is_scored_and_marked(toy: Model) -> None:
    dark, like = np.zeros((32, 90, 3), np.uint8), np.random.default_rng(5).integers(90, 130, (32, 32, 3), np.uint8)
    marked, plain = predicted(toy, [dark, like])
    assert math.isfinite(marked.score)
    assert marked.unlike.startswith("aspect ratio 2.81, trained on 1-1; mean grey 0, trained on 1")
    assert marked.unlike in repr(marked)
    assert plain.unlike == ""


def test_pytorch_is_left_as_it_was(toy: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    score, inside = toy.method.score, []

    def state() -> tuple[int, bool, bool]:
        return torch.get_num_threads(), torch.are_deterministic_algorithms_enabled(), torch.is_inference_mode_enabled()

    def watched(images: torch.Tensor) -> object:
        inside.append(state())
        return score(images)

    before, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    monkeypatch.setattr(toy.method, "score", watched)
    torch.use_deterministic_algorithms(False)
    try:
        for result in toy.predict([np.zeros((8, 8), np.uint8)] * 9, 2, threads=before + 1):
            assert state() == (before, False, False), result
    finally:
        torch.use_deterministic_algorithms(deterministic, warn_only=True)
    assert inside == [(before + 1, True, True)] * 5


@pytest.mark.parametrize(("batch_size", "threads"), [(0, None), (2.5, None), (True, None), (None, 0), (None, "2")])
def test_counts_that_are_none(toy: Model, batch_size: int, threads: int) -> None:
    with pytest.raises(UserError, match="allowed: an integer from 1"):
        toy.predict(np.zeros((8, 8), np.uint8), batch_size, threads)


def test_a_mistake_in_the_source_is_told_at_once(toy: Model, tmp_path: Path) -> None:
    for source in (tmp_path, "", [], tmp_path / "x*.png", 7):
        with pytest.raises(UserError):
            toy.predict(source)


def test_results_are_constant(toy: Model) -> None:
    (result,) = toy.predict(np.zeros((8, 8), np.uint8))
    with pytest.raises(AttributeError):
        result.score = 1.0  # type: ignore[misc]
    assert isinstance(result, Result)
    assert MappingProxyType(vars(result))["path"] == "array 0"
