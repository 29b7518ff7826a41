"""python die.py N STEP WORDS: `bench train WORDS` again and again, until it ends by itself.

An attempt runs in a child process that is killed just before it renames its k-th file, k = 0, STEP, 2 STEP, ... below
N.  Prints a line for each attempt: how the child ended, and the run's status."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import anomaly_bench.runs.runner  # noqa: F401  imported once, before the forks
from anomaly_bench.commands.main import main
from anomaly_bench.runs.folder import find


def attempt(words: list[str], renames: int) -> None:
    """Train; SIGKILL to itself instead of the rename with this number."""
    calls, originals = count(), {name: getattr(Path, name) for name in ("replace", "rename")}

    def dying(name: str) -> Callable[[Path, Path], Path]:
        def move(self: Path, target: Path) -> Path:
            if next(calls) == renames:
                os.kill(os.getpid(), signal.SIGKILL)
            moved: Path = originals[name](self, target)
            return moved

        return move

    for name in originals:
        setattr(Path, name, dying(name))
    os._exit(main(["train", *words]))


if __name__ == "__main__":
    for k in range(0, int(sys.argv[1]), int(sys.argv[2])):
        if not (child := os.fork()):
            attempt(sys.argv[3:], k)
        _, ended = os.waitpid(child, 0)
        folders = list(find("outputs")) if Path("outputs").is_dir() else []
        print("attempt", k, ended, folders[0].status if folders else "new", flush=True)
        if not ended:
            break
