"""python die.py N WORDS: `bench train WORDS` again and again in child processes; the k-th is killed just before it renames
a file for the k-th time, from the N-th attempt on none is.  Prints the run's status after each attempt."""

from __future__ import annotations

import os
import signal
import sys
from itertools import count
from pathlib import Path

import anomaly_bench.run  # noqa: F401  imported once, before the forks
from anomaly_bench.cli import main
from anomaly_bench.store import find


def attempt(words: list[str], renames: int) -> None:
    """Train; SIGKILL to itself instead of the rename with this number (0: the next)."""
    calls, replace = count(), Path.replace

    def counted(self: Path, target: Path) -> Path:
        if next(calls) >= renames:
            os.kill(os.getpid(), signal.SIGKILL)
        return replace(self, target)

    Path.replace = Path.rename = counted  # type: ignore[method-assign,assignment]
    os._exit(main(["train", *words]))


if __name__ == "__main__":
    last, words = int(sys.argv[1]), sys.argv[2:]
    for k in range(last + 1):
        if not (child := os.fork()):
            attempt(words, k if k < last else sys.maxsize)
        _, ended = os.waitpid(child, 0)
        folders = list(find("outputs")) if Path("outputs").is_dir() else []
        print(ended, folders[0].status if folders else "new", flush=True)
        if not ended:
            break
