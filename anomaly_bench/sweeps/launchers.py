"""Where the runs of a sweep are trained: each in a process of its own, here or where Hydra's launcher puts it."""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from textwrap import shorten
from typing import Any

from hydra._internal.callbacks import Callbacks
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig

from anomaly_bench.errors import UserError

log = logging.getLogger("anomaly_bench")
PATIENCE = 2.0  # seconds for a run to hear of Ctrl-C by itself
Main = Callable[[list[str]], int]


def apart(main: Main, words: list[str], start: str = "spawn") -> int:
    """main(words) in a process of its own: its exit code, or minus the signal that killed it.

    main: a function of a module.  start: `forkserver` imports once what runs share, under the first one's environment.
    """
    context: Any = multiprocessing.get_context(start)
    if start == "forkserver":
        context.set_forkserver_preload(["anomaly_bench.runs.runner"])  # torch and Lightning
    process: BaseProcess = context.Process(target=_run, args=(main, words))
    process.start()
    try:
        process.join()
    except KeyboardInterrupt:  # a terminal tells both
        process.join(PATIENCE)
        if process.is_alive() and process.pid:
            os.kill(process.pid, signal.SIGINT)
        process.join()
        raise
    return process.exitcode or 0


def _run(main: Main, words: list[str]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(main(words))


def _end_with_parent() -> None:
    """A sweep that is killed leaves no run behind that goes on alone."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        heard = callable(signal.getsignal(signal.SIGINT))  # a shell's `&` leaves it ignored
        os.kill(os.getpid(), signal.SIGINT if heard else signal.SIGTERM)


def launch(jobs: Sequence[list[str]], master: DictConfig, loader: ConfigLoaderImpl, main: Main) -> list[int | None]:
    """Train each job where the launcher of the configuration `master` puts it; returns what `apart` returned there.

    None for all of them where the launcher failed: a job that is taken from it ends its wait for the others.
    """
    config = master.hydra.launcher
    require_resources(config)
    context = HydraContext(config_loader=loader, callbacks=Callbacks(master))
    launcher = Plugins.instance().instantiate_launcher(
        hydra_context=context, task_function=partial(train_there, main), config=master
    )
    if files := config.get("submitit_folder"):
        log.info("%d jobs are submitted; what they say is in %s", len(jobs), Path(files).parent)
    try:
        returned: Sequence[JobReturn] = launcher.launch(jobs, initial_job_idx=0)
    except Exception as error:
        said = shorten(str(error) or type(error).__name__, 400)
        log.error("%s failed: %s", config._target_.rpartition(".")[2], said)
        log.error("runs that it had handed over may go on; the same command says what became of them")
        log.debug("", exc_info=error)
        return [None] * len(jobs)
    for job in returned:
        if job.status == JobStatus.FAILED:
            log.error("%s: %s", " ".join(job.overrides or []), job._return_value)
    return [job.return_value if job.status == JobStatus.COMPLETED else 1 for job in returned]


def train_there(main: Main, cfg: DictConfig) -> int:
    """What a launcher's worker calls (pickled by reference): one run, apart, so that the worker survives it."""
    hydra = HydraConfig.get()
    os.chdir(hydra.runtime.cwd)  # relative paths mean the same as where the sweep was started
    folders = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    options = [word for folder in folders for word in ("--config-dir", folder)]
    return apart(main, ["train", *options, *hydra.overrides.task])


def require_resources(launcher: DictConfig) -> None:
    """A Ray of this machine would wait for ever for what the machine does not have.  Raises UserError."""
    ray = launcher.get("ray")
    if not ray or ray.init.get("address") != "local":
        return
    for name, count in {"num_cpus": os.cpu_count, "num_gpus": _gpus}.items():
        asked, given = ray.remote.get(name) or 0, ray.init.get(name)
        there = given if given is not None else count() if asked else 0
        if asked > (there or 0):
            key = f"hydra.launcher.ray.remote.{name}"
            raise UserError(key, f"{asked} for each run, but {there} for all of them", f"{key}={there}")


def _gpus() -> int:
    from torch.cuda import device_count

    return device_count()
