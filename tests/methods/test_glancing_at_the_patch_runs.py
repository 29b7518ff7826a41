"""Glancing at the Patch as a user runs it: combinations that cannot work, whole runs, a killed one."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from anomaly_bench import config
from anomaly_bench.commands.main import main
from anomaly_bench.contracts import Method
from anomaly_bench.errors import UserError
from anomaly_bench.inference.load import load
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.methods import glancing_at_the_patch
from anomaly_bench.nets.patch_descriptors import PatchDescriptor
from anomaly_bench.runs import learning, runner
from anomaly_bench.runs.folder import RunFolder, find
from tests.forks import Forks
from tests.former_runs import with_former_keys
from tests.nets.small_teachers import teachers
from tests.small_runs import ROOT, TOYS, curve, environment, equal, make_images

# Configurations


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["image_size=224"], "method.image_size: 224 given, allowed: 243 to 274"),
        (["image_size=512"], "method.image_size: 512 given, allowed: 243 to 274"),
        (["windows=80"], "method.windows: 80 given, at most 57: windows lie at least 4 pixels apart"),
        (["patch_size=65", "windows=26"], "method.windows: 26 given, at most 25: windows lie at least 8 pixels apart"),
        (["windows=1"], "method.windows: 1 given, allowed: greater than or equal to 2"),
        (["patch_size=21"], "method.patch_size: 21 given, allowed: 17, 33 or 65"),
        (["stain_grey=[0.4,0.1]"], "method.stain_grey: [0.4, 0.1] given, needed: the smaller number first"),
        (["stain_axes=[0.1,0.6]"], "method.stain_axes: 0.6 given, allowed: less than or equal to 0.5"),
        (
            ["calibrate=true"],
            "method.val_share: 0 given, but calibrate=true needs images set aside (method.val_share=0.1)",
        ),
        (
            ["val_share=0.2"],
            "method.val_share: 0.2 given, but calibrate=false reads no images set aside (method.val_share=0)",
        ),
        (
            ["teacher.losses=[0,1,0]"],
            "method.teacher.losses: [0.0, 1.0, 0.0] given; the tuning needs the first or the third, it has no second "
            "(method.tune_steps=0 leaves the tuning out)",
        ),
        (
            ["tune_decoder=frozen"],
            "method.tune_decoder: frozen given, but the shipped local networks' files hold no decoder "
            "(new, or method.teacher.images=FOLDER to distil one with it)",
        ),
    ],
)
def test_combinations_that_cannot_work(overrides: list[str], line: str) -> None:
    composed = config.compose(["method=glf", "dataset=mtd", *(f"method.{each}" for each in overrides)])
    with pytest.raises(UserError) as refused:
        config.build("method", config.validate(composed).method)
    assert str(refused.value) == line


def test_what_no_source_settles_is_shown_as_unknown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "method=glf"]) == 0
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    keys = re.findall(r"^( *)(\w+):.*# \[(\w+)\]", (ROOT / "conf/method/glf.yaml").read_text(), re.MULTILINE)
    unknown = {f"teacher.{key}" if indent else key for indent, key, source in keys if source == "unknown"}
    told = {line.split()[0] for line in shown if "unknown in the source" in line}
    assert told == unknown
    assert {"iad_share", "dad_weight", "windows", "interpolation", "stain_axes", "steps", "local_activation"} <= unknown
    assert sum(line.startswith("- ") for line in shown) == (glancing_at_the_patch.__doc__ or "").count("Deviation: ")


# Whole runs


def overrides(root: Path, *more: str) -> list[str]:
    return [
        "method=glf_fast", "method.steps=8", "method.batch_size=5", "method.windows=4", "dataset=folder",
        f"dataset.root={root}", "hardware=cpu", "hardware.threads=1", "checkpoint_seconds=0", "save_heatmaps=false",
        "resamples=0", *more,
    ]  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working directory with 12 images to train with and 3 to test with; an epoch has three steps, the last one
    two."""
    folder = tmp_path_factory.mktemp("place")
    root = make_images(folder / "widgets", side=64)
    for file in [*root.glob("test/*/*"), *root.glob("ground_truth/*/*")]:
        if not file.stem.startswith("000"):
            file.unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(glancing_at_the_patch, "EPOCH", 2)
        for module in (learning, runner):
            patch.setattr(module, "EXAMPLES", 1)
        patch.setattr(sys, "argv", sys.argv)
        patch.chdir(folder)
        yield folder


