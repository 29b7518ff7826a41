"""Every method of the package is traced for any number of images, and its program gives the method's scores."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from anomaly_bench import methods
from anomaly_bench.config import build, compose, validate
from anomaly_bench.contracts import Method
from anomaly_bench.inference.export import ExportRequest, about, onnx_bytes, traced
from anomaly_bench.inference.predict import Model
from anomaly_bench.runs.folder import RunFolder

SMALL = {
    "brightness": "method=brightness method.image_size=32",
    "cs_flow": "method=csflow method.backbone=resnet18 method.layer=layer1 method.image_size=32 method.hidden=8 "
    "method.kernels=[3,1] method.downscale=antialias",
    "glancing_at_the_patch": "method=glf_fast method.image_size=243 method.windows=2",
    "padim": "method=padim_fast method.image_size=32 method.components=16",
    "patchcore": "method=patchcore method.backbone=p17 method.layers=[1] method.image_size=32 method.reweight=true "
    "method.coreset_share=0.2",
    "reverse_distillation": "method=rd method.backbone=resnet18 method.image_size=32",
    "simplenet": "method=simplenet_fast method.image_size=64 method.hidden=8",
    "stfpm": "method=stfpm_fast method.image_size=64",
    "uninformed_students": "method=us_fast method.image_size=32 method.students=2",
    "us_shallow": "method=us_shallow method.image_size=32 method.clusters=2 method.samples=50",
}
QUICK_IN_ONNX = ("cs_flow", "reverse_distillation", "uninformed_students")


def fitted(name: str) -> Method:
    """A method that has seen a few images where it needs to, its networks as they are at first, shaken a little."""
    torch.manual_seed(0)
    method: Method = build("method", validate(compose(["dataset=mtd", *SMALL[name].split()])).method)
    batch = {"image": torch.rand(4, 3, 32, 32), "path": ["", "", "", ""]}
    if name == "padim":
        method.fit([batch["image"], batch["image"] / 2])  # type: ignore[operator]
    elif name in ("patchcore", "us_shallow"):
        method.fit([batch], images=4)  # type: ignore[operator]
    else:
        with torch.no_grad():
            for parameter in method.parameters():
                parameter.add_(torch.randn_like(parameter) * 0.02)
    return method.eval().requires_grad_(False)


def test_every_method_is_here() -> None:
    assert SMALL.keys() == {file.stem for file in Path(str(methods.__file__)).parent.glob("[!_]*.py")}


@pytest.mark.parametrize(
    ("name", "converts"),
    [
        ("glancing_at_the_patch", False),  # ONNX takes five times as long for it
        *(pytest.param(name, True, marks=() if name in QUICK_IN_ONNX else pytest.mark.slow) for name in SMALL),
    ],
)
def test_a_method_as_a_program(name: str, converts: bool, tmp_path: Path) -> None:
    method = fitted(name)
    model = Model(RunFolder(tmp_path), {}, method, {}, np.array([0.1, 0.2, 0.4]))
    request = ExportRequest("torch", preprocess=False)
    program, outputs = traced(model, request)
    height, width = model.view.frame.size
    never = torch.tensor([torch.nan], dtype=torch.float64)
    for count in (1, 3):
        images = torch.rand(count, 3, height, width)
        with torch.inference_mode():
            expected = method.score(images)
            found = dict(zip(outputs, program.module()(images, never), strict=True))
        torch.testing.assert_close(found["score"], expected.image, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found["map"], expected.map, rtol=1e-4, atol=1e-5)
        assert found["label"].tolist() == [-1] * count
        assert found["p_value"].tolist() == [(1 + int((model.calibration >= s).sum())) / 4 for s in found["score"].double().numpy()]  # fmt: skip  # noqa: E501
    if converts:
        in_onnx(model, program, outputs, images, expected.image.numpy())


def in_onnx(model: Model, program: torch.export.ExportedProgram, outputs: list[str], images: torch.Tensor, scores: np.ndarray) -> None:  # fmt: skip  # noqa: E501
    """The same program gives the same scores in ONNX Runtime, where that is installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError:
        warnings.warn("onnx is not installed: not converted", stacklevel=1)
        return
    content = onnx_bytes(model, program, outputs, about(model, ExportRequest("onnx", preprocess=False)))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = session.run(["score", "label"], {"images": images.numpy()})
    np.testing.assert_allclose(found[0], scores, rtol=1e-4, atol=1e-5)
    assert found[1].tolist() == [-1] * len(images)  # no threshold
