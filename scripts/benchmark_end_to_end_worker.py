"""One run of benchmark_end_to_end.py in a process of its own: what each phase takes, and the peak memory.

    python scripts/benchmark_end_to_end_worker.py BEGAN OVERRIDE ...

BEGAN: `time.time()` of whoever starts it.  OVERRIDE: as of `bench train`, `output_dir` and `cache_dir` too.  The last
line printed is JSON: for each phase seconds and CPU seconds (of all threads), `step` for forward, backward and
optimiser and `train` for the rest of the training; `peak_mb`, the high-water mark of the resident set (VmHWM, Linux),
and `anonymous_mb`, the largest resident memory without pages of files in each phase, looked at every 20 ms.
"""

from __future__ import annotations

import json
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

STATUS = Path("/proc/self/status")


class Clock:
    """Seconds and CPU seconds of each phase; one inside another does not count for the outer one."""

    def __init__(self, began: float) -> None:
        self.spent: dict[str, list[float]] = {}
        self.phases, self.last = ["other"], (began, 0.0)

    def mark(self) -> None:
        """Give what has passed since the last mark to the present phase."""
        now = time.time(), time.process_time()
        spent = self.spent.setdefault(self.phases[-1], [0.0, 0.0])
        spent[:] = [total + a - b for total, a, b in zip(spent, now, self.last, strict=True)]
        self.last = now

    @contextmanager
    def phase(self, name: str, began: bool = False) -> Iterator[None]:
        """began: what has passed since the last mark belongs to it."""
        if not began:
            self.mark()
        self.phases.append(name)
        try:
            yield
        finally:
            self.mark()
            self.phases.pop()

    def time_calls(self, phase: str, owner: Any, *names: str) -> None:
        """Let each call of these functions be of a phase."""
        for name in names:
            setattr(owner, name, self._timed(phase, getattr(owner, name)))

    def _timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **options: Any) -> Any:
            with self.phase(phase):
                return function(*arguments, **options)

        return timed


def memory_mb(name: str) -> float:
    """name: VmHWM, RssAnon, ..."""
    found = re.search(rf"^{name}:\s+(\d+) kB", STATUS.read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else float("nan")


def main() -> None:
    clock, overrides = Clock(float(sys.argv[1])), sys.argv[2:]
    with clock.phase("import", began=True):
        from pytorch_lightning import LightningModule

        from anomaly_bench.commands.report import write_report
        from anomaly_bench.config import compose, locate
        from anomaly_bench.loading.loaders import NormalLoaders
        from anomaly_bench.runs import fit, runner, scoring
        from anomaly_bench.runs.folder import RunFolder

        locate("method._target_", compose(overrides).method["_target_"])
    for module in (fit, runner, scoring):
        module.reset_peak_memory = lambda: None  # type: ignore[attr-defined]  # one peak of all phases
    clock.time_calls("plan", runner, "find_run")
    clock.time_calls("decode", NormalLoaders, "statistics")
    clock.time_calls("decode", runner, "NormalLoaders", "ImageSet", "separations")
    clock.time_calls("step", LightningModule, "optimizer_step")  # forward, backward and optimiser
    clock.time_calls("train", runner, "fit_stages", "check_learning")
    clock.time_calls("score", runner, "score", "calibration_rows", "measure_points")
    clock.time_calls("measure", runner, "measure", "calibrate_run")
    clock.time_calls("draw", runner, "draw_heatmaps")
    clock.time_calls("store", runner, "store_weights")
    clock.time_calls("store", RunFolder, "start", "write_maps", "take_maps", "write_scores", "finish")
    largest: dict[str, float] = {}
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            phase = clock.phases[-1]
            largest[phase] = max(largest.get(phase, 0.0), memory_mb("RssAnon"))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with clock.phase("plan"):
            cfg = compose(overrides)
        runner.run(cfg, overrides)
        with clock.phase("report"):
            write_report(Path(cfg.output_dir))
    finally:
        ended.set()
        watcher.join()
    clock.mark()
    print(json.dumps({"phases": clock.spent, "peak_mb": memory_mb("VmHWM"), "anonymous_mb": largest}))


if __name__ == "__main__":
    main()
