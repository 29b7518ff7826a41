"""Small run folders with everything in them, made by scripts/synthetic_runs.py."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[1]


def synthetic(outputs: Path, categories: int, methods: int, seeds: int, images: int = 12, side: int = 32) -> None:
    """Finished runs on a data set `synthetic` with categories `category00` ..."""
    specification = importlib.util.spec_from_file_location("synthetic_runs", ROOT / "scripts" / "synthetic_runs.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    module.write_runs(outputs, categories, methods, seeds, images, side)
