"""Which settings differ, as far as the runs can tell: every pair of settings, and each setting against itself."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, groupby
from typing import TYPE_CHECKING

from anomaly_bench.results.aggregate import MAIN, settings
from anomaly_bench.results.collect import Row
from anomaly_bench.results.image_replicates import ImageReplicates

if TYPE_CHECKING:
    from anomaly_bench.metrics.significance import Compared, Key, Tested

MOST = 12  # settings of a data set that are compared each with each: 66 pairs; beyond, the correction leaves nothing
Runs = Mapping["Key", Row]  # of one side of a comparison


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
    ahead: float  # share of the pairs in which the first is ahead, ties by half
    p: float  # Wilcoxon, two-sided, Holm-corrected over the data set and metric; nan where no p below 0.05 is possible
    distinguishable: bool
    why: str  # what the verdict rests on, or what it lacks
    detectable: float = math.nan  # the true difference that these runs would have told apart in 4 of 5 cases
    margin: float = 0.0  # they are the same within this much; 0: that is not known, or was not asked for
    scope: str = ""  # " on screw": what a difference is limited to
    check: bool = False  # a setting against itself: no difference is expected

    @property
    def verdict(self) -> str:
        """Which of the two is better, or why that cannot be told."""
        from anomaly_bench.metrics.significance import ENOUGH

        if not self.distinguishable and math.isnan(self.p) and self.pairs < ENOUGH:
            return f"too few runs ({self.why})"
        if self.margin and not self.distinguishable:
            return f"equivalent within {self.margin:g}{self.scope} ({self.why})"
        if not self.distinguishable:
            seen = "" if math.isnan(self.detectable) else f"; {self.detectable:.3f} could have been told apart"
            return f"not distinguishable ({self.why}{seen})"
        if self.check:
            return f"DIFFERS FROM ITSELF ({self.why})"
        return f"{self.first if self.difference > 0 else self.second} better{self.scope} ({self.why})"


def alarms(comparisons: Iterable[Comparison]) -> list[str]:
    """Return a line for each setting whose seeds differ from its own other seeds."""
    return [
        f"{c.dataset} {c.metric}: {c.first} and {c.second} are the same method and came out as different ({c.why}); "
        "by chance one check in 20 does, more often something else than the seed differs between these runs"
        for c in comparisons
        if c.check and c.distinguishable
    ]


def compare_settings(rows: Sequence[Row], margin: float = 0.0) -> list[Comparison]:
    """Compare, by data set and main metric, every pair of settings with a (category, seed) in common, then each
    setting's seeds in two halves against each other.  Empty where nothing can be compared.

    Runs on different images are never paired.  Pairs of settings are one family of tests, the checks another.
    margin: a difference below it does not matter; above 0, settings that differ by less are called equivalent.
    """
    found: list[Comparison] = []
    images = ImageReplicates()
    for dataset, group in groupby(sorted(rows, key=lambda row: row.dataset), key=lambda row: row.dataset):
        runs: dict[str, Runs] = {
            heading: {(row.category, row.seed): row for row in rows_of_setting}
            for heading, rows_of_setting in _most_run(settings(list(group))).items()
        }
        for metric in MAIN:
            pairs = [(first, second, runs[first], runs[second]) for first, second in combinations(runs, 2)]
            found += _family(dataset, metric, pairs, images, margin)
            found += _family(dataset, metric, halves(runs), images, check=True)
    return found


def _most_run(runs: Mapping[str, list[Row]]) -> dict[str, list[Row]]:
    """Return the settings that are compared, by heading: those with the most runs, MOST at most."""
    kept = sorted(runs, key=lambda heading: -len(runs[heading]))[:MOST]
    return {heading: rows for heading, rows in runs.items() if heading in kept}


def skipped(rows: Sequence[Row]) -> list[str]:
    """Return a line for each data set with more settings than are compared."""
    counts = Counter(dataset for dataset, _ in {(row.dataset, row.setting) for row in rows})
    return [
        f"{dataset}: {MOST} of {n} settings are compared, those with the most runs"
        for dataset, n in sorted(counts.items())
        if n > MOST
    ]


def shortened(comparisons: Iterable[Comparison]) -> list[Comparison]:
    """Return the comparisons with settings called by their method alone where it has only one, for a narrow page."""
    comparisons = list(comparisons)
    headings = {side.partition(", ")[0] for c in comparisons for side in (c.first, c.second)}  # seeds after the comma
    methods = [heading.split()[0] for heading in headings]

    def short(side: str) -> str:
        heading, comma, seeds = side.partition(", ")
        method = heading.split()[0]
        return f"{method if methods.count(method) == 1 else heading}{comma}{seeds}"

    return [replace(c, first=short(c.first), second=short(c.second)) for c in comparisons]


def halves(runs: Mapping[str, Runs]) -> Iterator[tuple[str, str, Runs, Runs]]:
    """Yield each setting with several seeds in two: in every category the seeds of even rank and those of odd rank."""
    for heading, found in runs.items():
        ranked: dict[str, list[Row]] = defaultdict(list)
        for category, seed in sorted(found):
            ranked[category].append(found[category, seed])
        even, odd = (
            {(category, k): row for category, rows in ranked.items() for k, row in enumerate(rows[half::2])}
            for half in (0, 1)
        )
        yield f"{heading}, {_seeds(even, odd)}", f"{heading}, {_seeds(odd, even)}", even, odd


def _family(
    dataset: str,
    metric: str,
    sides: Iterable[tuple[str, str, Runs, Runs]],
    images: ImageReplicates,
    margin: float = 0.0,
    check: bool = False,
) -> Iterator[Comparison]:
    """Yield the comparisons of one family, corrected together.  One that cannot come out needs no correction."""
    found = []
    for first, second, one, two in sides:
        if keys := _shared(metric, one, two):
            result = _compare_runs(metric, one, two, keys, images)
            found.append((first, second, result, sorted({category for category, _ in keys})))
    if not found:
        return
    from anomaly_bench.metrics.significance import ALPHA

    here, beyond = _corrected([r.here for *_, r, _ in found]), _corrected([r.beyond for *_, r, _ in found])
    tests = max(1, sum(not math.isnan(p) for p in here))
    for i, (first, second, result, categories) in enumerate(found):
        answer, p, scope = result.here, here[i], _scope(categories)
        distinguishable, why = _judge(result.pairs, answer, p)
        if result.beyond is not None:  # that is asked only where there is a difference on these categories
            general, reason = _judge(result.pairs, result.beyond, beyond[i])
            if general or not distinguishable:
                answer, p, scope = result.beyond, beyond[i] if general else p, ""
            why = reason if general and distinguishable else why
        same = margin > abs(result.difference) + answer.half_width(1 - 2 * ALPHA) and not distinguishable
        figures = (result.pairs, result.categories, result.difference, answer.low, answer.high, result.ahead, p)
        could = answer.detectable(ALPHA / tests)
        yield Comparison(
            *(dataset, metric, first, second, *figures, distinguishable, why, could, margin if same else 0.0),
            *(scope, check),
        )


def _corrected(answers: Sequence[Tested | None]) -> list[float]:
    """Return Holm's corrected p of each; nan where there is none, or none below 0.05 is possible."""
    from anomaly_bench.metrics.significance import ALPHA, holm

    able = [i for i, answer in enumerate(answers) if answer and answer.least < ALPHA]
    corrected = dict(zip(able, holm([answer.p for answer in answers if answer and answer.least < ALPHA]), strict=True))
    return [corrected.get(i, math.nan) for i in range(len(answers))]


