"""What the figures of a data set must be read with: plain statistics that separate its images, runs that learned
nothing or computed in lower precision, and the rule by which its authors measure it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from anomaly_bench.results.aggregate import settings
from anomaly_bench.results.collect import Row
from anomaly_bench.runs.confounds import Confound


def remarks(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Return the sentences for each data set, sorted; none where there is nothing to say."""
    datasets: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        datasets[row.dataset].append(row)
    return {
        name: [*_confounds(datasets[name]), *_not_learned(datasets[name]), *_precision(datasets[name]), *_rule(name)]
        for name in sorted(datasets)
    }


def _confounds(rows: Sequence[Row]) -> Iterator[str]:
    """Yield one sentence, with the statistic that separates best in each category, over all its runs."""
    found: dict[str, Confound] = {}
    for row in rows:
        if row.confound and (row.category not in found or row.confound.auroc > found[row.category].auroc):
            found[row.category] = row.confound
    if len({row.category for row in rows}) == 1:
        yield from map(str, found.values())
    elif found:
        names = [f"{each.statistic} in {name} ({each.auroc:.3f})" for name, each in sorted(found.items())]
        suspects = dict.fromkeys(each.suspect for _, each in sorted(found.items()) if each.suspect)
        doubt = f"; image scores where it is above 0.9 may measure {' or '.join(suspects)}" if suspects else ""
        yield f"one statistic alone separates normal from anomalous test images with AUROC: {', '.join(names)}{doubt}"


def _rule(dataset: str) -> Iterator[str]:
    """Yield how the authors of a data set measure it, where that is known."""
    from anomaly_bench.runs.benchmarks import benchmark, benchmarks  # with pydantic, which takes long to import

    if dataset in benchmarks():
        yield str(benchmark(dataset))


def _not_learned(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a sentence for each setting with runs that learned nothing: how many, and the warning of the first."""
    for heading, runs in settings(rows).items():
        warned = [run for run in runs if run.learning]
        if warned:
            first, count = warned[0], f"{len(warned)} of {len(runs)} runs"
            yield f"{heading}, {count}: {first.learning} ({first.category}, seed {first.seed})"


def _precision(rows: Sequence[Row]) -> Iterator[str]:
    """Yield a sentence for each setting with runs whose networks computed in less than float32."""
    for heading, runs in settings(rows).items():
        for keys in sorted({run.precision for run in runs} - {""}):
            count = sum(run.precision == keys for run in runs)
            yield f"{heading}, {count} of {len(runs)} runs: with {keys}, which is no part of a setting"
