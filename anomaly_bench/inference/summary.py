"""What `bench predict` says at its end: counts, images that could not be scored, drift, what of a lot to reject."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

import numpy as np

from anomaly_bench.inference.predict import Model, Result
from anomaly_bench.loading.image_files import printable
from anomaly_bench.metrics.calibration import benjamini_hochberg
from anomaly_bench.metrics.drift import score_change
from anomaly_bench.runs.promise import percent

DRIFT_IMAGES, DRIFT_P = 20, 0.01  # from so many images on drift is looked for; it is said below this p-value
ANOMALOUS = 4  # the exit code of --fail-on-anomaly


class Summary:
    """Counts the results of one call."""

    def __init__(self, model: Model, lot: float | None = None) -> None:
        """lot: the share of normal images among those rejected, of --lot."""
        self.model, self.lot = model, lot
        self.images = self.anomalous = self.unlike = self.unscored = 0
        self.errors: list[str] = []  # a line for each image that has no score
        self._scores, self._p_values = array("d"), array("d")
        self._extreme: list[tuple[float, str]] = []  # p-values and paths of those that a lot may reject

    def add(self, result: Result) -> None:
        """Count a result."""
        self.images += 1
        if result.error:
            self.unscored += 1
            self.errors.append(f"{printable(result.path)}: {printable(result.error)}")
            return
        self.anomalous += result.label or 0
        self.unlike += bool(result.unlike)
        self._scores.append(result.score)
        if self.lot and result.p_value is not None:
            self._p_values.append(result.p_value)
            if result.p_value <= self.lot:
                self._extreme.append((result.p_value, result.path))

    @property
    def line(self) -> str:
        """The counts in one line."""
        anomalous = f"{self.anomalous} anomalous, " if "image" in self.model.thresholds else "no threshold, "
        scored = self.images - self.unscored
        return (
            f"{scored} images scored: {anomalous}{self.unlike} unlike the training images; {self.unscored} not scored"
        )

    @property
    def drift_line(self) -> str:
        """That the normal images have changed, if so; else empty."""
        entry, calibration = self.model.thresholds.get("image"), self.model.calibration
        if not entry or calibration is None or len(self._scores) < DRIFT_IMAGES:
            return ""
        found = score_change(calibration, np.array(self._scores), entry["threshold"])
        if found.p_value >= DRIFT_P:
            return ""
        return drift_text(f"Kolmogorov-Smirnov, p = {found.p_value:.2g}, {found.new} and {found.calibration} images")

    def lot_lines(self) -> Iterator[str]:
        """Yield which images of the lot to reject, and what that means."""
        assert self.lot is not None
        assert self.model.calibration is not None
        m, n = len(self._p_values), len(self.model.calibration)
        rejected = benjamini_hochberg(np.array(self._p_values), self.lot)
        cutoff = np.array(self._p_values)[rejected].max(initial=0)
        for p, path in self._extreme:
            if p <= cutoff:
                yield f"reject  p {p:<8.3g}  {printable(path)}"
        share = percent(self.lot)
        yield f"lot: {rejected.sum()} of {m} images rejected; on average at most {share} of those are normal"
        possible = np.flatnonzero(1 / (n + 1) <= self.lot * np.arange(1, m + 1) / m)  # numbers of images, less 1
        if m and not len(possible):
            yield f"lot: with {n} calibration images none can be rejected; it takes {normals_for_lot(self.lot)} of them"
        elif not rejected.any() and len(possible) and possible[0]:
            count = possible[0] + 1
            yield f"lot: with {n} calibration images none is rejected before {count} of {m} images score above them all"

    def code(self, fail_on_anomaly: bool) -> int:
        """Return the exit code: an image that could not be scored counts more than an anomalous one."""
        return 1 if self.unscored else ANOMALOUS if fail_on_anomaly and self.anomalous else 0


def drift_text(evidence: str) -> str:
    """Return the sentence that the normal images have changed."""
    return (
        f"the scores below the threshold no longer look like those of the calibration images ({evidence}): what the "
        "threshold promises may not hold for them"
    )


def normals_for_lot(rate: float) -> int:
    """Return the number of calibration images whose smallest p-value, 1 / (n + 1), is at most `rate`.

    >>> normals_for_lot(0.05), normals_for_lot(0.3)
    (19, 3)
    """
    return int(np.ceil(1 / rate - 1 - 1e-9))
