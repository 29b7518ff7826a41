"""CPU seconds of what nobody should wait for: the help of `bench`, `import anomaly_bench`, the heat map of an image.

    python scripts/benchmark_start.py

Ends with exit code 1 when a bar is missed.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from anomaly_bench.runs.folder import ScoreRow
from anomaly_bench.runs.heatmaps import write_heatmaps

REPEATS = 5
IMAGES, SIDE = 20, 256
BARS = {"bench --help": 0.15, "import anomaly_bench": 0.1, "heat map of an image": 0.1}


def of_python(*words: str) -> float:
    """CPU seconds of `python WORDS...`, from the interpreter's start to its end; the least of several."""
    return min(once(*words) for _ in range(REPEATS))


def once(*words: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *words], capture_output=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def of_heat_map() -> float:
    """CPU seconds for one of many images."""
    draw = np.random.default_rng(0)
    rows = [ScoreRow(f"test/cut/{i:03}.png", "cut", 1, float(i)) for i in range(IMAGES)]
    maps = draw.random((IMAGES, SIDE, SIDE), dtype=np.float32)
    image, mask = draw.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8), maps[0] > 0.5
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        write_heatmaps(Path(folder), rows, maps, lambda _: (image, mask))
        return (time.process_time() - started) / IMAGES


def main() -> int:
    measured = {
        "bench --help": of_python("-m", "anomaly_bench", "--help"),
        "import anomaly_bench": of_python("-c", "import anomaly_bench") - of_python("-c", ""),
        "heat map of an image": of_heat_map(),
    }
    for name, seconds in measured.items():
        print(f"{name:22} {seconds:.3f} s, at most {BARS[name]} s")
    return any(seconds > BARS[name] for name, seconds in measured.items())


if __name__ == "__main__":
    sys.exit(main())
