"""Whether an exported file gives what its run gives: it is run in a process of its own, without this package."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from anomaly_bench.errors import UserError
from anomaly_bench.files import sha256_of, unwritable, write_text
from anomaly_bench.inference import standalone
from anomaly_bench.inference.export import ExportRequest, about, replace_metadata, write_file
from anomaly_bench.inference.exported import metadata_of, open_exported
from anomaly_bench.inference.graph import OUTPUTS, UNKNOWN
from anomaly_bench.inference.odd_images import odd_images
from anomaly_bench.inference.predict import Model, Result
from anomaly_bench.inference.run_images import RunImages
from anomaly_bench.loading.decode import read_image
from anomaly_bench.loading.image_dataset import to_tensor
from anomaly_bench.metrics import image_metrics, pixel_metrics
from anomaly_bench.metrics.calibration import p_values
from anomaly_bench.runs.folder import now

SCORE, CORE, HALF, MAP = 1e-4, 1e-5, 1e-2, 1e-3  # largest differences, in parts of the spread, largest less smallest
DIGITS, HALF_DIGITS = 4, 3  # in which the metrics are equal
METRICS = ("image_auroc", "pixel_auroc", "aupro_0.3")
LIMIT = 1e300  # a threshold beyond every score
VERSIONS = ("anomaly_bench", "torch", "onnxscript", "opset")  # of the metadata; they may differ
BOOT = """
import json, runpy, sys
sys.path[:], blocked = json.loads(sys.argv[1])
sys.modules.update(dict.fromkeys(blocked))
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
BLOCKED = ("anomaly_bench", "timm", "torchvision", "pytorch_lightning", "lightning", "omegaconf", "hydra")


class NotTheRun(UserError):
    """An exported file does not give what its run gives.  `bench export` exits with code 1."""

    code = 1


def certificate_file(file: Path) -> Path:
    """Return where an exported file's certificate lies."""
    return file.with_name(f"{file.name}.certificate.json")


