"""One bad input, given to the real command in a forked process, and what is to be said of how that ended."""

from __future__ import annotations

import hashlib
import json
import math
import os
import pickle
import shutil
import stat
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Snapshot = dict[str, str]  # relative path -> SHA-256 of a file, target of a link, or what else it is
TRACEBACK, SILENT, CODE, UNCLEAR = "traceback", "wrongful success", "wrong exit code", "unclear"
KINDS = (TRACEBACK, SILENT, CODE, UNCLEAR)
RUN_FILES = ("metrics.json", "weights.safetensors", "scores.csv", "maps.npy")  # of a run that came to an end


@dataclass(frozen=True)
class Outcome:
    """How a command may end.

    names: texts that must stand together in one line, the last `bench: ` lines for an error.  same: the world whose
    clean images give the metrics that the new run must have, to `within`.  failed: a folder that says so may be left.
    """

    code: int
    names: tuple[str, ...] = ()
    same: str = ""
    failed: bool = False
    check: Callable[[Path, str], str] | None = None  # of work folder and standard output; what is wrong
    within: float = 0.0


def refused(*names: str, code: int = 2, failed: bool = False) -> Outcome:
    """One line for each mistake, exit code 2, nothing written."""
    return Outcome(code, names, failed=failed)


def said(*names: str, same: str = "", check: Callable[[Path, str], str] | None = None, code: int = 0) -> Outcome:
    """Done, and a line names the thing."""
    return Outcome(code, names, same, check=check)


def works(same: str = "", check: Callable[[Path, str], str] | None = None, within: float = 0.0) -> Outcome:
    """Done, with the right numbers: odd but legitimate input."""
    return Outcome(0, same=same, check=check, within=within)


@dataclass(frozen=True)
class Case:
    """One bad input."""

    name: str
    words: list[str]  # of the command line after `bench`, in the work folder; @PATTERN is the path that fits
    outcomes: tuple[Outcome, ...]  # any of them is right
    world: str = "empty"  # what is copied into the work folder
    harm: Callable[[Path], object] | None = None  # makes it bad
    env: dict[str, str] = field(default_factory=dict)
    stdout: str = ""  # a file to write to, or `closed`
    writes: tuple[str, ...] = ()  # names in the work folder, besides outputs, that may be written


@dataclass(frozen=True)
class Verdict:
    """What is to be said of a case; kind: of KINDS, empty where it is clean."""

    kind: str = ""
    why: str = ""


def start(case: Case, place: Path, worlds: Path) -> int:
    """Fork a process that prepares `place`/work and runs the case there; its pid."""
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    code = 70
    try:
        os.setsid()
        code = _child(case, place, worlds)
    except BaseException:
        (place / "unprepared").write_text(traceback.format_exc())
    finally:
        os._exit(code)


def _child(case: Case, place: Path, worlds: Path) -> int:
    work = place / "work"
    shutil.copytree(worlds / case.world, work, symlinks=True)
    if case.harm:
        case.harm(work)
    (place / "before").write_bytes(pickle.dumps(snapshot(work)))
    os.environ.update(ANOMALY_BENCH_CACHE=str(place / "cache"), HOME=str(place / "home"), **case.env)
    os.chdir(work)
    _redirect(0, os.devnull, os.O_RDONLY)
    _redirect(1, str(place / "stdout") if case.stdout in ("", "closed") else case.stdout, os.O_WRONLY | os.O_CREAT)
    _redirect(2, str(place / "stderr"), os.O_WRONLY | os.O_CREAT)
    if case.stdout == "closed":
        os.close(1)
    sys.stdout = None if case.stdout == "closed" else open(1, "w", encoding="utf-8", errors="strict", closefd=False)  # type: ignore[assignment]  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    return command([_found(word) for word in case.words])


def _found(word: str) -> str:
    """`@PATTERN` stands for the only path that fits it."""
    (path,) = Path().glob(word[1:]) if word.startswith("@") else (word,)
    return str(path)


def command(words: list[str]) -> int:
    """What the installed command does: sys.exit(main()), then what the interpreter does at its end."""
    from anomaly_bench.commands.main import main

    sys.argv = ["bench", *words]
    try:
        code: Any = main(words)
    except SystemExit as stopped:
        code = stopped.code
        if isinstance(code, str):
            sys.stderr.write(f"{code}\n")
            code = 1
    except BaseException:
        traceback.print_exc()
        code = 1
    try:
        if sys.stdout:
            sys.stdout.flush()
    except Exception as error:
        sys.stderr.write(f"Exception ignored: {error!r}\n")
        code = 120
    return int(code or 0)


def _redirect(descriptor: int, path: str, flags: int) -> None:
    opened = os.open(path, flags, 0o666)
    os.dup2(opened, descriptor)
    os.close(opened)


def snapshot(work: Path) -> Snapshot:
    """Everything below a folder."""
    return {str(path.relative_to(work)): _content(path) for path in _walk(work)}


