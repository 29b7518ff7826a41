"""An exported file gives what its run gives, anywhere; one that was spoilt is caught, and a line says what differs."""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from anomaly_bench.commands.main import main
from anomaly_bench.contracts import Scores
from anomaly_bench.errors import UserError
from anomaly_bench.inference import certificate as certificates
from anomaly_bench.inference.certificate import NotTheRun, certificate_file, certify, export
from anomaly_bench.inference.export import ExportRequest, replace_metadata
from anomaly_bench.inference.exported import SUFFIXES, metadata_of, open_exported
from anomaly_bench.inference.load import load
from anomaly_bench.inference.predict import Model
from anomaly_bench.inference.run_images import RunImages
from anomaly_bench.runs.folder import RunFolder
from tests.inference.conftest import CONF
from tests.small_runs import ROOT

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_the_certificate(exported: Path, model: Model, toy_run: RunFolder) -> None:
    found = json.loads(certificate_file(exported).read_text())
    assert found["run"] == toy_run.manifest["id"]
    assert found["largest_difference"]["score"] < 1e-5
    assert found["largest_difference"]["map"] < 1e-5
    assert found["test_images"] == 10
    assert "large.png" in found["other_images"]
    assert found["metrics"]["image_auroc"][0] == pytest.approx(toy_run.metrics["image_auroc"], abs=1e-6)
    assert found["metrics"]["aupro_0.3"][0] == pytest.approx(toy_run.metrics["aupro_0.3"], abs=1e-6)
    described = metadata_of(open_exported(exported), "")
    assert described["certificate"] == {key: value for key, value in found.items() if key not in ("file", "sha256")}
    assert described["run"]["id"] == found["run"]
    assert described["weights_sha256"] == toy_run.manifest["files"]["weights.safetensors"]
    assert described["images_sha256"] == toy_run.manifest["checksums"]["data"]
    assert described["threshold"] == model.thresholds["image"]["threshold"]
    assert described["promise"]
    assert described["run"]["resize_rule"] == 2


OTHERS = {
    "torch core": ExportRequest("torch", False),
    "onnx core": ExportRequest("onnx", False),
    "onnx core float16": ExportRequest("onnx", False, "float16"),
    "onnx float16": ExportRequest("onnx", True, "float16"),
}
IN_ALL = ("torch core", "onnx float16")  # what they do is done by `exported_torch` and by the other two


def test_as_a_program_of_torch(exported_torch: Path, model: Model, tests: RunImages) -> None:
    assert_the_same(model, exported_torch, tests, 1e-5)


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow if n in IN_ALL else ()) for n in OTHERS])
def test_other_formats(model: Model, tests: RunImages, tmp_path: Path, name: str) -> None:
    request = OTHERS[name]
    file = tmp_path / f"toy{SUFFIXES[request.format]}"
    found = export(model, request, file, tests)
    assert found == json.loads(certificate_file(file).read_text())
    assert_the_same(model, file, tests, 1e-2 if request.quantize == "float16" else 1e-5)


def assert_the_same(model: Model, file: Path, tests: RunImages, apart: float) -> None:
    assert json.loads(certificate_file(file).read_text())["largest_difference"]["score"] < apart
    assert sorted(path.name for path in file.parent.iterdir()) == [file.name, f"{file.name}.certificate.json"]
    (expected, *_), (result, *_) = model.predict(tests.images[0]), load(file).predict(tests.images[0])
    assert result.score == pytest.approx(expected.score, abs=apart)


def test_an_exported_file_is_a_model(exported: Path, model: Model, tests: RunImages) -> None:
    sizes = [(32, 32), (20, 40), (32, 32), (1, 1)]
    arrays = [np.random.default_rng(i).integers(0, 256, (*size, 3), np.uint8) for i, size in enumerate(sizes)]
    sources = [*tests.images, *arrays]
    for one, other in zip(model.predict(sources), load(exported).predict(sources), strict=True):
        assert other.score == pytest.approx(one.score, abs=1e-5)
        assert (other.path, other.p_value, other.label) == (one.path, one.p_value, one.label)
        assert (other.threshold, other.pixel_threshold, other.unlike) == (
            one.threshold,
            one.pixel_threshold,
            one.unlike,
        )
        assert one.map is not None
        np.testing.assert_allclose(other.map, one.map, atol=1e-5)
    assert (other.width, other.height) == (1, 1)


