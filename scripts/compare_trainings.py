"""Do whole trainings end where the authors' code ends?  Paired by seed, with the same images and features.

    python scripts/compare_trainings.py OUTPUTS [--csflow CHECKOUT] [--rd CHECKOUT] [--write]

CHECKOUT: of github.com/marco-rudolph/cs-flow (88a13b8) and of github.com/hq-deng/RD4AD (6554076).  For each seed: ours,
by the package; the authors' network and loop with initial weights and an order of the images of their own; the same
with both from our run, so that what is left is loop, loss, optimiser and scoring; and, where the start alone is looked
at, with one of the two.  All are measured by the same metrics.  Figures are kept in OUTPUTS/figures.json, and what is
there is not trained again.  --write: the page docs/benchmarks/parity.md.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

import numpy as np
import pages
import torch
from pytorch_lightning import seed_everything

import anomaly_bench
from anomaly_bench import config, image_metrics, pixel_metrics
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.loading.loaders import NormalLoaders
from anomaly_bench.metrics.significance import compare
from anomaly_bench.paths import cache_at
from anomaly_bench.runs.find import find_data

OURS, THEIRS, SAME = "ours", "authors' code", "authors' code from our start"
WEIGHTS, ORDER = "authors' code, our weights", "authors' code, our order"
START: dict[str, set[str]] = {THEIRS: set(), WEIGHTS: {"weights"}, ORDER: {"order"}, SAME: {"weights", "order"}}
PAIRED = {OURS: 8, THEIRS: 8, SAME: 2}  # arm -> seeds; what the same start leaves is rounding, not chance
RESNET = "method.backbone=resnet18"
SETTINGS = {  # name -> method, data, keys, arms
    "csflow on gravel": (
        "csflow",
        "demo/gravel",
        f"{RESNET} method.layer=layer3 method.image_size=128 method.hidden=16 method.lr=0.002 method.epochs=15",
        PAIRED,
    ),
    "rd on gravel": ("rd", "demo/gravel", f"{RESNET} method.image_size=64 method.epochs=20", PAIRED),
    "csflow, many starts": (
        "csflow",
        "demo/gravel",
        f"{RESNET} method.layer=layer2 method.image_size=64 method.hidden=16 method.lr=0.002 method.epochs=15",
        {SAME: 20, THEIRS: 20, WEIGHTS: 20, ORDER: 20},
    ),
}
ADAPTERS = {"csflow": "authors_csflow", "rd": "authors_rd4ad"}
METRICS = ("image_auroc", "pixel_auroc", "aupro_0.3")
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "parity.md"
INTRODUCTION = """# Whole trainings beside the authors' code

Written by `scripts/compare_trainings.py`, which says what is compared.  Both sides get the same decoded images and, for
`csflow`, the same stored features of the same ResNet-18.  The authors' networks and training loops run unchanged.
Scores and maps of CS-Flow are made as `evaluate.py` makes them, those of Reverse Distillation by `cal_anomaly_map` and
the Gaussian filter.  All are measured by the metrics of this package.
"""
CONCLUSION = """## What it shows, and what it does not

- From one start (initial weights and order of the images) the authors' CS-Flow and ours end at the same scores but for
  rounding.  So loss, clipping, optimiser, weight decay, the smaller last batch, Lightning's loop, scores, maps and
  their size are no cause of a difference.  What is left is the start.
- Both draw it in the same way: the permutations of channels are equal, convolutions keep PyTorch's initialisation
  (`test_a_new_flow_starts_as_the_authors`), and each epoch is a permutation of all images.
- Starts differ by much: the deviations above are of trainings that differ in nothing else.  Two seeds of each side,
  from which the authors' code seemed better, tell little; what these seeds cannot tell either is in the intervals.
- Not compared: decoding, resizing and the backbone, which are the same here for both; the papers' sizes and numbers of
  epochs; a GPU.
