"""`bench train`: one run, or with --multirun what is missing of many."""

from __future__ import annotations

import re
import sys
from argparse import Namespace
from functools import partial
from pathlib import Path
from typing import Any

from anomaly_bench import config
from anomaly_bench.commands.main import main
from anomaly_bench.config.hydra_private import run_with_hydra
from anomaly_bench.console import to_stderr
from anomaly_bench.errors import UserError, none_of

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
        from anomaly_bench.sweeps.sweep import console_log, sweep

        console_log()
        return sweep(overrides, main, extra)
    ((overrides, cfg, _),) = config.compose_jobs(overrides, extra=extra)
    if not any(each.lstrip("+~").startswith("hydra") for each in overrides):
        return train(cfg, overrides, extra)
    with config.hydra_app(extra) as hydra:  # it has keys for Hydra itself, such as hydra.job.chdir=true
        return run_with_hydra(hydra, overrides, partial(train, overrides=overrides, extra=extra))


def train(cfg: Any, overrides: list[str], extra: str | None) -> int:
    """Train and measure one run, print its metrics.  overrides, extra (the folder of --config-dir): for the record."""
    from anomaly_bench.results.terminal import print_run
    from anomaly_bench.runs.runner import console_log, run

    console_log()
    print_run(run(cfg, overrides, ["--config-dir", str(Path(extra).resolve())] if extra else []))
    return 0


def _print_configuration(overrides: list[str], arguments: Namespace) -> int:
    ((overrides, cfg, _),) = config.compose_jobs(overrides, types=False, extra=arguments.config_dir)
    if arguments.package and arguments.package not in (known := list(config.flatten(cfg))):
        raise none_of("--package", arguments.package, known)
    with config.hydra_app(arguments.config_dir) as hydra:
        hydra.show_cfg("config", overrides, arguments.cfg, arguments.package, arguments.resolve)
    sys.stdout.flush()
    return 0
