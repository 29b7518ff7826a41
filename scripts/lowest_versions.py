"""The lowest versions that pyproject.toml allows, as constraints for pip.

python scripts/lowest_versions.py [EXTRA ...]    prints a line `name==version` for each direct dependency that has a
                                                 lower bound
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PYPROJECT = Path(__file__).parents[1] / "pyproject.toml"


def lowest(requirements: list[str]) -> list[str]:
    """`torch>=2.4,!=2.13.*` -> `torch==2.4`."""
    pattern = re.compile(r"([\w.-]+)(?:\[[\w,-]+\])?.*?>=\s*([\w.]+)")
    return [f"{found[1]}=={found[2]}" for each in requirements if (found := pattern.match(each))]


if __name__ == "__main__":
    project = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]
    extras = [name for extra in sys.argv[1:] for name in project["optional-dependencies"][extra]]
    print("\n".join(lowest([*project["dependencies"], *extras])))
