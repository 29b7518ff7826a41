"""The recipes of CONTRIBUTING.md, followed to the letter by someone whose files lie outside the package."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from small_runs import ROOT, Bench, Train, make_images

from anomaly_bench.commands.main import main
from anomaly_bench.runs.folder import find

BLOCK = re.compile(r"^```(?:python|yaml)\n# (\S+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = dict(BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    """A folder with the files of CONTRIBUTING.md, and images as its data set wants them: side by side, no masks."""
    home = tmp_path / "someone"
    for name, text in BLOCKS.items():
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text(text, encoding="utf-8")
    (home / "photos").mkdir()
    for image in make_images(tmp_path / "made").glob("t*/*/*.png"):
        split, kind = image.parts[-3:-1]
        image.rename(home / "photos" / f"{split}_{kind}_{image.name}")
    return home


def test_the_recipes_are_one_file_and_one_yaml_each() -> None:
    assert len(BLOCKS) == 4
    assert sorted(Path(name).suffix for name in BLOCKS) == [".py", ".py", ".yaml", ".yaml"]
    assert {str(Path(name).parent) for name in BLOCKS} == {"conf", "conf/method", "conf/dataset"}


def test_a_method_and_a_data_set_from_outside_train_and_are_measured(recipe: Path, bench: Bench) -> None:
    method, dataset = (next(Path(n).stem for n in BLOCKS if n.startswith(f"conf/{g}/")) for g in ("method", "dataset"))
    words = ["--config-dir", "conf", f"method={method}", f"dataset={dataset}", "dataset.root=photos", "hardware=cpu"]
    done = bench("train", *words, cwd=recipe, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0, done.stderr
    (folder,) = find(recipe / "outputs")
    assert folder.path.parent == recipe / "outputs" / method / dataset / dataset
    assert folder.status == "done"
    assert sorted(row.path for row in folder.scores) == sorted(f.name for f in (recipe / "photos").glob("test_*.png"))
    assert folder.metrics["image_auroc"] == 1  # a bright defect on dark noise
    assert not any(key.startswith("pixel") for key in folder.metrics)  # there are no masks
    assert folder.maps is not None
    assert np.isfinite(folder.maps).all()
    assert {f.name for f in folder.path.iterdir()} >= {"weights.safetensors", "heatmaps", "config.yaml", "log.txt"}


def test_its_mistakes_are_reported_like_any_other(recipe: Path, bench: Bench) -> None:
    method, dataset = (next(Path(n).stem for n in BLOCKS if n.startswith(f"conf/{g}/")) for g in ("method", "dataset"))
    words = ["--config-dir", "conf", f"method={method}", f"dataset={dataset}", "method.image_size=0", "method.x=1"]
    done = bench("train", *words, cwd=recipe, env={"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert {line.split(": ")[1] for line in done.stderr.splitlines()} == {
        "method.x",
        "method.image_size",
        "dataset.root",
    }


PLANTED = "from pathlib import Path\nPath('ran').touch()\nclass Planted: ...\n"


@pytest.mark.parametrize("target", ["planted.Planted", "os.system", "subprocess.Popen", "antigravity.x", "", "."])
@pytest.mark.parametrize("group", ["method", "dataset"])
def test_nothing_else_is_imported(
    recipe: Path, group: str, target: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither from the current folder nor from PYTHONPATH, nor what is no method or data set."""
    (recipe / "planted.py").write_text(PLANTED)
    (recipe / "conf" / group / "mine.yaml").write_text(f"_target_: {target!r}\nname: mine\n")
    words = {"method": "pixel_gaussian", "dataset": "flat_files", group: "mine"}
    argv = ["--config-dir", "conf", *(f"{key}={value}" for key, value in words.items())]
    monkeypatch.chdir(recipe)
    monkeypatch.syspath_prepend(str(recipe))
    assert main(["train", *argv, "hardware=cpu"]) == 2
    said = f"bench: {group}._target_: '{target}' is neither of anomaly_bench nor of a file below"
    assert said in capsys.readouterr().err
    assert not (recipe / "ran").exists()
    assert not (recipe / "outputs").exists()


