"""`bench export`: a finished run as one file of ONNX or torch.export, which needs nothing of this package."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import Any

import numpy as np
import torch
from torch.export import Dim, ExportedProgram

from anomaly_bench import __version__
from anomaly_bench.errors import UserError
from anomaly_bench.inference.exported import FORMAT, KEY, SUFFIXES, quiet
from anomaly_bench.inference.graph import OUTPUTS, RunGraph
from anomaly_bench.inference.predict import Model
from anomaly_bench.loading.decode import READING
from anomaly_bench.runs.manifest import version
from anomaly_bench.runs.promise import promise

PACKAGES = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch": ()}
OPSET = 18
OPERATION = re.compile(r"op='([\w.]+)'")  # in an error of torch's exporters
MOST = 2**31 - 1  # bytes of an ONNX file
# What of a run's manifest goes with it: its origin, how images come to it, and what `bench predict` says beside scores.
TAKEN = (
    *("id", "method", "dataset", "category", "seed", "checksums", "resize_rule", "image_size", "frame", "versions"),
    "training_images",
)


@dataclass(frozen=True)
class ExportRequest:
    """What to write."""

    format: str  # a key of SUFFIXES
    preprocess: bool = True  # images of any size as uint8; else as the method sees them
    quantize: str = "none"  # or float16: of the stored weights


def about(model: Model, request: ExportRequest) -> dict[str, Any]:
    """Return the metadata of an exported file: where it comes from, what goes in and out, what the threshold promises.

    All values are JSON.
    """
    manifest, image = model.manifest, model.thresholds.get("image")
    size = list(model.view.frame.size)
    found = {
        "format": FORMAT,
        "anomaly_bench": __version__,
        "torch": torch.__version__,
        **({"opset": OPSET, "onnxscript": version("onnxscript")} if request.format == "onnx" else {}),
        "run": {key: manifest[key] for key in TAKEN if key in manifest} | {"thresholds": untested(model.thresholds)},
        "weights_sha256": manifest.get("files", {}).get("weights.safetensors"),
        "images_sha256": manifest.get("checksums", {}).get("data"),
        "threshold": image["threshold"] if image else None,
        "promise": promise(image) if image else None,
        "calibration": None if model.calibration is None else model.calibration.tolist(),
        "input": "uint8 [B, H, W, 3] RGB" if request.preprocess else f"float32 [B, 3, {size[0]}, {size[1]}] in [0, 1]",
        "decoding": f"{READING}; 16-bit grey is scaled to 8 bits, 65535 to 255",
        "size": size,
        "batch_size": model.batch_size,
        "preprocess": request.preprocess,
        "quantize": request.quantize,
    }
    return dict(json.loads(json.dumps(found)))


def untested(thresholds: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return thresholds without the figures of test images, which `bench eval` may count anew."""
    return {level: {key: value for key, value in entry.items() if key != "test"} for level, entry in thresholds.items()}


def require_packages(format: str) -> None:
    """Raise UserError where what a format needs is not installed."""
    if missing := [name for name in PACKAGES[format] if not find_spec(name)]:
        raise UserError(f"--format {format}", f"{missing[0]} is not installed", "pip install 'anomaly_bench[onnx]'")


def traced(model: Model, request: ExportRequest) -> tuple[ExportedProgram, list[str]]:
    """Return a run as a program of torch.export for batches and, with preprocessing, images of any size; its outputs.

    Raises UserError naming what stops it.
    """
    if model.view.frame.ignored_region is not None:
        what = "is filled in each image by the run; an exported file does not do that"
        raise UserError("dataset.ignore_mask", what, "bench predict scores with the run itself")
    graph = RunGraph(model, request.preprocess, request.quantize == "float16").eval()
    height, width = model.view.frame.size
    if request.preprocess:
        # no length of the example is 1 or equals another, so that nothing about them is taken for granted
        images = torch.zeros(2, height + 7, width + 11, 3, dtype=torch.uint8)
        free = {0: Dim("batch", min=1), 1: Dim("height", min=1), 2: Dim("width", min=1)}
    else:
        images, free = torch.zeros(2, 3, height, width), {0: Dim("batch", min=1)}
    try:
        with quiet(), torch.no_grad():
            scores = graph.method(torch.zeros(1, 3, height, width))
            example = (images, torch.tensor([0.0], dtype=torch.float64))
            program = torch.export.export(graph, example, dynamic_shapes=(free, None))
    except Exception as error:  # the tracer raises many kinds
        raise _stopped(model, "torch", error) from error
    return program, [name for name in OUTPUTS if name != "map" or len(scores) > 1]


def _stopped(model: Model, format: str, error: Exception) -> UserError:
    operation = OPERATION.search(str(error))
    text = f"its operation {operation[1]} stops it: " if operation else ""
    text += shorten(" ".join(str(error).split()), 200) or type(error).__name__
    what = f"{type(model.method).__qualname__} cannot be exported: {text}"
    other = "bench predict scores with the run itself"
    return UserError(f"--format {format}", what, other if format == "torch" else f"--format torch, or {other}")


def onnx_bytes(model: Model, program: ExportedProgram, names: list[str], described: Mapping[str, Any]) -> bytes:
    """Return a program as an ONNX file.  Raises UserError naming what stops it."""
    import onnx

    try:
        with quiet():
            made: Any = torch.onnx.export(
                *(program, (), None),
                input_names=["images", "threshold"],
                output_names=names,
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )
            proto = made.model_proto
    except Exception as error:
        raise _stopped(model, "onnx", error) from error
    threshold = described["threshold"]
    default = np.array([math.nan if threshold is None else threshold])
    proto.graph.initializer.append(onnx.numpy_helper.from_array(default, "threshold"))
    set_metadata(proto, described)
    if proto.ByteSize() > MOST:
        raise UserError("--format onnx", "the run takes more than 2 GB, which no ONNX file holds", "--format torch")
    return bytes(proto.SerializeToString())


def set_metadata(proto: Any, described: Mapping[str, Any]) -> None:
    """Set the metadata of an ONNX model."""
    del proto.metadata_props[:]
    proto.metadata_props.add(key=KEY, value=json.dumps(described))


def write_file(model: Model, request: ExportRequest, file: Path) -> dict[str, Any]:
    """Write a run as an exported file, and return its metadata.  Raises UserError where it cannot be traced."""
    program, names = traced(model, request)
    described = {**about(model, request), "outputs": names}
    if request.format == "onnx":
        file.write_bytes(onnx_bytes(model, program, names, described))
    else:
        with quiet():
            torch.export.save(program, file, extra_files={f"{KEY}.json": json.dumps(described)})
    return described


def replace_metadata(file: Path, described: Mapping[str, Any]) -> None:
    """Replace the metadata of an exported file; its graph stays as it is."""
    if file.suffix == SUFFIXES["onnx"]:
        import onnx

        proto = onnx.load(file)
        set_metadata(proto, described)
        file.write_bytes(proto.SerializeToString())
    else:
        with quiet():
            program = torch.export.load(file)
            torch.export.save(program, file, extra_files={f"{KEY}.json": json.dumps(described)})
