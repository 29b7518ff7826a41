"""`bench train`: one run, or with --multirun what is missing of many."""

from __future__ import annotations

import logging
import re
import sys
import time
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

from anomaly_bench import config
from anomaly_bench.commands.main import main
from anomaly_bench.config.hydra_private import run_with_hydra
from anomaly_bench.console import age, bars_hidden, to_stderr, transient
from anomaly_bench.errors import RunningElsewhere, UserError, none_of

FIRST_RUNS = (  # offline, within 90 seconds on two cores
    "method=brightness,padim_fast,us_fast",
    "us_fast.steps=60",
    "us_fast.students=1",
    "dataset=demo/gravel_matched",
)


def train_command(arguments: Namespace) -> int:
    """Run `bench train`; every mistake in every run that is asked for is looked for before the first starts."""
    overrides, extra = list(arguments.overrides), arguments.config_dir
    if wrong := [name for name in ("resolve", "package") if getattr(arguments, name) and not arguments.cfg]:
        raise UserError(f"--{wrong[0]}", "goes with --cfg only")
    if not any(re.match(r"\+?(method|dataset|experiment)=", each) for each in overrides):
        overrides += FIRST_RUNS
        arguments.multirun = True
    if arguments.cfg:
        if arguments.multirun:
            what = "prints one configuration, several are asked for"
            raise UserError("--cfg", what, "one method and one dataset, without --multirun")
        return _print_configuration(overrides, arguments)
    if arguments.multirun:
        to_stderr(f"planning {config.count(overrides, extra)} runs\n")  # torch is slow to import
        from anomaly_bench.results.sweep_summary import print_sweep
        from anomaly_bench.sweeps.sweep import console_log, sweep

        console_log()
        swept = sweep(overrides, main, extra)
        print_sweep([folder.path for folder in swept.folders])
        return swept.code
    with_hydra = any(each.lstrip("+~").startswith("hydra") for each in overrides)
    if not extra and not with_hydra and _is_done(overrides, arguments.quiet):
        return 0
    ((overrides, cfg, _),) = config.compose_jobs(overrides, extra=extra)
    chosen = train_quietly if arguments.quiet else train
    if not with_hydra:
        return chosen(cfg, overrides, extra)
    with config.hydra_app(extra) as hydra:  # it has keys for Hydra itself, such as hydra.job.chdir=true
        return run_with_hydra(hydra, overrides, partial(chosen, overrides=overrides, extra=extra))


def train(cfg: Any, overrides: list[str], extra: str | None) -> int:
    """Train and measure one run, print its metrics.  overrides, extra (the folder of --config-dir): for the record."""
    from anomaly_bench.results.terminal import print_run
    from anomaly_bench.runs.runner import console_log, run

    console_log()
    print_run(run(cfg, overrides, _options(extra)))
    return 0


def train_quietly(cfg: Any, overrides: list[str], extra: str | None) -> int:
    """Do as `train`, print one line when it has ended: state, time, run, main metrics.  The table is in log.txt."""
    from anomaly_bench.results.terminal import run_line, table_to_log
    from anomaly_bench.runs.runner import console_log, run

    console_log(logging.ERROR)
    began = time.monotonic()
    try:
        with bars_hidden():
            folder = run(cfg, overrides, _options(extra))
        table_to_log(folder)
        state, said, code = "done", run_line(folder), 0
    except Exception as error:  # its traceback is in log.txt
        name = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        state, said = "failed", f"{' '.join(overrides)}: {name}{' '.join(str(error).split())}"
        code = error.code if isinstance(error, UserError) else 1
        if isinstance(error, RunningElsewhere):
            state = "running elsewhere"
    _print_line(state, began, said)
    return code


def _print_line(state: str, began: float, said: str) -> None:
    transient("")
    to_stderr(f"{state:9} {age(time.monotonic() - began):>7}  {said}\n")


def _options(extra: str | None) -> list[str]:
    return ["--config-dir", str(Path(extra).resolve())] if extra else []


def _is_done(overrides: list[str], quiet: bool) -> bool:
    """Print the metrics of a finished run, quiet: one line, where it is found without torch."""
    from anomaly_bench.results.terminal import print_run, run_line
    from anomaly_bench.runs.finished import find_done
    from anomaly_bench.runs.logs import console_log

    began = time.monotonic()
    try:
        cfg = config.compose(overrides)
    except UserError:  # said with all other mistakes
        return False
    console_log(logging.ERROR if quiet else logging.INFO)
    try:
        folder = find_done(cfg)
    except UserError:
        if quiet:  # said in one line by `train_quietly`
            return False
        raise
    if folder and quiet:
        _print_line("done", began, run_line(folder))
    elif folder:
        print_run(folder)
    return folder is not None


def _print_configuration(overrides: list[str], arguments: Namespace) -> int:
    ((overrides, cfg, _),) = config.compose_jobs(overrides, types=False, extra=arguments.config_dir)
    if arguments.package and arguments.package not in (known := list(config.flatten(cfg))):
        raise none_of("--package", arguments.package, known)
    with config.hydra_app(arguments.config_dir) as hydra:
        hydra.show_cfg("config", overrides, arguments.cfg, arguments.package, arguments.resolve)
    sys.stdout.flush()
    return 0
