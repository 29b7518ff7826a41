"""python check_score_with_ray.py [COUNT]: 20,000 small images through examples/score_with_ray.py, with faults.

A toy run is trained and exported.  First one of the two workers is killed by SIGKILL in the middle, then, in a second
table, the program itself, which is called once more.  Each image must be in each table exactly once with the score of
ONNX Runtime alone, and files that are no image with an error.  Exit code 0, or 1 with what differs."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import numpy as np
from check_sweep import Checks
from PIL import Image
from small_runs import QUICK, ROOT, TOY, environment, make_images

from anomaly_bench.inference.standalone import read

PROGRAM = ROOT / "examples/score_with_ray.py"
BROKEN = {"empty.png": b"", "text.jpg": b"no image", "cut.png": None}  # None: the first half of a good one
NAMES = ('line 1/part "7", grün.png', "line 2/PART.PNG")  # of two good images
LIMIT = 900  # seconds for one call


def export_run(place: Path, overrides: list[str], options: list[str]) -> Path:
    """Train and export a run with the real commands."""
    file = place / "run.onnx"
    for words in (["train", *overrides], ["export", "--out", str(file)]):
        found = [str(each.parent) for each in place.glob("outputs/**/manifest.json")]
        command = [sys.executable, "-m", "anomaly_bench", *words, *options, *found]
        subprocess.run(command, cwd=place, env=environment(), check=True, stdout=subprocess.DEVNULL)
    return file


def make_parts(folder: Path, count: int) -> None:
    """Write `count` PNG files of 32 to 64 pixels, two of them with unusual names, and the broken ones."""
    random = np.random.default_rng(0)
    for i, (height, width) in enumerate(random.integers(32, 65, (count, 2))):
        file = folder / (NAMES[i] if i < len(NAMES) else f"{i % 20:02}/{i:06}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = random.integers(0, 256, (height, 1, 3), dtype=np.uint8).repeat(width, 1)
        Image.fromarray(pixels).save(file, compress_level=1)
    for name, content in BROKEN.items():
        good = (folder / NAMES[0]).read_bytes()
        (folder / name).write_bytes(good[: len(good) // 2] if content is None else content)


def alone(exported: Path, folder: Path) -> dict[str, tuple[str, ...]]:
    """Return score, p-value and label of each good image, by ONNX Runtime on one thread in this process."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(str(exported), options, ["CPUExecutionProvider"])
    found = {}
    for file in (each for each in folder.rglob("*") if each.is_file() and each.name not in BROKEN):
        values = session.run(["score", "p_value", "label"], {"images": read(str(file))[None]})
        found[file.relative_to(folder).as_posix()] = tuple(str(value[0].item()) for value in values)
    return found


def descendants(pid: int) -> dict[int, str]:
    """Return the processes below one, with their command lines."""
    parents, lines = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parents[int(place.name)] = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            lines[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    below, new = {pid}, {pid}
    while new := {each for each, parent in parents.items() if parent in new} - below:
        below |= new
    return {each: lines[each] for each in below - {pid} if each in lines}


def kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def call(words: list[str], out: Path, fault: str, when: int, log: Path) -> tuple[int, int]:
    """Call the program, kill something where its table has `when` rows; its exit code, and how many were killed."""
    env = environment(RAY_USAGE_STATS_ENABLED="0", RAY_DEDUP_LOGS="0")
    env.pop("RAY_ADDRESS", None)
    with log.open("a") as file:
        program = subprocess.Popen([sys.executable, str(PROGRAM), *words], env=env, stdout=file, stderr=file)
    start, killed = time.monotonic(), 0
    below: dict[int, str] = {}
    while program.poll() is None:
        if time.monotonic() - start > LIMIT:
            raise TimeoutError(f"{PROGRAM.name}: more than {LIMIT} s; see {log}")
        if fault and not killed and out.exists() and out.read_bytes().count(b"\n") > when:
            below = descendants(program.pid)
            workers = [pid for pid, line in below.items() if "Scorer" in line]
            for pid in workers[:1] if fault == "worker" else [program.pid]:
                kill(pid)
                killed += 1
        time.sleep(0.1)
    if fault == "program":  # what Ray had started ends with it
        end = time.monotonic() + 30
        while (left := [pid for pid in below if Path(f"/proc/{pid}").exists()]) and time.monotonic() < end:
            time.sleep(0.5)
        for pid in left:
            print(f"        still there after 30 s, ended: {below[pid][:80]}")
            kill(pid)
    print(f"  {time.monotonic() - start:.0f} s", flush=True)
    return program.returncode, killed


def examine(check: Checks, out: Path, expected: dict[str, tuple[str, ...]]) -> None:
    with out.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    counts = Counter(row["path"] for row in rows)
    check("images that are missing", sorted({*expected, *BROKEN} - counts.keys())[:3], [])
    check("images that are there twice", [path for path, count in counts.items() if count > 1][:3], [])
    check("rows", len(rows), len(expected) + len(BROKEN))
    check("broken files with an error", sorted(row["path"] for row in rows if row["error"]), sorted(BROKEN))
    scored = {row["path"]: (row["score"], row["p_value"], row["label"]) for row in rows if not row["error"]}
    differ = [(path, *scored[path], *each) for path, each in expected.items() if scored.get(path, each) != each]
    check("score, p-value or label that is not that of ONNX Runtime alone, to the bit", differ[:3], [])


def main(count: int) -> int:
    print(", ".join(f"{name} {version(name)}" for name in ("ray", "onnxruntime", "pillow")), f"{count} images")
    place, check = Path(tempfile.mkdtemp(prefix="score_with_ray_")), Checks()
    images = make_images(place / "widgets")
    exported = export_run(place, [*TOY[2:], f"dataset.root={images}", "calibration_share=0.5", *QUICK], TOY[:2])
    folder = place / "parts"
    make_parts(folder, count)
    expected, log = alone(exported, folder), place / "log.txt"
    check("labels are of both kinds", len({each[2] for each in expected.values()}) > 1, True)
    first, second = ([str(exported), str(folder), str(place / name)] for name in ("first.csv", "second.csv"))
    print("a worker is killed in the middle", flush=True)
    check("exit code, killed", call(first, Path(first[2]), "worker", count // 3, log), (0, 1))
    examine(check, Path(first[2]), expected)
    print("the program is killed in the middle", flush=True)
    check("exit code, killed", call(second, Path(second[2]), "program", count // 3, log), (-signal.SIGKILL, 1))
    kept = Path(second[2]).read_bytes().count(b"\n") - 1
    check("it had not finished", count // 3 <= kept < count, True)
    print("and called once more", flush=True)
    check("exit code, killed", call(second, Path(second[2]), "", 0, log), (0, 0))
    check("images scored before", f"{kept} images were scored before" in log.read_text(), True)
    examine(check, Path(second[2]), expected)
    other = place / "other.onnx"
    other.write_bytes(exported.read_bytes().replace(b'"method": "toy"', b'"method": "Toy"'))
    check("another file is refused", call([str(other), *second[1:]], place, "", 0, log)[0], 2)
    check("in a line that says why", "second.csv is of another exported file" in log.read_text(), True)
    return check.end(place)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main(*map(int, sys.argv[1:] or ["20000"])))
