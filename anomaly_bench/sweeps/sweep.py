"""Every run of a sweep, each in a process of its own: one that fails or is killed takes no other with it."""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import NamedTuple

from hydra.types import RunMode
from omegaconf import DictConfig

from anomaly_bench import config
from anomaly_bench.config.hydra_private import Loader
from anomaly_bench.console import transient
from anomaly_bench.errors import RunningElsewhere, UserError
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.lock import holder
from anomaly_bench.runs.logs import console_log
from anomaly_bench.sweeps.launchers import Main, launch, run_in_subprocess
from anomaly_bench.sweeps.plan import Job, folder_of, plan, summary

__all__ = ["console_log", "sweep"]
log = logging.getLogger("anomaly_bench")
HYDRA = ("hydra/", "hydra.")  # overrides that say how to run, not what


class Swept(NamedTuple):
    """What came of a sweep."""

    code: int  # 0: all done, 1: some failed, 2: user error
    folders: list[RunFolder]  # of its runs, finished or not; without those that cannot be told


def sweep(overrides: Sequence[str], main: Main, extra: str | None = None) -> Swept:
    """Run what is missing of `bench train -m OVERRIDES`.

    main: the command line's entry point, called in other processes.  extra: the folder of `--config-dir`.  Raises
    Mistakes before anything starts.
    """
    jobs = plan(overrides, extra)
    for line in [summary(jobs), *(str(job) for job in jobs if job.state != "done")]:
        log.info("%s", line)
    missing = [job for job in jobs if job.state not in ("done", "cannot run")]
    if not missing:
        return Swept(max(2 if job.state == "cannot run" else 0 for job in jobs), _folders(jobs))
    codes: dict[str, int | None] = {}
    with config.hydra_context(extra) as loader:
        master = _master(loader, [each for each in overrides if each.lstrip("+").startswith((*HYDRA, "output_dir="))])
        here = master.hydra.launcher._target_.endswith(".BasicLauncher")
        while missing:
            plain = [[each for each in job.overrides if not each.lstrip("+").startswith(HYDRA)] for job in missing]
            ended = _launch_here(missing, plain, main, extra) if here else launch(plain, master, loader, main)
            for job, code in zip(missing, ended, strict=True):
                codes[str(job.overrides)] = code
                _note_death(job, code)
            # What another sweep was at when its turn came may have been given up since.
            missing = [job for job in missing if codes[str(job.overrides)] == RunningElsewhere.code and not _held(job)]
    located = [job if job.folder else replace(job, folder=folder_of(job.overrides, extra)) for job in jobs]
    return Swept(_outcome(located, codes), _folders(located))


def _folders(jobs: Sequence[Job]) -> list[RunFolder]:
    return [job.folder for job in jobs if job.folder]


def _master(loader: Loader, overrides: list[str]) -> DictConfig:
    """Hydra's own part of the configuration: its launcher above all."""
    try:
        master = loader.load_configuration("config", overrides, RunMode.MULTIRUN)
    except Exception as error:  # a plugin that is not installed, a key that its launcher does not know
        raise UserError("hydra", " ".join(str(error).split())) from error
    if not master.hydra.sweeper._target_.endswith(".BasicSweeper"):
        raise UserError("hydra/sweeper", "a sweep is planned run by run, which only the basic sweeper allows")
    return master


def _launch_here(jobs: Sequence[Job], plain: Sequence[list[str]], main: Main, extra: str | None) -> list[int]:
    """Train one job after the other on this machine; return their exit codes.  plain: without Hydra's overrides."""
    codes, options = [], ["--config-dir", extra] if extra else []
    for i, (job, given) in enumerate(zip(jobs, plain, strict=True), 1):
        if _held(job):
            log.info("running elsewhere: %s", job.folder.path if job.folder else "")
            codes.append(RunningElsewhere.code)
            continue
        transient(f"run {i} of {len(jobs)}: {' '.join(given)}")
        try:
            codes.append(run_in_subprocess(main, ["train", "--quiet", *options, *given], "forkserver"))
        finally:
            transient("")  # of a run that was killed
        _note_death(job, codes[-1])  # at once: the sweep may be stopped before its end
    return codes


def _note_death(job: Job, code: int | None) -> None:
    """Record that a run failed which was killed and could not do so itself.  code: of `launch`."""
    if (code is not None and code >= 0) or not job.folder or job.folder.status != "running":
        return
    if code is None and _held(job):  # it may live; with a code it does not, whatever the lock of a dead machine says
        return
    said = f"killed by {signal.Signals(-code).name}" if code else "killed with the machine or the job that it ran in"
    said += " (out of memory?)" if code == -signal.SIGKILL else ""
    log.error("%-17s  %s: %s", "failed", job.folder.path, said)
    with suppress(RunningElsewhere), job.folder.locked():
        job.folder.fail(said)


def _held(job: Job) -> bool:
    return job.folder is not None and holder(job.folder.path) is not None


def _outcome(jobs: Sequence[Job], codes: dict[str, int | None]) -> int:
    """Print how each job ended and return the sweep's exit code.  codes: of `launch`, by the jobs' overrides."""
    worst, ended = 0, []
    for job in jobs:
        known, manifest = codes.get(str(job.overrides), 0), job.folder.manifest if job.folder else {}
        state, why = manifest.get("status", "to run" if known is None else "failed"), manifest.get("error", "")
        if job.state == "cannot run":
            code, state, why = 2, job.state, job.why
        elif _held(job) and (known is None or known >= 0):
            code, state = 0, "running elsewhere"
        else:
            user = UserError.__name__ in why
            code = 0 if state == "done" else known if known and known > 0 else 2 if user else 1
        worst = max(worst, code)
        ended.append(Job(job.overrides, state, job.folder, why))
    log.info("%s", summary(ended))
    for job in ended:
        if job.state != "done":
            log.info("%s", job)
    return worst
