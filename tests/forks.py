"""Commands in processes that are forked from one that has imported torch: a start costs milliseconds, not seconds.

python forks.py    a request a line: {"start": [...]} is answered with a pid, {"wait": PID} and {"poll": PID} with an
                   exit code
"""

from __future__ import annotations

import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from small_runs import environment

LIMIT = 300  # seconds for a command


class Forks:
    """The process to fork from, which is started by the first request."""

    def __init__(self, place: Path) -> None:
        self.place, self.calls = place, 0
        self.server: subprocess.Popen[str] | None = None

    def start(self, argv: Sequence[object], cwd: Path, env: dict[str, str], interrupt: bool = True) -> Forked:
        """Start `bench ...` or a script of Python, `FILE ...`, in a process group of its own.

        interrupt: whether it hears Ctrl-C; what a shell starts with `&` does not.
        """
        self.calls += 1
        out, err = (self.place / f"{self.calls}.{name}" for name in ("out", "err"))
        for file in (out, err):
            file.touch()
        words = [str(word) for word in argv]
        return Forked(self, self.ask(start=[words, str(cwd), env, str(out), str(err), interrupt]), out, err)

    def run(self, argv: Sequence[object], cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
        """As `subprocess.run`, with the output as text."""
        return self.start(argv, cwd, env).wait()

    def ask(self, **request: Any) -> Any:
        if self.server is None:
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self.server = subprocess.Popen([sys.executable, __file__], env=environment(), **pipes)
        assert self.server.stdin
        assert self.server.stdout
        self.server.stdin.write(json.dumps(request) + "\n")
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())

    def end(self) -> None:
        """Let the process go."""
        if self.server:
            self.server.communicate()


@dataclass
class Forked:
    """A command that was started: as far as it goes like `subprocess.Popen`."""

    forks: Forks
    pid: int
    out: Path
    err: Path
    code: int | None = None

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        if self.code is None:
            self.code = self.forks.ask(poll=self.pid)
        return self.code

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Wait for its end; at the latest SIGALRM brings it."""
        if self.code is None:
            self.code = self.forks.ask(wait=self.pid)
        return subprocess.CompletedProcess([], self.code, self.out.read_text(), self.err.read_text())


def serve() -> None:
    """Answer the requests on standard input."""
    import anomaly_bench.commands.listing
    import anomaly_bench.evaluation.stored_runs
    import anomaly_bench.inference.summary
    import anomaly_bench.inference.watch
    import anomaly_bench.results.terminal  # noqa: F401
    from anomaly_bench.sweeps import launchers, sweep

    # What a sweep runs is forked too: else each sweep would import torch in a process of its own.
    original = launchers.run_in_subprocess

    def run_in_fork(main: launchers.Main, argv: list[str], start: str = "") -> int:
        return original(main, argv, "fork")

    launchers.run_in_subprocess = sweep.run_in_subprocess = run_in_fork
    os.fsync = no_wait
    for line in sys.stdin:
        for what, argument in json.loads(line).items():
            print(json.dumps({"start": start, "poll": poll, "wait": wait}[what](argument)), flush=True)


def no_wait(descriptor: int) -> None:
    """Stand for `os.fsync`, for which a run waits longer than it computes: tests kill processes, never the machine."""


def start(given: list[Any]) -> int:
    """Fork; the child never returns."""
    if not (child := os.fork()):
        execute(*given)
    return child


def poll(pid: int) -> int | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


def wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def execute(argv: list[str], cwd: str, env: dict[str, str], out: str, err: str, interrupt: bool) -> None:
    """What the interpreter does from its start to its end."""
    from bad_inputs.judge import command

    os.setsid()
    signal.alarm(LIMIT)
    signal.signal(signal.SIGINT, signal.default_int_handler if interrupt else signal.SIG_IGN)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, path in enumerate((os.devnull, out, err)):
        opened = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)  # noqa: SIM115
    code = 70
    try:
        code = command(argv[1:]) if argv[0] == "bench" else script(argv)
    finally:
        os._exit(code)


def script(argv: list[str]) -> int:
    """Run a file as `python FILE ...` does; its exit code."""
    sys.argv = argv
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as stopped:
        return int(stopped.code or 0)
    except BaseException:
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    serve()
    os._exit(0)  # nothing to tidy up, which takes seconds
