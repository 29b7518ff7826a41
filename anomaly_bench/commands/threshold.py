"""`bench threshold`: calibrate a finished run's thresholds, and say what they promise."""

from __future__ import annotations

import json
import sys
from argparse import Namespace

from anomaly_bench.console import print_lines
from anomaly_bench.runs.promise import LEVELS, threshold_lines


def threshold_command(arguments: Namespace) -> int:
    """Run `bench threshold`."""
    from anomaly_bench.inference.threshold import ThresholdRequest, set_threshold
    from anomaly_bench.runs.logs import console_log

    console_log()  # the folds are trained
    request = ThresholdRequest(
        arguments.false_alarms,
        arguments.confidence,
        [arguments.per] if arguments.per else LEVELS,
        arguments.normals,
        arguments.folds,
        config_dir=arguments.config_dir,
        overrides=dict(each.split("=", 1) for each in arguments.overrides),
    )
    found = set_threshold(arguments.run, request)
    if arguments.json:
        sys.stdout.write(json.dumps(found) + "\n")
        return 0
    for level, entry in found.items():
        print_lines(*threshold_lines(level, entry))
    return 0
