"""`bench eval`: measure runs, or maps of any program, without a model."""

from __future__ import annotations

from argparse import Namespace
from dataclasses import fields
from pathlib import Path

from anomaly_bench import config
from anomaly_bench.evaluation.options import EvalOptions


def eval_command(arguments: Namespace) -> int:
    """Run `bench eval`."""
    arguments.runs = [Path(path) for path in dict.fromkeys(arguments.run)]
    arguments.overrides = dict(each.split("=", 1) for each in arguments.overrides)
    options = EvalOptions(**{field.name: getattr(arguments, field.name) for field in fields(EvalOptions)})
    options.check()
    if options.config_dir:
        config.allow_folder(options.config_dir)
    if options.maps and options.masks:
        from anomaly_bench.evaluation.map_files import eval_maps
        from anomaly_bench.results.terminal import print_measured

        eval_maps(options.maps, options.masks, options, print_measured)
    elif options.write_tiff:
        from anomaly_bench.evaluation.export_tiff import write_runs

        write_runs(options.write_tiff, options)
    else:
        from anomaly_bench.evaluation.stored_runs import eval_runs
        from anomaly_bench.results.terminal import print_run

        eval_runs(options, print_run)
    return 0
