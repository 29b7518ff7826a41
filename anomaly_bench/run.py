"""run(cfg) -> RunFolder: seed, build, fit the stages, score, measure, store.  An interrupted run goes on where it stopped."""

from __future__ import annotations

import logging
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning import seed_everything
from pytorch_lightning.loggers import Logger
from safetensors.torch import save as safetensors_bytes
from torch.utils.data import DataLoader

from anomaly_bench import config
from anomaly_bench.contracts import Dataset, Method, Record, Sample
from anomaly_bench.data.loading import ImageSet, NormalLoaders, fingerprint, split_val
from anomaly_bench.errors import UserError
from anomaly_bench.fit import fit, keep_weights_only, load_fitted, peak_memory_mb, reset_peak_memory
from anomaly_bench.metrics import image_metrics, pixel_metrics
from anomaly_bench.report.figures import write_heatmaps
from anomaly_bench.store import RunFolder, ScoreRow, unwritable, write_atomic

log = logging.getLogger("anomaly_bench")
PACKAGES = ("anomaly_bench", "torch", "torchvision", "pytorch-lightning", "timm", "numpy", "scipy", "pillow", "hydra-core")


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> RunFolder:
    """Train and measure what a composed configuration describes, or what is left of it.  `overrides`: as typed, for the record.

    A finished run is returned as it is, unless `force`.  Raises UserError for what the user can mend.
    """
    settings = config.validate(cfg)
    seed_everything(settings.seed, verbose=False)  # before anything is built
    if settings.hardware.threads:
        torch.set_num_threads(settings.hardware.threads)
    dataset: Dataset = config.build("dataset", settings.dataset)
    train, test = dataset.records("train"), dataset.records("test")
    folder = run_folder(settings)
    checksum = fingerprint(train + test)
    earlier = folder.manifest
    same = earlier.get("checksums", {}).get("data", checksum) == checksum
    if earlier and not same and not settings.force:
        raise UserError("dataset", f"its files are not those that {folder.path} was trained on", "force=true trains the run anew")
    if folder.status == "done" and not settings.force:
        log.info("already done: %s", folder.path)
        return folder
    device = pick_device(settings)
    method: Method = config.build("method", settings.method)
    train, val = split_val(train, method.val_share, settings.seed) if method.val_share else (train, [])
    manifest = describe(settings, overrides, method, {"train": train, "val": val, "test": test}, checksum)
    folder.start(manifest, OmegaConf.to_yaml(cfg, resolve=True), overrides, afresh=settings.force)
    hardware = settings.hardware
    with recorded(folder):
        data = NormalLoaders(
            train, val, method.image_size, settings.cache_dir, hardware.workers, settings.seed, devices=count_devices(hardware)
        )
        execute(folder, settings, method, data, test, device)
    return folder


def run_folder(settings: config.Settings) -> RunFolder:
    """outputs/<method>/<dataset>/<category>/s<seed>-<id>"""
    name, category = settings.dataset["name"], settings.dataset.get("category")
    if not category:  # a folder of the user's own is called by its name; a set without categories by the set's
        root = settings.dataset.get("root")
        category = Path(root).resolve().name if name == "folder" and root else name
    identity = f"s{settings.seed}-{config.identify(settings)[0]}"
    return RunFolder(settings.output_dir / settings.method["name"] / name / category / identity)