def test_bench_predict_takes_it(exported: Path, tests: RunImages, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(exported), str(tests.images[0]), "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["score"] == pytest.approx(float(tests.scores[0]), abs=1e-5)


# Spoilt files

Spoil = Callable[[Any], object]


def behind(name: str, *nodes: tuple[Any, ...]) -> Spoil:
    """Change an output: each of `nodes` is (operation, attributes, more inputs)."""

    def change(proto: Any) -> None:
        for node in proto.graph.node:
            for names in (node.input, node.output):
                for i, each in enumerate(names):
                    if each == name:
                        names[i] = f"{name}_right"
        for output in proto.graph.output:
            if output.name == name:
                output.type.tensor_type.ClearField("shape")
        chain(proto, proto.graph.node.append, f"{name}_right", name, nodes)

    return change


def before(*nodes: tuple[Any, ...]) -> Spoil:
    """Change the images that come in."""

    def change(proto: Any) -> None:
        for node in proto.graph.node:
            for i, each in enumerate(node.input):
                if each == "images":
                    node.input[i] = "images_wrong"
        chain(proto, lambda node: proto.graph.node.insert(0, node), "images", "images_wrong", nodes)

    return change


def chain(proto: Any, add: Callable[[Any], object], start: str, end: str, nodes: tuple[tuple[Any, ...], ...]) -> None:
    names = [start, *(f"{end}_step{i}" for i in range(len(nodes) - 1)), end]
    for (operation, attributes, *values), source, target in zip(nodes, names, names[1:], strict=False):
        more = [f"{target}_{i}" for i in range(len(values))]
        for name, value in zip(more, values, strict=True):
            proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        add(onnx.helper.make_node(operation, [source, *more], [target], **attributes))


def numbers(proto: Any, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change an initializer whose name holds `name`."""
    found = [each for each in proto.graph.initializer if name in each.name]
    assert found, [each.name for each in proto.graph.initializer]
    for each in found:
        value = onnx.numpy_helper.to_array(each)
        each.CopyFrom(onnx.numpy_helper.from_array(change(value).astype(value.dtype), each.name))


def bypass(operation: str) -> Spoil:
    """Let nodes of this operation do nothing."""

    def change(proto: Any) -> None:
        found = [node for node in proto.graph.node if node.op_type == operation]
        assert found
        for node in found:
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]

    return change


def metadata(key: str, value: object) -> Spoil:
    def change(proto: Any) -> None:
        described = json.loads(proto.metadata_props[0].value)
        proto.metadata_props[0].value = json.dumps({**described, key: value})

    return change


def without_map(proto: Any) -> None:
    (found,) = [each for each in proto.graph.output if each.name == "map"]
    proto.graph.output.remove(found)


def other_threshold_used(proto: Any) -> None:
    """The threshold that is handed in counts for nothing."""
    (value,) = [each for each in proto.graph.initializer if each.name == "threshold"]
    fixed = onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(value), "fixed")
    for node in proto.graph.node:
        for i, each in enumerate(node.input):
            if each == "threshold":
                node.input[i] = "fixed"
    proto.graph.initializer.append(fixed)


def other_weights(proto: Any) -> None:
    """The template is turned round, whatever became of its name."""
    found = [each for each in proto.graph.initializer if list(each.dims)[-3:] == [3, 16, 16]]
    assert found
    for each in found:
        value = onnx.numpy_helper.to_array(each)
        each.CopyFrom(onnx.numpy_helper.from_array(np.flip(value, -1).copy(), each.name))


F32 = np.float32
SPOILT: dict[str, tuple[Spoil, str]] = {
    "scores scaled": (behind("score", ("Mul", {}, F32(1.001))), "score of"),
    "scores shifted": (behind("score", ("Add", {}, F32(0.001))), "score of"),
    "scores negated": (behind("score", ("Neg", {})), "score of"),
    "beyond float16": (behind("score", ("Mul", {}, F32(1e6)), ("Cast", {"to": 10}), ("Cast", {"to": 1})), "score of"),
    "one score for a batch": (behind("score", ("CumSum", {}, np.int64(0))), "score of"),
    "maps transposed": (behind("map", ("Transpose", {"perm": [0, 2, 1]})), "map of"),
    "maps upside down": (behind("map", ("Gather", {"axis": 1}, np.arange(16)[::-1].copy())), "map of"),
    "maps scaled": (behind("map", ("Mul", {}, F32(1.01))), "map of"),
    "maps coarse": (behind("map", ("Cast", {"to": 16}), ("Cast", {"to": 1})), "map of"),
    "no maps": (without_map, "output map is missing"),
    "half a map": (behind("map", ("Gather", {"axis": 1}, np.arange(8))), r"output map is \[\d+, 8, 16\]"),
    "p-values of anomalies": (behind("p_value", ("Neg", {}), ("Add", {}, np.float64(1))), "p_value of"),
    "labels exchanged": (behind("label", ("Neg", {}), ("Add", {}, np.int64(1))), "label of"),
    "another threshold": (lambda p: numbers(p, "threshold", lambda v: v + 1), "label of"),
    "a fixed threshold": (other_threshold_used, "label of .* at the threshold"),
    "other calibration scores": (lambda p: numbers(p, "calibration", lambda v: v + 0.2), "p_value of"),
    "another run's weights": (other_weights, "score of"),
    "another shift": (lambda p: numbers(p, "shift", lambda v: v + 0.01), "score of"),
    "channels exchanged": (before(("Gather", {"axis": 3}, np.array([2, 1, 0]))), "score of"),
    "images mirrored": (
        before(("Slice", {}, np.array([-1]), np.array([-(2**62)]), np.array([2]), np.array([-1]))),
        "score of",
    ),
    "not rounded": (bypass("Floor"), "score of"),
    "metadata of another threshold": (metadata("threshold", 7.5), "metadata, threshold: 7.5"),
    "metadata of other weights": (metadata("weights_sha256", "0" * 64), "metadata, weights_sha256"),
    "metadata of another size": (metadata("size", [16, 8]), "metadata, size"),
}


def test_there_are_enough_of_them() -> None:
    assert len(SPOILT) + len(RESIZED) >= 20


def run_here(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
    """Run in this process what a certificate has run in one of its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", command[-3:])
        runpy.run_path(command[-3], run_name="__main__")
    return subprocess.CompletedProcess(command, 0)


@pytest.mark.parametrize("alone", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SPOILT)
def test_a_spoilt_file_is_caught(
    name: str,
    alone: bool,
    exported: Path,
    model: Model,
    tests: RunImages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if not alone:
        monkeypatch.setattr(certificates, "subprocess", SimpleNamespace(run=run_here))
    spoil, named = SPOILT[name]
    proto = onnx.load(exported)
    spoil(proto)
    file = tmp_path / "spoilt.onnx"
    onnx.save(proto, file)
    with pytest.raises(NotTheRun, match=rf"^spoilt.onnx: is not what .* gives: {named}") as caught:
        certify(file, model, tests)
    assert len(str(caught.value).splitlines()) == 1


def nearest(images: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(images, (16, 16), mode="nearest")


def not_smoothed(images: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(images, (16, 16), mode="bilinear", align_corners=False)


def unrounded(images: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(images, (16, 16), mode="bilinear", antialias=True)


RESIZED = [nearest, not_smoothed, unrounded]


@pytest.mark.parametrize(
    ("resize", "format"),
    [(not_smoothed, "onnx"), *(pytest.param(each, "torch", marks=pytest.mark.slow) for each in RESIZED)],
)
def test_another_resizing_is_caught_and_nothing_is_left(
    resize: Callable[[torch.Tensor], torch.Tensor],
    format: str,
    model: Model,
    tests: RunImages,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Wrong(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return resize(images.permute(0, 3, 1, 2).to(torch.float32) / 255)

    monkeypatch.setattr("anomaly_bench.inference.graph.FrameGraph", lambda frame: Wrong())
    file = tmp_path / f"toy{SUFFIXES[format]}"
    with pytest.raises(NotTheRun, match=rf"^{file.name}: .* score of .* apart by"):
        export(model, ExportRequest(format), file, tests)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_traced_is_said_in_a_line(model: Model, tests: RunImages, tmp_path: Path) -> None:
    def looking(images: torch.Tensor) -> Scores:
        return Scores(images.mean((1, 2, 3)) if float(images.sum()) > 0 else images.amax((1, 2, 3)), None)

    method = model.method
    before, method.score = method.score, looking  # type: ignore[method-assign]
    try:
        with pytest.raises(UserError, match=r"^--format torch: Toy cannot be exported: .*bench predict") as refused:
            export(model, ExportRequest("torch"), tmp_path / "toy.pt2", tests)
    finally:
        method.score = before  # type: ignore[method-assign]
    assert len(str(refused.value).splitlines()) == 1
    assert refused.value.code == 2
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_another_version_or_program(exported: Path, tmp_path: Path) -> None:
    file = tmp_path / "other.onnx"
    file.write_bytes(exported.read_bytes())
    replace_metadata(file, {**metadata_of(open_exported(file), ""), "format": 9})
    with pytest.raises(UserError, match="has the format 9, which this version does not know"):
        load(file)
    replace_metadata(file, {})
    with pytest.raises(UserError, match="was not written by bench export"):
        load(file)
    file.write_bytes(exported.read_bytes()[:300])
    with pytest.raises(UserError, match="cannot be read as ONNX"):
        load(file)
    with pytest.raises(UserError, match="no such file"):
        load(tmp_path / "nowhere.pt2")
    with pytest.raises(UserError, match=r"--device: cuda given"):
        load(exported, "cuda")


def test_the_verb(toy_run: RunFolder, exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", "--verify", str(exported), str(toy_run.path), "--config-dir", str(CONF)]) == 0
    assert "gives what" in capsys.readouterr().out
    spoilt = tmp_path / "spoilt.onnx"
    proto = onnx.load(exported)
    behind("score", ("Mul", {}, F32(1.01)))(proto)
    onnx.save(proto, spoilt)
    assert main(["export", "--verify", str(spoilt), str(toy_run.path), "--config-dir", str(CONF)]) == 1
    assert "score of" in capsys.readouterr().err
    assert main(["export", str(toy_run.path), "--out", str(tmp_path / "toy.pt2")]) == 2
    assert "the format onnx has the suffix .onnx" in capsys.readouterr().err
    assert main(["export", str(toy_run.path), "--verify", str(exported), "--quantize", "none"]) == 2
    assert "--quantize: is given with --verify" in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("anomaly_bench.inference.export.find_spec", lambda name: None)
    assert main(["export", "nowhere"]) == 2
    assert "onnx is not installed (pip install 'anomaly_bench[onnx]')" in capsys.readouterr().err


def test_the_process_has_nothing_of_this_package() -> None:
    assert {"anomaly_bench", "timm", "pytorch_lightning"} <= set(certificates.BLOCKED)
    script = f"{certificates.BOOT.split('runpy.run_path')[0]}\nimport anomaly_bench"
    words = [json.dumps([[str(ROOT)], list(certificates.BLOCKED)]), "x"]
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, *words], capture_output=True, text=True, env={**os.environ}
    )
    assert "ModuleNotFoundError" in done.stderr
