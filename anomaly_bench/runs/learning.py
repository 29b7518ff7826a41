"""Whether a training changed what the method says of images, so that a run that learned nothing says so.

Where the loss of the last stage has barely moved, a handful of normal training images, as they are and with a painted
defect, is scored by the finished method, and once more by the same method with the weights that the stage began with.
Statistics that a method computes from the images (batch norms, calibration) are those of the finished method both
times: what moves is what the steps have moved.  Test images and labels have no part in it, and no result of the run
depends on it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor, nn

from anomaly_bench.contracts import Method, Stage
from anomaly_bench.nets.fake_defects import stain
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.loss_curve import read_rows
from anomaly_bench.runs.precision import scoring

EXAMPLES = 4  # normal training images, and as many with a defect
STAIN: dict[str, Any] = {  # on a whole image
    "axes": (0.04, 0.12),
    "irregularity": (0.3, 0.7),
    "grey": (0.0, 1.0),
    "brightness": "dark",
}
FIGURES = ("rank_correlation", "first_loss", "last_loss")  # of the entry
SAME_ORDER = 0.9  # rank correlation of the scores before and after; above it they have barely moved
SAME_LOSS = 0.05  # of the first loss; one that fell by less has barely moved
log = logging.getLogger("anomaly_bench")


class Beginning(NamedTuple):
    """A stage, and the weights that it began with."""

    stage: Stage
    weights: Mapping[str, Tensor]  # those that are trained, by name, on the CPU


def beginning(stage: Stage) -> Beginning:
    """Return a stage that is not fitted yet with its weights.

    A run that goes on builds the same ones from its seed, so that nothing has to be stored.
    """
    return Beginning(stage, {name: p.detach().to("cpu", copy=True) for name, p in trained(stage.module)})


def check_learning(folder: RunFolder, method: Method, begun: Beginning, normal: Tensor) -> None:
    """Write the manifest's entry `learning`; where next to nothing was learned, warn, also in the protocol.

    method: after all its stages.  begun: the last of them.  normal: a few training images [N, 3, H, W].
    """
    rows = [row for row in read_rows(folder.path / "training.csv") if row["stage"] == begun.stage.name]
    first, last = losses(rows)
    images, order = 0, math.nan
    if fall(first, last) < SAME_LOSS:  # not where no loss is known
        images, order = len(normal) + EXAMPLES, order_kept(method, begun, normal)
    found = {"first_loss": first, "last_loss": last, "rank_correlation": order}
    entry = {"stage": begun.stage.name, "steps": int(rows[-1]["steps"]) if rows else 0, "images": images}
    entry |= {key: None if math.isnan(value) else value for key, value in found.items()}
    warning = learning_warning(entry)
    protocol = [*folder.manifest["protocol"], *([warning] if warning else [])]
    folder.update(learning={**entry, "warning": warning}, protocol=protocol)
    if warning:
        log.warning("%s", warning)


def order_kept(method: Method, begun: Beginning, normal: Tensor) -> float:
    """Return the rank correlation of the images' scores with a stage's first weights and with its last."""
    with isolate_rng(), evaluating(method), torch.no_grad():
        images = with_defects(normal).to(method.device)
        after = image_scores(method, images)
        with earlier_weights(begun):
            before = image_scores(method, images)
    return rank_correlation(before, after)


def fall(first: float, last: float) -> float:
    """Return by what share of its size a loss fell; negative where it rose, nan where it is unknown or began at 0."""
    return (first - last) / abs(first) if first else math.nan


def learning_warning(entry: Mapping[str, Any]) -> str:
    """Return a sentence where the scores kept their order and the loss did not fall; an empty one elsewhere."""
    order, first, last = (math.nan if value is None else value for value in map(entry.get, FIGURES))
    fell = fall(first, last)
    if not (order >= SAME_ORDER and fell < SAME_LOSS):  # nan: nothing is known
        return ""
    change = f"{'fell' if fell >= 0 else 'rose'} by {100 * abs(fell):.1f} %"
    return (
        f"learned next to nothing in {entry['steps']} steps: the loss {change}, and the scores of "
        f"{entry['images']} images have the order that they had before (rank correlation {order:.3f})"
    )


def losses(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Return the losses at the beginning and the end of a stage; nan where its training.csv does not tell.

    rows: of the stage, a row for each epoch.
    """
    if not rows or int(rows[0]["epoch"]):
        return math.nan, math.nan
    return float(rows[0].get("first_loss") or math.nan), float(rows[-1].get("last_loss") or math.nan)


def with_defects(normal: Tensor) -> Tensor:
    """Return images [N, 3, H, W] and, after them, EXAMPLES of them with a stain painted into their central square.

    A seed of its own draws it.
    """
    torch.manual_seed(0)
    stained = normal[torch.arange(EXAMPLES) % len(normal)]  # a copy
    height, width = normal.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = stained[..., top : top + side, left : left + side]
    square.copy_(stain(square, **STAIN)[0])
    return torch.cat([normal, stained])


def image_scores(method: Method, images: Tensor) -> np.ndarray:
    """Return the scores of images [N, 3, H, W], as many at once as the method takes: [N], float64."""
    with scoring(method):
        scores = [method.score(batch).image for batch in images.split(method.batch_size)]
    return torch.cat(scores).double().cpu().numpy()


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Spearman's correlation of two series [N], equal values with their mean rank; nan where one is constant.

    >>> rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([5.0, 7.0, 90.0]))
    1.0
    """
    a, b = (ranks - ranks.mean() for ranks in map(mean_ranks, (first, second)))
    scale = math.sqrt(float(a @ a) * float(b @ b))
    return float(a @ b) / scale if scale else math.nan


def mean_ranks(values: np.ndarray) -> np.ndarray:
    """Return the rank of each value, from 1; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = counts.cumsum()
    means: np.ndarray = ends - (counts - 1) / 2
    return means[inverse]


def trained(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """Return the parameters that are trained, with their names."""
    return [(name, p) for name, p in module.named_parameters() if p.requires_grad]


@contextmanager
def earlier_weights(begun: Beginning) -> Iterator[None]:
    """Give a stage's module the weights that it began with; afterwards it has its own again, to the bit."""
    parameters = [(p, begun.weights[name]) for name, p in trained(begun.stage.module) if name in begun.weights]
    fitted = [p.detach().clone() for p, _ in parameters]
    try:
        for p, weight in parameters:
            p.data.copy_(weight)
        yield
    finally:
        for (p, _), weight in zip(parameters, fitted, strict=True):
            p.data.copy_(weight)


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Put a module into eval mode; afterwards each of its parts has the mode that it had."""
    modes = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, mode in modes:
            each.training = mode
