"""The pages of benchmarks: where they go, and what each ends with."""

from __future__ import annotations

import platform
import shlex
import sys
from datetime import date
from pathlib import Path

from anomaly_bench.runs.manifest import cpu_model, version


def provenance(*packages: str) -> str:
    """Markdown lines; packages: whose versions matter."""
    command = shlex.join(["python", f"scripts/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return f"""- command: `{command}`
- hardware: {cpu_model()}
- versions: python {platform.python_version()}, {versions}
- date: {date.today()}
"""


def write(page: Path, text: str) -> None:
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")
    print(f"wrote {page}")
