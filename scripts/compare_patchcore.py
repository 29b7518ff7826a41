"""Compare our PatchCore with the published code: python scripts/compare_patchcore.py PATH_TO_PATCHCORE_INSPECTION

Gives both the same random weights and images, for each backbone, and prints the largest relative differences of patch
features, and of maps and image scores given the same bank; of the coreset, chosen from the same projections and
starting points, the share that only one of them chose.  PATH_TO_PATCHCORE_INSPECTION: a checkout of
github.com/amazon-science/patchcore-inspection (commit fcaa92f).  Needs `pip install faiss-cpu tqdm`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import timm
import torch
from omegaconf import OmegaConf
from torch import Tensor

from anomaly_bench.config import NOT_ARGUMENTS, conf_dir
from anomaly_bench.methods.patchcore import PatchCore, greedy_coreset

SIZE, TRAINING, TEST, SHARE = 128, 24, 4, 0.1


def ours(backbone: str) -> PatchCore:
    """Return our method as conf/method/patchcore.yaml describes it, for another backbone and a smaller image."""
    values: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "method" / "patchcore.yaml"))
    values |= {"backbone": backbone, "weights": "random", "image_size": SIZE, "coreset_share": SHARE}
    method = PatchCore(**{key: v for key, v in values.items() if key not in NOT_ARGUMENTS}).eval()
    method.backbone.load("random")
    return method


def theirs(backbone: str, method: PatchCore) -> Any:
    """Return the published class around timm's whole network with our weights."""
    network = timm.create_model(f"{backbone}.tv_in1k", pretrained=False)
    missing = network.load_state_dict(method.backbone.net.state_dict(), strict=False).missing_keys
    assert all(key.startswith(("layer4.", "fc.")) for key in missing), missing
    network.name, network.seed = backbone, None
    published = importlib.import_module("patchcore.patchcore").PatchCore(torch.device("cpu"))
    published.load(
        backbone=network.eval(),
        layers_to_extract_from=["layer2", "layer3"],
        device=torch.device("cpu"),
        input_shape=(3, SIZE, SIZE),
        pretrain_embed_dimension=method.layer_dimensions,
        target_embed_dimension=method.dimensions,
        nn_method=importlib.import_module("patchcore.common").FaissNN(False, 1),
    )
    return published


def their_coreset(projected: Tensor, starts: np.ndarray) -> list[int]:
    """Return what the published sampler chooses from these points and starting points."""
    module = importlib.import_module("patchcore.sampler")
    sampler = module.ApproximateGreedyCoresetSampler(SHARE, torch.device("cpu"), len(starts), projected.shape[1])
    with patch("numpy.random.choice", return_value=starts):
        return [int(i) for i in sampler._compute_greedy_coreset_indices(projected)]


def images(number: int) -> Tensor:
    """Return smooth random images [number, 3, SIZE, SIZE] in [0, 1], each of its own."""
    coarse = torch.rand(number, 3, SIZE // 8, SIZE // 8)
    smooth = torch.nn.functional.interpolate(coarse, SIZE, mode="bicubic").clamp(0, 1)
    return (0.8 * smooth + 0.2 * torch.rand(number, 3, SIZE, SIZE)).clamp(0, 1)


@torch.no_grad()
def compare(backbone: str) -> dict[str, float]:
    """Return the largest relative differences for one backbone."""
    method = ours(backbone)
    published = theirs(backbone, method)
    training, test = images(TRAINING), images(TEST)
    normalised = [(batch - method.backbone.mean) / method.backbone.std for batch in (training, test)]
    rows = method.embed(training).flatten(0, 1)
    their_rows = torch.from_numpy(np.stack(published.embed(normalised[0])))
    projected = rows @ (2 * torch.rand(rows.shape[1], method.projection) - 1)
    starts = np.random.default_rng(0).choice(len(rows), method.starting_points, replace=False)
    own = greedy_coreset(projected, int(len(rows) * SHARE), torch.from_numpy(starts)).tolist()
    chosen = their_coreset(projected, starts)
    method.bank = rows[chosen].contiguous()
    published.anomaly_scorer.fit(detection_features=[their_rows[chosen].numpy()])
    scores = method.score(test)
    their_scores, their_maps = published.predict(normalised[1])
    return {
        "patch features": relative(rows, their_rows),
        "image scores": relative(scores.image, torch.from_numpy(np.array(their_scores))),
        "maps": relative(scores.map, torch.from_numpy(np.stack(their_maps))),  # type: ignore[arg-type]
        "coreset, share not in theirs": 1 - len(set(own) & set(chosen)) / len(chosen),
        "coreset, first choice that differs": next(
            (i for i, pair in enumerate(zip(own, chosen, strict=True)) if pair[0] != pair[1]), -1
        ),
    }


def relative(values: Tensor, others: Tensor) -> float:
    """Return the largest difference, divided by the largest value."""
    return float((values - others).abs().max() / others.abs().max())


def main() -> None:
    """Print a line for each backbone and figure."""
    if len(sys.argv) != 2 or not (Path(sys.argv[1]) / "src" / "patchcore").is_dir():
        sys.exit(__doc__)
    sys.path.insert(0, str(Path(sys.argv[1]) / "src"))
    torch.set_num_threads(1)
    for backbone in ("resnet18", "wide_resnet50_2"):
        torch.manual_seed(0)
        for name, value in compare(backbone).items():
            print(f"{backbone:16} {name:36} {value:.3g}", flush=True)


if __name__ == "__main__":
    main()
