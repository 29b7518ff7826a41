"""`bench submit`: an archive for a data set's evaluation server, from finished runs; or the check of one."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

from anomaly_bench.console import print_lines
from anomaly_bench.errors import UserError, none_of
from anomaly_bench.loading.image_files import data_root
from anomaly_bench.runs.benchmarks import benchmark, servers

WHERE = "bench submit"


def submit_command(arguments: Namespace) -> int:
    """Run `bench submit`."""
    name = arguments.benchmark
    if not name:
        raise UserError(WHERE, "--benchmark is not given", f"one of {', '.join(servers())}")
    if name not in servers():
        raise none_of("--benchmark", name, servers())
    refuse_contradictions(arguments)
    if arguments.check:
        return check_archive(arguments, name)
    from anomaly_bench.inference.submission import SubmitRequest, submit

    overrides = dict(each.split("=", 1) for each in arguments.overrides)
    runs = [Path(path) for path in arguments.run]
    options = (arguments.threshold, arguments.device, arguments.config_dir, overrides)
    found = submit(SubmitRequest(runs, name, arguments.out, *options))
    lines = [f"{each}: above {value:.6g} is anomalous" for each, value in found.items() if value is not None]
    print_lines(*lines, f"{len(found)} objects written to {arguments.out}")
    return 0


def refuse_contradictions(arguments: Namespace) -> None:
    """Raise UserError for arguments that do not go together."""
    if arguments.check:
        given = {"RUN": arguments.run, "--out": arguments.out, "--threshold": arguments.threshold}
        for option in (option for option, value in given.items() if value):
            raise UserError("--check", f"is given with {option}", "an archive is written or checked")
        for word in arguments.overrides:
            if not word.startswith("dataset.root="):
                raise none_of("--check", word.partition("=")[0], ["dataset.root"])
    elif not arguments.run:
        raise UserError(WHERE, "no RUN is given", "a finished run of each object, or --check FILE")
    elif not arguments.out:
        raise UserError(WHERE, "--out is not given", "--out NAME.tar.gz")


def check_archive(arguments: Namespace, name: str) -> int:
    """Check an archive; sizes of images are those of the data set where it is named, else the published ones."""
    from anomaly_bench.inference.submission_check import check

    layout = benchmark(name).submission
    assert layout is not None  # it is one of `servers`
    given = [word.partition("=")[2] for word in arguments.overrides]
    root = data_root(given[-1], name, min(layout.images)) if given else None
    count = check(arguments.check, layout, root)
    sizes = f"the images in {root}" if root else "the published sizes"
    print_lines(f"{arguments.check}: {count} files, all as the server's rules say; sizes compared with {sizes}")
    return 0
