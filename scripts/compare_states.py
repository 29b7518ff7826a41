"""Does another state of the code give the same results?  Trains small runs and builds a report with both, and compares.

python scripts/compare_states.py CHECKOUT [--outputs FOLDER]

CHECKOUT: another working tree of this repository.  Each method is trained for a few steps on generated images on the
CPU; then both states write the report of the same outputs.  Prints a table; the exit code is 1 if anything differs.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

FILES = ("metrics.json", "scores.csv", "maps.npy", "curves.json", "weights.safetensors")
EVERY_RUN = ["dataset=demo/brick", "seed=1", "hardware=cpu", "hardware.threads=1", "resamples=20"]
US = {"image_size": 32, "dense_stride": 8, "students": 2, "epochs": 1, "weights": "random"}
DISTILLED = {"teacher_images": "{cache}/demo/v1-seed0/brick/train/good", "teacher_steps": 2, "teacher_batch_size": 2}
RESNET = {"backbone": "resnet18", "weights": "random", "epochs": 2}
RUNS: dict[str, tuple[str, dict[str, Any]]] = {  # name -> method, its keys; the first run generates the images
    "rd": ("rd", RESNET | {"image_size": 64}),
    "csflow": ("csflow", RESNET | {"layer": "layer3", "image_size": 128, "hidden": 16, "lr": 0.01}),
    "us_fast": ("us_fast", US),
    "us_fast, distilled": ("us_fast", US | DISTILLED),
    "glf_fast": ("glf_fast", {"weights": "random", "tune_steps": 2, "steps": 4, "batch_size": 4, "windows": 4}),
}
CONFIG = """
import json, sys
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
with initialize_config_dir(sys.argv[1], version_base=None):
    config = compose("config", [sys.argv[2], "dataset=demo/brick"])
print(json.dumps({"method": OmegaConf.to_container(config.method)}))
"""
TYPES = {"F64": "f8", "F32": "f4", "F16": "f2", "I64": "i8", "I32": "i4", "U8": "u1", "BOOL": "?"}  # of safetensors
INLINE = {"a", "b", "code", "em", "i", "small", "span", "strong", "wbr"}  # no space around them
KINDS = {"href": "links", "src": "links", "id": "ids", "aria": "aria-*", "data": "data-*"}  # of attributes
TIME = re.compile(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d(?= UTC)")  # when the report was written


def run_in(tree: Path, cache: Path, *command: str) -> str:
    """What `python COMMAND` prints with the package and the configuration of `tree`."""
    environment = {key: value for key, value in os.environ.items() if key != "BENCH_CONF"}
    environment |= {"PYTHONPATH": str(tree), "ANOMALY_BENCH_CACHE": str(cache), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, *command], cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{tree}: python {' '.join(command[-8:])} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def overrides(tree: Path, cache: Path, method: str, values: dict[str, Any]) -> list[str]:
    """KEY=VALUE with the names that the keys have in `tree`: `teacher_steps` may be `method.teacher.steps` there."""
    config = json.loads(run_in(tree, cache, "-c", CONFIG, str(tree / "conf"), f"method={method}"))
    keys = {re.sub("[._]", "", key): key.lstrip(".") for key in flat(config)}
    found = {keys["method" + name.replace("_", "")]: str(value) for name, value in values.items()}
    if "epochs" in values and config["method"].get("steps"):  # in a state that counts these
        found["method.steps"] = "null"
    return [f"{key}={value.replace('{cache}', str(cache))}" for key, value in found.items()]


def train_all(tree: Path, work: Path) -> dict[str, Path]:
    """Name -> run folder of each of `RUNS`.  work: an empty folder, at the same place for both trees."""
    folders, cache, outputs = dict[str, Path](), work / "cache", work / "outputs"
    for name, (method, values) in RUNS.items():
        print(f"{tree}: trains {name}", file=sys.stderr)
        settings = [f"method={method}", *EVERY_RUN, f"output_dir={outputs}", f"cache_dir={cache}"]
        run_in(tree, cache, "-m", "anomaly_bench", "train", *settings, *overrides(tree, cache, method, values))
        (folders[name],) = {file.parent for file in outputs.rglob("metrics.json")} - set(folders.values())
    return folders


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Path -> each leaf of nested dictionaries."""
    if not isinstance(value, dict):
        return {name: value}
    return {path: leaf for key, child in value.items() for path, leaf in flat(child, f"{name}.{key}").items()}