"""
Values = dict[str, dict[str, float]]  # seed -> metric -> value
Figures = dict[str, dict[str, Values]]  # setting -> arm -> ...


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", type=Path)
    for method in ADAPTERS:
        parser.add_argument(f"--{method}", type=Path, metavar="CHECKOUT")
    parser.add_argument("--only", choices=SETTINGS, help="train nothing but this setting")
    parser.add_argument("--write", action="store_true", help="also write docs/benchmarks/parity.md")
    arguments = parser.parse_args()
    arguments.outputs.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    file = arguments.outputs / "figures.json"
    figures: Figures = json.loads(file.read_text()) if file.exists() else {}
    for name, (method, _, _, arms) in SETTINGS.items():
        checkout = getattr(arguments, method)
        if checkout is None or arguments.only not in (None, name):
            continue
        for seed, arm in [(seed, arm) for seed in range(max(arms.values())) for arm in arms if seed < arms[arm]]:
            known = figures.setdefault(name, {}).setdefault(arm, {})
            if str(seed) not in known:
                known[str(seed)] = train(name, arm, seed, checkout.resolve(), arguments.outputs)
                file.write_text(json.dumps(figures, indent=1))
    text = report(figures)
    sys.stdout.write(text)
    if arguments.write:
        pages.write(PAGE, text)


def train(name: str, arm: str, seed: int, checkout: Path, outputs: Path) -> dict[str, float]:
    """Train one arm of a setting.  Returns its metrics, and for SAME how far its scores are from our run's."""
    method, data, keys, arms = SETTINGS[name]
    fixed = "hardware=cpu hardware.threads=1 save_heatmaps=false resamples=0"
    overrides = [*keys.split(), *fixed.split(), f"output_dir={outputs}"]
    run = anomaly_bench.train(method, data, seed, overrides) if OURS in arms else None  # or the finished one
    if run and arm == OURS:
        return {metric: run.metrics[metric] for metric in METRICS}
    settings = config.validate(config.compose([f"method={method}", f"dataset={data}", f"seed={seed}", *overrides]))
    seed_everything(seed, verbose=False)
    built = config.build("method", settings.method).eval()  # with the initial weights of our run
    with cache_at(settings.cache_dir):
        records = find_data(settings)
        loaders = NormalLoaders(records.train, [], built.image_size, settings.cache_dir, 0, seed)
        test = ImageSet(records.test, built.image_size, settings.cache_dir)
        (stage,) = built.stages(loaders)
    samples = [test[i] for i in range(len(test))]
    images, labels = torch.stack([s["image"] for s in samples]), [s["label"] for s in samples]
    adapter = importlib.import_module(ADAPTERS[method])
    scores, maps = adapter.train(checkout, built, stage.loader, images, labels, seed, START[arm])
    found = image_metrics(scores.numpy(), labels) | pixel_metrics(maps.numpy(), [s["mask"].numpy() for s in samples])
    figures = {metric: found[metric] for metric in METRICS}
    if run and arm == SAME:
        own, own_maps = run.scores()["score"], run.maps()
        figures["score_difference"] = float(np.abs(scores.numpy() - own).max() / own.std())
        figures["map_difference"] = float(np.abs(maps.numpy() - own_maps).max() / own_maps.std())
    return figures


def report(figures: Figures) -> str:
    """Return the page as Markdown: a table for each setting, of the seeds that all sides have."""
    lines = [INTRODUCTION]
    for name, (method, data, keys, arms) in SETTINGS.items():
        found, first = figures.get(name, {}), next(iter(arms))
        others = [arm for arm in arms if arm != first and not (arm == SAME and first == OURS)]
        seeds = [s for s in found.get(first, {}) if all(s in found.get(arm, {}) for arm in others)]
        trained = f"{len(seeds)} seeds, from 0 on" if len(seeds) > 1 else "not trained yet"
        lines += [f"## {name}\n", f"`method={method} dataset={data} {keys}`: {trained}.\n"]
        if len(seeds) < 2:
            continue
        lines += [f"| metric | {first} | beside it | | difference [95 %] | p |\n|---|---:|---|---:|---:|---:|"]
        lines += [row(metric, found[first], other, found[other], seeds) for other in others for metric in METRICS]
        if first == OURS and (same := found.get(SAME, {})):
            score, maps = (max(values[f"{kind}_difference"] for values in same.values()) for kind in ("score", "map"))
            left = max(abs(values[m] - found[OURS][seed][m]) for seed, values in same.items() for m in METRICS)
            lines.append(
                f"\nThe authors' code from our start (seeds {', '.join(same)}): metrics differ from ours by at most "
                f"{left:.1e}, image scores by {score:.1e} of their deviation, maps by {maps:.1e} of theirs."
            )
        lines.append("")
    return "\n".join([*lines, CONCLUSION, pages.provenance("torch", "pytorch-lightning", "timm")])


def row(metric: str, first: Values, other: str, second: Values, seeds: list[str]) -> str:
    """Return a line of a table: both sides, second - first with its interval, and p of the Wilcoxon test."""
    a, b = ({("", int(seed)): side[seed][metric] for seed in seeds} for side in (first, second))
    mean, beside = (
        f"{np.mean(list(side.values())):.4f} ± {np.std(list(side.values()), ddof=1):.4f}" for side in (a, b)
    )
    found = compare(b, a)
    change = f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
    return f"| {metric} | {mean} | {other} | {beside} | {change} | {found.p:.3f} |"


if __name__ == "__main__":
    main()