def execute(folder: RunFolder, settings: config.Settings, method: Method, data: NormalLoaders, test: list[Record], device: torch.device) -> None:
    """Fit what is not fitted yet, then score, measure and store."""
    loggers = build_loggers(settings, folder.path)
    finished = folder.manifest["stages"]
    for stage in method.stages(data):
        if stage.name in finished:
            log.info("%s: fitted in an earlier attempt", stage.name)
            load_fitted(stage, folder.path)
        else:
            spent = fit(stage, folder.path, settings.hardware, settings.seed, settings.checkpoint_seconds, loggers)
            folder.update(stages={stage.name: spent})
        keep_weights_only(stage, folder.path)
        stage.module.to(device)  # Lightning leaves a module on the CPU
    folder.update(provenance=method.provenance())
    state = {key: v.detach().cpu().contiguous() for key, v in method.state_dict().items()}
    write_atomic(folder.path / "weights.safetensors", lambda file: file.write(safetensors_bytes(state)))
    images = ImageSet(test, method.image_size, settings.cache_dir)
    with tempfile.TemporaryDirectory(dir=folder.path, prefix=".scoring") as scratch:
        scores, maps = score(folder, method.to(device), images, Path(scratch))
        measure(folder, settings, images, scores, maps)
    for logger in loggers:
        logger.log_metrics(folder.metrics)
        logger.finalize("success")
    folder.finish()
    log.info("done: %s", folder.path)


