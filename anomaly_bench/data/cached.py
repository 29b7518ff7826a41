"""`bench data cache [list] | cache clear`: what the cache folder holds; make room in it.  Imports no torch.

Only what the cache itself wrote is ever removed: rows that say so in their header, teachers that carry a recipe, and
names that only an interrupted write leaves.  Last use is the time of modification, because the time of access moves
with every backup: rows are touched when a run opens them, teachers are as old as their distillation.
"""

from __future__ import annotations

import json
import math
import os
import re
import stat
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from safetensors import SafetensorError, safe_open

from anomaly_bench.data.kept import MAGIC, read_header
from anomaly_bench.errors import UserError, none_of
from anomaly_bench.paths import cache_root

FILES = {
    "pixels": ("*.pixels",),
    "features": ("*.features",),
    "teachers": ("teachers/*.safetensors",),
    "parts": ("*.part", "teachers/.*.safetensors.*"),
}
OLD = (b"anomaly_bench pixels 1", b"anomaly_bench rows 1")  # what files of earlier versions begin with
TEACHER = re.compile(r"p\d+-[0-9a-f]{16}\.safetensors")
PART = re.compile(rf"[0-9a-f]{{32}}\.[0-9a-f]{{32}}\.part|\.{TEACHER.pattern}\.[0-9a-f]+")
DAY = 86400
YOUNG = 3600  # seconds: a part that was written to since may belong to a running process
USAGE = f"bench data cache [list | clear [{'|'.join(FILES)} ...] [older=DAYS]] [root=DIR]"


class Entry(NamedTuple):
    """One file of the cache folder."""

    path: Path
    kind: str  # of FILES
    what: str
    state: str  # "" (in order), damaged, old, young or foreign; foreign: not the cache's, never removed
    size: int  # bytes
    age: float  # seconds since its last use


def cache_command(words: list[str], options: dict[str, str]) -> int:
    """Run `bench data cache WORDS`; options: root, older.  Raises UserError for misuse and what cannot be removed."""
    verb, *kinds = words or ["list"]
    if verb not in ("list", "clear"):
        raise none_of("bench data cache", verb, ("list", "clear"))
    if verb == "list" and (kinds or "older" in options):
        raise UserError("bench data cache list", "takes only root=DIR", USAGE)
    for kind in kinds:
        if kind not in FILES:
            raise none_of("bench data cache clear", kind, FILES)
    seconds = _days(options.get("older", "0")) * DAY
    root = options.get("root")
    folder = Path(root).expanduser() if root else cache_root()
    entries = find(folder)
    if verb == "clear":
        _clear(folder, entries, [e for e in entries if _goes(e, kinds) and e.age >= seconds])
    elif entries:
        _show(folder, entries)
    else:
        _say(f"{folder}: the cache is empty")
    return 0


def find(folder: Path) -> list[Entry]:
    """The files of the cache, kind by kind, the last used first.  [] without such a folder."""
    try:
        os.scandir(folder).close()  # a glob is silent
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError("root", f"{folder} cannot be read: {error.strerror}") from error
    found = []
    for kind, patterns in FILES.items():
        paths = [path for pattern in patterns for path in folder.glob(pattern)]
        found += sorted(filter(None, (_entry(path, kind) for path in paths)), key=lambda entry: entry.age)
    return found


def _entry(path: Path, kind: str) -> Entry | None:
    """None for what is no file, or no longer: a running process renames its part."""
    try:
        status = path.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    age = max(time.time() - status.st_mtime, 0)
    if kind == "parts":
        what, state = "an interrupted write", "young" if age < YOUNG else ""
        state = state if PART.fullmatch(path.name) else "foreign"
    else:
        what, state = _teacher(path) if kind == "teachers" else _rows(path, status.st_size)
    return Entry(path, kind, path.name if state == "foreign" else what, state, status.st_size, age)


def _rows(path: Path, size: int) -> tuple[str, str]:
    """What a file of rows holds, and its state by its header and its size: its rows are not read."""
    try:
        with path.open("rb") as file:
            header = read_header(file)
            file.seek(0)
            magic = file.read(128).partition(b"\n")[0]
    except OSError:
        return "", "foreign"
    if header is None:
        return path.name, "damaged" if magic == MAGIC else "old" if magic in OLD else "foreign"
    about = header.about
    more = [about[name] for name in ("first", "network", "dtype") if name in about]
    what = ", ".join([f"{about['images']} images of {about['size']} x {about['size']}", *more])
    short = re.sub(r"\b([0-9a-f]{8})[0-9a-f]{56}\b", r"\1", what)  # SHA-256
    return short, "" if size == header.file_bytes else "damaged"


def _teacher(path: Path) -> tuple[str, str]:
    """What a teacher is, and its state; its weights are not read."""
    ours = TEACHER.fullmatch(path.name) is not None
    try:
        with safe_open(path, framework="np") as file:
            about = file.metadata() or {}
        recipe = json.loads(about["recipe"])
        return f"patches of {about['patch_size']} pixels, {recipe['backbone']}, {recipe['steps']} steps", ""
    except (SafetensorError, OSError):
        return path.name, "damaged" if ours else "foreign"
    except (KeyError, TypeError, ValueError):  # another program's
        return "", "foreign"


def _goes(entry: Entry, kinds: list[str]) -> bool:
    """Whether `clear` removes it: teachers, which cost hours, and young parts only when they are named."""
    if entry.state == "foreign":
        return False
    return entry.kind in kinds if kinds else entry.kind != "teachers" and entry.state != "young"


def _clear(folder: Path, entries: list[Entry], going: list[Entry]) -> None:
    try:
        for entry in going:
            entry.path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(str(error.filename), f"cannot be removed: {error.strerror}") from error
    _say(f"{folder}: removed {_files(going)}")
    left = Counter(entry.kind for entry in entries if entry not in going)
    if left:
        listed = ", ".join(f"{kind} {count}" for kind, count in left.items())
        _say(f"left: {listed} (teachers and young parts go when they are named, foreign files never)")


def _show(folder: Path, entries: list[Entry]) -> None:
    _say(f"{folder}: {_files(entries)}")
    table = Table()
    for column in ("", "what", "MB", "last use", ""):
        right = column in ("MB", "last use")
        table.add_column(column, justify="right" if right else "left", no_wrap=column != "what", overflow="fold")
    for entry in entries:
        what = entry.what.encode(errors="replace").decode()  # a file's name need not be text
        style = "red" if entry.state in ("damaged", "foreign") else ""
        table.add_row(entry.kind, what, f"{entry.size / 1e6:.1f}", _age(entry.age), entry.state, style=style)
    Console(markup=False).print(table, highlight=False)


def _say(text: str) -> None:
    Console().print(text, markup=False, highlight=False, soft_wrap=True)


def _files(entries: list[Entry]) -> str:
    return f"{len(entries)} file{'s' * (len(entries) != 1)}, {sum(entry.size for entry in entries) / 1e6:.1f} MB"


def _age(seconds: float) -> str:
    unit, name = next(((u, n) for u, n in ((DAY, "d"), (3600, "h")) if seconds >= u), (60, "min"))
    return f"{seconds // unit:.0f} {name}"


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = math.nan
    if not 0 <= days < math.inf:
        raise UserError("older", f"'{text}' given, allowed: a number of days from 0")
    return days
