"""What a run tells Lightning's loggers (MLflow, TensorBoard, CSV ...).  One that fails never ends the run."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger

from anomaly_bench.config import Settings, build
from anomaly_bench.errors import UserError
from anomaly_bench.runs.callbacks import quiet
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.stored_run import CHECKED, MANIFEST

WORST = 10  # heat maps: of the worst mistakes
FILES = (MANIFEST, *CHECKED, "overrides.txt", "training.csv", "log.txt")  # small ones: no weights, maps, checkpoints
TAGS = ("method", "dataset", "category", "seed", "id", "setting", "command")  # of the manifest
log = logging.getLogger("anomaly_bench")


class RunLogger(Logger):
    """One of Lightning's loggers as a run uses it.  Its first failure is a warning, and the last thing it is told."""

    def __init__(self, logger: Logger, folder: RunFolder) -> None:
        self.logger, self.folder = logger, folder
        self.stage, self.failed = "", False
        self.each_step = not isinstance(logger, MLFlowLogger)  # to which each value is a request

    @property
    def name(self) -> str:
        """The name of the logger's class."""
        return type(self.logger).__name__

    @property
    def version(self) -> str:
        """The id of the run."""
        return self.folder.path.name

    @property
    def experiment(self) -> Any:
        """What a method's own code may log to."""
        return self.logger.experiment  # type: ignore[attr-defined]

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Log the values of a step; Lightning calls it."""
        self.tell(lambda: self.logger.log_metrics({f"{self.stage}/steps/{k}": v for k, v in metrics.items()}, step))

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing where Lightning calls it, with those of one stage; `begin` logs the run's."""

    def finalize(self, status: str) -> None:
        """Do nothing where Lightning calls it, after each stage; `end` does."""

    def save(self) -> None:
        """Write what is logged so far; Lightning calls it."""
        self.tell(self.logger.save)

    def log_epoch(self, epoch: int, values: Mapping[str, float]) -> None:
        """Log a row of training.csv."""
        self.tell(lambda: self.logger.log_metrics({f"{self.stage}/{k}": v for k, v in values.items()}, epoch))

    def begin(self) -> None:
        """Log the parameters, without secrets, and what the run is."""
        self.tell(lambda: self.logger.version)  # the same for this process and those that train for it
        self.tell(lambda: self.logger.log_hyperparams(self._parameters()))
        if isinstance(self.logger, MLFlowLogger):
            self.tell(self._tag)

    def end(self, status: str) -> None:
        """Log the results of a finished run, and end.  status: `success` or `failed`."""
        if status == "success":
            metrics = {name: value for name, value in self.folder.metrics.items() if not math.isnan(value)}
            self.tell(lambda: self.logger.log_metrics(metrics))
            pictures = sorted((self.folder.path / "heatmaps").glob("*.png"))[:WORST]
            if isinstance(self.logger, TensorBoardLogger):
                self.tell(lambda: self._to_tensorboard(metrics, pictures))
            if isinstance(self.logger, MLFlowLogger):
                self.tell(lambda: self._to_mlflow(pictures))
        self.tell(lambda: self.logger.finalize(status))

    def tell(self, call: Callable[[], object]) -> None:
        """Call something that may fail."""
        if self.failed:
            return
        try:
            call()
        except Exception as error:  # a server that is away, a full disk, whatever a library raises
            self.failed = True
            said = " ".join(str(error).split())[:200]
            log.warning("logger: %s failed (%s: %s); the run goes on without it", self.name, type(error).__name__, said)

    def _parameters(self) -> dict[str, Any]:
        loaded = OmegaConf.to_container(OmegaConf.load(self.folder.path / "config.yaml"))
        return {str(key): value for key, value in loaded.items()} if isinstance(loaded, dict) else {}

    def _tag(self) -> None:
        manifest = self.folder.manifest
        title = f"{manifest['label']} {manifest['dataset']}/{manifest['category']} seed {manifest['seed']}"
        tags = {name: manifest[name] for name in TAGS} | {"run_folder": str(self.folder.path.resolve())}
        for name, value in {**tags, "mlflow.runName": title}.items():
            self.experiment.set_tag(self.logger.run_id, name, value)  # type: ignore[attr-defined]

    def _to_mlflow(self, pictures: list[Path]) -> None:
        client, run_id = self.experiment, self.logger.run_id  # type: ignore[attr-defined]
        for name in FILES:
            if (file := self.folder.path / name).is_file():
                client.log_artifact(run_id, str(file), "run")
        for picture in pictures:
            client.log_artifact(run_id, str(picture), "heatmaps")

    def _to_tensorboard(self, metrics: dict[str, float], pictures: list[Path]) -> None:
        self.logger.log_hyperparams(self._parameters(), metrics)
        for picture in pictures:
            with Image.open(picture) as opened:
                pixels = np.asarray(opened.convert("RGB"))
            self.experiment.add_image(f"heatmaps/{picture.stem}", pixels, dataformats="HWC")
        manifest = (self.folder.path / MANIFEST).read_text(encoding="utf-8")
        self.experiment.add_text("manifest", "".join(f"    {line}\n" for line in manifest.splitlines()))


@contextmanager
def run_loggers(settings: Settings, folder: RunFolder) -> Iterator[list[RunLogger]]:
    """Yield the loggers of the `logger` group, writing below the run folder; none by default.

    They are told the parameters first, and in the end the results of the run, which is finished in the block.
    """
    loggers = [RunLogger(each, folder) for each in build_loggers(settings, folder.path)]
    for each in loggers:
        each.begin()
    try:
        yield loggers
    except BaseException:
        for each in loggers:
            each.end("failed")
        raise
    for each in loggers:
        each.end("success")


def build_loggers(settings: Settings, folder: Path) -> list[Logger]:
    """Return Lightning's loggers of the `logger` group.  Raises UserError for a missing package or an unknown key."""
    if "_target_" not in settings.logger:
        return []
    quiet()
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # its other local store needs a database library
    for name, value in {"MAX_RETRIES": "2", "TIMEOUT": "20"}.items():  # a server that is away must not hold a run up
        os.environ.setdefault(f"MLFLOW_HTTP_REQUEST_{name}", value)
    try:
        return [build("logger", settings.logger, save_dir=str(folder.resolve() / "logs"))]
    except ModuleNotFoundError as error:
        what = str(error).splitlines()[0]
        raise UserError("logger", what, "pip install 'anomaly_bench[tensorboard,mlflow]'") from error
    except TypeError as error:  # a key that its constructor does not know
        raise UserError("logger", str(error).replace("__init__() ", "")) from error
