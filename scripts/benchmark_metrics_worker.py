"""One measurement of benchmark_metrics.py: what one implementation needs and gives, in a process of its own.

    OMP_NUM_THREADS=1 python scripts/benchmark_metrics_worker.py IMPLEMENTATION FOLDER

The folder holds maps.npy and masks.npy; the last line printed is JSON.  A call on a small part of them loads the
libraries; then come the calls that are measured.  Time: CPU seconds (user and system).  Memory: the high-water mark of
the resident set (VmHWM) in a call minus what was resident before it; writing 5 to /proc/self/clear_refs sets the mark
back, so Linux is needed (and glibc, for malloc_trim).  Nothing is traced.
"""

from __future__ import annotations

import cProfile
import ctypes
import json
import pickle
import re
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for tests.references
LIMITS = {"aupro_0.3": 0.3, "aupro_0.05": 0.05}
REPEATS, PATIENCE = 7, 6  # calls, or as many as begin within so many CPU seconds, but two where a bar needs them
MOST_GB = 16  # of one implementation

Array = np.ndarray[Any, Any]
Call = Callable[[], dict[str, Any]]  # a value that is a function is asked for when the clock has stopped


def ours(maps: Array, masks: Array) -> Call:
    """`pixel_metrics`: AUROC, AP, F1-max, AUPRO at 0.3 and 0.05, per-image PRO, AUPIMO"""
    from anomaly_bench.metrics import pixel_metrics

    return lambda: pixel_metrics(maps, masks, tuple(LIMITS.values()))


def streaming(maps: Array, masks: Array) -> Call:
    """`StreamingPixelMetrics`: the same in one pass, image by image, each with an error bound"""
    from anomaly_bench.metrics.streaming import StreamingPixelMetrics

    def run(track: Callable[[Any], None] = lambda state: None) -> StreamingPixelMetrics:
        state = StreamingPixelMetrics(tuple(LIMITS.values()))
        for scores, mask in zip(maps, masks, strict=True):
            state.update([scores], [mask])
            track(state)
        return state

    def largest() -> float:
        sizes: list[int] = []
        run(lambda state: sizes.append(len(pickle.dumps(state))))
        return max(sizes) / 1e6

    return lambda: run().compute() | {"state_MB": largest}


def measure(maps: Array, masks: Array) -> Call:
    """`measure`: the same and the image metrics, each with an interval from 1000 resamples"""
    from anomaly_bench.metrics import measure

    scores, labels = maps.max(axis=(1, 2)), masks.any(axis=(1, 2))
    return lambda: measure(scores, labels, maps, masks, memory_mb=np.inf, threads=1).metrics


def official(maps: Array, masks: Array) -> Call:
    """MVTec's script: AUPRO at 0.3 and 0.05 (restated; both from one curve)"""
    from tests.references.official_aupro import area, pro_curve

    def call() -> dict[str, Any]:
        curve = pro_curve(maps, masks)
        return {name: area(*curve, limit) for name, limit in LIMITS.items()}

    return call


def roc_auc_score(maps: Array, masks: Array) -> Call:
    """scikit-learn's `roc_auc_score`: AUROC"""
    from sklearn.metrics import roc_auc_score

    return lambda: {"pixel_auroc": roc_auc_score(masks.ravel(), maps.ravel())}


def average_precision(maps: Array, masks: Array) -> Call:
    """scikit-learn's `average_precision_score`: AP"""
    from sklearn.metrics import average_precision_score

    return lambda: {"pixel_ap": average_precision_score(masks.ravel(), maps.ravel())}


def f1_max(maps: Array, masks: Array) -> Call:
    """scikit-learn's `precision_recall_curve`: F1-max, the best F1 on it"""
    from sklearn.metrics import precision_recall_curve

    def call() -> dict[str, Any]:
        precision, recall, _ = precision_recall_curve(masks.ravel(), maps.ravel())
        return {"pixel_f1_max": np.nanmax(2 * precision * recall / (precision + recall))}

    return call


def torch_auroc(maps: Array, masks: Array) -> Call:
    """torchmetrics' `binary_auroc`: AUROC, scores scaled into [0, 1] beforehand"""
    from torchmetrics.functional.classification import binary_auroc

    pixels = tensors(maps, masks)
    return lambda: {"pixel_auroc": float(binary_auroc(*pixels))}