def test_a_foreign_run_folder_runs_nothing(trained: Train, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained()
    (tmp_path / "planted.py").write_text(PLANTED)
    config = folder.path / "config.yaml"
    for target in ("planted.Planted", "os.system"):
        config.write_text(re.sub(r"_target_: \S+", f"_target_: {target}", config.read_text()))
        folder.finish()  # its checksums fit
        assert main(["eval", str(folder.path)]) == 2
        assert f"'{target}' is neither of anomaly_bench" in capsys.readouterr().err
        assert main(["report"]) == 0
        assert main(["list", "runs", "--verify"]) == 0
    assert not (tmp_path / "ran").exists()


def test_a_variant_of_a_method_in_a_folder_of_ones_own(recipe: Path, bench: Bench) -> None:
    (recipe / "conf/method/small.yaml").write_text("defaults: [csflow]\nname: small\nhidden: 64  # [ours] quick\n")
    done = bench("show", "--config-dir", "conf", "method=small", cwd=recipe, env={"PYTHONPATH": str(ROOT)})
    assert (done.returncode, done.stderr) == (0, "")
    lines = {line.split()[0]: line for line in done.stdout.splitlines() if line.strip()}
    assert lines["hidden"].split()[1:4] == ["64", "ours", "quick"]
    assert "authors' code" in lines["clamp"]


BROKEN = {
    "tab": (b"_target_: x\n\tname: y\n", ":2: "),
    "twice": (b"name: a\n_target_: x\nname: b\n", ":3: "),
    "utf-16": ("name: a\n".encode("utf-16"), "is no UTF-8 text"),
    "latin-1": ("name: ä\n".encode("latin-1"), "is no UTF-8 text"),
    "binary": (bytes(range(256)), "is no UTF-8 text"),
    "list": (b"- a\n- b\n", "holds a list, no keys"),
    "bracket": (b"_target_: [\n", ":2: "),
}


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("verb", ["train", "show"])
def test_a_damaged_yaml_is_named_with_its_line(
    recipe: Path, broken: str, verb: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    content, said = BROKEN[broken]
    (recipe / "conf/method/mine.yaml").write_bytes(content)
    monkeypatch.chdir(recipe)
    monkeypatch.setattr(sys, "argv", sys.argv)
    assert main([verb, "--config-dir", "conf", "method=mine", "dataset=demo/brick"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert any("mine.yaml" in line and said in line for line in lines), lines
    assert all(line.startswith("bench: ") for line in lines)


WRONG = {
    "None": ("return None", "returned NoneType"),
    "one too few": ("return Scores(image=maps.flatten(1).amax(1)[1:], map=maps)", "`image` is ["),
    "no batch": ("return Scores(image=maps.amax(), map=maps)", "`image` is []"),
    "small map": ("return Scores(image=maps.flatten(1).amax(1), map=maps[:, 1:])", "`map` is ["),
    "a list": ("return Scores(image=[0.0] * len(maps), map=maps)", "`image` is list"),
    "nan": ("return Scores(image=maps.flatten(1).amax(1) * float('nan'), map=maps)", "its score is not finite"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_a_method_returns_is_checked(
    recipe: Path, wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = WRONG[wrong]
    file = recipe / "conf/pixel_gaussian.py"
    file.write_text(re.sub(r"return Scores\(.*\)", code, file.read_text()))
    monkeypatch.chdir(recipe)
    monkeypatch.setattr(sys, "argv", sys.argv)
    argv = ["--config-dir", "conf", "method=pixel_gaussian", "dataset=flat_files", "dataset.root=photos"]
    assert main(["train", *argv, "hardware=cpu"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bench: ")]
    assert said in line
