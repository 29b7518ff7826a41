"""The settings in an experiment's matrix and their runs: which are done, which can run, what the others lack."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from omegaconf import OmegaConf

from anomaly_bench import config
from anomaly_bench.commands.reproduce_request import Place, Request, key_of, matrix, places
from anomaly_bench.sweeps.plan import Job, plan, planning, summary

CANNOT = "cannot run"
BASELINE = "brightness"  # the method that stands beside every table; it trains nothing
OWN = ("experiment", "method", "dataset", "seed")  # keys that the baseline's runs have values of their own for


@dataclass
class Point:
    """One setting of an experiment's matrix, and its runs."""

    experiment: str
    overrides: list[str]  # of all its runs: neither data set nor seed
    jobs: list[Job] = field(default_factory=list)

    @property
    def missing(self) -> list[Job]:
        """The runs that can run and are not done."""
        return [job for job in self.jobs if job.state in ("to run", "to resume")]

    def sweep(self) -> list[str]:
        """Return its missing runs as overrides of `bench train -m`, which may name finished ones again."""
        several: dict[str, dict[str, None]] = {"dataset": {}, "seed": {}}
        for job in self.missing:
            for key, value in _chosen(job).items():
                several[key][value] = None
        return [*self.overrides, *(f"{key}={','.join(values)}" for key, values in several.items() if values)]

    def place(self, job: Job) -> Place:
        """Return where a run runs, by its overrides; an experiment without a choice has the data set of its file."""
        chosen = _chosen(job).get("dataset")
        if chosen is None:
            return places(self.experiment)[0]
        name, _, category = chosen.partition("/")
        return name, category or name


def planned(experiment: str, request: Request, say: Callable[[str], None]) -> list[Point]:
    """Return the experiment's points.  say: gets a line for each of several points and data sets as it is planned."""
    points: dict[tuple[str, ...], Point] = {}
    runs = config.count(request.overrides_of(experiment))

    def group_of(job: Job) -> tuple[Point, str]:
        overrides = [each for each in job.overrides if key_of(each) not in ("dataset", "seed")]
        point = points.setdefault(tuple(overrides), Point(experiment, overrides))
        return point, point.place(job)[0]

    for (point, dataset), jobs in groupby(planning(request.overrides_of(experiment)), group_of):
        found = list(jobs)
        point.jobs += found
        if len(found) < runs:
            chosen = [each for each in point.overrides if key_of(each) in matrix(experiment)]
            say(f"  {' '.join([*chosen, dataset])}: {summary(found)}")
    return list(points.values())


def baselines(points: Sequence[Point], request: Request) -> list[Point]:
    """Return the baseline's runs on the data of an experiment's points: a point for each data set, one seed."""
    experiment, jobs = points[0].experiment, dict[Place, Job]()
    for point in points:
        jobs |= {point.place(job): job for job in point.jobs}
    given = [each for each in request.overrides_of(experiment) if key_of(each).partition(".")[0] not in OWN]
    found = []
    for name in dict.fromkeys(name for name, _ in jobs):
        chosen = {"/".join(dict.fromkeys(place)): job for place, job in jobs.items() if place[0] == name}
        overrides = [f"method={BASELINE}", *given, *_changes(*next(iter(chosen.items())))]
        planned_jobs = plan([*overrides, f"dataset={','.join(chosen)}", "seed=0"])
        found.append(Point(experiment, overrides, planned_jobs))
    return found


def _changes(dataset: str, job: Job) -> Iterator[str]:
    """Yield as overrides what a run's configuration of a data set has in place of that of its file."""
    both = (job.overrides, [f"method={BASELINE}", f"dataset={dataset}"])
    values, file = (OmegaConf.to_container(config.compose(each).dataset, resolve=True) for each in both)
    assert isinstance(values, dict)
    assert isinstance(file, dict)
    for key, value in values.items():
        if value != file.get(key):
            yield f"dataset.{key!s}={json.dumps(value)}"


def baseline_line(points: Sequence[Point]) -> str:
    """Return what is done and what will run of the baseline; what it lacks, the experiment lacks too."""
    return f"  beside it {BASELINE}: {summary([job for point in points for job in point.jobs])}"


def lines(points: Sequence[Point]) -> Iterator[str]:
    """Yield what is done, what will run, and what cannot, with the way to supply what it lacks."""
    yield f"{points[0].experiment}: {summary([job for point in points for job in point.jobs])}"
    reasons: dict[str, dict[str, int]] = {}
    for point in points:
        for job in point.jobs:
            if job.state == CANNOT:
                category = point.place(job)[1]
                found = reasons.setdefault(job.why.replace(f"'{category}'", "'...'"), {})
                found[category] = found.get(category, 0) + 1
    for why, found in reasons.items():
        yield f"  {CANNOT}: {sum(found.values())} ({', '.join(found)}): {why}"


def status(job: Job) -> str:
    """Return the status of its folder as it is now; `new` where there is none."""
    return job.folder.status if job.folder else "new"


def _chosen(job: Job) -> dict[str, str]:
    values = dict(each.split("=", 1) for each in job.overrides if "=" in each)
    return {key: values[key] for key in ("dataset", "seed") if key in values}
