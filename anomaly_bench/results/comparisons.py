"""Which settings differ, as far as the runs can tell: every pair of settings, and each setting against itself."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anomaly_bench.results.aggregate import MAIN, settings
from anomaly_bench.results.collect import Row
from anomaly_bench.runs.folder import RunFolder

if TYPE_CHECKING:
    from anomaly_bench.metrics.significance import Compared, Key

MOST = 12  # settings of a data set that are compared each with each: 66 pairs; beyond, the correction leaves nothing
Runs = dict["Key", Row]


@dataclass(frozen=True)
class Comparison:
    """Two settings on the categories and seeds that both have, first minus second."""

    dataset: str
    metric: str
    first: str  # headings of the tables; of a check with the seeds
    second: str
    pairs: int  # of runs
    categories: int
    difference: float
    low: float  # of the 95 % interval; nan where the runs are too few for one
    high: float
    p: float  # Wilcoxon, two-sided, Holm-corrected over the data set and metric; nan where no p below 0.05 is possible
    distinguishable: bool
    why: str  # what the verdict rests on, or what it lacks
    scope: str = ""  # " on screw": what a difference is limited to
    check: bool = False  # a setting against itself: no difference is expected

    @property
    def verdict(self) -> str:
        """In words."""
        if not self.distinguishable:
            return f"not distinguishable ({self.why})"
        if self.check:
            return f"DIFFERS FROM ITSELF ({self.why})"
        return f"{self.first if self.difference > 0 else self.second} better{self.scope} ({self.why})"


def comparisons(rows: Sequence[Row]) -> list[Comparison]:
    """By data set and main metric: every pair of settings with a (category, seed) in common, then each setting's
    seeds in two halves against each other.  Empty where nothing can be compared.

    Runs on different images are never paired.  Pairs of settings are one family of tests, the checks another.
    """
    found: list[Comparison] = []
    images = Images()
    for dataset, group in groupby(sorted(rows, key=lambda row: row.dataset), key=lambda row: row.dataset):
        runs = {head: {(row.category, row.seed): row for row in own} for head, own in compared(list(group)).items()}
        for metric in MAIN:
            between = [(a, b, runs[a], runs[b]) for a, b in combinations(runs, 2)]
            found += _family(dataset, metric, between, images, check=False)
            found += _family(dataset, metric, halves(runs), images, check=True)
    return found


def compared(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Heading -> runs of the settings of one data set that are compared: those with the most runs, MOST at most."""
    every = settings(rows)
    kept = sorted(every, key=lambda head: -len(every[head]))[:MOST]
    return {head: runs for head, runs in every.items() if head in kept}


def skipped(rows: Sequence[Row]) -> list[str]:
    """A line for each data set with more settings than are compared."""
    by = {dataset: [row for row in rows if row.dataset == dataset] for dataset in sorted({row.dataset for row in rows})}
    return [
        f"{dataset}: {MOST} of {n} settings are compared, those with the most runs"
        for dataset, own in by.items()
        if (n := len(settings(own))) > MOST
    ]


def shortened(found: Iterable[Comparison]) -> list[Comparison]:
    """Settings called by their method alone where it has only one of them, for a narrow page."""
    found = list(found)
    heads = {side.partition(", ")[0] for c in found for side in (c.first, c.second)}  # a check names seeds after it
    methods = [head.split()[0] for head in heads]
    brief = {head: head.split()[0] if methods.count(head.split()[0]) == 1 else head for head in heads}

    def short(side: str) -> str:
        head, comma, seeds = side.partition(", ")
        return f"{brief[head]}{comma}{seeds}"

    return [replace(c, first=short(c.first), second=short(c.second)) for c in found]


def halves(runs: Mapping[str, Runs]) -> Iterator[tuple[str, str, Runs, Runs]]:
    """Each setting with several seeds in two: in every category the seeds of even rank against those of odd rank."""
    for head, own in runs.items():
        ranked: dict[str, list[Row]] = defaultdict(list)
        for category, seed in sorted(own):
            ranked[category].append(own[category, seed])
        even, odd = (
            {(category, k): row for category, seeds in ranked.items() for k, row in enumerate(seeds[half::2])}
            for half in (0, 1)
        )
        yield f"{head}, {_named(even, odd)}", f"{head}, {_named(odd, even)}", even, odd


