"""The functions of the Python API that join several rooms: train a run, open it, measure any scores and maps."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from anomaly_bench.errors import UserError
from anomaly_bench.metrics import Measurement, measure
from anomaly_bench.runs.calibration import stored_thresholds
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.promise import promise
from anomaly_bench.runs.stored_run import MANIFEST

if TYPE_CHECKING:
    import pandas

    from anomaly_bench.inference.predict import Model

SCORE_FIELDS = [("path", object), ("kind", object), ("label", np.int64), ("score", np.float64)]
SHOWN = ("image_auroc", "pixel_auroc", "aupro_0.3")  # metrics in a run's short description


class Run:
    """A finished run: its figures, and the model that it trained.

    Raises UserError for a folder that is no finished run, and naming a result file that is damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self._folder = RunFolder(path)
        self.manifest = self._folder.require_done()
        self._folder.require_undamaged(("metrics.json", "scores.csv"))

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the test images: {"image_auroc": 0.991, ...}; undefined values are nan."""
        return self._folder.metrics

    @property
    def thresholds(self) -> dict[str, dict[str, Any]]:
        """The thresholds of `image` and `pixel` scores with what they promise; empty without calibration images.

        Raises UserError for thresholds that no run can have written.
        """
        return stored_thresholds(self.manifest, self.path / MANIFEST)

    def scores(self, as_frame: bool = False) -> np.ndarray | pandas.DataFrame:
        """Return path, kind, label and score of each test image, as a NumPy record array [N].

        as_frame: a pandas DataFrame instead.  Raises UserError where pandas is not installed.
        """
        rows = [(row.path, row.kind, row.label, row.score) for row in self._folder.scores]
        records = np.array(rows, dtype=SCORE_FIELDS).view(np.recarray)
        if not as_frame:
            return records
        try:
            import pandas
        except ImportError as error:
            raise UserError("as_frame", "pandas is not installed", "pip install pandas") from error
        return pandas.DataFrame.from_records(records)

    def maps(self) -> np.ndarray | None:
        """Return the anomaly maps of the test images, float32 [N, S, S], read from disk where they are used.

        Maps that were stored as float16 are read at once.  None where the run stored none.  Raises UserError where they
        are damaged.
        """
        self._folder.require_undamaged(["maps.npy"])
        return None if (maps := self._folder.maps) is None else np.asanyarray(maps)

    def model(self, device: str = "auto", config_dir: Path | str | None = None) -> Model:
        """Return the trained model, as `load` does."""
        from anomaly_bench.inference.load import load

        return load(self.path, device, config_dir)

    def __repr__(self) -> str:
        about, metrics = self.manifest, self.metrics
        figures = ", ".join(f"{name} {metrics[name]:.4f}" for name in SHOWN if name in metrics)
        where = f"{about.get('method')} on {about.get('dataset')}/{about.get('category')}, seed {about.get('seed')}"
        image = self.thresholds.get("image")
        return f"Run({where}; {figures}; {promise(image) if image else 'no threshold'}; {self.path})"

    def _repr_png_(self) -> bytes | None:
        """Return the picture that a notebook shows: the test image with the worst mistake, its mask and its map."""
        pictures = sorted((self.path / "heatmaps").glob("*.png"))
        return pictures[0].read_bytes() if pictures else None


def train(
    method: str, dataset: str, seed: int = 0, overrides: Sequence[str] = (), config_dir: Path | str | None = None
) -> Run:
    """Train and measure a run, and return it: the same run folder as the command's.

    A finished run is returned as it is, an interrupted one goes on.  overrides: as after `bench train`, such as
    `method.epochs=20`.  config_dir: as of `--config-dir`, where a method of your own lies.  Raises UserError for a user
    error, all mistakes of the configuration at once.

    train("rd", "mvtec/bottle", overrides=["method.epochs=20"]) is `bench train method=rd dataset=mvtec/bottle
    seed=0 method.epochs=20`.
    """
    from anomaly_bench import config
    from anomaly_bench.runs.runner import console_log, run

    if isinstance(overrides, str):
        raise UserError("overrides", f"'{overrides}' given, a list is needed", f"overrides=['{overrides}']")
    typed = [f"method={method}", f"dataset={dataset}", f"seed={seed}", *overrides]
    extra = str(Path(config_dir).resolve()) if config_dir else None
    ((typed, cfg, _),) = config.compose_jobs(typed, extra=extra)
    console_log()
    return Run(run(cfg, typed, ["--config-dir", extra] if extra else []).path)


def evaluate(
    maps: np.ndarray | Sequence[np.ndarray] | None,
    masks: np.ndarray | Sequence[np.ndarray] | None,
    scores: np.ndarray,
    labels: np.ndarray,
    *,
    memory_mb: float = 2048,
    resamples: int = 1000,
) -> Measurement:
    """Return all metrics of any program's scores and maps, with bootstrap intervals, as runs are measured.

    maps: [N, H, W] anomaly maps of any range, not rescaled; masks: [N, H, W], any value but 0 is anomalous; None for
    both where there are none.  scores: [N].  labels: [N], 0 normal, 1 anomalous.  memory_mb, resamples: see
    `metrics.measure`.  Raises ValueError for shapes that do not fit, and for values that are not finite.

    >>> evaluate(None, None, np.array([0.1, 0.4, 0.6, 0.8]), np.array([0, 0, 1, 1]))["image_auroc"]
    1.0
    """
    if masks is not None:
        masks = [np.asarray(mask) != 0 for mask in masks]
    return measure(scores, labels, maps, masks, memory_mb=memory_mb, resamples=resamples)
