"""CPU seconds of what nobody should wait for: help, imports, a plan, `already done`, the first step of a training, the
heat map of an image.

    python scripts/benchmark_start.py

Ends with exit code 1 when a bar is missed.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from anomaly_bench.runs.heatmaps import write_heatmaps
from anomaly_bench.runs.stored_run import ScoreRow

REPEATS = 3
IMAGES, SIDE = 20, 256
LIBRARIES = "import torch, timm, pytorch_lightning"
FIRST_STEP = """
import os, sys
from pytorch_lightning import LightningModule
LightningModule.optimizer_step = lambda *_, **__: os._exit(0)
from anomaly_bench.commands.main import main
main(sys.argv[1:])
"""
RUN = ["train", "method=rd_fast", "method.weights=random", "method.steps=2", "dataset=demo/brick", "hardware=cpu"]


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


def of_plan(*words: str) -> float:
    """CPU seconds until `bench WORDS` says how many runs it plans."""
    command = [sys.executable, "-m", "anomaly_bench", *words]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        process.stderr.readline()  # type: ignore[union-attr]
        user, system = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        process.kill()
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def of_runs() -> dict[str, float]:
    """CPU seconds of a plan, of a training until its first step, and of the same command once it is done."""
    with tempfile.TemporaryDirectory() as folder:
        run = [*RUN, f"output_dir={folder}/outputs", f"cache_dir={folder}/cache"]
        once("-c", FIRST_STEP, *run)  # draws the images, and keeps what is kept between runs
        first = of_python("-c", FIRST_STEP, *run)
        once("-m", "anomaly_bench", *run)
        done = of_python("-m", "anomaly_bench", *run)
        plan = min(of_plan(*run, "--multirun", "seed=range(3)") for _ in range(REPEATS))
    return {"plan line": plan, "already done": done, "first step": first}


def main() -> int:
    libraries = of_python("-c", LIBRARIES)
    bars = {
        "bench --help": (of_python("-m", "anomaly_bench", "--help"), 0.15),
        "import anomaly_bench": (of_python("-c", "import anomaly_bench") - of_python("-c", ""), 0.1),
        "heat map of an image": (of_heat_map(), 0.1),
    }
    most = {"plan line": 2, "already done": 1.5, "first step": round(1.2 * libraries + 1, 2)}
    bars |= {name: (seconds, most[name]) for name, seconds in of_runs().items()}
    print(f"{LIBRARIES}: {libraries:.2f} s")
    for name, (seconds, bar) in bars.items():
        print(f"{name:22} {seconds:.3f} s, at most {bar} s")
    return any(seconds > bar for seconds, bar in bars.values())


if __name__ == "__main__":
    sys.exit(main())
