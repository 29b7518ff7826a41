"""Run folders, built with the package's own writer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from omegaconf import OmegaConf

from anomaly_bench.runs.folder import RunFolder

METHOD = Path(__file__).parents[1] / "conf" / "method" / "rd.yaml"


@pytest.fixture
def paper() -> dict[str, Any]:
    """The packaged configuration of `rd`, which is the paper's: a renamed key must be renamed in published.csv too."""
    config = OmegaConf.to_container(OmegaConf.load(METHOD))
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


def hexadecimal(*words: object) -> str:
    return f"{crc32(repr(words).encode()):08x}"


def started(outputs: Path, category: str, seed: int, dataset: str, label: str, method: dict[str, Any]) -> RunFolder:
    digits = hexadecimal(label, category, seed)
    folder = RunFolder(outputs / "rd" / dataset / category / f"s{seed}-{digits}")
    manifest = {
        **{"method": "rd", "dataset": dataset, "category": category, "seed": seed, "label": label},
        **{"id": digits, "setting": hexadecimal(label)},
        "protocol": ["last epoch, nothing chosen on test data"],
    }
    config = OmegaConf.to_yaml({"seed": seed, "method": method, "dataset": {"name": dataset}})
    folder.start(manifest, config, [], afresh=True)
    stages = {
        "distillation": {"seconds": 12.34, "peak_memory_mb": 812},
        "score": {"seconds": 1.0, "peak_memory_mb": 300},
    }
    folder.update(stages=stages)
    return folder


@pytest.fixture
def run(tmp_path: Path, paper: dict[str, Any]) -> Callable[..., RunFolder]:
    """run("screw", seed, image_auroc=0.9): a finished run below tmp_path; `finish=False` leaves it running."""

    def make(category: str, seed: int = 0, *, dataset: str = "mvtec", label: str = "rd", **options: Any) -> RunFolder:
        finish, method = options.pop("finish", True), {**paper, **options.pop("method", {})}
        measurement = options.pop("measurement", None)
        folder = started(tmp_path, category, seed, dataset, label, method)
        if measurement:
            folder.update(measurement=measurement)
        folder.write_metrics({key.replace("__", "."): value for key, value in options.items()})
        if finish:
            folder.finish()
        return folder

    return make
