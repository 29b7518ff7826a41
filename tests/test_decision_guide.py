"""The commands of docs/decision.md, run in their order in a folder of small parts; its numbers are the package's."""

from __future__ import annotations

import csv
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from forks import Forks
from small_runs import ROOT, environment

from anomaly_bench.datasets.textures import generate
from anomaly_bench.metrics.calibration import normals_needed
from anomaly_bench.runs.folder import find

GUIDE = (ROOT / "docs" / "decision.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHORTER = {  # is appended to a line that holds the key, so that the guide's own words stay a user's
    "bench train": "method.image_size=64 method.epochs=1 resamples=0 save_heatmaps=false hardware.threads=1",
    "--watch": "--until-idle 1",
}


def make_parts(place: Path) -> None:
    """Fill my_parts with 20 good and 8 bad images, more_good with 16 good ones, the other two folders with both."""
    images = generate(place / "textures", "brick", seed=0) / "brick"
    goods = iter(sorted((images / "train/good").iterdir()))
    bads = iter(sorted(images.glob("test/[fhs]*/*.png"), key=lambda path: (path.name, path.parent)))
    for folder, good, bad in (("my_parts", 20, 8), ("more_good", 16, 0), ("new_parts", 2, 2), ("incoming", 1, 1)):
        for kind, source, count in (("good", goods, good), ("bad", bads, bad)):
            for i in range(count):
                file = place / folder / (f"{kind}/{i}.png" if folder == "my_parts" else f"{kind}_{i}.png")
                file.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(next(source), file)


class Shell:
    """Runs the guide's lines in a folder: `bench ...` in a fork, anything with a pipe in a real shell."""

    def __init__(self, place: Path, forks: Forks, env: dict[str, str]) -> None:
        self.place, self.forks, self.env = place, forks, env
        self.ended: dict[str, subprocess.CompletedProcess[str]] = {}  # by line of the guide, or by block of Python
        bench = place / "bin" / "bench"
        bench.parent.mkdir()
        bench.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m anomaly_bench "$@"\n')
        bench.chmod(0o755)
        env["PATH"] = f"{bench.parent}{os.pathsep}{env['PATH']}"

    def sh(self, command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", command], cwd=self.place, env=self.env, capture_output=True, text=True, timeout=120
        )

    def run(self, line: str) -> None:
        command = " ".join([line, *(more for key, more in SHORTER.items() if key in line)])
        if assigned := re.fullmatch(r"(\w+)=(.*)", line):
            self.env[assigned[1]] = self.sh(f"printf %s {assigned[2]}").stdout
            return
        if line.startswith("bench ") and "|" not in line:
            words = self.sh(f"printf '%s\\n' {command}").stdout.splitlines()
            ended = self.forks.run(words, self.place, self.env)
        else:
            ended = self.sh(command)
        allowed = (0, 4) if "--fail-on-anomaly" in line else (0,)
        assert ended.returncode in allowed, f"{command}\n{ended.stdout}{ended.stderr}"
        self.ended[line] = ended


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, forks: Forks, weights: Path) -> Shell:
    """The shell of someone who has come to the end of the guide."""
    place = tmp_path_factory.mktemp("guide")
    make_parts(place)
    shell = Shell(place, forks, environment(ANOMALY_BENCH_WEIGHTS=str(weights.parent)))
    for language, block in BLOCK.findall(GUIDE):
        if language == "sh":
            for line in block.splitlines():
                shell.run(line)
        else:
            (place / "block.py").write_text(block)
            ended = forks.run([place / "block.py"], place, shell.env)
            assert ended.returncode == 0, ended.stderr
            shell.ended[block] = ended
    return shell


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def end_of(shell: Shell, *words: str) -> subprocess.CompletedProcess[str]:
    """How the one line or block of the guide that holds all the words ended."""
    (line,) = (line for line in shell.ended if all(word in line for word in words))
    return shell.ended[line]


def test_the_verdicts_on_a_folder_are_those_of_the_stored_threshold(shell: Shell) -> None:
    run = next(find(shell.place / "outputs"))
    threshold = run.manifest["thresholds"]["image"]["threshold"]
    found = rows(shell.place / "results/scores.csv")
    assert [Path(row["path"]).name for row in found] == ["bad_0.png", "bad_1.png", "good_0.png", "good_1.png"]
    assert [row["label"] for row in found] == [str(int(float(row["score"]) > threshold)) for row in found]
    assert len(list((shell.place / "results/overlays").iterdir())) == 4


def test_the_exit_code_tells_of_an_anomalous_image(shell: Shell) -> None:
    labels = [row["label"] for row in rows(shell.place / "results/scores.csv") if row["path"].endswith("0.png")]
    assert end_of(shell, "--fail-on-anomaly").returncode == (4 if "1" in labels else 0)


def test_the_copied_run_says_the_same(shell: Shell) -> None:
    here, there = (rows(shell.place / name / "scores.csv") for name in ("results", "results_line"))
    kept = ("path", "score", "p_value", "threshold", "label")
    assert [[row[key] for key in kept] for row in here] == [[row[key] for key in kept] for row in there]


def test_the_pipeline_and_the_watched_folder_score_what_they_are_given(shell: Shell) -> None:
    lines = [line for line in end_of(shell, "find", "--json").stdout.splitlines() if line.startswith("{")]
    assert {json.loads(line)["path"] for line in lines} == {"new_parts/good_1.png", "new_parts/bad_1.png"}
    watched = rows(shell.place / "watched/scores.csv")
    assert [Path(row["path"]).name for row in watched] == ["bad_0.png", "good_0.png"]


def test_thresholds_say_their_promise(shell: Shell) -> None:
    assert "10 % at 95 % needs 29 normal images, you have 6" in end_of(shell, "--false-alarms 0.1").stdout
    assert "without a guarantee" in end_of(shell, "--folds").stdout
    assert "5 % at 95 % needs 59 normal images, you have 16" in end_of(shell, "--normals").stdout


def test_the_python_block_names_the_images_that_are_not_normal(shell: Shell) -> None:
    found = rows(shell.place / "results_line/scores.csv")
    named = {row["path"] for row in found if row["label"] == "1" or row["unlike"]}
    assert set(re.findall(r"Result\((\S+):", end_of(shell, "load(").stdout)) == named


def test_the_table_of_normal_images_is_right() -> None:
    head, _, needed = (
        line.split("|")[2:-1] for line in re.findall(r"^\|.*(?:at most|---:|held out).*\|$", GUIDE, re.MULTILINE)[:3]
    )
    numbers = {float(rate.strip(" %")) / 100: int(n.replace(",", "")) for rate, n in zip(head, needed, strict=True)}
    assert numbers == {rate: normals_needed(rate, 0.95) for rate in numbers}
    assert len(numbers) == 5
