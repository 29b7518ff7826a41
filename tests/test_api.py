"""The Python API: the same runs as the command's, what they show of themselves, and what needs no torch."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from forks import Forks
from references.metrics import auroc
from small_runs import FILES, QUICK, ROOT, TOYS, Noted, Train, contents, environment

import anomaly_bench
from anomaly_bench import Run, UserError, evaluate, load
from anomaly_bench import train as train_run
from anomaly_bench.metrics import measure
from anomaly_bench.runs.stored_run import CALIBRATION

CONF = TOYS / "conf"


# Importing


def test_importing_needs_nothing_and_the_names_are_there_when_they_are_used() -> None:
    script = """
import sys
before = set(sys.modules)
import anomaly_bench
heavy = {"torch", "numpy", "scipy", "pytorch_lightning", "timm", "hydra", "omegaconf", "pydantic", "PIL", "rich"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert {name.partition(".")[0] for name in set(sys.modules) - before} <= {"anomaly_bench", *sys.stdlib_module_names}
assert set(anomaly_bench.__all__) <= set(dir(anomaly_bench))
from anomaly_bench import UserError, evaluate, image_metrics
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert all(callable(getattr(anomaly_bench, name)) for name in anomaly_bench.__all__)


def test_a_name_that_is_none() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'fit'"):
        anomaly_bench.fit  # noqa: B018


# Training


@pytest.fixture
def toy(train: Train, shared_images: Path) -> list[str]:
    """The overrides of a small run; the working directory is the test's own."""
    return [f"dataset.root={shared_images}", "method.notes=notes", "hardware=cpu", *QUICK]


def test_training_gives_the_run_of_the_command(train: Train, toy: list[str], notes: Noted) -> None:
    run = train_run("toy", "folder", overrides=toy, config_dir=CONF)
    assert contents(run._folder) == FILES - {"heatmaps"}
    assert run.manifest["command"].endswith("method.notes=notes hardware=cpu save_heatmaps=false resamples=0")
    assert train(*QUICK).path.resolve() == run.path.resolve()  # `bench train`
    again = train_run("toy", "folder", 0, toy, CONF)
    assert again.path == run.path
    assert len(notes("begin")) == 1
    assert train_run("toy", "folder", 1, toy, CONF).path.name.startswith("s1-")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"method": "tyo"}, "did you mean 'toy'"),
        ({"dataset": "nowhere"}, "dataset"),
        ({"overrides": ["method.lr=quick", "method.epochs=0"]}, "method.epochs"),
        ({"overrides": ["method.lr=0.1,0.2"]}, "method.lr"),
        ({"overrides": ["seed=0,1"]}, "seed"),
        ({"overrides": "method.lr=0.1"}, "a list is needed"),
        ({"overrides": ["dataset.root=nowhere"]}, "no such folder: nowhere"),
        ({"method": "rd,us"}, "method"),
        ({"seed": -1}, "seed"),
        ({"config_dir": "nowhere"}, "--config-dir: no such folder"),
    ],
)
def test_what_a_user_can_do_wrong(toy: list[str], changes: dict[str, object], said: str) -> None:
    given = {"method": "toy", "dataset": "folder", "overrides": [], "config_dir": CONF, **changes}
    with pytest.raises(UserError, match=said):
        train_run(**given)  # type: ignore[arg-type]


# A run


def test_the_figures_of_a_run(trained: Train) -> None:
    folder = trained()
    run = Run(folder.path)
    assert run.metrics == folder.metrics
    assert run.thresholds == {}
    scores = run.scores()
    assert isinstance(scores, np.recarray)
    assert scores.dtype.names == ("path", "kind", "label", "score")
    assert [tuple(row) for row in scores] == [(r.path, r.kind, r.label, r.score) for r in folder.scores]
    assert scores[scores.label == 0].score.max() < scores.score.max()
    maps = run.maps()
    assert isinstance(maps, np.memmap)
    assert np.array_equal(maps.max((1, 2)), scores.score.astype(np.float32))
    assert repr(run) == (
        f"Run(toy on folder/widgets, seed 0; image_auroc {run.metrics['image_auroc']:.4f}, pixel_auroc "
        f"{run.metrics['pixel_auroc']:.4f}, aupro_0.3 {run.metrics['aupro_0.3']:.4f}; no threshold; {folder.path})"
    )
    assert run._repr_png_() == min((folder.path / "heatmaps").glob("*.png")).read_bytes()


def test_scores_as_a_frame(trained: Train) -> None:
    run = Run(trained().path)
    if importlib.util.find_spec("pandas"):
        frame = run.scores(as_frame=True)
        assert list(frame.columns) == ["path", "kind", "label", "score"]
        assert frame.score.tolist() == run.scores().score.tolist()
    else:
        with pytest.raises(UserError, match=r"pandas is not installed \(pip install pandas\)"):
            run.scores(as_frame=True)


