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

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from omegaconf import DictConfig

from anomaly_bench.config.hydra_private import Loader, launcher_of
from anomaly_bench.errors import UserError

log = logging.getLogger("anomaly_bench")
PATIENCE = 2.0  # seconds for a run to hear of Ctrl-C by itself
Main = Callable[[list[str]], int]


def run_in_subprocess(main: Main, argv: list[str], start: str = "spawn") -> int:
    """Call main(argv) in another process and return its exit code, or minus the signal that killed it.

    main: a function of a module.  start: `forkserver` imports once what runs share, under the first one's environment.
    """
    context: Any = multiprocessing.get_context(start)
    if start == "forkserver":
        context.set_forkserver_preload(["anomaly_bench.runs.runner"])  # torch and Lightning
    process: BaseProcess = context.Process(target=_run, args=(main, argv))
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


def _run(main: Main, argv: list[str]) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sys.exit(main(argv))


def _end_with_parent() -> None:
    """End this process when the sweep does: one that is killed leaves no run behind that goes on alone."""
    parent = multiprocessing.parent_process()
    if parent:
        parent.join()
        heard = callable(signal.getsignal(signal.SIGINT))  # a shell's `&` leaves it ignored
        os.kill(os.getpid(), signal.SIGINT if heard else signal.SIGTERM)


def launch(jobs: Sequence[list[str]], master: DictConfig, loader: Loader, main: Main) -> list[int | None]:
    """Train each job where the launcher of the configuration `master` puts it, and return their exit codes.

    None for all of them where the launcher failed: a job that is taken from it ends its wait for the others.
    """
    config = master.hydra.launcher
    require_resources(config)
    launcher = launcher_of(master, loader, partial(launcher_task, main))
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
    return [_code_of(job) for job in returned]


def _code_of(job: JobReturn) -> int:
    """Return the exit code that a job returned; 1 where its worker failed."""
    try:
        return int(job.return_value)
    except Exception as error:
        log.error("%s: %s", " ".join(job.overrides or []), error)
        return 1


def launcher_task(main: Main, cfg: DictConfig) -> int:
    """Train one run in another process, which may die alone.  A launcher's worker calls this; pickled by reference."""
    hydra = HydraConfig.get()
    os.chdir(hydra.runtime.cwd)  # relative paths mean the same as where the sweep was started
    folders = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    options = [each for folder in folders for each in ("--config-dir", folder)]
    return run_in_subprocess(main, ["train", "--quiet", *options, *hydra.overrides.task])


def require_resources(launcher: DictConfig) -> None:
    """Raise UserError for what this machine does not have: a Ray of its own would wait for it for ever."""
    ray = launcher.get("ray")
    if not ray or ray.init.get("address") != "local":
        return
    for name, count in {"num_cpus": os.cpu_count, "num_gpus": _gpus}.items():
        needed, given = ray.remote.get(name) or 0, ray.init.get(name)
        available = given if given is not None else count() if needed else 0
        if needed > (available or 0):
            key = f"hydra.launcher.ray.remote.{name}"
            raise UserError(key, f"{needed} for each run, but {available} for all of them", f"{key}={available}")


def _gpus() -> int:
    from torch.cuda import device_count

    return device_count()