def _family(
    dataset: str, metric: str, sides: Iterable[tuple[str, str, Runs, Runs]], images: Images, check: bool
) -> Iterator[Comparison]:
    """The comparisons of one family, corrected together.  One that cannot come out needs no correction."""
    shared = ((first, second, one, two, _shared(metric, one, two)) for first, second, one, two in sides)
    found = [
        (first, second, *_compared(metric, one, two, keys, images)) for first, second, one, two, keys in shared if keys
    ]
    if not found:
        return
    from anomaly_bench.metrics.significance import ALPHA, holm

    able = [i for i, (_, _, result, _) in enumerate(found) if result.least < ALPHA]
    corrected = dict(zip(able, holm([found[i][2].p for i in able]), strict=True))
    for i, (first, second, result, categories) in enumerate(found):
        p = corrected.get(i, math.nan)
        distinguishable, why = _judged(result, p)
        figures = (result.pairs, result.categories, result.difference, result.low, result.high, p)
        yield Comparison(dataset, metric, first, second, *figures, distinguishable, why, _scope(categories), check)


def _shared(metric: str, one: Runs, two: Runs) -> list[Key]:
    """What both sides have a defined value for, measured on the same data."""
    return sorted(
        key
        for key in one.keys() & two.keys()
        if one[key].data == two[key].data
        and not any(math.isnan(side[key].metrics.get(metric, math.nan)) for side in (one, two))
    )


def _compared(metric: str, one: Runs, two: Runs, keys: Sequence[Key], images: Images) -> tuple[Compared, list[str]]:
    """The figures, and the categories that they are of."""
    from anomaly_bench.metrics.significance import compare, image_interval

    first, second = ({key: side[key].metrics[metric] for key in keys} for side in (one, two))
    result, categories = compare(first, second), sorted({category for category, _ in keys})
    if len(categories) == 1 and metric == "image_auroc":
        drawn = images.replicates([side[key].path for side in (one, two) for key in keys])
        if drawn is not None:
            low, high = image_interval(drawn[: len(keys)], drawn[len(keys) :])
            result = result._replace(low=low, high=high)
    return result, categories


class Images:
    """Bootstrap replicates of the image AUROC of runs, read once for all comparisons."""

    def __init__(self) -> None:
        self.known: dict[Path, tuple[int, Any] | None] = {}

    def replicates(self, paths: Sequence[Path]) -> Any:
        """[runs, resamples], with the same images in each replicate; None where not all have scored the same images."""
        import numpy as np

        for path in paths:
            if path not in self.known:
                self.known[path] = self._read(path)
        found = [known for path in paths if (known := self.known[path])]
        same = len(found) == len(paths) and len({images for images, _ in found}) == 1
        return np.array([drawn for _, drawn in found]) if same else None

    def _read(self, path: Path) -> tuple[int, Any] | None:
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


def _judged(result: Compared, p: float) -> tuple[bool, str]:
    """Is there a difference, and why or why not?  Both the test and the interval must say so."""
    from anomaly_bench.metrics.significance import ALPHA, ENOUGH

    if math.isnan(p):
        few = f"{result.pairs} {'pair' if result.pairs == 1 else 'pairs'} of runs, at least {ENOUGH} could tell"
        few += "" if math.isnan(result.low) else "; the interval is over test images"
        return False, few if result.pairs < ENOUGH else "too few of the values differ at all"
    said = f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"
    if p < ALPHA and result.low <= 0 <= result.high:
        return False, f"{said}, but the interval holds 0"
    return p < ALPHA, said


def _scope(categories: Sequence[str]) -> str:
    """What a verdict is limited to; nothing where there are categories enough to speak of others like them."""
    from anomaly_bench.metrics.significance import ENOUGH

    if len(categories) >= ENOUGH:
        return ""
    return f" on {' and '.join(categories)}" if len(categories) < 3 else f" on these {len(categories)} categories"


def _named(half: Runs, other: Runs) -> str:
    """The seeds of the pairs; where categories have different ones, no seed is in one half only."""
    seeds, others = ({side[key].seed for key in half.keys() & other.keys()} for side in (half, other))
    names = [str(seed) for seed in sorted(seeds)]
    if seeds & others:
        return "one half of the seeds" if min(seeds) <= min(others) else "the other half"
    return f"seed{'s' * (len(names) > 1)} {', '.join(names if len(names) <= 4 else [*names[:2], '…', names[-1]])}"
