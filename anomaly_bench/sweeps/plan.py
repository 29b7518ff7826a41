"""What a sweep would do, before it does anything: which runs are done, which go on, which cannot run and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from anomaly_bench import config
from anomaly_bench.checksums import remembered
from anomaly_bench.errors import Mistakes, NotHere, UserError
from anomaly_bench.paths import cache_at
from anomaly_bench.runs.find import Data, find_run, run_folder
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.lock import holder
from anomaly_bench.runs.runner import pick_device

STATES = (
    "done",
    "running elsewhere",
    "to resume",
    "to run",
    "cannot run",
    "running",
    "failed",
)  # the last two: afterwards


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    overrides: list[str]  # each with one value
    state: str  # of STATES
    folder: RunFolder | None  # None where it cannot be told
    why: str = ""  # it cannot run, or who is at it

    def __str__(self) -> str:
        place = str(self.folder.path) if self.folder else " ".join(self.overrides)
        return f"{self.state:17}  {place}" + (f"  ({self.why})" if self.why else "")


def plan(overrides: Sequence[str], extra: str | None = None) -> list[Job]:
    """Return the runs of `bench train -m OVERRIDES`, with their states; `planning` yields each as it is planned."""
    return list(planning(overrides, extra))


def planning(overrides: Sequence[str], extra: str | None = None) -> Iterator[Job]:
    """Yield the runs of `bench train -m OVERRIDES`, with their states.

    Raises Mistakes with every mistake in any of them, those included that only a method's constructor can find.  What
    lacks its data, its weights or its teacher cannot run.  extra: the folder of `--config-dir`.
    """
    mistakes: dict[str, UserError] = {}
    built: set[str] = set()  # methods' settings
    known: dict[str, Data] = {}  # by the data set's settings
    with config.read_once(), remembered():
        for each, cfg, checked in config.compose_jobs(overrides, multirun=True, extra=extra):
            settings = checked or config.validate(cfg)
            job = _job(each, settings, known)
            key = json.dumps(settings.method, default=str)
            if job.state in ("to run", "to resume") and key not in built:
                built.add(key)
                try:
                    config.build("method", settings.method)
                except UserError as error:
                    mistakes[str(error)] = error
            yield job
    if mistakes:
        raise Mistakes(list(mistakes.values()))


def summary(jobs: Sequence[Job]) -> str:
    """`12 runs: 4 done, 1 to resume, 7 to run`."""
    counts = Counter(job.state for job in jobs)
    return f"{len(jobs)} runs: " + ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def folder_of(overrides: Sequence[str], extra: str | None = None) -> RunFolder | None:
    """Return the folder of a run whose weights were not here when it was planned; None where they still are not."""
    try:
        settings = config.validate(config.compose(overrides, extra))
        return run_folder(settings, config.identify(settings, config.weight_files(settings)).run)
    except UserError:
        return None


def _job(overrides: list[str], settings: config.Settings, known: dict[str, Data]) -> Job:
    try:
        if not any(word.startswith("hydra/launcher=") for word in overrides):  # else the runs' machines may have others
            pick_device(settings.hardware)
        with cache_at(settings.cache_dir):
            found = find_run(settings, known=known)
    except NotHere as error:
        return Job(overrides, "to run", None, str(error))
    except UserError as error:
        return Job(overrides, "cannot run", None, str(error))
    owner = None if found.state == "done" else holder(found.folder.path)
    return Job(overrides, "running elsewhere" if owner else found.state, found.folder, owner or "")
