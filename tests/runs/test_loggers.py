"""MLflow and TensorBoard themselves, read back by their own readers; and one that fails in the middle of a run."""

from __future__ import annotations

import csv
import importlib.util
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pytorch_lightning.loggers import CSVLogger
from small_runs import FILES, Train, contents

from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.loggers import WORST

EPOCHS = ("method.epochs=3", "calibration_share=0.25")


def needs(package: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not importlib.util.find_spec(package), reason=f"{package} is not installed")


def curve(folder: RunFolder, stage: str) -> list[float]:
    with (folder.path / "training.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file) if row["stage"] == stage]


def steps(folder: RunFolder) -> int:
    """Of three epochs with 4 images in a batch."""
    return 3 * -(-int(folder.manifest["images"]["train"]) // 4)


def worst(folder: RunFolder) -> list[Path]:
    return sorted((folder.path / "heatmaps").iterdir())[:WORST]


@pytest.fixture
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@needs("mlflow")
@pytest.mark.usefixtures("no_server")
def test_mlflow_has_parameters_metrics_curves_heat_maps_and_files(train: Train, tmp_path: Path) -> None:
    folder = train("logger=mlflow", *EPOCHS)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"file:{folder.path / 'logs'}")
    (experiment,) = [each for each in client.search_experiments() if each.name == "anomaly_bench"]
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    assert {key: run.data.params[key] for key in ("seed", "method/lr", "dataset/name")} == {
        "seed": "0",
        "method/lr": "0.05",
        "dataset/name": "folder",
    }
    for name, value in folder.metrics.items():
        assert run.data.metrics[name] == pytest.approx(value, abs=1e-12), name
    for stage in ("template", "again"):
        history = client.get_metric_history(run.info.run_id, f"{stage}/loss")
        assert [each.step for each in history] == list(range(len(history)))
        np.testing.assert_allclose([each.value for each in history], curve(folder, stage), rtol=1e-6)
    assert not [name for name in run.data.metrics if "/steps/" in name]  # a request for each would be slow
    assert run.data.tags["run_folder"] == str(folder.path.resolve())
    assert run.data.tags["mlflow.runName"].startswith("toy ")
    pictures = {item.path.removeprefix("heatmaps/") for item in client.list_artifacts(run.info.run_id, "heatmaps")}
    assert pictures == {path.name for path in worst(folder)}
    kept = {item.path.removeprefix("run/") for item in client.list_artifacts(run.info.run_id, "run")}
    assert kept == (FILES | {"calibration.csv"}) - {"maps.npy", "weights.safetensors", "heatmaps"}
    (manifest,) = (folder.path / "logs").rglob("artifacts/run/manifest.json")
    assert manifest.read_bytes() == (folder.path / "manifest.json").read_bytes()  # of the finished run
    assert {path.name for path in tmp_path.iterdir()} == {"notes", "outputs"}


@needs("mlflow")
@pytest.mark.usefixtures("no_server")
def test_a_run_that_fails_is_failed_in_mlflow_too(train: Train, tmp_path: Path) -> None:
    (tmp_path / "notes" / "raise").touch()
    folder = train("logger=mlflow", *EPOCHS, code=1)
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"file:{folder.path / 'logs'}")
    (run,) = client.search_runs([each.experiment_id for each in client.search_experiments()])
    assert run.info.status == "FAILED"
    assert len(client.get_metric_history(run.info.run_id, "template/loss")) == 1  # it raises in the second epoch


@needs("mlflow")
def test_a_server_that_is_away_costs_one_warning(
    train: Train, trained: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder = train("logger=mlflow", "+logger.tracking_uri=http://127.0.0.1:9", *EPOCHS)
    said = capsys.readouterr().err
    assert said.count("the run goes on without it") == 1
    assert re.search(r"^logger: MLFlowLogger failed \(.*\); the run goes on without it$", said, re.MULTILINE)
    assert folder.status == "done"
    assert folder.metrics == trained(*EPOCHS, outputs="other").metrics


def events(folder: RunFolder) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (place,) = {file.parent for file in (folder.path / "logs").rglob("events.out.tfevents*")}
    found = EventAccumulator(str(place), {"images": 0, "scalars": 0, "tensors": 0})
    found.Reload()
    return found


@needs("tensorboard")
def test_tensorboard_has_parameters_metrics_curves_and_heat_maps(train: Train) -> None:
    import io

    folder = train("logger=tensorboard", *EPOCHS)
    found = events(folder)
    for name, value in folder.metrics.items():
        assert found.Scalars(name)[-1].value == pytest.approx(value, abs=1e-6), name
    for stage in ("template", "again"):
        history = found.Scalars(f"{stage}/loss")
        assert [each.step for each in history] == list(range(len(history)))
        np.testing.assert_allclose([each.value for each in history], curve(folder, stage), rtol=1e-5)
    assert len(found.Scalars("template/steps/loss")) == steps(folder)
    assert set(found.Tags()["images"]) == {f"heatmaps/{path.stem}" for path in worst(folder)}
    (drawn,) = found.Images(f"heatmaps/{worst(folder)[0].stem}")
    with Image.open(io.BytesIO(drawn.encoded_image_string)) as one, Image.open(worst(folder)[0]) as other:
        assert np.array_equal(np.asarray(one.convert("RGB")), np.asarray(other.convert("RGB")))
    (text,) = found.Tensors("manifest/text_summary")
    assert folder.manifest["id"] in text.tensor_proto.string_val[0].decode()
    plugin = found.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    assert b"method/lr" in plugin
    (hparams,) = (folder.path / "logs").rglob("hparams.yaml")
    assert "lr: 0.05" in hparams.read_text()


def test_every_step_and_every_epoch_are_in_the_csv(train: Train) -> None:
    folder = train("logger=csv", *EPOCHS)
    (file,) = (folder.path / "logs").rglob("metrics.csv")
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    epochs = [float(row["template/loss"]) for row in rows if row["template/loss"]]
    np.testing.assert_allclose(epochs, curve(folder, "template"), rtol=1e-6)
    assert len([row for row in rows if row["template/steps/loss"]]) == steps(folder)
    assert {float(row["aupro_0.3"]) for row in rows if row["aupro_0.3"]} == {folder.metrics["aupro_0.3"]}


@pytest.fixture(params=["log_hyperparams", "log_metrics", "save", "finalize"])
def failing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The real logger, of which one method raises."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("the disk of the logger\nis full")

    monkeypatch.setattr(CSVLogger, request.param, fail)
    return str(request.param)


def test_a_logger_that_fails_anywhere_never_loses_the_run(
    train: Train, trained: Train, failing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train("logger=csv", *EPOCHS)
    said = capsys.readouterr().err
    assert said.count("the run goes on without it") == 1, failing
    line = "logger: CSVLogger failed (OSError: the disk of the logger is full); the run goes on without it"
    assert line in said.splitlines()
    assert line in (folder.path / "log.txt").read_text()
    assert folder.status == "done"
    assert folder.metrics == trained(*EPOCHS, outputs="other").metrics
    assert contents(folder) >= FILES
