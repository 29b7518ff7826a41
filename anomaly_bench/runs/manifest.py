"""The manifest of a run before it starts: identity, command, versions, device, splits, protocol."""

from __future__ import annotations

import platform
import re
import shlex
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from anomaly_bench import __version__
from anomaly_bench.config import Hardware, Settings, is_own, place_of
from anomaly_bench.contracts import Method, Record
from anomaly_bench.loading.resize import RESIZE_RULE
from anomaly_bench.runs.find import RunPlan
from anomaly_bench.runs.whole_images import View

SECRET = re.compile(r"(^|_)(password|passwd|pwd|secret|token|credentials?|(api|access)_?key)$", re.IGNORECASE)
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "timm", "numpy", "scipy", "pillow", "hydra-core")


def describe(
    settings: Settings,
    plan: RunPlan,
    command: Sequence[str],
    method: Method,
    splits: dict[str, list[Record]],
    view: View,
) -> dict[str, Any]:
    """Return the manifest as far as it is known before the training.  command: what was typed after `bench train`."""
    command = [masked(word) for word in command]
    told = ("method.", "experiment=", "calibration_")
    last = {o.partition("=")[0]: o for o in command if o.startswith(told) and "weights" not in o}  # of each key
    changed = sorted(last.values())
    versions = {package: version(package) for package in PACKAGES}
    gpu = torch.cuda.is_available() and settings.hardware.accelerator != "cpu"
    anomalous = sum(record.label for record in splits["test"])
    calibration = len(splits["held out"]) + len(splits["validation"])
    images = {"train": len(splits["train"]), "val": len(splits["val"])}
    images |= {"calibration": calibration} if calibration else {}
    images |= {"test_good": len(splits["test"]) - anomalous, "test_anomalous": anomalous}
    return {
        "method": settings.method["name"],
        "dataset": settings.dataset["name"],
        "category": plan.folder.path.parent.name,
        **({"place": str(place_of(settings.dataset))} if is_own(settings.dataset) else {}),
        **({"baseline": True} if method.baseline else {}),
        "seed": settings.seed,
        "id": plan.identity.run,
        "setting": plan.identity.setting,
        "label": " ".join([settings.method["name"], *changed]),
        "command": shlex.join(["bench", "train", *command]),
        "versions": {"python": platform.python_version(), "anomaly_bench": __version__, **versions},
        "resize_rule": RESIZE_RULE,
        "device": torch.cuda.get_device_name() if gpu else f"{cpu_model()}, threads: {torch.get_num_threads()}",
        "hardware": settings.hardware.model_dump(),
        "git_commit": git_commit(),
        "images": images,
        "parameters": {
            "total": sum(p.numel() for p in method.parameters()),
            "trainable": sum(p.numel() for p in method.parameters() if p.requires_grad),
        },
        "checksums": plan.data.checksums,
        "passed_over": plan.data.warnings,
        "provenance": {},
        **view.record(),
        "protocol": [*protocol(method, splits, view), *computed(settings.hardware)],
    }


def masked(word: str) -> str:
    """Return `key=value` without the value where the key looks like a secret's, and a URL without its password."""
    key, equals, _ = word.partition("=")
    if equals and SECRET.search(key.rpartition(".")[2]):
        return f"{key}=***"
    return re.sub(r"(://)[^/@\s]+@", r"\1***@", word)


def masked_config(cfg: DictConfig) -> str:
    """Return the configuration as yaml, every interpolation resolved, without secrets."""

    def hide(value: Any, key: str = "") -> Any:
        if isinstance(value, dict):
            return {k: hide(v, str(k)) for k, v in value.items()}
        return masked(f"{key}={value}").partition("=")[2] if isinstance(value, str) else value

    return OmegaConf.to_yaml(OmegaConf.create(hide(OmegaConf.to_container(cfg, resolve=True))))


def protocol(method: Method, splits: dict[str, list[Record]], view: View) -> list[str]:
    """Return sentences on what was chosen how."""
    val = len(splits["val"])
    lines = [f"{method.result_state} is the result; nothing was chosen on test images"]
    lines += [f"{val} normal training images were set aside for the method's own validation"] if val else []
    for name in ("held out", "validation"):
        if count := len(splits[name]):
            lines.append(
                f"{count} normal images ({name}) took no part in the training: the threshold is calibrated on them"
            )
    lines += view.sentences()
    if any(r.mask is not None for r in splits["test"]):
        lines += [
            "every distinct score is a threshold; aupro_L over the whole test set, up to FPR L",
            "aupimo: overlap in each image, FPR of the images without a defect from 1e-5 to 1e-4",
            "pro_per_image: 200 steps in each image alone, as in the code of Reverse Distillation; not an aupro",
        ]
    return lines


def computed(hardware: Hardware) -> list[str]:
    """Return a sentence where networks computed in less than float32."""
    parts = {"training": hardware.precision, "scoring": hardware.scoring_precision}
    low = [f"{name} in {precision}" for name, precision in parts.items() if precision != "32-true"]
    return [f"networks computed in lower precision: {', '.join(low)}"] if low else []


def cpu_model() -> str:
    """Return the processor's name, as far as the system tells it."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.*)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return f"CPU {found[1] if found else platform.processor() or platform.machine()}"


def version(package: str) -> str:
    """Return the version of an installed package, `?` where it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "?"


def git_commit() -> str | None:
    """Return the commit of the checkout that this code runs from, `+` for uncommitted changes; None outside one."""
    root = Path(__file__).resolve().parents[2]

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")) != root:  # installed somewhere inside another project's checkout
            return None
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "-uno") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
