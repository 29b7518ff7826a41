"""`bench data cache [list] | cache clear`: what the cache folder holds; make room in it.  Imports no torch.

Only what the cache itself wrote is ever removed: rows and checksums that say so in their first line, teachers that
carry a recipe, folders that hold the demo's images and nothing else, and names that only an interrupted write leaves.
Last use is the time of modification, because the time of access moves with every backup: rows are touched when a run
opens them, all else is as old as its making.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import stat
import time
import uuid
from argparse import Namespace
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from safetensors import SafetensorError, safe_open

from anomaly_bench.commands.data import folder_of
from anomaly_bench.console import age, new_table, print_lines
from anomaly_bench.errors import UserError
from anomaly_bench.files import read_sealed
from anomaly_bench.loading.row_file import LOCKED, MAGIC, PARTS, UNLOCKED, YOUNG, read_header
from anomaly_bench.paths import cache_root

FILES = {
    "pixels": ("*.pixels",),
    "features": ("*.features",),
    "teachers": ("teachers/*.safetensors",),
    "demo": (),
    "checksums": ("checksums.json", "methods/*.json"),
    "parts": PARTS,
}
FOLDERS = {"demo": "demo/v*-seed*/[!.]*", "parts": "demo/v*-seed*/.*-*"}  # of one texture's images
NAMED = ("teachers", "demo", "checksums")  # removed only when they are named
TEACHER = re.compile(r"p\d+-[0-9a-f]{16}\.safetensors")
DRAWN = re.compile(r"([a-z_]+/)?(train|test|ground_truth)/[a-z]+/\d{3}(_mask)?\.png")  # below a folder of the demo
DAY = 86400


class Entry(NamedTuple):
    """One file of the cache folder, or one folder of the demo's images."""

    path: Path
    kind: str  # of FILES
    what: str
    state: str  # "" (in order), damaged, young or foreign; foreign: not the cache's, never removed
    size: int  # bytes
    age: float  # seconds since its last use


def list_command(arguments: Namespace) -> int:
    """Run `bench data cache list`."""
    folder = _folder(arguments)
    if entries := find(folder):
        _show(folder, entries)
    else:
        print_lines(f"{folder}: the cache is empty")
    return 0


def clear_command(arguments: Namespace) -> int:
    """Run `bench data cache clear [KIND ...]`.  Raises UserError for what cannot be removed."""
    seconds, folder = _days(arguments.keys.get("older", "0")) * DAY, _folder(arguments)
    entries = find(folder)
    _clear(folder, entries, [e for e in entries if _goes(e, arguments.kind) and e.age >= seconds])
    return 0


def _folder(arguments: Namespace) -> Path:
    if {"root", "cache_dir"} <= {*arguments.keys}:
        raise UserError("bench data cache", "takes cache_dir=DIR or root=DIR, which mean the same, not both")
    place = folder_of(arguments, "cache_dir") or folder_of(arguments, "root")
    return Path(place).expanduser() if place else cache_root()


def find(folder: Path) -> list[Entry]:
    """Return the files of the cache, kind by kind, the last used first.  [] without such a folder."""
    try:
        os.scandir(folder).close()  # a glob is silent
    except FileNotFoundError:
        return []
    except OSError as error:
        raise UserError("cache_dir", f"{folder} cannot be read: {error.strerror}") from error
    found = []
    for kind, patterns in FILES.items():
        entries = [_file(path, kind) for pattern in patterns for path in folder.glob(pattern)]
        entries += [_demo(path, kind) for path in folder.glob(FOLDERS[kind])] if kind in FOLDERS else []
        found += sorted(filter(None, entries), key=lambda entry: entry.age)
    return found


def _file(path: Path, kind: str) -> Entry | None:
    """Return None for what is no file, or no longer: a running process renames its part."""
    try:
        status = path.lstat()
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    age = max(time.time() - status.st_mtime, 0)
    if kind == "parts":
        what, state = "an interrupted write", "young" if age < YOUNG else ""
        state = state if LOCKED.fullmatch(path.name) or UNLOCKED.fullmatch(path.name) else "foreign"
    else:
        what, state = {"teachers": _teacher, "checksums": _checksums}.get(kind, _rows)(path)
    return Entry(path, kind, path.name if state == "foreign" else what, state, status.st_size, age)


