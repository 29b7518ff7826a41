"""Train, measure and compare unsupervised visual anomaly detection.

    from anomaly_bench import load, train

    run = train("rd", "mvtec/bottle", overrides=["calibration_share=0.1"])  # the run folder of the same command
    for result in load(run.path).predict("images/*.png"):
        print(result.path, result.score, result.p_value, result.label)

The names below are imported when they are first used, so that `import anomaly_bench` waits for no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anomaly_bench.api import Run, evaluate, train
    from anomaly_bench.errors import UserError
    from anomaly_bench.inference.load import load
    from anomaly_bench.inference.predict import Model, Result
    from anomaly_bench.metrics import StreamingPixelMetrics, image_metrics, pixel_metrics

__version__ = "0.1.0"
_MODULES = {
    "Model": "inference.predict",
    "Result": "inference.predict",
    "Run": "api",
    "StreamingPixelMetrics": "metrics",
    "UserError": "errors",
    "evaluate": "api",
    "image_metrics": "metrics",
    "load": "inference.load",
    "pixel_metrics": "metrics",
    "train": "api",
}
__all__ = [
    "Model", "Result", "Run", "StreamingPixelMetrics", "UserError", "evaluate", "image_metrics", "load",
    "pixel_metrics", "train",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
