"""How the score of a test image ranks, and on which side of a threshold it lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from anomaly_bench.runs.promise import side_of
from anomaly_bench.runs.stored_run import ScoreRow

AMONG = {  # by label, and whether some images of the other class rank the wrong way; the report fills in the same
    1: ("above all {others} normal images", "{wrong} of {others} normal images score as high"),
    0: ("below all {others} anomalous images", "{wrong} of {others} anomalous images score as low"),
}


class Caption(NamedTuple):
    """What stands below a heat map."""

    lines: tuple[str, str, str]
    wrong: bool  # whether the threshold decides against the label


@dataclass(frozen=True)
class Mistake:
    """How wrong the score of a test image is: how many images of the other class lie on the wrong side of it."""

    row: ScoreRow
    rank: int  # 1 = the highest score of the test set
    total: int  # images in the test set
    wrong: int  # normal images that score as high as an anomalous one; anomalous ones that score as low as a normal one
    others: int  # images of the other class

    @property
    def share(self) -> float:
        """Return `wrong` as a share of the other class; 0 where that is empty."""
        return self.wrong / max(self.others, 1)

    @property
    def among(self) -> str:
        """How the image lies among those of the other class."""
        if not self.others:
            return f"no {'normal' if self.row.label else 'anomalous'} images to compare with"
        return AMONG[self.row.label][self.wrong > 0].format(wrong=self.wrong, others=self.others)

    def caption(self, threshold: Mapping[str, Any] | None) -> Caption:
        """Return what stands below the heat map.  threshold: of the scores, as in a manifest; None without one."""
        first = f"{self.row.kind} · {self.row.path}"
        second = f"score {self.row.score:.4g} · ranked {self.rank} of {self.total} · {self.among}"
        if threshold is None:
            return Caption((first, second, "no threshold was set"), wrong=False)
        wrong = (self.row.score > threshold["threshold"]) != bool(self.row.label)
        return Caption((first, second, side_of(self.row.score, threshold)), wrong)


def find_mistakes(rows: Sequence[ScoreRow]) -> list[Mistake]:
    """Return one for each row, in the same order."""
    scores, labels = np.array([row.score for row in rows]), np.array([row.label for row in rows])
    everything, normal, anomalous = np.sort(scores), np.sort(scores[labels == 0]), np.sort(scores[labels == 1])
    found = []
    for row in rows:
        rank = len(rows) - int(np.searchsorted(everything, row.score, "right")) + 1
        others = normal if row.label else anomalous
        lower = int(np.searchsorted(others, row.score, "left" if row.label else "right"))
        wrong = len(others) - lower if row.label else lower
        found.append(Mistake(row, rank, len(rows), wrong, len(others)))
    return found


def worst_first(mistakes: Sequence[Mistake]) -> list[int]:
    """Return indices by falling share; among equals missed defects first, then the score nearer the wrong end."""

    def key(i: int) -> tuple[float, int, float]:
        m = mistakes[i]
        return -m.share, -m.row.label, m.row.score if m.row.label else -m.row.score

    return sorted(range(len(mistakes)), key=key)
