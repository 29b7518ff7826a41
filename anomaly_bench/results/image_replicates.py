"""The image AUROC of finished runs on test images that are drawn again, the same ones for all runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anomaly_bench.runs.folder import RunFolder


class ImageReplicates:
    """Bootstrap replicates of the image AUROC of runs, read once for all comparisons."""

    def __init__(self) -> None:
        self.known: dict[Path, tuple[int, Any] | None] = {}  # hash of the images, their replicates

    def read(self, paths: Sequence[Path]) -> Any:
        """Return [runs, resamples], with the same images in each replicate; None where the runs scored others."""
        import numpy as np

        for path in paths:
            if path not in self.known:
                self.known[path] = self._draw(path)
        found = [known for path in paths if (known := self.known[path])]
        same = len(found) == len(paths) and len({images for images, _ in found}) == 1
        return np.array([drawn for _, drawn in found]) if same else None

    def _draw(self, path: Path) -> tuple[int, Any] | None:
        import numpy as np

        from anomaly_bench.metrics.bootstrap import image_replicates
        from anomaly_bench.metrics.significance import RESAMPLES

        try:
            rows = RunFolder(path).scores
        except (OSError, ValueError, KeyError, TypeError):  # the interval is then of the seeds alone
            return None
        scores, labels = np.array([row.score for row in rows]), np.array([row.label for row in rows])
        drawn = image_replicates(scores, labels, resamples=RESAMPLES, seed=0)["image_auroc"]
        return hash(tuple((row.path, row.label) for row in rows)), drawn
