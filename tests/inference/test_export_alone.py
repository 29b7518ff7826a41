"""What runs exported files elsewhere, run as a stranger would: nothing of this package, timm or Lightning is there."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from anomaly_bench.inference import standalone
from anomaly_bench.inference.run_images import RunImages
from tests.inference.bare_python import bare_python
from tests.small_runs import ROOT, environment

EXAMPLES = ROOT / "examples"
WITHOUT = ("anomaly_bench", "timm", "pytorch_lightning", "lightning", "torchvision", "hydra", "omegaconf", "pytest")
ONNX, TORCH = ("onnxruntime", "pillow"), ("torch", "numpy", "pillow")


def run_alone(place: Path, packages: tuple[str, ...], script: Path, *words: object) -> str:
    """Run a script with these packages alone; what it prints."""
    command = [*bare_python(place / "packages", *packages), str(script), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=place)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("packages", "more"), [(ONNX, ("torch",)), (TORCH, ("onnxruntime",))])
def test_nothing_else_is_there(packages: tuple[str, ...], more: tuple[str, ...], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys, importlib.util as u; print([n for n in sys.argv[1:] if u.find_spec(n)])")
    modules = ("numpy", "PIL", packages[0])
    found = run_alone(tmp_path, packages, script, *WITHOUT, *more, *modules)
    assert found.strip() == str([*modules])


@pytest.mark.parametrize(
    ("script", "packages", "file"), [("onnxruntime", ONNX, "exported"), ("torch", TORCH, "exported_torch")]
)
def test_a_script_alone(
    script: str,
    packages: tuple[str, ...],
    file: str,
    tests: RunImages,
    tmp_path: Path,
    request: pytest.FixtureRequest,
) -> None:
    exported = request.getfixturevalue(file)
    printed = run_alone(tmp_path, packages, EXAMPLES / f"score_with_{script}.py", exported, *tests.images)
    lines = [line.split("\t") for line in printed.splitlines()]
    assert [line[0] for line in lines] == [str(path) for path in tests.images]
    np.testing.assert_allclose([float(line[1]) for line in lines], tests.scores, atol=1e-5)
    assert {line[3] for line in lines} == {"normal", "anomalous"}


@pytest.mark.parametrize(
    ("packages", "file"), [(ONNX, "exported"), pytest.param(TORCH, "exported_torch", marks=pytest.mark.slow)]
)
def test_the_script_of_certificates_alone(
    packages: tuple[str, ...], file: str, tests: RunImages, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    batches = [{"images": [str(path) for path in tests.images[:3]], "threshold": None}]
    (tmp_path / "batches.json").write_text(json.dumps(batches))
    script = Path(str(standalone.__file__))
    run_alone(tmp_path, packages, script, request.getfixturevalue(file), tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "score.npy"), tests.scores[:3], atol=1e-5)


def test_the_page_prints_the_example() -> None:
    script = (EXAMPLES / "score_with_onnxruntime.py").read_text()
    assert f"```python\n{script}```" in (ROOT / "docs/export.md").read_text()


# examples/serve_http.py


@pytest.fixture(scope="module")
def server(exported: Path) -> Iterator[str]:
    """The address of the program, started for real."""
    for name in ("fastapi", "uvicorn"):
        pytest.importorskip(name, reason=f"examples/serve_http.py needs {name}, which is not installed")
    command = [sys.executable, str(EXAMPLES / "serve_http.py"), str(exported), "0"]
    program = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment())
    assert program.stderr is not None
    try:
        lines = iter(program.stderr.readline, "")
        found = (re.search(r"running on (http://[\d.:]+)", line) for line in lines)
        yield next(match[1] for match in found if match)
    finally:
        program.terminate()
        program.wait(20)


def ask(address: str, content: bytes | None = None) -> tuple[int, Any]:
    """Return the status and the JSON of an answer."""
    try:
        with urllib.request.urlopen(urllib.request.Request(address, content), timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def encoded(image: Image.Image, format: str, **more: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **more)
    return file.getvalue()


def test_images_over_http(server: str, tests: RunImages, exported: Path) -> None:
    program = standalone.Onnx(str(exported))
    for path, score in zip(tests.images, tests.scores, strict=True):
        assert isinstance(path, Path)
        status, found = ask(f"{server}/score", path.read_bytes())
        assert status == 200
        expected = program(standalone.read(str(path))[None], None)
        assert found["score"] == pytest.approx(float(score), abs=1e-5)
        assert found["p_value"] == pytest.approx(float(expected["p_value"][0]))
        assert found["label"] == int(expected["label"][0])


def test_health(server: str, exported: Path) -> None:
    described = json.loads(standalone.Onnx(str(exported)).about)
    status, found = ask(f"{server}/health")
    assert status == 200
    assert found == {**described, "calibration": len(described["calibration"])}


def test_what_is_no_image_over_http(server: str) -> None:
    grey = Image.fromarray(np.zeros((8, 8), np.uint8))
    whole = encoded(Image.effect_noise((64, 64), 90), "PNG")
    for content in (b"", b"no image", whole[: len(whole) // 2]):
        status, found = ask(f"{server}/score", content)
        assert (status, "not an image that can be read" in found["detail"]) == (400, True)
    pages = encoded(grey, "TIFF", save_all=True, append_images=[grey])
    for content in (pages, encoded(Image.fromarray(np.zeros((8, 8), np.float32)), "TIFF")):
        status, found = ask(f"{server}/score", content)
        assert (status, "8 or 16 bits" in found["detail"]) == (415, True)
    assert ask(f"{server}/score")[0] == 405  # GET
    assert ask(f"{server}/health")[0] == 200  # it still answers