def trained(place: Path, outputs: str, *more: str) -> RunFolder:
    assert main(["train", *overrides(place / "widgets", f"output_dir={outputs}", *more)]) == 0
    (folder,) = find(outputs)
    assert folder.status == "done"
    return RunFolder(folder.path.resolve())


@pytest.fixture(scope="module")
def whole(place: Path) -> RunFolder:
    return trained(place, "whole")


def local_network(folder: RunFolder) -> dict[str, torch.Tensor]:
    state = load_file(folder.path / "weights.safetensors")
    return {key.removeprefix("local.net."): value for key, value in state.items() if key.startswith("local.net.")}


def shipped() -> dict[str, torch.Tensor]:
    net = PatchDescriptor(33)
    teachers().load(net)
    return net.state_dict()


def test_a_run_measures_both_parts(whole: RunFolder) -> None:
    parts = whole.manifest["parts"]
    assert list(parts) == ["iad", "dad"]
    assert all(part.keys() == whole.metrics.keys() and part != whole.metrics for part in parts.values())
    assert all(0 <= value <= 1 for part in parts.values() for value in part.values())
    assert curve(whole) == [("global", 0), ("global", 1), ("global", 2)]
    assert whole.manifest["images"] == {"train": 11, "val": 1, "test_good": 1, "test_anomalous": 2}
    assert list(whole.manifest["provenance"]) == ["local_p33_sha256"]
    assert whole.maps is not None
    assert whole.maps.shape == (3, 256, 256)
    assert [row.score for row in whole.scores] == [float(m.max()) for m in whole.maps]


def test_a_finished_run_is_the_model(whole: RunFolder, place: Path) -> None:
    settings = config.validate(config.compose(overrides(place / "widgets", "method.teacher.file=/gone")))
    torch.manual_seed(7)
    fresh: Method = config.build("method", settings.method)
    fresh.load_state_dict(load_file(whole.path / "weights.safetensors"))
    images = ImageSet(config.build("dataset", settings.dataset).records("test"), 256, settings.cache_dir)
    with torch.inference_mode():
        scores = fresh.eval().score(torch.stack([images[i]["image"] for i in range(3)]))
    assert whole.maps is not None
    assert scores.map is not None
    np.testing.assert_allclose(scores.image, [row.score for row in whole.scores], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(scores.map, whole.maps, rtol=1e-4, atol=1e-4)
    assert {torch.equal(value, shipped()[key]) for key, value in local_network(whole).items()} == {True}


def test_a_run_of_an_earlier_version_is_the_same_model(whole: RunFolder, place: Path, tmp_path: Path) -> None:
    former = RunFolder(shutil.copytree(whole.path, tmp_path / "former"))
    with_former_keys(former)
    assert "stain_brightness" not in (former.path / "config.yaml").read_text()
    row = whole.scores[0]
    (result,) = load(former.path, "cpu").predict([place / "widgets" / row.path])
    assert result.score == pytest.approx(row.score, rel=1e-4)


def test_a_run_with_a_tuned_local_network(place: Path, weights: Path) -> None:
    more = ["method.tune_steps=2", "method.tune_batch_size=2", f"method.weights={weights}"]
    without = ["method.calibrate=false", "method.val_share=0", "method.steps=1"]
    folder = trained(place, "tuned", *more, *without)
    assert curve(folder) == [("tune", 0), ("global", 0)]
    assert set(folder.manifest["provenance"]) == {"local_p33_sha256", "backbone", "backbone_sha256"}
    local = local_network(folder)
    assert {torch.equal(value, local[key]) for key, value in shipped().items()} == {False}
    assert load_file(folder.path / "weights.safetensors")["calibration"].tolist() == [[0, 1], [0, 1]]
    assert (folder.manifest["images"]["train"], folder.manifest["images"]["val"]) == (12, 0)  # none is set aside


def test_a_killed_run_goes_on(place: Path, whole: RunFolder, forks: Forks) -> None:
    given = overrides(place / "widgets", "output_dir=killed")
    script = TOYS / "die_in_training.py"
    child = forks.run([script, "glancing_at_the_patch", "Consistency", *given], place, environment())
    assert child.returncode < 0, child.stderr
    (killed,) = find("killed")
    assert (killed.status, curve(killed)) == ("running", [("global", 0)])
    killed = trained(place, "killed")
    assert "global: resumes from" in (killed.path / "log.txt").read_text()
    assert curve(killed) == curve(whole)
    assert equal(killed, whole)
    assert killed.manifest["parts"] == whole.manifest["parts"]
    one, other = (load_file(folder.path / "weights.safetensors") for folder in (killed, whole))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
