"""The JSON files of a run: strict, written whole, and a damaged one is an error that names it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from anomaly_bench.errors import UserError
from anomaly_bench.files import write_text

ANEW = "delete it to train the run anew"


def strict(value: Any) -> Any:
    """Return a value as JSON can hold it: NaN and infinity, which it lacks, become None."""
    return json.loads(json.dumps(value), parse_constant=lambda _: None)


def write_json(path: Path, value: Any) -> None:
    """Write a value as strict JSON.  Raises UserError where the file cannot be written."""
    write_text(path, json.dumps(strict(value), indent=1, ensure_ascii=False) + "\n")


def parse_json(file: Path, content: bytes) -> dict[str, Any]:
    """Return what a JSON file holds.  Raises UserError naming the file where that is not an object."""
    try:
        value: dict[str, Any] = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(str(file), f"is damaged: {error}", ANEW) from error
    if not isinstance(value, dict):
        raise UserError(str(file), f"is damaged: it holds {type(value).__name__}, no keys", ANEW)
    return value
