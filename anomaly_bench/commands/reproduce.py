"""`bench reproduce`: plan every table that was published, run what is missing, write paper versus ours.

A table is an experiment with a matrix (`hydra: sweeper: params:` in conf/experiment).  Its points are the settings in
that matrix; each has a run for each data set, category and seed.  A preset (conf/preset) puts other values in place of
the matrix's.  The baseline, which costs seconds, runs on the same data and stands beside paper and ours.
"""

from __future__ import annotations

import logging
from argparse import Namespace

from anomaly_bench.commands.reproduce_request import request_of
from anomaly_bench.console import to_stderr

log = logging.getLogger("anomaly_bench")


def reproduce_command(arguments: Namespace) -> int:
    """Run `bench reproduce`: 0, or 1 where a run failed.  Raises UserError for a mistake, before anything runs."""
    request = request_of(arguments)
    to_stderr(f"planning {', '.join(request.experiments)}\n")  # torch is slow to import

    from anomaly_bench.commands.main import main
    from anomaly_bench.commands.reproduce_points import Point, baseline_line, baselines, lines, planned, status
    from anomaly_bench.commands.reproduce_tables import write_tables
    from anomaly_bench.sweeps.sweep import console_log, sweep

    console_log()
    points: list[Point] = []
    beside: dict[str, list[Point]] = {}
    for experiment in request.experiments:
        planned_points = planned(experiment, request, log.info)
        beside[experiment] = baselines(planned_points, request)
        for line in (*lines(planned_points), baseline_line(beside[experiment])):
            log.info("%s", line)
        points += planned_points
    if request.plan_only:
        return 0
    all_points = [*(point for group in beside.values() for point in group), *points]
    for point in all_points:
        if point.missing:
            log.info("%s: bench train -m %s", point.experiment, " ".join(point.sweep()))
            sweep(point.sweep(), main)
    write_tables(points, beside, request)
    failed = [job for point in all_points for job in point.missing if status(job) not in ("done", "running")]
    return 1 if failed else 0