def score(folder: RunFolder, method: Method, images: ImageSet, scratch: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Image scores [N] and maps [N, H, W] (on disk, in `scratch`; None where the method has none) of the test images."""
    reset_peak_memory()
    began, n = time.monotonic(), len(images)
    scores = np.empty(n, np.float32)
    maps: np.ndarray | None = None
    method.eval()
    loader = DataLoader(images, batch_size=method.batch_size)
    at = 0
    with torch.inference_mode():
        for batch in loader:
            image_scores, image_maps = method.score(batch["image"].to(method.device))
            b = slice(at, at := at + len(image_scores))
            scores[b] = image_scores.float().cpu().numpy()
            refuse_not_finite(scores[b], batch["path"])
            if image_maps is not None:
                if maps is None:
                    maps = open_maps(scratch / "maps.npy", (n, *image_maps.shape[-2:]))
                maps[b] = image_maps.float().cpu().numpy()
                refuse_not_finite(maps[b].sum((1, 2)), batch["path"])
            log.debug("scored %d of %d images", at, n)
    seconds = time.monotonic() - began
    spent = {"seconds": round(seconds, 3), "ms_per_image": round(1000 * seconds / n, 3), "peak_memory_mb": peak_memory_mb()}
    folder.update(stages={"score": spent})
    return scores, maps


def open_maps(file: Path, shape: tuple[int, ...]) -> np.ndarray:
    """A float32 array on disk whose space is taken now, so that a full disk is an error here and not a crash later."""
    try:
        maps = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
        maps[:] = 0
        maps.flush()
    except OSError as error:
        raise unwritable(file.parent.parent / "maps.npy", error) from error
    return maps


def refuse_not_finite(values: np.ndarray, paths: list[str]) -> None:
    for path, ok in zip(paths, np.isfinite(values), strict=True):
        if not ok:
            raise UserError(path, "its score is not finite", "the training diverged? see training.csv in the run folder")


def measure(folder: RunFolder, settings: config.Settings, images: ImageSet, scores: np.ndarray, maps: np.ndarray | None) -> None:
    """Metrics, scores.csv, maps.npy and the pictures."""
    records = images.records
    labels = np.array([r.label for r in records])
    metrics = image_metrics(scores, labels)
    if maps is not None and any(r.mask is not None for r in records):
        metrics |= pixel_metrics(maps, [images[i]["mask"].numpy() for i in range(len(records))])
    folder.write_scores(ScoreRow(r.path, r.kind, r.label, float(s)) for r, s in zip(records, scores, strict=True))
    if maps is not None and settings.save_maps:
        folder.write_maps(maps)
    if maps is not None and settings.save_heatmaps:
        write_heatmaps(folder.path, folder.scores, maps, lambda i: pixels(images[i]))
    folder.write_metrics(metrics)


def pixels(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W, 3] and bool [H, W], as they are in the cache."""
    image = (sample["image"] * 255).round().to(torch.uint8).permute(1, 2, 0)
    return image.numpy(), sample["mask"].numpy()


@contextmanager
def recorded(folder: RunFolder) -> Iterator[None]:
    """log.txt for what happens inside, and the manifest's word on how it ended."""
    handler = logging.FileHandler(folder.path / "log.txt", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    sources = [log, logging.getLogger("py.warnings")]
    logging.captureWarnings(True)
    for source in sources:
        source.addHandler(handler)
    try:
        yield
    except KeyboardInterrupt:
        log.warning("interrupted; the same command goes on from the last checkpoint")
        raise
    except Exception as error:
        log.debug("stopped", exc_info=True)
        folder.fail(error)
        raise
    finally:
        logging.captureWarnings(False)
        for source in sources:
            source.removeHandler(handler)
        handler.close()


def console_log() -> None:
    """What happens, on standard error, in plain lines."""
    if not log.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setLevel(logging.INFO)
        log.addHandler(handler)
    log.setLevel(logging.DEBUG)
    log.propagate = False


def pick_device(settings: config.Settings) -> torch.device:
    """Where scores are computed.  Raises UserError where a GPU is asked for and none is there."""
    hardware, gpu = settings.hardware, torch.cuda.is_available()
    if hardware.accelerator == "gpu" and not gpu:
        raise UserError("hardware.accelerator", "gpu asked for, but PyTorch finds no CUDA device", "hardware=cpu or hardware=auto")
    return torch.device("cuda" if gpu and hardware.accelerator != "cpu" else "cpu")


def count_devices(hardware: config.Hardware) -> int:
    """Processes that share the training; `devices: auto` means all GPUs, on the CPU one."""
    if hardware.devices != "auto":
        return hardware.devices
    return max(1, torch.cuda.device_count()) if hardware.accelerator != "cpu" else 1


def build_loggers(settings: config.Settings, folder: Path) -> list[Logger]:
    """Lightning's logger of the `logger` group, writing below the run folder."""
    if "_target_" not in settings.logger:
        return []
    try:
        return [config.build("logger", settings.logger, save_dir=str(folder / "logs"))]
    except ModuleNotFoundError as error:
        raise UserError("logger", str(error).splitlines()[0], "pip install 'anomaly_bench[tensorboard,mlflow]'") from error


def describe(settings: config.Settings, overrides: Sequence[str], method: Method, splits: dict[str, list[Record]], checksum: str) -> dict[str, Any]:
    """The manifest as far as it is known before the training."""
    identity, setting = config.identify(settings)
    folder = run_folder(settings).path
    changed = sorted(o for o in overrides if o.startswith(("method.", "experiment=")) and not o.startswith("method.weights"))
    gpu = torch.cuda.is_available() and settings.hardware.accelerator != "cpu"
    size = method.image_size
    return {
        "method": settings.method["name"], "dataset": settings.dataset["name"], "category": folder.parent.name,
        "seed": settings.seed, "id": identity, "setting": setting, "label": " ".join([settings.method["name"], *changed]),
        "command": " ".join(["bench train", *overrides]),
        "versions": {"python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        "device": torch.cuda.get_device_name() if gpu else f"CPU, {torch.get_num_threads()} threads",
        "hardware": settings.hardware.model_dump(), "git_commit": git_commit(),
        "images": {
            "train": len(splits["train"]), "val": len(splits["val"]),
            "test_good": sum(not r.label for r in splits["test"]), "test_anomalous": sum(r.label for r in splits["test"]),
        },
        "parameters": {
            "total": sum(p.numel() for p in method.parameters()),
            "trainable": sum(p.numel() for p in method.parameters() if p.requires_grad),
        },
        "checksums": {"data": checksum}, "provenance": {},
        "protocol": [
            "the last epoch is the result; nothing was chosen on test images",
            f"images and masks at {size} x {size} pixels; a mask pixel counts from half coverage on, no defect is lost or broken",
            "exact metrics: every distinct score is a threshold; aupro over all test pixels, pro_per_image as in the RD authors' code",
        ],
    }  # fmt: skip


def version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "?"


def git_commit() -> str | None:
    """The commit of the checkout that this code runs from, `+` for uncommitted changes; None outside a checkout."""
    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True).stdout.strip()
    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
