"""`bench` in processes that are forked from one that has imported torch: a start costs milliseconds, not seconds.

python forks.py    a request a line, [WORDS, FOLDER, ENVIRONMENT, STDOUT, STDERR]; answers with the exit code
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from small_runs import environment

LIMIT = 120  # seconds for a command


class Forks:
    """The process to fork from, started when it is first asked."""

    def __init__(self, place: Path) -> None:
        self.place, self.calls = place, 0
        self.server: subprocess.Popen[str] | None = None

    def bench(self, words: tuple[str, ...], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run` of `bench WORDS`."""
        if self.server is None:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self.server = subprocess.Popen([sys.executable, __file__], env=environment(), **pipes)
        assert self.server.stdin
        assert self.server.stdout
        self.calls += 1
        out, err = (self.place / f"{self.calls}.{name}" for name in ("out", "err"))
        self.server.stdin.write(json.dumps([words, str(cwd), env, str(out), str(err)]) + "\n")
        self.server.stdin.flush()
        code = int(self.server.stdout.readline())
        return subprocess.CompletedProcess(["bench", *words], code, out.read_text(), err.read_text())

    def end(self) -> None:
        """Let the process go."""
        if self.server:
            self.server.communicate()


def serve() -> None:
    """Fork for each request on standard input."""
    import anomaly_bench.commands.listing
    import anomaly_bench.evaluation.stored_runs
    import anomaly_bench.results.terminal
    import anomaly_bench.sweeps.sweep  # noqa: F401

    for line in sys.stdin:
        if not (child := os.fork()):
            run(*json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def run(words: list[str], cwd: str, env: dict[str, str], out: str, err: str) -> None:
    """What the installed command does, and what the interpreter does at its end; it never returns."""
    from bad_inputs.judge import command

    signal.alarm(LIMIT)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, path in enumerate((os.devnull, out, err)):
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout = open(0), open(1, "w", encoding="utf-8")  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
    code = 70
    try:
        code = command(words)
    finally:
        os._exit(code)


if __name__ == "__main__":
    serve()