def torch_ap(maps: Array, masks: Array) -> Call:
    """torchmetrics' `binary_average_precision`: AP, scores scaled likewise"""
    from torchmetrics.functional.classification import binary_average_precision

    pixels = tensors(maps, masks)
    return lambda: {"pixel_ap": float(binary_average_precision(*pixels))}


def tensors(maps: Array, masks: Array) -> tuple[Any, Any]:
    """All scores and labels; the scores are scaled in place, as torchmetrics squeezes others through a sigmoid."""
    import torch

    maps -= maps.min()
    maps /= maps.max()
    return torch.from_numpy(maps).flatten(), torch.from_numpy(masks).flatten()


def adeval(maps: Array, masks: Array) -> Call:
    """ADEval's `auroc_aupr_aupro`: AUROC, area under precision-recall, AUPRO at 0.3, all from 1000 bins"""
    np.trapz = getattr(np, "trapz", None) or np.trapezoid  # gone from NumPy 2.4; ADEval 1.1 uses it
    from adeval import auroc_aupr_aupro

    return lambda: dict(zip(("pixel_auroc", "pixel_ap", "aupro_0.3"), auroc_aupr_aupro(maps, masks), strict=True))


def sort(maps: Array, masks: Array) -> Call:
    """NumPy's `sort`: nothing but all scores in order"""
    return lambda: {"sorted": np.sort(maps, axis=None).size}


def argsort(maps: Array, masks: Array) -> Call:
    """NumPy's `argsort`: which score stands where in that order; the others sort this way"""
    return lambda: {"sorted": np.argsort(maps, axis=None).size}


OURS, THEIRS = (ours, streaming, measure), (official, roc_auc_score, average_precision, f1_max, torch_auroc, torch_ap)
IMPLEMENTATIONS = {function.__name__: function for function in (*OURS, *THEIRS, adeval, sort, argsort)}


def measured(name: str, folder: Path) -> dict[str, Any]:
    """CPU seconds of each call, the highest peak in MB, the values; {"skipped": why} where it cannot run."""
    prepare = IMPLEMENTATIONS[name]
    maps, masks = np.load(folder / "maps.npy"), np.load(folder / "masks.npy")
    step = maps.shape[1] // 64
    seconds, peaks, least = [], [], 2 if name in ("ours", "measure", "official") else 1
    try:
        prepare(*(np.ascontiguousarray(array[:8, ::step, ::step]) for array in (maps, masks)))()
        call = prepare(maps, masks)
        resource.setrlimit(resource.RLIMIT_AS, (memory("VmSize") + MOST_GB * 10**9,) * 2)
        while len(seconds) < least or (len(seconds) < REPEATS and sum(seconds) < PATIENCE):
            values = None
            ctypes.CDLL(None).malloc_trim(0)  # what was freed must not serve the next call uncounted
            Path("/proc/self/clear_refs").write_text("5")
            before, began = memory("VmRSS"), time.process_time()
            values = call()
            seconds.append(time.process_time() - began)
            peaks.append((memory("VmHWM") - before) / 1e6)
    except (ImportError, MemoryError) as error:
        return {"skipped": f"{type(error).__name__}: {error}"}
    values = {key: value() if callable(value) else value for key, value in values.items()}
    profile = own_times(call) if name == "ours" else {}
    return {"seconds": seconds, "MB": max(peaks), "values": values, "profile": profile}


def own_times(call: Call) -> dict[str, float]:
    """What share of one call is spent inside each function itself; the eight largest."""
    profiler = cProfile.Profile()
    profiler.runcall(call)
    spent = {entry.code if isinstance(entry.code, str) else entry.code.co_name: 0.0 for entry in profiler.getstats()}
    for entry in profiler.getstats():
        spent[entry.code if isinstance(entry.code, str) else entry.code.co_name] += entry.inlinetime
    largest = sorted(spent, key=spent.__getitem__, reverse=True)[:8]
    return {name.split("'")[1] if "'" in name else name: spent[name] / sum(spent.values()) for name in largest}


def memory(field: str) -> int:
    """Bytes: VmRSS what is resident now, VmHWM the most of it since the mark was set back, VmSize the addresses."""
    return int(re.search(rf"^{field}:\s*(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)[1]) * 1024


if __name__ == "__main__":
    print(json.dumps(measured(sys.argv[1], Path(sys.argv[2])), default=float))
