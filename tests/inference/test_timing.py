"""The time from a file to a decision: its accounting, its tables, and each measurement in a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anomaly_bench.commands.timing import markdown, notes, tables
from anomaly_bench.errors import UserError
from anomaly_bench.inference import timing
from anomaly_bench.inference.export import ExportRequest, write_file
from anomaly_bench.inference.load import load
from anomaly_bench.inference.predict import Model, computing
from anomaly_bench.inference.runtimes import RUNTIMES, Eager, File
from anomaly_bench.inference.timing import TIMING, TimingRequest, images_to_time, machine, time_runs
from anomaly_bench.inference.timing_sizes import CPU_LEAST, method_of_size, time_size
from anomaly_bench.inference.timing_worker import BATCHES, Batch, Line, answers, batches_of, probe, summary, time_line
from anomaly_bench.runs.fit import process_peak_mb
from anomaly_bench.runs.folder import RunFolder
from tests.inference.conftest import CONF
from tests.inference.small_models import images_of, predicted
from tests.small_runs import save

COSTS = {"decode": 3.0, "resize": 2.0, "transfer": 1.0, "network": 10.0, "map": 4.0, "label": 0.5}  # ms for an image


class FakeLine(Line):
    """A line whose steps take known times of a clock that only they move."""

    def __init__(self, hidden: float = 0.0) -> None:
        """hidden: ms for an image that pass where no step is, once in each whole."""
        self.now, self.hidden = 0.0, hidden
        self.steps = {name: lambda batch, ms=ms: self.wait(batch, ms) for name, ms in COSTS.items()}

    def wait(self, batch: Batch, ms: float) -> None:
        self.now += ms * len(batch.paths) / 1000

    def whole(self, batch: Batch, clock: Any = None) -> float:
        return super().whole(batch, clock or self.clock) + self.hidden * len(batch.paths)

    def clock(self) -> float:
        return self.now


@pytest.mark.parametrize("size", [1, 4])
def test_the_parts_are_those_that_passed_and_their_sum_is_the_whole(size: int) -> None:
    line = FakeLine()
    found = summary([time_line(line, batches_of([Path("a"), Path("b")], size), 1.0, line.clock)] * 3, size)
    assert found["parts_ms"] == pytest.approx(COSTS)
    assert found["sum_ms"] == found["whole_ms"] == pytest.approx(20.5)
    assert found["sum_off"] == pytest.approx(0)
    assert found["latency_ms"] == pytest.approx(dict.fromkeys(("p50", "p95", "p99"), 20.5 * size))
    assert found["images_per_second"] == pytest.approx(1000 / 20.5, rel=1e-5)
    assert found["images"] == 3 * size * -(-1000 // (2 * 20.5 * size))  # each batch is timed twice


def test_time_outside_the_parts_is_said() -> None:
    line = FakeLine(hidden=4.1)
    cell = summary([time_line(line, batches_of([Path("a")], 1), 0.1, line.clock)], 1)
    assert cell["sum_off"] == pytest.approx(20.5 / 24.6 - 1, abs=1e-4)
    known = {"protocol": "line", "run": "outputs/x", "method": "rd", "runtime": "eager", "device": "cpu", "threads": 1}
    assert any("sum and whole differ" in text for text in notes([{**known, "batch": 1, **cell}]))


def test_the_best_batch_is_looked_for_until_larger_ones_are_slower() -> None:
    class Growing(FakeLine):
        def wait(self, batch: Batch, ms: float) -> None:
            self.now += ms * (8 + len(batch.paths) ** 2) / 1000  # best at the root of 8

    line = Growing()
    found = list(probe(line, [Path("a")], 0.01))
    speeds = {each["batch"]: each["images_per_second"] for each in found}
    assert list(speeds) == [1, 2, 4, 8] == list(BATCHES[:4])
    assert speeds == pytest.approx({n: 1000 * n / (20.5 * (8 + n * n)) for n in (1, 2, 4, 8)}, rel=1e-4)


@pytest.fixture
def large_images(tmp_path: Path) -> Path:
    """Three images of different sizes."""
    rng = np.random.default_rng(0)
    for i, shape in enumerate([(300, 400, 3), (400, 300, 3), (350, 350)]):
        save(tmp_path / f"parts/{i}.png", rng.integers(0, 256, shape, np.uint8))
    return tmp_path / "parts"


@contextmanager
def counted_calls() -> Iterator[Callable[[], float]]:
    """Give a clock of this thread's work that no other work moves: how many functions have been called."""
    calls = 0

    def count(frame: Any, event: str, called: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        yield lambda: calls
    finally:
        sys.setprofile(before)


@pytest.mark.parametrize("runtime", ["eager", "export", "onnxruntime", "openvino"])
def test_the_line_decides_as_predict_does_and_its_parts_add_up(toy: Model, large_images: Path, runtime: str) -> None:
    if runtime in ("onnxruntime", "openvino"):
        pytest.importorskip(runtime)
    paths = sorted(large_images.iterdir())
    line = Line(toy, RUNTIMES[runtime](), maps=True)
    with computing(1), torch.inference_mode():
        line.runtime.prepare(toy)
        batch = Batch(paths)
        line.whole(batch)
        line.whole(Batch(paths[:1]))
        with counted_calls() as clock:
            found = summary([time_line(line, batches_of(paths, 1), 0, clock)], 1)
    wanted = predicted(toy, paths)
    assert batch.scores is not None
    assert batch.labels is not None
    np.testing.assert_allclose(batch.scores, [result.score for result in wanted], rtol=1e-6)
    assert batch.labels.tolist() == [bool(result.label) for result in wanted]
    for large, result in zip(batch.large, wanted, strict=True):
        np.testing.assert_allclose(large, result.map_at_source(), rtol=1e-5, atol=1e-6)
    assert found["parts_ms"].keys() == COSTS.keys()
    assert min(found["parts_ms"].values()) > 0
    assert abs(found["sum_off"]) < 0.05


@pytest.mark.usefixtures("one_process")
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_an_exported_file_is_timed_as_it_is(
    toy: Model, large_images: Path, tmp_path: Path, suffix: str, request: pytest.FixtureRequest
) -> None:
    if suffix == ".onnx":
        file = request.getfixturevalue("exported")
    else:
        file = tmp_path / "toy.pt2"
        write_file(toy, ExportRequest("torch", preprocess=False), file)
    cells = list(time_runs(small_request(file, images=large_images, batches=[2], protocols=["line", "mvtec"])))
    assert [(each["method"], each["runtime"]) for each in cells] == [("toy", f"its {suffix[1:]}")] * 4
    assert cells[0]["images"] >= 2 * 3
    assert all("size of its file only" in each["why_not"] for each in cells[1:])
    model, batch = load(file), Batch(sorted(large_images.iterdir()))
    line = Line(model, File(), maps=False)
    line.runtime.prepare(model)
    line.whole(batch)
    assert batch.scores is not None
    wanted = [result.score for result in predicted(toy, batch.paths)]
    np.testing.assert_allclose(batch.scores, wanted, rtol=1e-5)
    with pytest.raises(UserError, match="--images DIR"):
        next(time_runs(small_request(file)))


def test_a_method_of_one_size_says_why_it_takes_no_other(toy: Model) -> None:
    runtime = Eager()
    with computing(1), torch.inference_mode():
        runtime.prepare(toy)
        own = time_size(toy, runtime, (16, 16), 0.01)
        other = time_size(toy, runtime, (32, 32), 0.01)
        oblong = time_size(toy, runtime, (32, 48), 0.01)
    assert own["timed"] >= CPU_LEAST
    assert own["latency_ms"]["p50"] > 0
    assert "size mismatch" in other["why_not"]
    assert "image_size" in oblong["why_not"]


def test_a_method_of_any_size_is_timed_at_others_with_its_weights(finished: Callable[..., RunFolder]) -> None:
    model = load(finished("stfpm").path, "cpu")
    runtime = Eager()
    with computing(1), torch.inference_mode():
        runtime.prepare(model)
        found = time_size(model, runtime, (48, 80), 0.01)
    assert CPU_LEAST <= found["timed"] <= 1000
    assert found["latency_ms"]["p50"] <= found["latency_ms"]["p99"]
    other = method_of_size(model, (48, 80))
    assert other is not model.method
    assert len(other.state_dict()) > 100
    assert all(torch.equal(other.state_dict()[name], value) for name, value in model.method.state_dict().items())


def small_request(path: Path, **more: Any) -> TimingRequest:
    fixed: dict[str, Any] = {"threads": [1], "batches": [1], "seconds": 0.1, "config_dir": CONF}
    return TimingRequest([path], **{**fixed, **more})


@pytest.fixture
def one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a new process would answer is answered here."""
    monkeypatch.setattr(timing, "ask", lambda request: list(answers(request)))


@pytest.mark.usefixtures("one_process")
def test_each_cell_says_how_it_was_measured_and_the_run_keeps_them(toy_run: RunFolder) -> None:
    cells = list(time_runs(small_request(toy_run.path, batches=["best"], protocols=["line", "mvtec"])))
    line, *sizes = cells
    assert (line["method"], line["runtime"], line["threads"], line["device"]) == ("toy", "eager", 1, "cpu")
    assert line["batch"] == max(line["probed"], key=lambda size: line["probed"][size])
    assert list(line["parts_ms"]) == ["decode", "resize", "transfer", "network", "label"]
    assert [each["size"] for each in sizes] == [[256, 256], [512, 512], [1024, 1224]]
    assert all("why_not" in each for each in sizes)
    stored = json.loads((toy_run.path / TIMING).read_text())
    assert stored["machine"] == machine()
    assert [each["protocol"] for each in stored["cells"]] == ["line", "mvtec", "mvtec", "mvtec"]
    assert stored["cells"][0]["sum_ms"] == line["sum_ms"]
    assert toy_run.damage() == []
    text = markdown(cells, machine())
    assert [len(grid.cells) for _, grid in tables(cells)] == [2, 2]
    assert all(word in text for word in ("toy", machine()["cpu"], machine()["versions"]["torch"], "size mismatch"))


def test_a_process_of_its_own_has_a_memory_of_its_own(toy_run: RunFolder) -> None:
    ours = np.ones(300 * 2**17)  # 300 MiB
    (cell,) = time_runs(small_request(toy_run.path))
    assert 50 < cell["peak_memory_mb"] < process_peak_mb() - ours.nbytes / 2**21
    assert abs(cell["sum_off"]) < 1


def test_a_process_that_fails_says_so_in_its_cell(toy_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "false")
    (cell,) = time_runs(small_request(toy_run.path))
    assert "exit code 1" in cell["error"]
    assert any("not timed: the process ended" in line for line in notes([cell]))


def test_images_are_the_run_s_own_or_those_of_a_folder(toy_run: RunFolder, tmp_path: Path) -> None:
    request = small_request(toy_run.path)
    assert sorted(images_to_time(request, toy_run)) == sorted(images_of(toy_run))
    for i in range(230):
        save(tmp_path / f"many/{i:03}.png", np.zeros((2, 2), np.uint8))
    chosen = images_to_time(small_request(toy_run.path, images=tmp_path / "many"), toy_run)
    assert [path.stem for path in chosen] == [f"{i:03}" for i in range(0, 230, 3)]


def refusals(tmp_path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.png").write_text("no image")
    yield {"runtimes": ["egaer"]}, "did you mean 'eager'"
    yield {"devices": ["nix"]}, "--device"
    yield {"protocols": ["mvtek"]}, "did you mean 'mvtec'"
    yield {"images": tmp_path / "empty"}, "holds no image"
    yield {"images": tmp_path / "nix"}, "no such folder"
    yield {"images": tmp_path / "broken"}, "a.png"
    if not torch.cuda.is_available():
        yield {"devices": ["gpu"]}, "no CUDA device"


def test_what_cannot_be_timed_is_refused_before_anything_is_measured(toy_run: RunFolder, tmp_path: Path) -> None:
    for more, text in refusals(tmp_path):
        with pytest.raises(UserError, match=text):
            next(time_runs(small_request(toy_run.path, **more)))
    with pytest.raises(UserError, match="no run is here"):
        next(time_runs(small_request(tmp_path)))
