"""`bench reproduce`: what is planned, what cannot run and why, what is run, and the tables at the end."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from small_runs import ROOT, Bench, environment

from anomaly_bench import config
from anomaly_bench.commands import reproduce_points
from anomaly_bench.commands.main import main
from anomaly_bench.commands.parser import grammar
from anomaly_bench.commands.reproduce_request import Request, experiments, has_key, matrix, places, request_of
from anomaly_bench.commands.reproduce_tables import flat
from anomaly_bench.results.published import applies, figures
from anomaly_bench.runs.folder import find
from anomaly_bench.sweeps.plan import Job, planning

TABLES = ["csflow_mtd", "csflow_mvtec", "glf_mvtec", "rd_mvtec", "rd_one_class", "us_mvtec", "us_one_class"]
NOTHING = {"ANOMALY_BENCH_DATA": "", "ANOMALY_BENCH_WEIGHTS": "", "HF_HUB_OFFLINE": "1"}


def parse(argv: list[str]) -> Request:
    verb, rest = grammar().find(["reproduce", *argv])
    return request_of(verb.parse(rest))


def test_the_experiments_with_a_matrix_are_the_published_tables() -> None:
    assert list(experiments()) == TABLES
    assert all({"seed"} <= set(matrix(name)) <= {"seed", "dataset", "method.patch_sizes"} for name in TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_the_header_says_command_cost_and_what_to_expect(name: str) -> None:
    header = [line for line in (ROOT / f"conf/experiment/{name}.yaml").read_text().splitlines() if line[:1] == "#"]
    assert header[2].startswith(f"# bench reproduce {name}")
    (cost,) = [line for line in header if line.startswith("# Cost: about ")]
    assert re.search(r"\d+ GPU hours? \(\d+ runs\)", cost)
    assert any(re.search(r"# Paper, .*: .*0\.\d{3}", line) for line in header)


@pytest.mark.parametrize("name", TABLES)
def test_the_expected_values_of_the_header_are_the_published_ones(name: str) -> None:
    text = (ROOT / f"conf/experiment/{name}.yaml").read_text()
    said = {float(value) for value in re.findall(r"\b0\.[0-9]{3,4}\b", text.split("# Paper")[1].split("defaults:")[0])}
    method = name.partition("_")[0]
    means = {f.value for f in figures() if f.method == method and (f.category == "mean" or f.dataset == "mtd")}
    assert said
    assert said <= means


@pytest.mark.parametrize("name", TABLES)
def test_every_point_of_the_matrix_has_a_published_column(name: str) -> None:
    sets = {f.dataset for f in figures() if f.method == name.partition("_")[0]}
    first = {place[0]: "/".join(dict.fromkeys(place)) for place in places(name)}
    words = [f"experiment={name}", "seed=0", f"dataset={','.join(first.values())}"]
    jobs = [cfg for _, cfg, _ in config.compose_jobs(words, multirun=True, types=False)]
    assert len(jobs) == len(first) * (4 if name == "us_mvtec" else 1)
    variants = set()
    for cfg in jobs:
        assert cfg.dataset.name in sets
        found = {f.variant for f in figures() if f.method == cfg.method.name and applies(f.setting, flat(cfg))}
        assert found
        variants |= found
    assert len(variants) == {"us_mvtec": 4, "rd_mvtec": 2}.get(name, 1)


@pytest.mark.parametrize("name", TABLES)
def test_the_preset_fits_every_experiment(name: str) -> None:
    request = parse(["preset=smoke"])
    assert set(request.preset["experiments"]) == set(TABLES)
    assert "test of the machinery" in request.warning
    assert "seed=0,1" in request.overrides_of(name)
    assert any(word.startswith("dataset=demo/") for word in request.overrides_of(name))
    request = parse(["preset=smoke", "dataset=demo/brick", "seed=0"])
    jobs = config.check(request.overrides_of(name), multirun=True)
    assert len(jobs) == (4 if name == "us_mvtec" else 1)
    assert all("output_dir=outputs/smoke" in job for job in jobs)


def test_typed_words_take_the_place_of_the_presets() -> None:
    request = parse(["preset=smoke", "rd_mvtec", "method.epochs=7", "seed=3", "outputs=here"])
    words = request.overrides_of("rd_mvtec")
    assert {"method.epochs=7", "seed=3", "output_dir=here", "experiment=rd_mvtec", "method.weights=random"} <= {*words}
    assert not {"method.epochs=1", "seed=0,1"} & {*words}


def test_a_key_is_for_the_experiments_that_have_it() -> None:
    request = parse(["method.teacher.images=some"])
    assert request.experiments == TABLES
    given = [name for name in TABLES if "method.teacher.images=some" in request.overrides_of(name)]
    assert given == ["glf_mvtec", "us_mvtec", "us_one_class"]
    assert has_key("rd_mvtec", "hardware=cpu")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["rd_mvtek"], "bench: bench reproduce: 'rd_mvtek' is none of csflow_mtd, csflow_mvtec, glf_mvtec, "),
        (["us_mnist"], "bench: bench reproduce: 'us_mnist' is none of "),  # no published table
        (["preset=smok"], "bench: preset: 'smok' is none of smoke (did you mean 'smoke'?)"),
        (["--planned"], "(did you mean '--plan'?)"),
        (["rd_mvtec", "method.epoch=2"], "no such key in rd_mvtec (did you mean 'method.epochs'?)"),
        (["rd_one_class", "dataset=mnist/0", "method.epochs=0"], "method.epochs: 0 given, allowed: greater than"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *words]) == 2
    assert line in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_something_is_said_before_torch_is_imported(tmp_path: Path) -> None:
    code = "import sys; import anomaly_bench.commands.reproduce as verb; from anomaly_bench.commands.main import main\n"
    code += "def say(text): print(text, 'torch' in sys.modules); sys.exit()\n"
    code += "verb.to_stderr = say; main(['reproduce', '--plan', 'us_mvtec', 'rd_one_class'])"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=60)
    assert done.stdout == "planning us_mvtec, rd_one_class\n False\n", done.stderr


def test_each_data_set_is_said_as_soon_as_it_is_planned(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, value in NOTHING.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    seen: list[tuple[str, int]] = []

    def say(line: str) -> None:
        said.append(line)
        seen.append((line.partition(":")[0], len(planned_jobs)))

    planned_jobs: list[Job] = []

    def watched(*given: Any) -> Iterator[Job]:
        for job in planning(*given):
            planned_jobs.append(job)
            yield job

    monkeypatch.setattr(reproduce_points, "planning", watched)
    request = parse(["rd_one_class", "seed=0", "dataset=mnist/0,mnist/1,cifar10/cat,cifar10/dog"])
    (point,) = reproduce_points.planned("rd_one_class", request, say)
    assert len(point.jobs) == 4
    assert said == ["  mnist: 2 runs: 2 cannot run", "  cifar10: 2 runs: 2 cannot run"]
    assert seen == [("  mnist", 3), ("  cifar10", 4)]  # as soon as the first of another set is planned
    said.clear()
    reproduce_points.planned("rd_one_class", parse(["rd_one_class", "seed=0", "dataset=mnist/0,mnist/1"]), say)
    assert said == []  # the line of the whole says it


def test_what_cannot_run_is_listed_with_the_way_to_supply_it(bench: Bench, tmp_path: Path) -> None:
    words = ["reproduce", "--plan", "rd_mvtec", "us_mvtec", "seed=0", "method.teacher.images=null"]
    done = bench(*words, "dataset=demo/brick,mvtec/screw", env=NOTHING)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert "rd_mvtec: 2 runs: 2 cannot run" in said
    assert "us_mvtec: 8 runs: 2 to run, 6 cannot run" in said  # on demo, the shipped teachers of 17 and 33 pixels
    assert said.count("  beside it brightness: 2 runs: 1 to run, 1 cannot run") == 2
    lines = [line for line in said.splitlines() if "cannot run: " in line]
    assert [re.match(r" *cannot run: (\d+ \(\w+\): [\w.]+):", line)[1] for line in lines] == [  # type: ignore[index]
        *("1 (brick): method.weights", "1 (screw): dataset.root"),
        *("4 (screw): dataset.root", "2 (brick): method.teacher.file"),
    ]
    assert "method.weights=FILE" in lines[0]
    assert "bench data prepare mvtec" in lines[1]
    assert "method.teacher.images=FOLDER" in lines[3]
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize("name", TABLES)
def test_places_are_those_of_the_matrix(name: str) -> None:
    """Read from the file's words, so without a configuration for each; here with one."""
    keys = {"us": 15, "glf": 15, "rd": 15, "csflow": 15}
    expected = {"us_one_class": 20, "rd_one_class": 30, "csflow_mtd": 1}.get(name, keys[name.partition("_")[0]])
    assert len(set(places(name))) == len(places(name)) == expected
    for place in places(name)[:: max(1, expected - 1)]:
        cfg = config.compose([f"experiment={name}", "dataset=" + "/".join(dict.fromkeys(place))])
        assert (cfg.dataset.name, cfg.dataset.get("category", cfg.dataset.name)) == place