def _demo(folder: Path, kind: str) -> Entry | None:
    """Return a texture's images, or some of them that an interrupted drawing left; None for what is no folder."""
    try:
        found = {path: path.lstat() for path in (folder, *folder.rglob("*"))}
    except OSError:
        return None
    if not stat.S_ISDIR(found[folder].st_mode):
        return None
    files = {path: status for path, status in found.items() if not stat.S_ISDIR(status.st_mode)}
    size, age = sum(s.st_size for s in files.values()), time.time() - max(s.st_mtime for s in found.values())
    what, state = f"{len(files)} images and masks, {folder.parent.name}/{folder.name}", ""
    if kind == "parts":
        what, state = "an interrupted write", "young" if age < YOUNG else ""
    if not all(DRAWN.fullmatch(path.relative_to(folder).as_posix()) for path in files):
        state = "foreign"
    return Entry(folder, kind, folder.name if state == "foreign" else what, state, size, max(age, 0))


def _checksums(path: Path) -> tuple[str, str]:
    """Return whose checksums a file holds, and its state."""
    if isinstance(known := read_sealed(path), dict):
        method = path.parent.name == "methods"
        return "of a method's values and weights" if method else f"checksums of {len(known)} files", ""
    try:
        with path.open("rb") as file:
            return path.name, "damaged" if re.match(rb"[0-9a-f]{64}\n", file.read(65)) else "foreign"
    except OSError:
        return "", "foreign"


def sides(size: int | list[int | str]) -> str:
    """Return a `Frame.key` in words: `64 x 64`, `64 x 96`, `64 x 96, pad`."""
    height, width, *fit = [size, size] if isinstance(size, int) else size
    return ", ".join([f"{height} x {width}", *map(str, fit)])


def _rows(path: Path) -> tuple[str, str]:
    """Return what a file of rows holds, and its state by its header and its size: its rows are not read."""
    try:
        with path.open("rb") as file:
            header, size = read_header(file), os.fstat(file.fileno()).st_size
            file.seek(0)
            magic = file.read(len(MAGIC))
    except OSError:
        return "", "foreign"
    if header is None:
        return path.name, "damaged" if magic.startswith(b"anomaly_bench ") else "foreign"
    about = header.about
    more = [about[name] for name in ("first", "network", "dtype") if name in about]
    what = ", ".join([f"{about['images']} images of {sides(about['size'])}", *more])
    short = re.sub(r"\b([0-9a-f]{8})[0-9a-f]{56}\b", r"\1", what)  # SHA-256
    return short, "" if size == header.file_bytes else "damaged"


def _teacher(path: Path) -> tuple[str, str]:
    """Return what a teacher is, and its state; its weights are not read."""
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
    """Return whether `clear` removes it: what is in NAMED and young parts only when they are named."""
    if entry.state == "foreign":
        return False
    return entry.kind in kinds if kinds else entry.kind not in NAMED and entry.state != "young"


def _clear(folder: Path, entries: list[Entry], going: list[Entry]) -> None:
    try:
        for entry in going:
            if entry.path.is_dir():
                aside = entry.path.with_name(f".{entry.path.name.strip('.')}-{uuid.uuid4().hex}")
                entry.path.replace(aside)  # never half a folder under a name that is used
                shutil.rmtree(aside)
            else:
                entry.path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(str(error.filename), f"cannot be removed: {error.strerror}") from error
    print_lines(f"{folder}: removed {_files(going)}")
    left = Counter(entry.kind for entry in entries if entry not in going)
    if left:
        listed = ", ".join(f"{kind} {count}" for kind, count in left.items())
        print_lines(f"left: {listed} ({', '.join(NAMED)} and young parts go when they are named, foreign files never)")


def _show(folder: Path, entries: list[Entry]) -> None:
    print_lines(f"{folder}: {_files(entries)}")
    table = new_table(("", "what", "MB", "last use", ""), "llrrl", no_wrap=("", "MB", "last use"))
    for entry in entries:
        what = entry.what.encode(errors="replace").decode()  # a file's name need not be text
        style = "red" if entry.state in ("damaged", "foreign") else ""
        table.add_row(entry.kind, what, f"{entry.size / 1e6:.1f}", age(entry.age), entry.state, style=style)
    Console(markup=False).print(table, highlight=False)


def _files(entries: list[Entry]) -> str:
    return f"{len(entries)} file{'s' * (len(entries) != 1)}, {sum(entry.size for entry in entries) / 1e6:.1f} MB"


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = math.nan
    if not 0 <= days < math.inf:
        raise UserError("older", f"'{text}' given, allowed: a number of days from 0")
    return days
