"""What benchmarks share: options of the command line, and the end of a page."""

from __future__ import annotations

import argparse
import os
import platform
import re
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
- hardware: {cpu_model()}, {os.cpu_count()} threads, {cpu_flags()}
- versions: python {platform.python_version()}, {versions}
- date: {date.today()}
"""


def cpu_flags() -> str:
    """What the processor computes with: `avx2 fma sha_ni`, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^flags\s*: (.*)$", info.read_text(), re.MULTILINE) if info.exists() else None
    flags = set(found[1].split() if found else [])
    return " ".join(sorted(each for each in flags if re.match(r"avx|amx|fma$|sha_ni$", each))) or "flags unknown"


def parser(description: str | None, page: Path, repeat: int) -> argparse.ArgumentParser:
    """The command line of a benchmark: threads, repeat (a default), write (to `page`), and what the caller adds."""
    made = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    made.add_argument("--threads", type=int, default=1)
    made.add_argument("--repeat", type=int, default=repeat)
    made.add_argument("--write", action="store_true", help=f"also write {page.relative_to(page.parents[2])}")
    return made


def write(page: Path, text: str) -> None:
    """Write a page and say where."""
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(text, encoding="utf-8")
    print(f"wrote {page}")
