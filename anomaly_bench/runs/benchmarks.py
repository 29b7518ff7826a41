"""conf/benchmark/<data set>.yaml: how its authors measure a data set, and what their evaluation server takes.

Imports neither torch nor hydra.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from omegaconf import OmegaConf
from pydantic import BaseModel, ConfigDict

from anomaly_bench.errors import none_of
from anomaly_bench.paths import conf_dir


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PrivateImages(_Strict):
    """The images of one object without labels, in each set of the submission."""

    count: int
    width: int  # pixels
    height: int


class Member(NamedTuple):
    """One file of a submission, and the image that it belongs to."""

    name: str  # below the archive's only folder
    object: str
    set: str
    image: str  # name of the image's file in <object>/<set>
    thresholded: bool


class Submission(_Strict):
    """What an archive for the evaluation server holds."""

    maps: str  # folder of the anomaly maps
    thresholded: str  # folder of the thresholded images
    sets: dict[str, str]  # folder of images: suffix of their names
    deviations: float  # of the baseline threshold: mean + so many standard deviations of the validation pixels
    images: dict[str, PrivateImages]  # by object

    def members(self, thresholded: bool) -> Iterator[Member]:
        """Yield every file of the maps or, thresholded, of the thresholded images, sorted by name."""
        folder, ending = (self.thresholded, "png") if thresholded else (self.maps, "tiff")
        for name, images in sorted(self.images.items()):
            for each, suffix in sorted(self.sets.items()):
                for i in range(images.count):
                    stem = f"{i:03}_{suffix}"
                    yield Member(f"{folder}/{name}/{each}/{stem}.{ending}", name, each, f"{stem}.png", thresholded)


class Benchmark(_Strict):
    """A data set's own rule."""

    title: str
    metrics: str  # in words
    images: str  # which ones count
    aggregation: str
    submission: Submission | None = None

    def __str__(self) -> str:
        return f"{self.title} as its authors measure it: {self.metrics}; {self.images}; {self.aggregation}"


def benchmarks() -> list[str]:
    """Return the names of the data sets whose rule is known, sorted."""
    return sorted(file.stem for file in (conf_dir() / "benchmark").glob("*.yaml"))


def servers() -> list[str]:
    """Return the names of those with an evaluation server."""
    return [name for name in benchmarks() if benchmark(name).submission]


def benchmark(name: str) -> Benchmark:
    """Return a data set's rule.  Raises UserError for a name without one."""
    if name not in benchmarks():
        raise none_of("benchmark", name, benchmarks())
    return _read(conf_dir() / "benchmark" / f"{name}.yaml")


@cache
def _read(file: Path) -> Benchmark:
    return Benchmark.model_validate(OmegaConf.to_container(OmegaConf.load(file)))
