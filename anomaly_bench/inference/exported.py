"""A file that `bench export` wrote: read back, and used as a model like the run that it was made of."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from anomaly_bench.contracts import Scores, Size
from anomaly_bench.errors import UserError
from anomaly_bench.inference.predict import Decoded, Model
from anomaly_bench.inference.standalone import Onnx, Torch, open_file
from anomaly_bench.loading.image_dataset import to_tensor
from anomaly_bench.runs.calibration import stored_thresholds
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.whole_images import restored

SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}  # of the formats
KEY = "anomaly_bench"  # of the metadata: a property of an ONNX file; KEY.json is an extra file of torch.export
FORMAT = 1  # of the metadata
NEEDED = {"format", "run", "weights_sha256", "calibration", "size", "batch_size", "preprocess", "quantize", "outputs"}
WRITES = "bench export RUN writes one"


def is_exported(path: Path) -> bool:
    """Return whether a path is that of an exported file by its suffix, and no folder."""
    return path.suffix in SUFFIXES.values() and not path.is_dir()


def load_exported(file: Path, device: str) -> Model:
    """Return an exported file as a model.

    Raises UserError for a file that cannot be read, was not written by `bench export` or is of a later version, and for
    a device other than `auto` and `cpu`.
    """
    if device not in ("auto", "cpu"):
        raise UserError("--device", f"{device} given; an exported file is run on the CPU here", "auto or cpu")
    program = open_exported(file)
    return ExportedModel(file, program, metadata_of(program, str(file)))


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the remarks of torch's exporters and readers, which no user can act on, from the terminal."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def open_exported(file: Path, name: str = "") -> Onnx | Torch:
    """Return what runs an exported file.  name: of the file, for messages.  Raises UserError where it is unreadable."""
    where, kind = name or str(file), "ONNX" if file.suffix == SUFFIXES["onnx"] else "a program of torch.export"
    if not file.is_file():
        raise UserError(where, "no such file", WRITES)
    try:
        with quiet():
            return open_file(str(file))
    except ImportError as error:
        raise UserError(where, "onnxruntime is not installed", "pip install 'anomaly_bench[onnx]'") from error
    except Exception as error:  # the two readers raise many kinds
        what = f"cannot be read as {kind}: {' '.join(str(error).split())[:200]}"
        raise UserError(where, what, WRITES) from error


def metadata_of(program: Onnx | Torch, where: str) -> dict[str, Any]:
    """Return the metadata of an opened file.  Raises UserError for a file of another program or a later version."""
    try:
        described = json.loads(program.about)
        version = described.get("format", 0)
    except (ValueError, AttributeError):
        described, version = {}, 0
    if version not in (0, FORMAT):
        what = f"has the format {version}, which this version does not know"
        raise UserError(where, what, "the version of anomaly_bench that wrote it")
    if not described.keys() >= NEEDED:
        raise UserError(where, f"was not written by bench export: its metadata '{KEY}' are missing or damaged", WRITES)
    return dict(described)


class ExportedModel(Model):
    """A model whose scores come from an exported file."""

    def __init__(self, file: Path, program: Onnx | Torch, described: dict[str, Any]) -> None:
        self.program, self.resizes = program, described["preprocess"]
        run = {**described["run"], "files": {"weights.safetensors": described["weights_sha256"]}}
        size = tuple(run.get("image_size", described["size"]))
        method: Any = SimpleNamespace(image_size=size, batch_size=described["batch_size"], device=torch.device("cpu"))
        scores = described["calibration"]
        calibration = None if scores is None else np.array(scores, np.float64)
        super().__init__(RunFolder(file), run, method, stored_thresholds(run, file), calibration)
        self.view = replace(self.view, frame=replace(self.view.frame, white=None))  # files take 8 bits

    def _scored(self, usable: Sequence[Decoded]) -> Scores:
        images = [each.whole if self.resizes else each.image for each in usable]
        return self.scores_of(
            [each for each in images if each is not None], [(each.height, each.width) for each in usable]
        )

    def scores_of(self, images: Sequence[np.ndarray], shapes: Sequence[Size]) -> Scores:
        """Return the scores of images uint8 [h, w, 3], at the run's size where the file does not resize.

        shapes: height and width of their files, [B].  Images of another size are scored apart.
        """
        if not self.resizes:
            found = self._outputs(np.stack([to_tensor(each).numpy() for each in images]))
            return restored(found, self.view.frame, shapes)
        groups = {shape: [i for i, each in enumerate(shapes) if each == shape] for shape in shapes}
        order = [i for group in groups.values() for i in group]
        apart = [self._outputs(np.stack([images[i] for i in group])) for group in groups.values()]
        back = torch.tensor(order).argsort()
        maps = [each.map for each in apart if each.map is not None]
        return Scores(torch.cat([each.image for each in apart])[back], torch.cat(maps)[back] if maps else None)

    def _outputs(self, images: np.ndarray) -> Scores:
        found = self.program(images, None)
        maps = found.get("map")
        return Scores(torch.tensor(found["score"]), None if maps is None else torch.tensor(maps))