def test_a_run_with_a_threshold_and_without_maps(train: Train) -> None:
    run = Run(train(*QUICK, "save_maps=false", "calibration_share=0.5").path)
    assert run.maps() is None
    assert run._repr_png_() is None
    assert run.thresholds["image"]["file"] == CALIBRATION
    assert "needs 59 normal images, you have 6" in repr(run)
    model = run.model("cpu", CONF)
    (result,) = model.predict(Path(run.manifest["place"]) / run.scores()[0].path)
    assert result.score == pytest.approx(run.scores()[0].score, rel=1e-6)
    assert repr(model) == repr(load(run.path, "cpu", CONF))


@pytest.mark.parametrize("name", ["metrics.json", "scores.csv", "maps.npy"])
def test_a_damaged_file_of_a_run_is_named(trained: Train, name: str) -> None:
    folder = trained()
    with (folder.path / name).open("r+b") as file:
        file.truncate(10)
    with pytest.raises(UserError, match=f"{name}: was changed or damaged"):
        Run(folder.path).maps()


def test_a_folder_that_is_no_finished_run(trained: Train, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run is here"):
        Run(tmp_path)
    folder = trained()
    folder.update(status="failed")
    with pytest.raises(UserError, match="not finished"):
        Run(folder.path)


# Any scores and maps


def test_evaluate_measures_as_runs_are_measured() -> None:
    draw = np.random.default_rng(3)
    labels = np.array([0, 0, 0, 1, 1, 1])
    masks = np.zeros((6, 16, 16), np.uint8)
    masks[3:, 4:9, 5:11] = 255
    maps = (draw.normal(size=(6, 16, 16)) + (masks > 0)).astype(np.float32)
    scores = maps.max((1, 2))
    found = evaluate(maps, masks, scores, labels, resamples=50)
    assert found.metrics == measure(scores, labels, maps, list(masks > 0), memory_mb=2048, resamples=50).metrics
    assert found["image_auroc"] == pytest.approx(float(auroc(scores[3:], scores[:3])))
    assert found["pixel_auroc"] == pytest.approx(float(auroc(maps[masks > 0], maps[masks == 0])))
    assert found.intervals.keys() == found.metrics.keys()
    assert evaluate(list(maps), list(masks > 0), scores, labels, resamples=0).metrics == found.metrics
    alone = evaluate(None, None, scores, labels, resamples=0)
    assert alone.metrics == {name: value for name, value in found.metrics.items() if name.startswith("image")}


@pytest.mark.parametrize(
    ("maps", "scores"),
    [(np.zeros((3, 8, 8)), np.arange(4.0)), (np.zeros((4, 8, 9)), np.arange(4.0)), (None, np.full(4, np.nan))],
)
def test_evaluate_refuses_what_does_not_fit(maps: np.ndarray | None, scores: np.ndarray) -> None:
    masks = None if maps is None else np.ones((4, 8, 8))
    with pytest.raises(ValueError):
        evaluate(maps, masks, scores, np.array([0, 0, 1, 1]), resamples=0)


# In a notebook

NOTEBOOK = """
import builtins, sys
class ZMQInteractiveShell: pass
builtins.get_ipython = ZMQInteractiveShell
from anomaly_bench import train
from anomaly_bench.console import _bar_options, training_bar_shown
from anomaly_bench.runs import fit
assert training_bar_shown() and not _bar_options()["disable"]
seen = []
make = fit.make_trainer
fit.make_trainer = lambda *given, **limits: seen.append(make(*given, **limits)) or seen[-1]
run = train("toy", "folder", overrides=sys.argv[2:], config_dir=sys.argv[1])
assert [type(trainer.progress_bar_callback).__name__ for trainer in seen] == ["ProgressBar"] * 2
"""


def test_a_notebook_shows_bars_and_has_the_same_run(
    toy: list[str], trained: Train, tmp_path: Path, forks: Forks
) -> None:
    (tmp_path / "notebook.py").write_text(NOTEBOOK)
    command = [tmp_path / "notebook.py", CONF, *toy, "output_dir=noted"]
    done = forks.run(command, tmp_path, environment())
    assert done.returncode == 0, done.stderr[-2000:]
    (manifest,) = (tmp_path / "noted").glob("*/*/*/*/manifest.json")
    weights = [manifest.with_name("weights.safetensors"), trained().path / "weights.safetensors"]
    assert len({hashlib.sha256(file.read_bytes()).hexdigest() for file in weights}) == 1
    assert json.loads(manifest.read_text())["status"] == "done"
