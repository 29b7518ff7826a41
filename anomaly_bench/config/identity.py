"""What identifies a run: seed, method and data set by value, the files that they name by content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from anomaly_bench.config.validate import Settings


def identify(settings: Settings) -> tuple[str, str]:
    """(id, setting), 8 hex digits each.  id: seed, method and data set; setting: the same for all seeds and categories.

    Where things lie does not count, what is in them does: the file that a key `weights`, `teacher` or `*_file` names is
    represented by its content, the folder `teacher_images` by its files' names and sizes, `dataset.root` by nothing.
    """
    method = {key: _content(key, v) for key, v in settings.method.items()}
    dataset = {key: _content(key, v) for key, v in settings.dataset.items() if key != "root"}
    setting = {"method": method, "dataset": {key: v for key, v in dataset.items() if key != "category"}}
    return _hash({"seed": settings.seed, "method": method, "dataset": dataset}), _hash(setting)


_known: dict[tuple[str, str], Any] | None = None  # by `read_once`


@contextmanager
def read_once() -> Iterator[None]:
    """Inside, a file or folder that several runs name is read for the first of them only."""
    global _known
    _known = {}
    try:
        yield
    finally:
        _known = None


def _content(key: str, value: Any) -> Any:
    """What stands for a value in a hash."""
    if _known is None:
        return _read_content(key, value)
    if (key, str(value)) not in _known:
        _known[key, str(value)] = _read_content(key, value)
    return _known[key, str(value)]


def _read_content(key: str, value: Any) -> Any:
    names_files = key in ("weights", "teacher", "teacher_images") or key.endswith("_file")
    if not names_files or value is None:  # any other value may be a file's name by chance
        return value
    place = Path(value).expanduser()
    files = [place] if place.is_file() else sorted(f for f in place.rglob("*") if f.is_file())
    if key == "teacher_images":
        return _hash([(str(f.relative_to(place)), f.stat().st_size) for f in files]) if files else value
    contents = [hashlib.sha256(f.read_bytes()).hexdigest() for f in files]
    return (contents[0] if len(contents) == 1 else _hash(contents)) if contents else value


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:8]