def _shared(metric: str, one: Runs, two: Runs) -> list[Key]:
    """Return what both sides have a defined value for, measured on the same data."""
    return sorted(
        key
        for key in one.keys() & two.keys()
        if one[key].data == two[key].data
        and not any(math.isnan(side[key].metrics.get(metric, math.nan)) for side in (one, two))
    )


def _compare_runs(metric: str, one: Runs, two: Runs, keys: Sequence[Key], images: ImageReplicates) -> Compared:
    from anomaly_bench.metrics.significance import compare, image_interval

    first, second = ({key: side[key].metrics[metric] for key in keys} for side in (one, two))
    result = compare(first, second)
    if result.categories == 1 and metric == "image_auroc":
        drawn = images.read([side[key].path for side in (one, two) for key in keys])
        if drawn is not None:
            low, high = image_interval(drawn[: len(keys)], drawn[len(keys) :])
            result = result._replace(here=result.here._replace(low=low, high=high))
    return result


def _judge(pairs: int, answer: Tested, p: float) -> tuple[bool, str]:
    """Return whether there is a difference, and why or why not.  Both the test and the interval must say so."""
    from anomaly_bench.metrics.significance import ALPHA, ENOUGH

    if math.isnan(p):
        few = f"{pairs} {'pair' if pairs == 1 else 'pairs'} of runs, at least {ENOUGH} could tell"
        few += "" if math.isnan(answer.low) else "; the interval is over test images"
        return False, few if pairs < ENOUGH else "too few of the values differ at all"
    test = f"p = {p:.3f}" if p >= 0.001 else "p < 0.001"
    if p < ALPHA and answer.low <= 0 <= answer.high:
        return False, f"{test}, but the interval holds 0"
    return p < ALPHA, test


def _scope(categories: Sequence[str]) -> str:
    """Return what a verdict is limited to that speaks of these categories only."""
    return f" on {' and '.join(categories)}" if len(categories) < 3 else f" on these {len(categories)} categories"


def _seeds(half: Runs, other: Runs) -> str:
    """Name the seeds of the pairs; where categories have different ones, no seed is in one half only."""
    seeds, others = ({side[key].seed for key in half.keys() & other.keys()} for side in (half, other))
    names = [str(seed) for seed in sorted(seeds)]
    if seeds & others:
        return "one half of the seeds" if min(seeds) <= min(others) else "the other half"
    return f"seed{'s' * (len(names) > 1)} {', '.join(names if len(names) <= 4 else [*names[:2], '…', names[-1]])}"
