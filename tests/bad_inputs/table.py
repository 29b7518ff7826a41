"""Some 700 bad inputs through the real command, and a table of how each group ended.

    python tests/bad_inputs/table.py [--group NAME] [--case TEXT] [--sample N] [--write docs/bad_inputs.md]

Exit code 1 where a case does not end as it should: refused in one line with nothing written, done with the thing named,
or done with the right numbers.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):  # before NumPy; a fork must find no threads
    os.environ[name] = "1"
os.environ |= {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "NO_COLOR": "1", "COLUMNS": "200"}
for variable in ("BENCH_CONF", "ANOMALY_BENCH_DATA", "ANOMALY_BENCH_WEIGHTS"):
    os.environ.pop(variable, None)
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

from bad_inputs import worlds as w  # noqa: E402
from bad_inputs.cases import GROUPS  # noqa: E402
from bad_inputs.judge import KINDS, Case, Verdict, command, judge, start  # noqa: E402

LIMIT = 60.0  # seconds for a case
Ended = tuple[str, Case, Verdict, float]  # group, case, verdict, seconds
Running = dict[int, tuple[int, float]]  # pid -> index, when it started


def main() -> int:
    request = _request()
    chosen = [(group, case) for group, case in _chosen(request)]
    _import()
    with tempfile.TemporaryDirectory(prefix="bad_inputs.") as scratch:
        began, root = time.monotonic(), Path(scratch)
        _make_worlds(
            root / "worlds", {case.world for _, case in chosen} | {o.same for _, c in chosen for o in c.outcomes}
        )
        ended = _run(chosen, root, request.jobs)
    text = "\n".join(_table(ended)) + "\n"
    failing = [f"{group}: {case.name}: {v.kind}: {v.why}" for group, case, v, _ in ended if v.kind]
    slow = ", ".join(f"{case.name} {s:.1f}" for _, case, _, s in sorted(ended, key=lambda e: -e[3])[:3])
    sys.stdout.write(text + "".join(f"{line}\n" for line in failing))
    sys.stdout.write(f"{len(ended)} cases in {time.monotonic() - began:.0f} s (slowest: {slow})\n")
    if request.write:
        request.write.write_text(HEAD + text, encoding="utf-8")
    return 1 if failing else 0


HEAD = """# Bad inputs

What `bench` makes of bad inputs, through the real command: `make bad-inputs` makes this table.  Clean: refused in one
line that names the thing, with nothing written; or done, with the thing named; or, where it is odd but right, done with
the right numbers.

"""


def _request() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--group", choices=list(GROUPS), help="only these cases")
    parser.add_argument("--case", help="only cases with this in their name")
    parser.add_argument("--sample", type=int, help="so many, of each group at least one, the same ones every time")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--write", type=Path, help="a Markdown file for the table")
    return parser.parse_args()


def _chosen(request: argparse.Namespace) -> list[tuple[str, Case]]:
    cases = [
        (g, c) for g, cs in GROUPS.items() for c in cs if request.group in (None, g) and (request.case or "") in c.name
    ]
    if not request.sample or request.sample >= len(cases):
        return cases
    order = random.Random(0).sample(cases, len(cases))
    firsts = [next(pair for pair in order if pair[0] == group) for group in dict.fromkeys(g for g, _ in cases)]
    return [*firsts, *(pair for pair in order if pair not in firsts)][: request.sample]


def _import() -> None:
    """What takes long, once for all cases."""
    import torch

    from anomaly_bench.commands import cache, data, listing, report, show  # noqa: F401
    from anomaly_bench.datasets import prepare  # noqa: F401
    from anomaly_bench.evaluation import export_tiff as tiff  # noqa: F401
    from anomaly_bench.inference import summary, threshold, watch  # noqa: F401
    from anomaly_bench.methods import cs_flow, reverse_distillation, uninformed_students  # noqa: F401
    from anomaly_bench.results import terminal as tables  # noqa: F401
    from anomaly_bench.sweeps import sweep  # noqa: F401

    torch.set_num_threads(1)


def _make_worlds(root: Path, names: set[str]) -> None:
    """The worlds that are needed, and the metrics of their clean runs.  Exits where one cannot be made."""
    root.mkdir()
    for name in sorted(names - {""}):
        w.FILES[name](root / name)
        for words in w.COMMANDS.get(name, []):
            _in_a_child(lambda words=words, name=name: _clean(words, root, name))
        wrong = list(w.finish(name, root)) if name in w.COMMANDS else []
        if wrong:
            sys.exit(f"{wrong[0]}\n{(root / f'{name}.log').read_text()}")


def _clean(words: Sequence[str], root: Path, name: str) -> int:
    os.environ.update(ANOMALY_BENCH_CACHE=str(root.parent / "cache"), HOME=str(root.parent / "home"))
    log = os.open(root / f"{name}.log", os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.chdir(root / name)
    return command(list(words))


def _in_a_child(call: Callable[[], int]) -> None:
    sys.stdout.flush()
    if pid := os.fork():
        os.waitpid(pid, 0)
        return
    try:
        call()
    finally:
        os._exit(0)


def _run(chosen: Sequence[tuple[str, Case]], root: Path, jobs: int) -> list[Ended]:
    ended: dict[int, Ended] = {}
    running: Running = {}
    waiting = list(range(len(chosen)))
    while waiting or running:
        while waiting and len(running) < jobs:
            index = waiting.pop(0)
            (root / str(index)).mkdir()
            running[start(chosen[index][1], root / str(index), root / "worlds")] = index, time.monotonic()
        pid, status = _next(running)
        index, began = running.pop(pid)
        group, case = chosen[index]
        verdict = judge(case, root / str(index), status, root / "worlds")
        ended[index] = group, case, verdict, time.monotonic() - began
        if os.environ.get("BAD_INPUTS_LOG") and verdict.kind:
            sys.stdout.write((root / str(index) / "stderr").read_bytes().decode(errors="replace"))
        shutil.rmtree(root / str(index), ignore_errors=True)
    return [ended[i] for i in sorted(ended)]


def _next(running: Running) -> tuple[int, int]:
    """The next process that ends; one whose time is up is killed, with all that it started."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid in running:
            return pid, status
        for each, (_, began) in running.items():
            if time.monotonic() - began > LIMIT:
                os.killpg(each, signal.SIGKILL)
        time.sleep(0.005)


def _table(ended: Sequence[Ended]) -> list[str]:
    heads = (
        "group",
        "cases",
        "clean",
        *(f"{kind}s" if kind[-1] != "s" else f"{kind}es" for kind in KINDS[:3]),
        KINDS[3],
    )
    rows = [heads, ("---", *["---:"] * (len(heads) - 1))]
    for group in [*dict.fromkeys(group for group, *_ in ended), "all"]:
        found = [verdict.kind for g, _, verdict, _ in ended if group in (g, "all")]
        rows.append((group, str(len(found)), *(str(found.count(kind)) for kind in ("", *KINDS))))
    widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
    return ["| " + " | ".join(f"{c:<{n}}" for c, n in zip(row, widths, strict=True)) + " |" for row in rows]


if __name__ == "__main__":
    sys.exit(main())