def _walk(folder: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        yield path
        if path.is_dir() and not path.is_symlink():
            yield from _walk(path)


def _content(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"link to {path.readlink()}"
    if stat.S_ISREG(mode):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return "folder" if stat.S_ISDIR(mode) else "special"


def judge(case: Case, place: Path, status: int, worlds: Path) -> Verdict:
    """status: of os.waitpid; None in its place means that the time was up."""
    if (place / "unprepared").exists():
        return Verdict(UNCLEAR, "not prepared: " + (place / "unprepared").read_text().strip().splitlines()[-1])
    out, err = (_text(place / name) for name in ("stdout", "stderr"))
    if os.WIFSIGNALED(status):
        return Verdict(TRACEBACK, f"killed by signal {os.WTERMSIG(status)} (its time was up?)")
    for mark in ("Traceback (most recent call last)", "Exception ignored"):
        if mark in err + out:
            return Verdict(TRACEBACK, f"{mark}: {_last(err)}")
    code, before, work = (
        os.waitstatus_to_exitcode(status),
        pickle.loads((place / "before").read_bytes()),
        place / "work",
    )
    changes = [path for path, content in _changes(before, snapshot(work)) if not _allowed(path, case)]
    if outside := [path for path in changes if not path.startswith("outputs")]:
        return Verdict(SILENT if code == 0 else UNCLEAR, f"changed outside output_dir: {outside[:3]}")
    complaints = [_complaint(o, code, out, err, changes, before, work, worlds) for o in case.outcomes]
    if "" in complaints:
        return Verdict()
    if code not in {o.code for o in case.outcomes}:
        return Verdict(SILENT if code == 0 else CODE, f"exit code {code}: {_last(err) or _last(out)}")
    why = next(c for c, o in zip(complaints, case.outcomes, strict=True) if o.code == code)
    return Verdict(SILENT if code == 0 else UNCLEAR, why)


def _complaint(
    o: Outcome, code: int, out: str, err: str, changes: list[str], before: Snapshot, work: Path, worlds: Path
) -> str:
    """What is wrong with how it ended, seen as this outcome; empty where nothing is."""
    if code != o.code:
        return f"exit code {code}, not {o.code}: {_last(err)}"
    if hurt := [path for path in changes if path in before and path.split("/")[-1] in RUN_FILES and not o.check]:
        return f"changed a finished run: {hurt[0]}"
    if o.code in (2, 3) and not o.check:
        return _of_refusal(o, err, changes, work)
    lines = [*err.splitlines(), *out.splitlines()]
    if o.names and not any(all(name in line for name in o.names) for line in lines):
        return f"no line says {' and '.join(map(repr, o.names))}"
    if o.same and (why := _of_metrics(o.same, o.within, changes, work, worlds)):
        return why
    return o.check(work, out) if o.check else ""


def _of_refusal(o: Outcome, err: str, changes: list[str], work: Path) -> str:
    lines = [line for line in err.splitlines() if line.startswith("bench: ")]
    if not lines or not err.rstrip("\n").endswith(lines[-1]):
        return f"its last line is no `bench: `: {_last(err)}"
    if o.names and not any(all(name in line for name in o.names) for line in lines):
        return f"no `bench: ` line names {' and '.join(map(repr, o.names))}: {_last(err)}"
    if not o.failed:
        return f"wrote {changes[:3]}: {_last(err)}" if changes else ""
    new = [path for path in changes if path.endswith("manifest.json")]
    if done := [path for path in new if json.loads((work / path).read_text())["status"] != "failed"]:
        return f"left a run that does not say it failed: {done[0]}"
    finished = [path for path in changes if path.endswith("metrics.json")]
    return f"wrote {finished[0]}" if finished else ""


def _of_metrics(same: str, within: float, changes: list[str], work: Path, worlds: Path) -> str:
    found = [work / path for path in changes if path.endswith("/metrics.json")]
    if len(found) != 1:
        return f"{len(found)} new metrics.json, not one"
    metrics, wanted = json.loads(found[0].read_text()), json.loads((worlds / f"{same}.json").read_text())
    different = [key for key in wanted if not abs(metrics.get(key, math.inf) - wanted[key]) <= within]
    return f"{different[0]} is {metrics.get(different[0])}, not {wanted[different[0]]}" if different else ""


def _changes(before: Snapshot, after: Snapshot) -> list[tuple[str, str]]:
    both = before.keys() | after.keys()
    return [(p, after.get(p, "gone")) for p in sorted(both) if before.get(p) != after.get(p)]


def _allowed(path: str, case: Case) -> bool:
    return path in ("outputs", "outputs/.index.json") or path.split("/")[0] in case.writes


def _text(path: Path) -> str:
    return path.read_bytes().decode(errors="backslashreplace") if path.exists() else ""


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:240] if lines else "nothing said"
