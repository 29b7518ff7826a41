"""From points to tables: what each published column is compared with, and why a cell is empty."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from anomaly_bench import config
from anomaly_bench.commands.listing import names
from anomaly_bench.commands.reproduce_points import CANNOT, Point, status
from anomaly_bench.commands.reproduce_request import Request, key_of, matrix, places
from anomaly_bench.console import print_lines
from anomaly_bench.results.collect import collect
from anomaly_bench.results.reproduction import TableRequest, Versus, compare_with_published
from anomaly_bench.results.reproduction_text import overview, write_versus
from anomaly_bench.results.terminal import print_table
from anomaly_bench.sweeps.plan import Job

LACKING = {  # the key that a mistake names -> what is missing, in a cell of a table
    "dataset.root": "data set missing",
    "hardware.accelerator": "no GPU",
    "dataset.split_file": "split file missing",
    "method.weights": "weights missing",
    "method.teacher.file": "teacher missing",
    "method.teacher.images": "teacher's images missing",
}


def write_tables(points: Sequence[Point], beside: Mapping[str, Sequence[Point]], request: Request) -> Path:
    """Write paper versus ours from all finished runs of these settings to <outputs>/reproduce, and print it.

    beside: the baseline's points of each experiment.
    """
    rows = collect(request.outputs).rows if Path(request.outputs).is_dir() else []
    wanted = [
        replace(table, baselines=settings_of(beside[point.experiment]))
        for point in points
        for table in table_requests(point, stand_in=bool(request.preset))
    ]
    tables = compare_with_published(wanted, rows)
    folder = write_versus(tables, Path(request.outputs) / "reproduce", request.warning)
    _print(tables, request.warning, folder)
    return folder


def table_requests(point: Point, stand_in: bool) -> Iterator[TableRequest]:
    """Yield what a point is compared with, for each data set that the experiment's file names.

    stand_in: the places that are run stand for the file's categories in turn; otherwise each stands for itself.
    """
    meant, run = places(point.experiment), list(dict.fromkeys(map(point.place, point.jobs)))
    chosen = dict(zip(meant, cycle(run), strict=False)) if stand_in else {place: place for place in meant}
    settings = settings_of([point])
    configs = {point.place(job)[0]: flat(config.compose(job.overrides)) for job in _one_each(point)}
    why = {point.place(job): _reason(job) for job in point.jobs}
    title = dict(line.split(maxsplit=1) for line in names("experiment"))[point.experiment]
    for name in dict.fromkeys(name for name, _ in meant):
        run_for = {category: place for (dataset, category), place in chosen.items() if dataset == name}
        cfg = as_written(point, name)
        ran = configs.get(next(iter(run_for.values()))[0], flat(cfg))
        yield TableRequest(
            *(point.experiment, title, cfg.method.name, name, settings, ran, flat(cfg), run_for, why), stand_in=stand_in
        )


def settings_of(points: Sequence[Point]) -> dict[str, str]:
    """Return data set -> the `setting` of its runs, as in collect.Row."""
    return {
        point.place(job)[0]: config.identify(config.validate(config.compose(job.overrides))).setting
        for point in points
        for job in _one_each(point)
    }


def _one_each(point: Point) -> list[Job]:
    """Return a run on each data set."""
    return list({point.place(job)[0]: job for job in point.jobs}.values())


def as_written(point: Point, dataset: str) -> Any:
    """Return the configuration that the experiment's file has for a point on a data set: the published one."""
    keys = set(matrix(point.experiment)) - {"dataset", "seed"}
    overrides = [each for each in point.overrides if key_of(each) in keys]
    first = next("/".join(dict.fromkeys(place)) for place in places(point.experiment) if place[0] == dataset)
    return config.compose([f"experiment={point.experiment}", f"dataset={first}", *overrides])


def flat(cfg: Any) -> dict[str, Any]:
    """Return the method's keys, and the data set's as `dataset.split_file`."""
    values: Any = OmegaConf.to_container(cfg, resolve=True)
    return {**values["method"], **{f"dataset.{key}": value for key, value in values["dataset"].items()}}


def _reason(job: Job) -> str:
    """Return why a cell is empty, in a few words."""
    if job.state == CANNOT:
        key = job.why.partition(":")[0]
        return f"not run: {LACKING.get(key, key)}"
    return {"new": "not run", "running": "running elsewhere"}.get(status(job), status(job))


def _print(tables: Sequence[Versus], warning: str, folder: Path) -> None:
    print_table(overview(tables), "llrrr")
    print_lines(*([warning] if warning else []), f"written to {folder}")
