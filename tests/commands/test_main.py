"""The command line: what a user can do wrong is one line and exit code 2, and costs nothing that is on disk."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from small_runs import QUICK, ROOT, TOY, Bench, Train, environment, save

from anomaly_bench import __version__
from anomaly_bench.commands.main import main
from anomaly_bench.runs.folder import find

RD = ["method=rd", "dataset=mvtec/bottle"]
Damage = Callable[[Path], object]


def said(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """What `bench` says on stderr in this process; it must leave with 2."""
    assert main(list(words)) == 2
    return capsys.readouterr().err.splitlines()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["tarin"],
            "(did you mean 'train'?)",
        ),
        (["train", "method=rdd", "dataset=mtd"], "(did you mean 'rd'?)"),
        (["train", "method=rd", "dataset=mdt"], "(did you mean 'mtd'?)"),
        (["train", "method=rd", "dataset=mvtec/botle"], "(did you mean 'mvtec/bottle'?)"),
        (["train", "method=rd"], "dataset: not given (dataset=NAME with one of autovi/engine_wiring, "),
        (["train", *RD, "sede=1"], "sede: no such key (did you mean 'seed'?)"),
        (["train", *RD, "method.sigm=1"], "method.sigm: no such key (did you mean 'method.sigma'?)"),
        (["train", *RD, "+method.sigm=1"], "method.sigm: no such key (did you mean 'sigma'?)"),
        (["train", *RD, "seed"], "seed: not of the form key=value"),
        (["train", *RD, "method.epochs=ten"], "method.epochs: 'ten' given, allowed: a valid integer"),
        (["train", *RD, "method.lr=-1"], "method.lr: -1 given, allowed: greater than 0"),
        (["train", *RD, "method.betas=[0.5,2]"], "method.betas: 2 given, allowed: less than 1"),
        (["train", *RD, "hardware.precision=bf16"], "(did you mean 'bf16-mixed'?)"),
        (
            ["train", *RD, "hardware.devices=0"],
            "hardware.devices: 0 given, allowed: greater than or equal to 1 or 'auto'",
        ),
        (
            ["train", *RD, "method._target_=anomaly_bench.methods.nix.Nix"],
            "method._target_: 'anomaly_bench.methods.nix.Nix'",
        ),
        (["train", *RD, "seed=0,1"], "seed=0,1: several values (add --multirun to run each of them"),
        (
            ["train", "-m", "method=rd", "dataset=glob(nix*)"],
            "dataset=glob(nix*): stands for no value, so that no run is asked for",
        ),
        (["train", *RD, "--config-dir", "nowhere"], "--config-dir: no such folder: nowhere"),
        (["train", "method=rd", "dataset=folder"], "dataset.root: is not given (dataset.root=DIR names"),
        (["train", *RD, "dataset.root=nowhere"], "dataset.root: no such folder: nowhere or nowhere/mvtec"),
        (["train", "method=rd", "dataset=mtd", "method=null"], "method: 'None' is none of "),
        (["list", "method"], "(did you mean 'methods'?)"),
        (["show"], "bench show: nothing to show"),
        (["show", "method=dr"], "method: 'dr' is none of "),
        (["report", "a", "b"], "bench report: too many arguments, 'b' given (bench report "),
        (["eval"], "bench eval: nothing to measure (bench eval RUN, or bench eval --maps DIR --masks DIR)"),
        (["eval", "nowhere"], "nowhere: no run is here (`bench list runs` shows where runs are)"),
        (["eval", "--maps", "a"], "bench eval: --masks is not given (it goes with --maps)"),
        (["eval", "--masks", "a"], "bench eval: --maps is not given (it goes with --masks)"),
        (["eval", "--maps", "a", "--masks"], "bench eval: --masks: expected one argument"),
        (["eval", "--maps", "a", "--masks", "a"], "bench: a: no such folder"),
        (
            ["eval", "a", "--mask=b"],
            "bench eval: '--mask' is none of --accept-changes, --as, --config-dir, --help, --ignore-value, ",
        ),
        (["eval", "a", "--resamples", "many"], "bench eval: --resamples: 'many' given, allowed: an integer from 0 "),
        (["eval", "a", "--threads=0"], "bench eval: --threads: '0' given, allowed: an integer from 1 to 1024"),
        (["eval", "--maps", "a", "--masks", "a", "dataset.root=b"], "bench eval: dataset.root goes with RUN only"),
        (["eval", "--maps", "a", "--masks", "a", "--write-tiff", "b"], "bench eval: --write-tiff goes with RUN only"),
        (["completion", "fish"], "bench completion: 'fish' is none of bash, zsh"),
    ],
)
def test_a_mistake_in_the_words_is_one_line(
    words: list[str], line: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (answer,) = said(capsys, *words)
    assert answer.startswith("bench: ")
    assert line in answer
    assert not list(tmp_path.iterdir())


def test_five_mistakes_are_five_lines_each_with_key_value_and_what_is_allowed(bench: Bench, tmp_path: Path) -> None:
    wrong = ["method.lr=-1", "method.image_size=50", "hardware.precision=8", "seed=x", "force=maybe"]
    done = bench("train", *RD, *wrong)
    assert done.returncode == 2
    lines = {line.split(": ")[1]: line for line in done.stderr.splitlines()}
    for key, value, allowed in (
        ("method.lr", "-1", "greater than 0"),
        ("method.image_size", "50", "a multiple of 32"),
        ("hardware.precision", "8", "'32-true', 'bf16-mixed' or '16-mixed'"),
        ("seed", "'x'", "a valid integer"),
        ("force", "'maybe'", "a valid boolean"),
    ):
        assert f"bench: {key}: {value} given, allowed: {allowed}" in lines.pop(key)
    assert not lines
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda d: shutil.rmtree(d / "train/good"), "widgets/train/good: no such folder"),
        (lambda d: shutil.rmtree(d / "test"), "widgets/test: no test images: folders test/good and test/<defect>"),
        (lambda d: (d / "test/hole/001.png").write_bytes(b"nothing"), "widgets/test/hole/001.png: cannot be read"),
        (lambda d: (d / "train/good/007.png").write_bytes(b""), "widgets/train/good/007.png: cannot be read"),
        (lambda d: (d / "ground_truth/line/002_mask.png").unlink(), "widgets/test/line/002.png: has no mask; looked "),
        (
            lambda d: save(d / "ground_truth/line/002_mask.png", np.zeros((40, 48), np.uint8)),
            "widgets/ground_truth/line/002_mask.png: the mask has 48 x 40 pixels, its image 32 x 32",
        ),
    ],
    ids=["no train/good", "no test", "unreadable test", "unreadable train", "no mask", "mask of another size"],
)  # fmt: skip
def test_a_mistake_in_the_data_is_one_line_that_names_the_file(
    damage: Damage, line: str, train: Train, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = train(*QUICK, seed=1).manifest  # a finished run that must survive
    damage(images)
    capsys.readouterr()
    assert main(["train", *TOY, f"dataset.root={images}"]) == 2
    (answer,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("bench: ")]
    assert line in answer
    assert not list(Path("outputs").glob("*/*/*/s0-*/training.csv"))  # before any training, not after it
    (survivor,) = [folder for folder in find("outputs") if folder.status == "done"]
    assert survivor.manifest == kept
    assert len(survivor.scores) == 10


def test_a_data_set_without_test_images_is_refused(train: Train, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *TOY[:-2], "dataset=empty"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("bench: dataset: ")
    assert "no test images" in line


def test_an_unreadable_image_ends_the_real_command_with_one_line(bench: Bench, images: Path) -> None:
    (images / "test/hole/001.png").write_bytes(b"nothing")
    done = bench("train", *TOY, f"dataset.root={images}", fresh=True)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"bench: {images}/test/hole/001.png: cannot be read as an image")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda file: save_file({"conv1.weight": torch.zeros(64, 3, 7, 7)}, file), "keys missing, the first is '"),
        (lambda file: file.write_bytes(b"nothing"), "cannot be read as weights"),
        (lambda file: file.unlink(), "no such file"),
    ],
    ids=["keys", "damaged", "missing"],
)
def test_weights_that_do_not_fit_are_named(
    damage: Damage, line: str, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    file = tmp_path / "resnet18.safetensors"
    shutil.copy(weights, file)
    damage(file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    rd = ["method=rd", "method.backbone=resnet18", f"method.weights={file}", "method.image_size=32"]
    assert main(["train", *rd, "dataset=folder", f"dataset.root={images}", "hardware=cpu"]) == 2
    answer = capsys.readouterr().err.splitlines()[-1]
    assert answer.startswith("bench: method.weights: ")
    assert line in answer
    assert str(file) in answer


@pytest.mark.parametrize(
    ("outputs", "begins"),  # neither can be written by anyone
    [
        ("file/outputs", "bench: file/outputs/toy/folder/widgets/s0-"),
        pytest.param(
            "/proc/outputs", "bench: output_dir: the run needs about ",
            marks=pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc"),
        ),
    ],
    ids=["no folder", "no space"],
)  # fmt: skip
def test_a_folder_that_cannot_be_written_is_named(
    outputs: str, begins: str, bench: Bench, images: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mine")
    done = bench("train", *TOY, f"dataset.root={images}", f"output_dir={outputs}")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(begins)
    assert line.endswith("(free some space or choose another output_dir=DIR)")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_gpu_that_is_not_there_is_one_line(bench: Bench, images: Path, tmp_path: Path) -> None:
    done = bench("train", *TOY[:-1], "hardware=gpu", f"dataset.root={images}")
    line = (
        "bench: hardware.accelerator: gpu asked for, but PyTorch finds no CUDA device (hardware=cpu or hardware=auto)"
    )
    assert (done.returncode, done.stderr) == (2, line + "\n")
    assert not (tmp_path / "outputs").exists()


def test_a_sweep_goes_on_after_a_job_that_failed(bench: Bench, images: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "raise").touch()
    sweep = ["seed=0,1", "method.epochs=2,1", f"dataset.root={images}", "method.notes=notes", "method.kind=one"]
    done = bench("train", "-m", *TOY, *sweep)
    assert done.returncode == 1
    assert "4 runs: 4 to run" in done.stderr
    assert "4 runs: 2 done, 2 failed" in done.stderr
    assert (
        len(re.findall(r"^failed +\d+ s .*: RuntimeError: the toy was told to fail$", done.stderr, re.MULTILINE)) == 2
    )
    ended = sorted((f.manifest["seed"], f.status) for f in find(tmp_path / "outputs"))
    assert ended == [(0, "done"), (0, "failed"), (1, "done"), (1, "failed")]


def test_a_mistake_in_any_job_of_a_sweep_stops_it_before_the_first(bench: Bench, images: Path, tmp_path: Path) -> None:
    done = bench("train", "-m", *TOY, f"dataset.root={images}", "method.epochs=1,0")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "planning 2 runs",
        "bench: method.epochs: 0 given, allowed: greater than or equal to 1",
    ]
    assert not (tmp_path / "outputs").exists()


def test_keys_of_hydra_itself_reach_it(bench: Bench, images: Path, tmp_path: Path) -> None:
    given = [*TOY, "method.epochs=1", "resamples=0", "hydra.job.chdir=true", "hydra.run.dir=there"]
    assert bench("train", *given, f"dataset.root={images}").returncode == 0
    (folder,) = find(tmp_path / "there" / "outputs")
    assert folder.status == "done"
    done = bench("train", *given, "seed=1", "dataset.root=/nowhere")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("bench: dataset.root: ")


def test_without_a_method_the_first_runs_are_planned_and_one_mistake_is_said_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert said(capsys, "train", "seed=-1") == [
        "planning 3 runs",
        "bench: seed: -1 given, allowed: greater than or equal to 0",
    ]
    assert said(capsys, "train", "--cfg", "job")[0].startswith("bench: --cfg: prints one configuration, several are")
    assert not list(tmp_path.iterdir())


def test_help_and_version(bench: Bench) -> None:
    done = bench("--help")
    assert done.returncode == 0
    for verb in ("train", "eval", "report", "reproduce", "data", "list", "show", "completion"):
        assert f"\n  {verb} " in done.stdout
    assert bench().stdout == done.stdout
    assert "--write-tiff DIR" in bench("eval", "--help").stdout
    assert bench("--version").stdout == f"{__version__}\n"


def test_cfg_job_prints_the_configuration_without_torch_and_stops(tmp_path: Path) -> None:
    command = [sys.executable, "-X", "importtime", "-m", "anomaly_bench", "train", *RD, "seed=7", "--cfg", "job"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0
    assert "\nseed: 7\n" in done.stdout
    assert "  category: bottle\n" in done.stdout
    assert " hydra\n" in done.stderr
    assert not any(line.endswith(" torch") for line in done.stderr.splitlines())
    assert not list(tmp_path.iterdir())


def test_relative_paths_and_a_configuration_of_ones_own_from_another_folder(
    bench: Bench, images: Path, tmp_path: Path
) -> None:
    shutil.copytree(ROOT / "conf", tmp_path / "my conf")
    conf = tmp_path / "my conf" / "config.yaml"
    conf.write_text(conf.read_text().replace("seed: 0 ", "seed: 5 "))
    (tmp_path / "elsewhere").mkdir()
    words = ["train", *TOY, "dataset.root=../widgets", "method.epochs=1", "output_dir=here"]
    done = bench(*words, cwd=tmp_path / "elsewhere", env={"BENCH_CONF": str(tmp_path / "my conf")})
    assert done.returncode == 0, done.stderr
    (folder,) = find(tmp_path / "elsewhere" / "here")
    assert folder.manifest["seed"] == 5
    assert (
        bench("list", "methods", env={"BENCH_CONF": "nowhere"}).stderr
        == "bench: BENCH_CONF: no config.yaml in nowhere\n"
    )
