"""What a sweep would do, before it does anything: which runs are done, which go on, which cannot run and why."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from omegaconf import DictConfig

from anomaly_bench import config
from anomaly_bench.contracts import Method
from anomaly_bench.errors import Mistakes, UserError
from anomaly_bench.lock import holder
from anomaly_bench.run import pick_device
from anomaly_bench.run.find import FoundRun, find_run
from anomaly_bench.store import RunFolder

STATES = ("done", "in work", "to resume", "to run", "cannot run", "running", "failed")  # the last two: afterwards


@dataclass(frozen=True)
class Job:
    """One run of a sweep."""

    words: list[str]  # overrides, each with one value
    state: str  # of STATES
    folder: RunFolder | None  # None where it cannot be told
    why: str = ""  # it cannot run, or who is at it

    def __str__(self) -> str:
        place = str(self.folder.path) if self.folder else " ".join(self.words)
        return f"{self.state:10}  {place}" + (f"  ({self.why})" if self.why else "")


def plan(words: Sequence[str], extra: str | None = None) -> list[Job]:
    """The jobs of `bench train -m WORDS`, with their states.

    Raises Mistakes with every mistake in any of them, those included that only a method's constructor can find.  What
    lacks its data, its weights or its teacher cannot run.  extra: the folder of `--config-dir`.
    """
    jobs: list[Job] = []
    mistakes: dict[str, UserError] = {}
    lacking: dict[str, str] = {}  # by the method's settings
    with config.read_once():
        for asked, cfg in config.composed(words, multirun=True, extra=extra):
            job, settings = _job(asked, cfg)
            key = json.dumps(settings.method, default=str)
            if job.state in ("to run", "to resume"):
                try:
                    if key not in lacking:
                        lacking[key] = _lacks(config.build("method", settings.method))
                except UserError as error:
                    mistakes[str(error)] = error
                if why := lacking.get(key):
                    job = replace(job, state="cannot run", why=why)
            jobs.append(job)
    if mistakes:
        raise Mistakes(list(mistakes.values()))
    return jobs


def summary(jobs: Sequence[Job]) -> str:
    """`12 runs: 4 done, 1 to resume, 7 to run`."""
    counts = Counter(job.state for job in jobs)
    return f"{len(jobs)} runs: " + ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])


def _lacks(method: Method) -> str:
    """What a method does not find of what it loads before it asks for the first image: weights, a teacher."""
    try:
        next(iter(method.stages(None)), None)  # type: ignore[arg-type]
    except UserError as error:
        return str(error)
    except Exception:  # it asked for an image, so there is nothing else that it lacks
        pass
    return ""


def _job(words: list[str], cfg: DictConfig) -> tuple[Job, config.Settings]:
    settings = config.validate(cfg)
    try:
        if not any(word.startswith("hydra/launcher=") for word in words):  # else the runs' machines may have others
            pick_device(settings.hardware)
        found: FoundRun = find_run(settings)
    except UserError as error:
        return Job(words, "cannot run", None, str(error)), settings
    owner = None if found.state == "done" else holder(found.folder.path)
    return Job(words, "in work" if owner else found.state, found.folder, owner or ""), settings