def export(model: Model, request: ExportRequest, out: Path, tests: RunImages) -> dict[str, Any]:
    """Write a run as an exported file with its certificate, which is returned.

    Raises UserError where it cannot be traced, and NotTheRun where the file does not give what the run gives; nothing
    is written then, and an older file stays.
    """
    partial = out.with_name(f".{out.stem}.partial{out.suffix}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        described = write_file(model, request, partial)
        certificate = certify(partial, model, tests, out.name)
        replace_metadata(partial, {**described, "certificate": certificate})
        certificate = {"file": out.name, "sha256": sha256_of(partial), **certificate}
        partial.replace(out)
    except OSError as error:
        raise unwritable(out, error, "give another --out") from error
    finally:
        partial.unlink(missing_ok=True)
    write_text(certificate_file(out), json.dumps(certificate, indent=1) + "\n")
    return certificate


def certify(file: Path, model: Model, tests: RunImages, name: str = "") -> dict[str, Any]:
    """Return the certificate of an exported file.  name: the file's, for messages.

    Raises NotTheRun, whose one line says what differs first.
    """
    with tempfile.TemporaryDirectory() as place:
        return _Check(file, model, tests, name or file.name, Path(place)).certificate()


class _Check:
    """One examination of a file, with its own folder for images and outputs."""

    def __init__(self, file: Path, model: Model, tests: RunImages, name: str, place: Path) -> None:
        self.file, self.model, self.tests, self.name, self.place = file, model, tests, name, place
        self.described = self._metadata()
        self.core = not self.described["preprocess"]
        half = self.described["quantize"] == "float16"
        self.digits = HALF_DIGITS if half else DIGITS
        self.allowed = {"score": HALF if half else CORE if self.core else SCORE, "map": HALF if half else MAP}

    def certificate(self) -> dict[str, Any]:
        """Return the certificate.  Raises NotTheRun."""
        names, images = [*self.tests.names], [*self.tests.images]
        for odd in odd_images(self.place / "odd"):
            names.append(odd.name)
            images.append(odd)
        reference = self._reference(images)
        batches, of = self._batches(images)
        found, versions = self._run(batches)
        thresholds = [batch["threshold"] for batch in batches for _ in batch["images"]]
        count = len(self.tests.images)
        largest: dict[str, float] = {}
        for key in ("score", "map"):
            expected = [getattr(reference[i], key) for i in of]
            if expected[0] is not None:
                largest[key] = self._close(key, found[key], expected, [names[i] for i in of], [i < count for i in of])
        self._decisions(found, [reference[i] for i in of], [names[i] for i in of], thresholds)
        return {
            "run": self.model.manifest.get("id"),
            "made": now(),
            "versions": {"python": sys.version.split()[0], "numpy": np.__version__, **versions},
            "test_images": count,
            "other_images": names[count:],
            "allowed": {**self.allowed, "labels_flipped": 0, "metrics": f"{self.digits} digits"},
            "largest_difference": largest,
            "labels_flipped": 0,
            "metrics": self._metrics(found),
        }

    def _differs(self, what: str) -> NotTheRun:
        return NotTheRun(self.name, f"is not what {self.model.folder.path} gives: {what}", "no file can be relied on")

    def _metadata(self) -> dict[str, Any]:
        """Return the file's metadata.  Raises NotTheRun unless they are this run's, UserError for another version's."""
        described = metadata_of(open_exported(self.file, self.name), self.name)
        request = ExportRequest("", described["preprocess"], described["quantize"])
        for key, value in about(self.model, request).items():
            if key not in VERSIONS and described.get(key) != value:
                shown = [str(each)[:80] for each in (described.get(key), value)]
                raise self._differs(f"metadata, {key}: {shown[0]}, the run has {shown[1]}")
        return described

    def _framed(self, image: Path | np.ndarray) -> np.ndarray:
        return self.model.view.frame.image(read_image(image))

    def _reference(self, images: Sequence[Path | np.ndarray]) -> list[Result]:
        """Return what the run says of the images; without preprocessing it is given them as its method sees them."""
        model = self.model
        if not self.core:
            results = list(model.predict(images))
        else:
            view, framed = model.view, [self._framed(image) for image in images]
            try:
                model.view = replace(view, frame=replace(view.frame, fit="squash"))
                results = list(model.predict(framed))
            finally:
                model.view = view
        if broken := [each for each in results if each.error]:
            raise UserError(broken[0].path, broken[0].error, "bench export needs all of the run's test images")
        return results

    def _batches(self, images: Sequence[Path | np.ndarray]) -> tuple[list[dict[str, Any]], list[int]]:
        """Return the batches for the process, and the number of each of their images: all alone, three together, and
        the first one with thresholds below and above all scores and without one."""
        files = [self._input(number, image) for number, image in enumerate(images)]
        first = self._shape(images[0])
        together = [i for i, image in enumerate(images[:8]) if self._shape(image) == first][:3]
        groups: list[tuple[list[int], float | None]] = [([i], None) for i in range(len(images))]
        groups += [(together, None), ([0], -LIMIT), ([0], LIMIT), ([0], float("nan"))]
        batches = [{"images": [files[i] for i in group], "threshold": threshold} for group, threshold in groups]
        return batches, [i for group, _ in groups for i in group]

    def _shape(self, image: Path | np.ndarray) -> tuple[int, ...]:
        return () if self.core else read_image(image).shape

    def _input(self, number: int, image: Path | np.ndarray) -> str:
        """Return the file that the process gets: the image itself or, without preprocessing, what the method sees."""
        if isinstance(image, Path) and not self.core:
            return str(image.absolute())
        file = self.place / f"{number}.npy"
        np.save(file, to_tensor(self._framed(image)).numpy() if self.core else read_image(image))
        return str(file)

    def _run(self, batches: list[dict[str, Any]]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        """Return the file's outputs of all batches, one after the other, and the versions that computed them."""
        (self.place / "batches.json").write_text(json.dumps(batches))
        blocked = [*BLOCKED, *(["torch"] if self.file.suffix == ".onnx" else [])]
        start = json.dumps([[str(Path(each).absolute()) for each in sys.path if each], blocked])
        script = [str(standalone.__file__), str(self.file.absolute()), str(self.place)]
        done = subprocess.run([sys.executable, "-I", "-c", BOOT, start, *script], capture_output=True, text=True)
        if done.returncode:
            raise self._differs(f"it cannot be run: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
        names = [name for name in OUTPUTS if (self.place / f"{name}.npy").exists()]
        count = sum(len(batch["images"]) for batch in batches)
        found = {name: np.load(self.place / f"{name}.npy", mmap_mode="r") for name in names}
        size = self.model.view.frame.size
        for name in [each for each in OUTPUTS if each != "map" or "map" in self.described["outputs"]]:
            shape = (count, *size) if name == "map" else (count,)
            if name not in found or found[name].shape != shape:
                given = list(found[name].shape) if name in found else "missing"
                raise self._differs(f"output {name} is {given}, needed {list(shape)}")
        return found, json.loads((self.place / "about.json").read_text())["versions"]

    def _close(self, key: str, found: np.ndarray, expected: list[Any], names: list[str], tested: list[bool]) -> float:
        """Return the largest difference in parts of the spread; that of other images counts where it is larger."""
        spread = {True: 0.0, False: 0.0}
        for which in (True, False):
            some = [each for each, test in zip(expected, tested, strict=True) if test == which]
            low, high = min(float(np.min(each)) for each in some), max(float(np.max(each)) for each in some)
            spread[which] = max(high - low, spread[True], np.finfo(np.float32).tiny)
        largest = 0.0
        for each, value, name, test in zip(found, expected, names, tested, strict=True):
            apart = float(np.max(np.abs(np.asarray(each, np.float64) - value))) / spread[test]
            if not apart <= self.allowed[key]:
                shown = f" is {float(each):.6g}, the run's {value:.6g}" if key == "score" else ""
                raise self._differs(
                    f"{key} of {name}{shown}: apart by {apart:.2g} of the {key}s' spread, allowed {self.allowed[key]:g}"
                )
            largest = max(largest, apart)
        return largest

    def _decisions(
        self, found: dict[str, np.ndarray], expected: list[Result], names: list[str], thresholds: list[float | None]
    ) -> None:
        """Compare p-values and labels; raises NotTheRun."""
        calibration = self.model.calibration
        for i, (result, name, threshold) in enumerate(zip(expected, names, thresholds, strict=True)):
            score, p, label = (found[key][i] for key in ("score", "p_value", "label"))
            wanted = np.nan if calibration is None else p_values(calibration, np.array([float(score)]))[0]
            if not np.isclose(p, wanted, rtol=0, atol=1e-12, equal_nan=True):
                raise self._differs(f"p_value of {name} is {p:.6g}, needed {wanted:.6g}")
            right = UNKNOWN if result.label is None else result.label
            if threshold is not None:
                right = UNKNOWN if np.isnan(threshold) else int(threshold < 0)
            if label != right:
                at = "" if threshold is None else f" at the threshold {threshold:g}"
                raise self._differs(f"label of {name}{at} is {label}, needed {right}")

    def _metrics(self, found: dict[str, np.ndarray]) -> dict[str, list[float]]:
        """Return each metric of the stored scores and of the file's.  Raises NotTheRun where they are not equal."""
        tests, count = self.tests, len(self.tests.images)
        values = [image_metrics(scores, tests.labels) for scores in (tests.scores, found["score"][:count])]
        same_maps = not (self.core and self.model.view.frame.fit == "pad")  # else they still have the padding
        if tests.maps is not None and tests.masks is not None and same_maps:
            for metrics, maps in zip(values, (tests.maps, found["map"][:count]), strict=True):
                metrics.update(pixel_metrics(maps, tests.masks))
        pairs = {name: [float(each[name]) for each in values] for name in METRICS if name in values[0]}
        for name, (stored, exported) in pairs.items():
            if not np.isclose(stored, exported, rtol=0, atol=0.5 * 10**-self.digits, equal_nan=True):
                raise self._differs(f"{name} of the test images is {exported:.6f}, the run's {stored:.6f}")
        return {name: [round(value, 6) for value in pair] for name, pair in pairs.items()}
