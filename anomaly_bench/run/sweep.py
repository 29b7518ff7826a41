"""Every run of a sweep, each in a process of its own: one that fails or is killed takes no other with it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.core_plugins.basic_launcher import BasicLauncher
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.plugins import Plugins
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from anomaly_bench import config
from anomaly_bench.errors import InWork, UserError
from anomaly_bench.lock import holder
from anomaly_bench.run.logs import console_log
from anomaly_bench.run.plan import Job, plan, summary

__all__ = ["console_log", "sweep"]
log = logging.getLogger("anomaly_bench")
PATIENCE = 5.0  # seconds for a run to hear of Ctrl-C by itself
Run = Callable[[list[str]], int]
Task = Callable[[DictConfig], Any]


def sweep(words: Sequence[str], main: Run, task: Task, extra: str | None = None) -> int:
    """Run what is missing of `bench train -m WORDS`; the exit code: 0 all done, 1 some failed, 2 the user can mend it.

    main: the command line's entry point, for runs in processes of this machine.  task: trains one configuration, for
    Hydra's launchers.  Both are called elsewhere, so functions of a module.  extra: the folder of `--config-dir`.
    Raises Mistakes before anything starts.
    """
    jobs = plan(words, extra)
    for line in [summary(jobs), *(str(job) for job in jobs if job.state != "done")]:
        log.info("%s", line)
    missing = [job for job in jobs if job.state not in ("done", "cannot run")]
    options = ["--config-dir", extra] if extra else []
    with config.hydra_context(extra) as loader:
        master = _master(loader, [w for w in words if w.lstrip("+").startswith(("hydra/", "hydra."))])
        if missing and not master.hydra.launcher._target_.endswith(f".{BasicLauncher.__name__}"):
            _launch(missing, master, loader, task)
            missing = []
    codes: dict[str, int] = {}
    while missing:
        for i, job in enumerate(missing, 1):
            log.info("run %d of %d: %s", i, len(missing), " ".join(job.words))
            codes[str(job.words)] = _apart(job, main, [*options, *job.words])
        # What another sweep was at when its turn came may have been given up since.
        missing = [job for job in missing if codes[str(job.words)] == InWork.code and not _held(job)]
    return _outcome(jobs, codes)


def _master(loader: ConfigLoaderImpl, words: list[str]) -> DictConfig:
    """Hydra's own part of the configuration: its launcher above all."""
    try:
        master = loader.load_configuration("config", words, RunMode.MULTIRUN)
    except Exception as error:  # a plugin that is not installed, a key that its launcher does not know
        raise UserError("hydra", " ".join(str(error).split())) from error
    if not master.hydra.sweeper._target_.endswith(f".{BasicSweeper.__name__}"):
        raise UserError("hydra/sweeper", "a sweep is planned run by run, which only the basic sweeper's words allow")
    return master


def _launch(jobs: Sequence[Job], master: DictConfig, loader: ConfigLoaderImpl, task: Task) -> None:
    """Hand the jobs to the launcher that the configuration names."""
    context = HydraContext(config_loader=loader, callbacks=Callbacks(master))
    launcher = Plugins.instance().instantiate_launcher(hydra_context=context, task_function=task, config=master)
    launcher.launch([job.words for job in jobs], initial_job_idx=0)


def _apart(job: Job, main: Run, words: list[str]) -> int:
    """Train one run in a process of its own; its exit code.  One that is killed is on record as failed."""
    if _held(job):
        log.info("in work elsewhere: %s", job.folder.path if job.folder else "")
        return InWork.code
    context: Any = multiprocessing.get_context("forkserver" if sys.platform != "win32" else "spawn")
    if sys.platform != "win32":
        context.set_forkserver_preload([__name__])  # torch and Lightning are imported once, not for each run
    process: BaseProcess = context.Process(target=_train, args=(main, ["train", *words]))
    process.start()
    try:
        process.join()
    except KeyboardInterrupt:  # a terminal tells both
        process.join(PATIENCE)
        if process.is_alive() and process.pid:
            os.kill(process.pid, signal.SIGINT)
        process.join()
        raise
    code = process.exitcode or 0
    if code < 0 and job.folder and job.folder.status == "running":
        said = f"killed by {signal.Signals(-code).name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
        log.error("%s: %s", job.folder.path, said)
        with job.folder.locked():
            job.folder.fail(said)
    return code if code >= 0 else 1


def _train(main: Run, words: list[str]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(main(words))


def _end_with_parent() -> None:
    """A sweep that is killed leaves no run behind that goes on alone."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        os.kill(os.getpid(), signal.SIGINT)


def _held(job: Job) -> bool:
    return job.folder is not None and holder(job.folder.path) is not None


def _outcome(jobs: Sequence[Job], codes: dict[str, int]) -> int:
    """Say how each job ended; the sweep's exit code."""
    worst, ended = 0, []
    for job in jobs:
        manifest = job.folder.manifest if job.folder else {}
        state, why = manifest.get("status", "failed"), manifest.get("error", "")
        if job.state == "cannot run":
            code, state, why = 2, job.state, job.why
        elif _held(job):
            code, state = 0, "in work"
        else:
            user = UserError.__name__ in why
            code = 0 if state == "done" else codes.get(str(job.words)) or (2 if user else 1)
        worst = max(worst, code)
        ended.append(Job(job.words, state, job.folder, why))
    log.info("%s", summary(ended))
    for job in ended:
        if job.state != "done":
            log.info("%s", job)
    return worst
