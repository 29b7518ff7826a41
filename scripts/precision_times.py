"""What `benchmark_precision.py` compares, and how long a training step and the scoring of images take in each way."""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from every_nth import write_list
from pytorch_lightning import Callback, seed_everything

from anomaly_bench import config, load
from anomaly_bench.loading.device_loader import device_loader
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.loading.loaders import NormalLoaders
from anomaly_bench.paths import cache_at
from anomaly_bench.runs.callbacks import StepLimit
from anomaly_bench.runs.find import find_data
from anomaly_bench.runs.fit import make_trainer
from anomaly_bench.runs.precision import has_bfloat16, scoring
from anomaly_bench.runs.runner import pick_device, to_memory_format

PLAIN = "float32"
METHODS = {  # what is no default: so short that a core trains one in less than a minute
    "rd_fast": "method.steps=40 method.batch_size=8", "csflow_fast": "method.hidden=32 method.steps=40 method.lr=0.01",
    "us_fast": "method.students=1 method.steps=40", "glf_fast": "method.steps=100 method.windows=12",
    "stfpm_fast": "method.steps=80", "simplenet_fast": "method.steps=80", "patchcore": "method.backbone=resnet18",
    "padim_fast": "",
}  # fmt: skip
UNTRAINED = ("patchcore", "padim_fast")
WITH_STORE_OR_WITHOUT = ("rd_fast",)
TRAINING = {  # way -> keys of the run
    PLAIN: "",
    "bf16 training": "hardware.precision=bf16-mixed",
    "channels last": "hardware.memory_format=channels_last",
    "no stored features": "method.feature_dtype=null",
}
SCORING = {PLAIN: "32-true", "bf16 scoring": "bf16-mixed", "channels last": "32-true"}
Ratios = dict[str, tuple[float, float]]  # way -> how many times faster, in CPU time and in wall time
Turns = dict[str, Callable[[], tuple[float, float]]]  # way -> what takes its turn, and returns both seconds


def ways(method: str) -> dict[str, str]:
    """Return the ways in which a method is trained, with their keys."""
    kept = {way: keys for way, keys in TRAINING.items() if not keys.startswith("method.")}
    if method in WITH_STORE_OR_WITHOUT:
        kept = dict(TRAINING)
    return {way: keys for way, keys in kept.items() if method not in UNTRAINED or "precision" not in keys}


def words(method: str, dataset: str, way: str, args: argparse.Namespace) -> list[str]:
    """Return the overrides of a run.  dataset: as `dataset=` takes it; or `mtd:5`, every fifth image of `mtd`."""
    name, _, step = dataset.partition(":")
    chosen = write_list(name, int(step), args.out / f"{name}_{step}.csv") if step else [f"dataset={dataset}"]
    fixed = f"hardware={args.accelerator} hardware.threads=1 save_heatmaps=false resamples=0"
    place = f"output_dir={args.out.resolve() / way.replace(' ', '_')}"
    return f"method={method} {METHODS[method]} {fixed} {TRAINING[way]} {place}".split() + chosen


def settings_of(method: str, dataset: str, args: argparse.Namespace, way: str = PLAIN) -> config.Settings:
    """Return the checked configuration of a run."""
    return config.validate(config.compose(words(method, dataset, way, args)))


class Clock(Callback):
    """CPU and wall seconds of the training steps after the first, in `spent`."""

    def __init__(self, steps: int) -> None:
        self.steps, self.done, self.spent = steps, 0, (0.0, 0.0)

    def on_train_batch_start(self, *given: Any) -> None:
        if self.done == 1:
            self.began = seconds()

    def on_train_batch_end(self, *given: Any) -> None:
        self.done += 1
        if self.done == self.steps:
            self.spent = since(self.began)


def seconds() -> tuple[float, float]:
    """Return the clocks of CPU and wall, after all that a GPU still has to do."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.process_time(), time.perf_counter()


def since(began: tuple[float, float]) -> tuple[float, float]:
    """Return the seconds that have passed on both clocks."""
    now = seconds()
    return now[0] - began[0], now[1] - began[1]


def training_turns(method: str, dataset: str, args: argparse.Namespace) -> Turns:
    """Return what trains a method for a few steps, in each way."""

    def turn(way: str) -> Callable[[], tuple[float, float]]:
        settings = settings_of(method, dataset, args, way)
        seed_everything(0, verbose=False)
        built = config.build("method", settings.method).to(pick_device(settings.hardware))
        with cache_at(settings.cache_dir):
            place = (built.image_size, settings.cache_dir, settings.hardware.workers, 0)
            normal = find_data(settings).train[:64]
            stage = next(iter(built.stages(NormalLoaders(normal[4:], normal[:4], *place, device=built.device))))
        to_memory_format(stage.module, settings.hardware.memory_format)

        def steps() -> tuple[float, float]:
            clock = Clock(args.timed)
            with tempfile.TemporaryDirectory() as folder:
                own = [StepLimit(args.timed), clock]
                make_trainer(Path(folder), settings.hardware, own, [], max_epochs=-1).fit(stage.module, stage.loader)
            return clock.spent

        return steps

    return {way: turn(way) for way in ways(method) if worth_timing(way, args)}


def worth_timing(way: str, args: argparse.Namespace) -> bool:
    """Return whether a way is timed: not bfloat16 on a CPU without instructions for it, which takes minutes a step."""
    return "bf16" not in way or args.accelerator == "gpu" or has_bfloat16()


def scoring_turns(run: Path, method: str, dataset: str, args: argparse.Namespace) -> Turns:
    """Return what scores a few batches of test images with a finished run, in each way."""
    settings = settings_of(method, dataset, args)

    def turn(way: str) -> Callable[[], tuple[float, float]]:
        model = load(run)
        model.method.scoring_precision = SCORING[way]
        to_memory_format(model.method, "channels_last" if way == "channels last" else "contiguous")
        images = ImageSet(
            find_data(settings).test[: args.timed * model.batch_size], model.view.frame, settings.cache_dir
        )

        def score() -> tuple[float, float]:
            began = seconds()
            with torch.inference_mode(), scoring(model.method):
                for batch in device_loader(images, model.batch_size, model.method.device):
                    model.method.score(batch["image"])
            return since(began)

        return score

    return {way: turn(way) for way in SCORING if worth_timing(way, args)}


def faster(turns: Turns, repeat: int) -> Ratios:
    """Return how many times faster than plain float32 each way is: medians, all taking turns after one to warm up."""
    spent: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for _ in range(repeat + 1):
        for way, turn in turns.items():
            spent[way].append(turn())
    medians = {way: [statistics.median(times) for times in zip(*each[1:], strict=True)] for way, each in spent.items()}
    return {way: (medians[PLAIN][0] / cpu, medians[PLAIN][1] / wall) for way, (cpu, wall) in medians.items()}