def read_values(file: Path) -> dict[str, np.ndarray]:
    """Name -> numbers (float64) or texts of a file of a run."""
    if file.suffix == ".npy":
        return {"maps": np.load(file).astype(float)}
    if file.suffix == ".csv":
        rows = list(csv.DictReader(file.open(newline="", encoding="utf-8")))
        return {name: np.array([row[name] for row in rows], float if name == "score" else str) for name in rows[0]}
    if file.suffix == ".json":
        values = flat(json.loads(file.read_text(encoding="utf-8")))
        return {name: np.array(value, str if isinstance(value, str) else float) for name, value in values.items()}
    data = file.read_bytes()  # safetensors: the length of the header, the header, the numbers
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = {name: entry for name, entry in json.loads(data[8:start]).items() if name != "__metadata__"}
    ends = {name: [start + end for end in entry["data_offsets"]] for name, entry in tensors.items()}
    return {n: np.frombuffer(data[slice(*ends[n])], TYPES[t["dtype"]]).astype(float) for n, t in tensors.items()}


class Page(HTMLParser):
    """A page as lists of words, elements, links, ids, aria-*, data-* and other attributes, in their order."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.texts, self.found = list[str](), defaultdict[str, list[str]](list)
        self.feed(TIME.sub("", file.read_text(encoding="utf-8")))
        self.found["words"] = "".join(self.texts).split()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_endtag(tag)
        self.found["elements"].append(tag)
        for key, value in sorted(attrs):
            kind = KINDS.get(key) or KINDS.get(key.partition("-")[0], "other attributes")
            self.found[kind].append(f"{tag} {key}={' '.join((value or '').split())}")

    def handle_endtag(self, tag: str) -> None:
        self.texts.append("" if tag in INLINE else " ")

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def difference(one: Path, other: Path) -> str:
    """Empty where two files have the same bytes, else by how much they differ."""
    if not one.exists() or not other.exists():
        return "" if one.exists() == other.exists() else f"only in {one if one.exists() else other}"
    if one.read_bytes() == other.read_bytes():
        return ""
    if one.suffix == ".html":
        first, second = Page(one).found, Page(other).found
        pairs = ((kind, a, b) for kind in sorted({*first, *second}) for a, b in zip_longest(first[kind], second[kind]))
        return next((f"{kind}: {a!r} and {b!r}" for kind, a, b in pairs if a != b), "")
    if one.name not in FILES:
        return "other bytes"
    values, others, largest = read_values(one), read_values(other), (0.0, "")
    if odd := sorted(values.keys() ^ others.keys()):
        return f"{len(odd)} names are in one only: {', '.join(odd[:4])}"
    for name, a in values.items():
        b = others[name]
        if a.shape != b.shape or (a.dtype.kind == "U" and (a != b).any()):
            return f"{name}: shapes {a.shape} and {b.shape}, or other texts"
        if a.dtype.kind != "U":
            distances = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b))
            largest = max(largest, (float(np.nan_to_num(distances, nan=np.inf).max(initial=0)), name))
    return f"by at most {largest[0]:.3g}, in {largest[1]}" if largest[0] else "the same values in other bytes"


def compare_reports(one: Path, other: Path) -> Iterator[tuple[str, str]]:
    """(file, difference); pictures are one line together."""
    files = sorted({f.relative_to(folder) for folder in (one, other) for f in folder.rglob("*.*") if f.is_file()})
    pictures = [name for name in files if name.parts[0] == "pictures"]
    yield from ((f"report/{name}", difference(one / name, other / name)) for name in files if name not in pictures)
    differing = [str(name) for name in pictures if difference(one / name, other / name)]
    yield f"report: {len(pictures)} pictures", ", ".join(differing[:3])


def compare_runs(trees: Sequence[Path], place: Path) -> Iterator[tuple[str, str]]:
    """(run and file, difference); the runs of the first tree stay in place/trained0."""
    folders: list[dict[str, Path]] = []
    for number, tree in enumerate(trees):
        trained = train_all(tree, place / "work")
        kept = (place / "work").rename(place / f"trained{number}")
        folders.append({name: kept / folder.relative_to(place / "work") for name, folder in trained.items()})
    for name in RUNS:
        one, other = folders[0][name], folders[1][name]
        yield f"{name}: run id", "" if one.name == other.name else f"{one.name} is {other.name}"
        yield from ((f"{name}: {file}", difference(one / file, other / file)) for file in FILES)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--outputs", type=Path, help="compare only the reports of these runs, and train nothing")
    arguments = parser.parse_args()
    trees = (Path(__file__).resolve().parents[1], arguments.checkout.resolve())
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        outputs, lines = place / "trained0" / "outputs", [] if arguments.outputs else [*compare_runs(trees, place)]
        if arguments.outputs:
            shutil.copytree(arguments.outputs, outputs, ignore=shutil.ignore_patterns("report"))
        for number, tree in enumerate(trees):
            run_in(tree, place, "-m", "anomaly_bench", "report", str(outputs))
            (outputs / "report").rename(place / f"report{number}")
        lines += compare_reports(place / "report0", place / "report1")
    for name, found in lines:
        print(f"{name:50} {'DIFFERS ' + found if found else 'same'}")
    return int(any(found for _, found in lines))


if __name__ == "__main__":
    raise SystemExit(main())
