"""What a measurement without a model is told: runs or maps, and how much memory and time it may take."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from anomaly_bench.errors import UserError

MEMORY_MB, RESAMPLES = 2048, 1000  # where neither the options nor a run's configuration says anything


@dataclass(frozen=True)
class EvalOptions:
    """Either `runs` or `maps` and `masks`; None where an option was not given."""

    runs: list[Path]
    overrides: dict[str, str]  # dataset.root=DIR ...; with `method` dataset=NAME ...
    maps: Path | None = None
    masks: Path | None = None
    resize_masks: bool = False
    write_tiff: Path | None = None
    source_size: bool = False  # what --write-tiff writes has the images' sizes, not the maps'
    accept_changes: bool = False  # files that are not as the run wrote them belong to it from now on
    config_dir: Path | None = None  # where the data sets' classes may come from, besides this package
    json: bool = False
    memory_mb: int | None = None  # MiB of maps that are measured exactly
    resamples: int | None = None  # of the bootstrap; 0: no intervals
    threads: int | None = None  # None: all
    ignore_value: int | None = None  # of pixels in masks that do not count
    method: str = ""  # --as: the name under which a report lists the maps; empty: they are only measured

    def measuring(self, memory_mb: int = MEMORY_MB, resamples: int = RESAMPLES) -> dict[str, Any]:
        """Return the options of `measure`; memory_mb, resamples: where they were not given."""
        return {
            "memory_mb": memory_mb if self.memory_mb is None else self.memory_mb,
            "resamples": resamples if self.resamples is None else self.resamples,
            "threads": self.threads,
        }

    def check(self) -> None:
        """Raise UserError for options that do not go together."""
        if not (self.runs or self.maps or self.masks):
            raise UserError("bench eval", "nothing to measure", "bench eval RUN, or bench eval --maps DIR --masks DIR")
        if self.runs and (self.maps or self.masks):
            raise UserError("bench eval", f"measures runs or --maps, not both; {self.runs[0]} was taken for a run")
        if not self.runs and not (self.maps and self.masks):
            missing, given = ("--masks", "--maps") if self.maps else ("--maps", "--masks")
            raise UserError("bench eval", f"{missing} is not given", f"it goes with {given}")
        for value, name, goes_with in (
            ({} if self.method else self.overrides, next(iter(self.overrides), ""), "RUN"),
            (self.method, "--as", "--maps"),
            (self.write_tiff, "--write-tiff", "RUN"),
            (self.resize_masks, "--resize-masks", "--maps"),
            (self.ignore_value, "--ignore-value", "--maps"),
            (self.accept_changes, "--accept-changes", "RUN"),
            (self.config_dir, "--config-dir", "RUN"),
        ):
            if value and bool(self.runs) != (goes_with == "RUN"):
                raise UserError("bench eval", f"{name} goes with {goes_with} only")
        if self.source_size and not self.write_tiff:
            raise UserError("bench eval", "--source-size is given without --write-tiff", "--write-tiff DIR")
        if self.write_tiff and self.json:
            raise UserError("bench eval", "--write-tiff writes maps and measures nothing", "leave out --json")
