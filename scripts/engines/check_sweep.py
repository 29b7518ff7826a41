"""python check_sweep.py ENGINE [OVERRIDES]: 12 jobs through `bench train -m hydra/launcher=ENGINE`, checked one by one.

The toy method of the tests on 22 small images.  One job raises, one kills itself with SIGKILL.  The same command is
given three times: with both faults, with the crash's cause removed, with none.  Afterwards all jobs are done, none was
trained twice, and every number equals that of a sequential sweep without faults.  Exit code 0, or 1 with what differs.
OVERRIDES: more overrides."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from small_runs import TOY, environment, equal, make_images

from anomaly_bench.runs.folder import RunFolder, find

ENGINES = {  # the plugin, and overrides that make it fit on a laptop; two GPUs that are none, one for each job
    "slurm": (
        "hydra-submitit-launcher submitit",
        "gpus_per_node=1 cpus_per_task=1 mem_gb=2 timeout_min=10",
    ),
    "ray": ("hydra-ray-launcher ray", "ray.init.num_cpus=2 ray.init.num_gpus=2 ray.remote.num_cpus=1"),
}
JOBS, RAISES, CRASHES = 12, 3, 7  # jobs are told apart by their seeds
LIMIT = 600  # seconds for one sweep


class Sweep:
    """One folder with images, notes (what each job did, and which fault it shall have) and outputs."""

    def __init__(self, place: Path, images: Path, *more: str) -> None:
        self.place, self.more = place, more
        for seed in range(JOBS):
            (place / "notes" / str(seed)).mkdir(parents=True)
        seeds = ",".join(map(str, range(JOBS)))
        overrides = ["method.notes=notes/${seed}", "checkpoint_seconds=0", "resamples=20"]
        self.command = ["train", "-m", *TOY, f"dataset.root={images}", f"seed={seeds}", *overrides, *more]

    def fault(self, seed: int, name: str) -> Path:
        return self.place / "notes" / str(seed) / name

    def run(self) -> int:
        """One call of the command; its exit code.  Output goes to <place>/log.txt."""
        with (self.place / "log.txt").open("a") as log:
            command = [sys.executable, "-m", "anomaly_bench", *self.command]
            env = environment(ANOMALY_BENCH_CACHE=str(self.place.parent / "cache"), CUDA_VISIBLE_DEVICES="0,1")
            return subprocess.run(command, cwd=self.place, env=env, stdout=log, stderr=log, timeout=LIMIT).returncode

    def folders(self) -> dict[int, RunFolder]:
        outputs = self.place / "outputs"
        return {f.manifest["seed"]: f for f in find(outputs)} if outputs.is_dir() else {}

    def notes(self, seed: int) -> list[dict[str, Any]]:
        file = self.place / "notes" / str(seed) / "notes.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def steps(self, seed: int) -> Counter[str]:
        """How often the job took each step: its epoch and the images in it."""
        return Counter(f"{n['epoch']} {n['paths']}" for n in self.notes(seed) if n["what"] == "step")


class Checks:
    """Prints each check, and counts those that fail."""

    failed = 0

    def __call__(self, what: str, found: object, expected: object) -> None:
        good = found == expected
        self.failed += not good
        print(f"  {'ok  ' if good else 'FAIL'}  {what}", flush=True)
        if not good:
            print(f"        {str(found)[:300]}\n        expected {str(expected)[:300]}", flush=True)

    def end(self, place: Path) -> int:
        """Say how it ended and remove the folder of checks that all passed; the exit code."""
        print(f"{self.failed} checks failed; see {place}" if self.failed else "all checks passed")
        if not self.failed:
            shutil.rmtree(place)
        return min(self.failed, 1)


def states(sweep: Sweep) -> dict[str, int]:
    return dict(Counter(folder.status for folder in sweep.folders().values()))


def call(sweep: Sweep, what: str) -> int:
    start = time.monotonic()
    code = sweep.run()
    print(f"{what}: {time.monotonic() - start:.0f} s, exit code {code}, {states(sweep)}", flush=True)
    return code


def main(engine: str, *more: str) -> int:
    plugins, overrides = ENGINES[engine]
    found = [f"{name} {version(name)}" for name in [*plugins.split(), "hydra-core", "torch"]]
    print(f"{date.today()}, Python {platform.python_version()}, {', '.join(found)}", flush=True)
    place, check = Path(tempfile.mkdtemp(prefix=f"sweep_{engine}_")), Checks()
    images = make_images(place / "widgets")
    plain = Sweep(place / "sequential", images)
    check("exit code", call(plain, "a sequential sweep"), 0)
    chosen = [f"hydra/launcher={engine}", *(f"hydra.launcher.{each}" for each in overrides.split()), *more]
    sweep = Sweep(place / engine, images, *chosen)
    sweep.fault(RAISES, "raise").touch()
    sweep.fault(CRASHES, "die").touch()

    check("exit code", call(sweep, "first call, one job raises, one kills itself"), 1)
    check("jobs that are done", states(sweep), {"done": JOBS - 2, "failed": 2})
    errors = {seed: folder.manifest.get("error") for seed, folder in sweep.folders().items()}
    check("what the raising job says", errors.get(RAISES), "RuntimeError: the toy was told to fail")
    check("what is said of the killed one", errors.get(CRASHES), "killed by SIGKILL (out of memory?)")
    began = {seed: len(sweep.notes(seed)) for seed in range(JOBS)}

    sweep.fault(CRASHES, "die").unlink()
    check("exit code", call(sweep, "second call, the crash's cause is gone"), 1)
    check("jobs that are done", states(sweep), {"done": JOBS - 1, "failed": 1})
    touched = {seed for seed in range(JOBS) if len(sweep.notes(seed)) > began[seed]}
    check("jobs that were taken up again", touched, {RAISES, CRASHES})
    check("steps of the killed job in both calls", sweep.steps(CRASHES), plain.steps(CRASHES))

    sweep.fault(RAISES, "raise").unlink()
    check("exit code", call(sweep, "third call, no fault"), 0)
    check("jobs that are done", states(sweep), {"done": JOBS})
    quiet = [seed for seed in range(JOBS) if seed != RAISES]
    check("no step was taken twice", [sweep.steps(s) for s in quiet], [plain.steps(s) for s in quiet])
    ours, theirs = sweep.folders(), plain.folders()
    same = [seed for seed in range(JOBS) if seed in ours and seed in theirs and equal(ours[seed], theirs[seed])]
    check("results equal those of the sequential sweep, to the bit", same, list(range(JOBS)))
    check("exit code", call(sweep, "fourth call, nothing to do"), 0)
    gpus = {note["gpus"] for seed in range(JOBS) for note in sweep.notes(seed) if note["what"] == "begin"}
    check("each job got one of the two GPUs", bool(gpus) and gpus <= {"0", "1"}, True)
    processes = {note["pid"] for seed in range(JOBS) for note in sweep.notes(seed)}
    check("each attempt had a process of its own", len(processes), JOBS + 3)
    return check.end(place)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(*sys.argv[1:]))
