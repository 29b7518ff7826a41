"""A Python that finds nothing but a few packages and what they require: what a stranger has who is given a script."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement

START = "import runpy, sys; sys.path[:] = [*sys.path, {!r}]; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"  # fmt: skip  # noqa: E501


def required(packages: Iterable[str]) -> dict[str, list[Path]]:
    """Return packages that are installed and what they require, each with its files and folders in site-packages."""
    found: dict[str, list[Path]] = {}
    new = list(packages)
    while new:
        name = new.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # it would only be needed for an accelerator
        if name in found:
            continue
        tops = {file.parts[0] for file in package.files or [] if file.parts[0] not in ("..", "__pycache__")}
        found[name] = [Path(str(package.locate_file(top))) for top in sorted(tops)]
        needs = map(Requirement, package.requires or [])
        new += [each.name for each in needs if not each.marker or each.marker.evaluate({"extra": ""})]
    return found


def bare_python(place: Path, *packages: str) -> list[str]:
    """Return the beginning of a command that runs a script with these packages alone; `place` gets links to them."""
    place.mkdir()
    for path in {path for paths in required(packages).values() for path in paths}:
        (place / path.name).symlink_to(path)
    return [sys.executable, "-I", "-S", "-c", START.format(str(place))]
