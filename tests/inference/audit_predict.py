"""Load runs and predict on an image each, and print which files were opened and which sockets.

python audit_predict.py '[[RUN, IMAGE, SCORE], ...]'
"""

from __future__ import annotations

import json
import math
import os
import sys
from importlib import import_module
from pkgutil import walk_packages

import anomaly_bench
from anomaly_bench.inference.load import load

MODULES = (".py", ".pyc", ".so")  # of Python, which are imported when they are first used
heard: dict[str, set[str]] = {"files": set(), "sockets": set()}


def hear(event: str, arguments: tuple[object, ...]) -> None:
    if event in ("open", "os.listdir", "os.scandir") and isinstance(arguments[0], (str, bytes, os.PathLike)):
        path = os.path.realpath(os.fsdecode(arguments[0]))
        if not path.endswith(MODULES) and path not in map(os.path.realpath, sys.path):
            heard["files"].add(path)
    elif event.startswith("socket."):
        heard["sockets"].add(event)


def main(jobs: list[tuple[str, str, float]]) -> None:
    for module in walk_packages(anomaly_bench.__path__, "anomaly_bench."):
        if module.name.partition(".")[2] not in ("__main__",):
            import_module(module.name)
    sys.addaudithook(hear)
    for run, image, score in jobs:
        (result,) = load(run, "cpu").predict(image)
        assert math.isclose(result.score, score, rel_tol=1e-6, abs_tol=1e-7), (run, result)  # scores may cross 0
        assert result.p_value is not None
    sys.stdout.write(json.dumps({name: sorted(each) for name, each in heard.items()}) + "\n")


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