def test_a_table_from_the_first_run_to_the_last(bench: Bench, tmp_path: Path) -> None:
    """With a run that fails beside it: the rest is done, the cell says so, the exit code tells."""
    small = ["reproduce", "preset=smoke", "csflow_mtd", "dataset=demo/brick", "seed=0"]
    small += ["method.image_size=64", "method.epochs=1"]
    done = bench(*small, "method.lr=0.01,1e6", env=NOTHING)
    assert done.returncode == 1, done.stderr
    every = list(find(tmp_path / "outputs/smoke"))
    (floor,) = [folder for folder in every if folder.manifest["method"] == "brightness"]
    folders = {folder.status: folder for folder in every if folder is not floor}
    assert set(folders) == {"done", "failed"}
    text = (tmp_path / "outputs/smoke/reproduce/versus.md").read_text()
    assert text.startswith("# Paper versus ours\n\n**A test of the machinery. ")
    with (tmp_path / "outputs/smoke/reproduce/versus.csv").open() as file:
        trained, broken = csv.DictReader(file)
    auroc = folders["done"].metrics["image_auroc"]
    assert (trained["dataset"], trained["published"], trained["confidence"]) == ("mtd", "0.993", "unverified")
    assert float(trained["ours"]) == auroc
    assert float(trained["delta"]) == pytest.approx(auroc - 0.993, abs=1e-6)
    assert trained["verdict"] == "stand-ins"
    assert trained["differences"].startswith("weights=random; backbone=resnet18 in place of tf_efficientnet_b5")
    assert (broken["ours"], broken["note"], broken["verdict"]) == ("", "failed", "")
    assert float(trained["baseline"]) == float(broken["baseline"]) == floor.metrics["image_auroc"]
    again = bench(*small, "--plan", env=NOTHING)
    assert again.returncode == 0
    assert "csflow_mtd: 1 runs: 1 done" in again.stdout + again.stderr
