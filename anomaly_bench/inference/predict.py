"""Scores, maps and verdicts of new images, by the model of a finished run."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from anomaly_bench.contracts import Method, Scores
from anomaly_bench.errors import UserError
from anomaly_bench.inference.pictures import result_png
from anomaly_bench.inference.sources import NewImage, Source, open_source, why_no_file
from anomaly_bench.loading.anomaly_maps import map_at_source
from anomaly_bench.loading.frame import Frame
from anomaly_bench.loading.image_dataset import to_tensor
from anomaly_bench.loading.image_files import printable
from anomaly_bench.loading.image_statistics import image_statistics, unlike
from anomaly_bench.metrics.calibration import p_values
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.ignored import stored_ignore
from anomaly_bench.runs.precision import scoring
from anomaly_bench.runs.promise import promise
from anomaly_bench.runs.scoring import checked
from anomaly_bench.runs.whole_images import score_whole, stored_view


@dataclass(frozen=True, eq=False)
class Result:
    """What a model says of one image."""

    path: str  # as it was given
    score: float  # raw, larger: more anomalous; nan where there is an error
    map: np.ndarray | None  # float32 [H, W] at the model's size, an ignored region lowest; None: the method has none
    p_value: float | None  # small where few calibration images score as high; None where there are none
    label: int | None  # 0 normal, 1 anomalous: the score is above the threshold; None without a threshold
    width: int  # pixels of the image itself
    height: int
    ms: float  # to decode and resize it, and its share of its batch's scoring
    threshold: float | None = None  # of the score
    pixel_threshold: float | None = None  # of the map
    unlike: str = ""  # in what the image lies outside the training images' range
    error: str = ""  # why it was not scored
    image: np.ndarray | None = None  # uint8 [H, W, 3], where the map has its pixels
    frame: Frame | None = None  # how the image came to the model; None where it was not scored

    def map_at_source(self) -> np.ndarray:
        """Return the map at the image's own size: float32 [height, width], bilinear.

        Where the model sees a central part only (`dataset.fit: crop`), the rest has the map's lowest value.  Raises
        UserError where there is no map.
        """
        if self.map is None:
            raise UserError(self.path, self.error or "the method gives no map")
        return map_at_source(self.map, self.frame or Frame((1, 1)), (self.height, self.width))

    def __repr__(self) -> str:
        path = printable(self.path)
        if self.error:
            return f"Result({path}: {self.error})"
        verdict = {None: "", 0: ", normal", 1: ", anomalous"}[self.label]
        p = "" if self.p_value is None else f", p {self.p_value:.3g}"
        return f"Result({path}: score {self.score:.6g}{p}{verdict}{f', {self.unlike}' if self.unlike else ''})"

    def _repr_png_(self) -> bytes | None:
        """Return the picture that a notebook shows: the image, outlined where it is anomalous, and its map."""
        return None if self.image is None else result_png(self.image, self.map, self.pixel_threshold)


@dataclass(frozen=True)
class Decoded:
    """An image as the model sees it, or why there is none."""

    path: str
    width: int
    height: int
    ms: float
    image: np.ndarray | None = None  # uint8 or uint16 [H, W, 3]
    unlike: str = ""
    error: str = ""
    whole: np.ndarray | None = None  # uint8 [height, width, 3], where the model resizes it


class Model:
    """A finished run that scores new images; `load` makes it."""

    resizes = False  # whether `_scored` gets whole images

    def __init__(
        self,
        folder: RunFolder,
        manifest: Mapping[str, Any],
        method: Method,
        thresholds: Mapping[str, Mapping[str, Any]],
        calibration: np.ndarray | None,
    ) -> None:
        """thresholds: by level, as in the manifest.  calibration: scores of normal images, [n]."""
        self.folder, self.manifest, self.method = folder, manifest, method
        self.thresholds, self.calibration = thresholds, calibration
        self.image_size, self.batch_size = method.image_size, method.batch_size
        self.view = stored_view(manifest, method, stored_ignore(folder, manifest))

    def predict(self, source: Source, batch_size: int | None = None, threads: int | None = None) -> Iterator[Result]:
        """Yield a result for each image, in the order of the source; memory does not grow with their number.

        source: see `open_source`.  batch_size: images that are scored together; default: the run's, with which its own
        test images get the very scores of its scores.csv.  threads: of the CPU, for decoding and scoring; default: the
        run's `hardware.threads`.  An image that cannot be used gives a result whose `error` says why.  Raises
        UserError at once for a source without images.
        """
        for name, value in (("batch_size", batch_size), ("threads", threads)):
            if value is not None and (type(value) is not int or value < 1):
                raise UserError(name, f"{value!r} given, allowed: an integer from 1")
        images, known = open_source(source)
        threads = threads or self.manifest.get("hardware", {}).get("threads")
        return self._predict(images, known, batch_size or self.batch_size, threads)

    def _predict(
        self, images: Iterator[NewImage], known: bool, batch_size: int, threads: int | None
    ) -> Iterator[Result]:
        """known: the next batch may be decoded while one is scored."""
        with ThreadPoolExecutor(threads or min(4, os.cpu_count() or 1)) as pool:

            def submit() -> list[Future[Decoded]]:
                return [pool.submit(self._decode, image) for image in islice(images, batch_size)]

            batch = submit()
            while batch:
                following = submit() if known else None
                decoded = [future.result() for future in batch]
                with computing(threads):
                    results = self._score(decoded)
                yield from results
                batch = submit() if following is None else following

    def _decode(self, image: NewImage) -> Decoded:
        start = time.perf_counter()
        if isinstance(image.image, Path) and (why := why_no_file(image.image)):
            return Decoded(image.path, 0, 0, elapsed_ms(start), error=why)
        try:
            pixels = self.view.frame.read(image.image)
            small = self.view.frame.image(pixels, image.path)
        except UserError as error:
            where = error.where if isinstance(image.image, np.ndarray) else ""
            return Decoded(image.path, 0, 0, elapsed_ms(start), error=f"{where} {error.what}".strip())
        height, width = pixels.shape[:2]
        trained_on = self.manifest.get("training_images", {})
        shown = self.view.frame.picture(small, pixels.shape)
        marks = unlike(image_statistics(shown, width, height), trained_on)
        whole = pixels if self.resizes else None
        return Decoded(image.path, width, height, elapsed_ms(start), small, marks, whole=whole)

    @torch.inference_mode()
    def _score(self, batch: Sequence[Decoded]) -> list[Result]:
        """Return a result for each image of a batch; those that could not be decoded are no part of what is scored."""
        usable = [each for each in batch if each.image is not None]
        if not usable:
            return list(map(unusable, batch))
        start = time.perf_counter()
        found = self._scored(usable)
        scores = iter(found.image.float().cpu().tolist())
        maps = iter([None] * len(usable) if found.map is None else found.map.float().cpu().numpy())
        ms = elapsed_ms(start) / len(usable)
        return [
            unusable(each) if each.image is None else self._result(each, next(scores), next(maps), ms) for each in batch
        ]

    def _scored(self, usable: Sequence[Decoded]) -> Scores:
        """Return the scores of images that could be decoded."""
        images = torch.stack([to_tensor(each.image) for each in usable if each.image is not None])
        shapes = [(each.height, each.width) for each in usable]
        return score_whole(self.view, self._checked, images.to(self.method.device), shapes, self.batch_size)

    def _checked(self, images: torch.Tensor) -> Scores:
        with scoring(self.method):
            return checked(self.method, self.method.score(images), images.shape)

    def _result(self, each: Decoded, score: float, values: np.ndarray | None, ms: float) -> Result:
        if not (math.isfinite(score) and (values is None or np.isfinite(values).all())):
            return unusable(replace(each, error="its score is not finite as float32", ms=each.ms + ms))
        threshold, pixel = (self.thresholds.get(level, {}).get("threshold") for level in ("image", "pixel"))
        p_value = None if self.calibration is None else float(p_values(self.calibration, np.array([score]))[0])
        label, shape = None if threshold is None else int(score > threshold), (each.height, each.width)
        frame = self.view.frame
        if values is not None and (region := frame.ignored_region) is not None:
            values = np.where(region, values[~region].min(), values)
        picture = None if each.image is None else frame.picture(each.image, shape)
        return Result(
            *(each.path, score, values, p_value, label, each.width, each.height, each.ms + ms),
            *(threshold, pixel, each.unlike, "", picture, frame),
        )

    def __repr__(self) -> str:
        about = self.manifest
        name = (
            f"{about.get('method')} trained on {about.get('dataset')}/{about.get('category')}, seed {about.get('seed')}"
        )
        size = f"{self.view.frame} pixels, batches of {self.batch_size}, {self.method.device}"
        image = self.thresholds.get("image")
        return f"Model({name}; {size}; {promise(image) if image else 'no threshold'})"


def unusable(each: Decoded) -> Result:
    """Return the result of an image that has no score."""
    return Result(each.path, math.nan, None, None, None, each.width, each.height, each.ms, error=each.error)


def elapsed_ms(start: float) -> float:
    """Return the milliseconds since `start`, of time.perf_counter()."""
    return 1000 * (time.perf_counter() - start)


@contextmanager
def computing(threads: int | None) -> Iterator[None]:
    """Inside the block, let PyTorch compute on so many threads of the CPU, and by the algorithms of a training.

    threads: None leaves their number as it is.
    """
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1], warn_only=warn_only)
