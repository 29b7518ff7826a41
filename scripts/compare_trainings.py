"""Do whole trainings end where the authors' code ends?  Paired by seed, with the same images and features.

    python scripts/compare_trainings.py OUTPUTS [--csflow CHECKOUT] [--rd CHECKOUT] [--seeds 8] [--write]

CHECKOUT: of github.com/marco-rudolph/cs-flow (88a13b8) and of github.com/hq-deng/RD4AD (6554076).  Three trainings for
each seed: ours, by the package; the authors' network and loop with initial weights and an order of the images of their
own; the same with those of our run, so that what is left is loop, loss, optimiser and scoring.  All are measured by the
same metrics.  Figures are kept in OUTPUTS/figures.json, and what is there is not trained again.  --write: the page
docs/benchmarks/parity.md.
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

RESNET = "method.backbone=resnet18 method.image_size=128"
FLOW = f"{RESNET} method.layer=layer3 method.lr=0.002"
SETTINGS = {  # name -> method, data, keys
    "csflow on gravel, 18 steps": ("csflow", "demo/gravel", f"{FLOW} method.hidden=64 method.epochs=6"),
    "csflow on grass, 18 steps": ("csflow", "demo/grass", f"{FLOW} method.hidden=64 method.epochs=6"),
    "rd on gravel, 60 steps": ("rd", "demo/gravel", f"{RESNET} method.epochs=20"),
    "csflow on gravel, 120 steps": ("csflow", "demo/gravel", f"{FLOW} method.hidden=32 method.epochs=40"),
}
ADAPTERS = {"csflow": "authors_csflow", "rd": "authors_rd4ad"}
METRICS = ("image_auroc", "pixel_auroc", "aupro_0.3")
OURS, THEIRS, SAME = "ours", "authors' code", "authors' code from our start"
SAME_SEEDS = 3  # of the last: its differences are rounding, not chance
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks" / "parity.md"
INTRODUCTION = """# Whole trainings beside the authors' code

Written by `scripts/compare_trainings.py`, which says what is compared.  Both sides get the same decoded images and, for
`csflow`, the same stored features of the same ResNet-18.  The authors' networks and training loops run unchanged.
Scores and maps of CS-Flow are made as `evaluate.py` makes them, those of Reverse Distillation by `cal_anomaly_map` and
the Gaussian filter.  All are measured by the metrics of this package.
"""
HEADER = """| metric | ours | authors' code | authors' - ours [95 %] | p | same start: largest difference |
|---|---:|---:|---:|---:|---:|"""
CONCLUSION = ""
Figures = dict[str, dict[str, dict[str, dict[str, float]]]]  # setting -> arm -> seed -> metric -> value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", type=Path)
    for method in ADAPTERS:
        parser.add_argument(f"--{method}", type=Path, metavar="CHECKOUT")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--only", choices=SETTINGS, help="train nothing but this setting")
    parser.add_argument("--write", action="store_true", help="also write docs/benchmarks/parity.md")
    arguments = parser.parse_args()
    arguments.outputs.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    file = arguments.outputs / "figures.json"
    figures: Figures = json.loads(file.read_text()) if file.exists() else {}
    for seed in range(arguments.seeds):
        for name, (method, _, _) in SETTINGS.items():
            checkout = getattr(arguments, method)
            if checkout is None or arguments.only not in (None, name):
                continue
            for arm in (OURS, THEIRS, SAME):
                known = figures.setdefault(name, {}).setdefault(arm, {})
                if str(seed) not in known and (arm != SAME or seed < SAME_SEEDS):
                    known[str(seed)] = train(name, arm, seed, checkout.resolve(), arguments.outputs)
                    file.write_text(json.dumps(figures, indent=1))
    text = report(figures)
    sys.stdout.write(text)
    if arguments.write:
        pages.write(PAGE, text)


def train(name: str, arm: str, seed: int, checkout: Path, outputs: Path) -> dict[str, float]:
    """Train one arm of a setting.  Returns its metrics, and for SAME how far its scores are from our run's."""
    method, data, keys = SETTINGS[name]
    fixed = "hardware=cpu hardware.threads=1 save_heatmaps=false resamples=0"
    overrides = [*keys.split(), *fixed.split(), f"output_dir={outputs}"]
    run = anomaly_bench.train(method, data, seed, overrides)  # the finished one where there is one
    if arm == OURS:
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
    scores, maps = adapter.train(checkout, built, stage.loader, images, labels, seed, arm == SAME)
    found = image_metrics(scores.numpy(), labels) | pixel_metrics(maps.numpy(), [s["mask"].numpy() for s in samples])
    figures = {metric: found[metric] for metric in METRICS}
    if arm == SAME:
        own, own_maps = run.scores()["score"], run.maps()
        figures["score_difference"] = float(np.abs(scores.numpy() - own).max() / own.std())
        figures["map_difference"] = float(np.abs(maps.numpy() - own_maps).max() / own_maps.std())
    return figures


def report(figures: Figures) -> str:
    """Return the page as Markdown: a table for each setting, of the seeds that both sides have."""
    lines = [INTRODUCTION]
    for name, (method, data, keys) in SETTINGS.items():
        arms = figures.get(name, {})
        seeds = sorted(arms.get(OURS, {}).keys() & arms.get(THEIRS, {}).keys(), key=int)
        if not seeds:
            continue
        lines += [f"## {name}\n", f"`method={method} dataset={data} {keys}`, seeds {', '.join(seeds)}.\n", HEADER]
        same = [seed for seed in seeds if seed in arms.get(SAME, {})]
        lines += [row(metric, arms, seeds, same) for metric in METRICS]
        if same:
            score, maps = (max(arms[SAME][s][f"{kind}_difference"] for s in same) for kind in ("score", "map"))
            lines.append(
                f"\nSame start (seeds {', '.join(same)}): image scores differ by at most {score:.1e} of the deviation "
                f"of all scores, values of maps by {maps:.1e} of the deviation of all values."
            )
        lines.append("")
    return "\n".join([*lines, CONCLUSION, pages.provenance("torch", "pytorch-lightning", "timm")])


def row(metric: str, arms: dict[str, dict[str, dict[str, float]]], seeds: list[str], same: list[str]) -> str:
    """Return a line of a table: both sides, their difference with interval and p, and what the same start leaves."""
    ours, theirs = ([arms[arm][seed][metric] for seed in seeds] for arm in (OURS, THEIRS))
    found = compare(*({("", int(s)): arms[arm][s][metric] for s in seeds} for arm in (THEIRS, OURS)))
    left = max((abs(arms[SAME][s][metric] - arms[OURS][s][metric]) for s in same), default=np.nan)
    sides = " | ".join(f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}" for values in (ours, theirs))
    change = f"{found.difference:+.4f} [{found.low:+.4f}, {found.high:+.4f}]"
    return f"| {metric} | {sides} | {change} | {found.p:.3f} | {left:.1e} |"


if __name__ == "__main__":
    main()
