"""What runs a finished run's network when it is timed: PyTorch as it is, compiled or exported, and other programs.

Another runtime is a class here and its place in `RUNTIMES`: `name`, `prepare`, `run`; `resize` and `transfer` where
they differ.  `bench time --runtime NAME` finds it by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from anomaly_bench.contracts import Method, Scores, Size
from anomaly_bench.errors import UserError
from anomaly_bench.inference.export import ExportRequest, require_packages, write_file
from anomaly_bench.inference.exported import ExportedModel
from anomaly_bench.inference.predict import Model
from anomaly_bench.loading.image_dataset import to_tensor
from anomaly_bench.runs.precision import scoring
from anomaly_bench.runs.whole_images import restored, score_whole

ScoreFunction = Callable[[Tensor], Scores]


class Runtime:
    """One way to score images; each call ends when its result is there, also on a GPU."""

    name = ""

    def prepare(self, model: Model) -> None:
        """Make ready to score with a model; what depends on a batch's size may wait for the first batch."""
        self.model = model

    def resize(self, pixels: np.ndarray) -> np.ndarray:
        """Return an image uint8 [h, w, 3] as `transfer` takes it: uint8 [H, W, 3]."""
        return self.model.view.frame.image(pixels)

    def transfer(self, images: Sequence[np.ndarray]) -> Any:
        """Return resized images as `run` takes them, on the device."""
        return images

    def run(self, images: Any, shapes: Sequence[Size]) -> tuple[np.ndarray, np.ndarray | None]:
        """Return scores float32 [B] and maps float32 [B, H, W], on the host.

        shapes: height and width of the files, [B].  Maps are None where the method has none.
        """
        raise NotImplementedError


class Eager(Runtime):
    """PyTorch, operation by operation, as `bench predict` does it."""

    name = "eager"

    def prepare(self, model: Model) -> None:
        """Make ready to score."""
        super().prepare(model)
        self.score = self.score_function(model.method)

    def score_function(self, method: Method) -> ScoreFunction:
        """Return what scores images [B, 3, H, W] float32 in [0, 1]."""

        def score(images: Tensor) -> Scores:
            with scoring(method):
                return method.score(images)

        return score

    def transfer(self, images: Sequence[np.ndarray]) -> Tensor:
        """Return float32 [B, 3, H, W] in [0, 1] on the method's device."""
        device = self.model.method.device
        moved = torch.stack([to_tensor(image) for image in images]).to(device)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return moved

    def run(self, images: Tensor, shapes: Sequence[Size]) -> tuple[np.ndarray, np.ndarray | None]:
        """Return scores and maps; that they are copied to the host waits for the device."""
        found = score_whole(self.model.view, self.score, images, shapes, self.model.batch_size)
        return found.image.float().cpu().numpy(), None if found.map is None else found.map.float().cpu().numpy()


class Compiled(Eager):
    """torch.compile; the first batches of a size compile, and a C++ compiler must be there for the CPU."""

    name = "compile"

    def score_function(self, method: Method) -> ScoreFunction:
        """Return the compiled `score`."""
        compiled: ScoreFunction = torch.compile(method.score)
        return compiled


class Exported(Eager):
    """torch.export, one program for each shape of a batch, made when that shape first comes."""

    name = "export"

    def score_function(self, method: Method) -> ScoreFunction:
        """Return what exports `score` and then runs the exported program."""
        programs: dict[torch.Size, nn.Module] = {}

        def score(images: Tensor) -> Scores:
            if images.shape not in programs:
                with torch.inference_mode(False), torch.no_grad():
                    example = images.clone()  # a tensor of inference mode cannot be traced
                    programs[images.shape] = torch.export.export(_Scoring(method), (example,)).module()
            return Scores(*programs[images.shape](images))

        return score


class _Scoring(nn.Module):
    """A method's scores and maps as plain tensors."""

    def __init__(self, method: Method) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        found = self.method.score(images)
        return found.image, found.map


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU: the file that `bench export RUN --no-preprocess` writes."""

    name = "onnxruntime"

    def prepare(self, model: Model) -> None:
        """Export the run and open the file.  Raises UserError where a package is missing or the run is not exported."""
        super().prepare(model)
        require_packages("onnx")
        with TemporaryDirectory() as folder, torch.inference_mode(False):
            file = Path(folder) / "run.onnx"
            write_file(model, ExportRequest("onnx", preprocess=False), file)
            self.open(file)

    def open(self, file: Path) -> None:
        """Open an ONNX file with as many threads as PyTorch has."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = torch.get_num_threads()
        session = onnxruntime.InferenceSession(file.read_bytes(), options, ["CPUExecutionProvider"])
        names = [each.name for each in session.get_outputs() if each.name in ("score", "map")]
        self.outputs: Callable[[np.ndarray], list[np.ndarray]] = lambda images: session.run(names, {"images": images})

    def transfer(self, images: Sequence[np.ndarray]) -> np.ndarray:
        """Return float32 [B, 3, H, W] in [0, 1]."""
        return np.stack([to_tensor(image).numpy() for image in images])

    def run(self, images: np.ndarray, shapes: Sequence[Size]) -> tuple[np.ndarray, np.ndarray | None]:
        """Return scores and maps."""
        score, *maps = self.outputs(images)
        found = Scores(torch.from_numpy(score), torch.from_numpy(maps[0]) if maps else None)
        found = restored(found, self.model.view.frame, shapes)
        return found.image.numpy(), None if found.map is None else found.map.numpy()


class OpenVino(OnnxRuntime):
    """OpenVINO on the CPU, of the same file."""

    name = "openvino"

    def open(self, file: Path) -> None:
        """Compile an ONNX file.  Raises UserError where OpenVINO is not installed."""
        try:
            import openvino
        except ImportError as error:
            raise UserError("--runtime openvino", "openvino is not installed", "pip install openvino") from error
        core = openvino.Core()
        read = core.read_model(file.read_bytes(), b"")
        compiled = core.compile_model(read, "CPU", {"INFERENCE_NUM_THREADS": torch.get_num_threads()})
        names = [name for name in ("score", "map") if any(name in port.get_names() for port in compiled.outputs)]
        default = np.array([np.nan])

        def outputs(images: np.ndarray) -> list[np.ndarray]:
            known = {"images": images, "threshold": default}
            given = {name: v for name, v in known.items() if any(name in port.get_names() for port in compiled.inputs)}
            found = compiled(given)
            return [np.array(found[name]) for name in names]

        self.outputs = outputs


class File(Runtime):
    """A file that `bench export` wrote, by what it was written for; a file that resizes does so in its network."""

    model: ExportedModel

    def resize(self, pixels: np.ndarray) -> np.ndarray:
        """Return an image as the file takes it."""
        return pixels if self.model.resizes else super().resize(pixels)

    def run(self, images: Sequence[np.ndarray], shapes: Sequence[Size]) -> tuple[np.ndarray, np.ndarray | None]:
        """Return scores and maps."""
        found = self.model.scores_of(images, shapes)
        return found.image.numpy(), None if found.map is None else found.map.numpy()


ALL_RUNTIMES = (Eager, Compiled, Exported, OnnxRuntime, OpenVino)
RUNTIMES: dict[str, type[Runtime]] = {each.name: each for each in ALL_RUNTIMES}
