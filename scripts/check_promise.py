"""Do real scores keep what a threshold promises?  Free tiles of MTD; writes docs/promise.md.

    python scripts/check_promise.py [--splits 10000] [--output-dir outputs/promise] [--write]

Needs $ANOMALY_BENCH_DATA with mtd and $ANOMALY_BENCH_WEIGHTS with resnet18.  Trains on a random half of the darker
exposures what is not trained yet: a quarter of an hour on one CPU core.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from pages import provenance, write
from safetensors.torch import load_file
from scipy.stats import nhypergeom
from torch.utils.data import DataLoader

from anomaly_bench import config
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.loading.image_files import data_root
from anomaly_bench.metrics.calibration import calibrate, clopper_pearson
from anomaly_bench.metrics.drift import DriftMartingale, score_change
from anomaly_bench.paths import cache_at
from anomaly_bench.runs.runner import run

PAGE = Path(__file__).parents[1] / "docs" / "promise.md"
SEED, CONFIDENCE = 0, 0.95
CASES = [(60, 0.05), (200, 0.1), (200, 0.05), (300, 0.05), (300, 0.01)]  # calibration images, rate
SHARED = [
    *("dataset=mtd", f"seed={SEED}", "hardware=cpu", "hardware.threads=1", "resamples=0", "save_heatmaps=false"),
    *("method.backbone=resnet18.tv_in1k", "method.image_size=128"),
]
DARK = 3  # up to this exposure
METHODS = {
    "rd": ["method=rd", "method.epochs=8"],
    "csflow": ["method=csflow", "method.layer=layer3", "method.hidden=64", "method.epochs=30", "method.lr=0.001"],
}

PAGE_TEXT = """# What a threshold promises, on real scores

Written by `scripts/check_promise.py`.  The free tiles of MTD were photographed with six exposures, whose number is in
the name of the file (`exp3_...`); their mean grey grows from 66 to 153.  Small trainings on {trained} tiles with
exposures up to 3; held out are the other {dark} of these and all {bright} brighter ones.  Promised: at most this share
of normal images is above the threshold, with 95 % confidence.

## Random splits

All held-out tiles are split at random into n calibration tiles and the rest, {splits:,} times.  The share of the rest
that is above the threshold scatters around the true rate, so that it exceeds the promise in more than 5 % of the
splits.  How often is known exactly: the number of tiles above the threshold follows a negative hypergeometric law,
whatever the scores, if no two are equal.  `expected` is that law (± one standard error of {splits:,} splits), `found`
the splits.  A random split makes tiles exchangeable: the table shows that the arithmetic holds with real scores; it
cannot show that tomorrow's images are like today's.

| method, score | rate | n | rest | r | promised | mean rate: expected | found | above the promise: expected | found |
|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|
{splits_table}

## Calibration images that new ones are not like

A threshold for 5 %, and twice one that promises nothing: from the training tiles themselves, and for another exposure.
Interval: Clopper-Pearson, 95 %.  The last columns are the warnings: p of `score_change`, and the image, in random
order, at which `DriftMartingale` raises an alarm (at most 1 % false ones).

| method, score | calibrated on | new tiles | n | promised | realised | p of a change | alarm |
|---|---|---|---:|---:|---|---:|---|
{misuse_table}

## How

{commands}
{provenance}- seed: {seed}, of the trainings and of the splits
"""


class TileScores(NamedTuple):
    """Scores of free tiles."""

    trained: np.ndarray  # [T] darker exposures that were trained on
    dark: np.ndarray  # [D] darker ones, held out
    bright: np.ndarray  # [B] brighter ones, held out


def is_dark(path: str) -> bool:
    """Whether a tile has one of the darker exposures: .../exp3_num_95059.jpg has the third."""
    return int(path.rpartition("exp")[2][0]) <= DARK


def split_file(output_dir: str) -> Path:
    """Write the names of the tiles to train on, a random half of the darker exposures."""
    file = Path(output_dir, "dark_tiles.txt")
    free = data_root(None, "mtd", "MT_Free") / "MT_Free" / "Imgs"
    names = sorted(path.name for path in free.glob("*.jpg") if is_dark(path.name))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(np.random.default_rng(SEED).permutation(names)[: len(names) // 2]), encoding="utf-8")
    return file


def scores_of(method: str, output_dir: str) -> dict[str, TileScores]:
    """Return the image scores and the maps' maxima of a method that is trained if it is not yet."""
    split = f"dataset.split_file={split_file(output_dir)}"
    cfg = config.compose([*METHODS[method], *SHARED, split, f"output_dir={output_dir}"])
    folder, settings = run(cfg), config.validate(cfg)
    model = config.build("method", settings.method).eval()
    model.load_state_dict(load_file(folder.path / "weights.safetensors"))
    records = config.build("dataset", settings.dataset).records("train")
    with cache_at(settings.cache_dir):
        images = ImageSet(records, model.image_size, settings.cache_dir)
    with torch.inference_mode():
        trained = [model.score(batch["image"]) for batch in DataLoader(images, batch_size=model.batch_size)]
    rows = folder.scores
    dark, bright = (
        [i for i, r in enumerate(rows) if not r.label and is_dark(r.path) is kept] for kept in (True, False)
    )
    image, peak = np.array([row.score for row in rows], np.float32), folder.maps.max(axis=(1, 2))  # type: ignore[union-attr]
    seen = torch.cat([scores.image for scores in trained]).numpy()
    seen_peak = torch.cat([scores.map.flatten(1).amax(1) for scores in trained]).numpy()
    return {
        "image score": TileScores(seen, image[dark], image[bright]),
        "largest pixel": TileScores(seen_peak, peak[dark], peak[bright]),
    }


def split_rows(name: str, scores: np.ndarray, splits: int) -> list[str]:
    """Return a table row for each of CASES: realised rates of the remaining tiles, over random splits."""
    draw, rows = np.random.default_rng(SEED), []
    for n, rate in CASES:
        rest, counts = len(scores) - n, np.empty(splits, int)
        for i in range(splits):
            shuffled = draw.permutation(scores)
            found = calibrate(shuffled[:n], rate, CONFIDENCE)
            counts[i] = (shuffled[n:] > found.threshold).sum()
        law = nhypergeom(len(scores), rest, found.r + 1)  # of the tiles above the threshold, whatever the scores
        expected, above = law.sf(rest * found.promised), np.mean(counts > rest * found.promised)
        error = (expected * (1 - expected) / splits) ** 0.5
        rows.append(
            f"| {name} | {rate:.0%} | {n} | {rest} | {found.r} | {found.promised:.2%} | {law.mean() / rest:.2%} | "
            f"{counts.mean() / rest:.2%} | {expected:.2%} ± {error:.2%} | {above:.2%} |"
        )
    return rows


def misuse_row(name: str, how: str, calibration: np.ndarray, new: np.ndarray) -> str:
    """Return a table row for calibration images that the new ones are not exchangeable with."""
    found = calibrate(calibration, 0.05, CONFIDENCE)
    count = int((new > found.threshold).sum())
    low, high = clopper_pearson(count, len(new))
    change, martingale = score_change(calibration, new, found.threshold), DriftMartingale(calibration, found.threshold)
    alarm = "none"
    for i, score in enumerate(np.random.default_rng(SEED).permutation(new), 1):
        martingale.update(score)
        if martingale.alarmed:
            alarm = f"image {i}"
            break
    return (
        f"| {name} | {how} | {len(calibration)} | {found.promised:.1%} | {count} of {len(new)}: {count / len(new):.1%} "
        f"({low:.1%} - {high:.1%}) | {change.p_value:.2g} | {alarm} |"
    )


def misuse_rows(name: str, scores: TileScores) -> list[str]:
    """Return the rows of one method and level: a proper calibration, and two that promise nothing for the new tiles."""
    dark = np.random.default_rng(SEED).permutation(scores.dark)
    half = len(dark) // 2
    return [
        misuse_row(name, "held-out darker ones | others of them", dark[:half], dark[half:]),
        misuse_row(name, "**the training tiles** | held-out darker ones", scores.trained, scores.dark),
        misuse_row(name, "held-out darker ones | **brighter ones**", scores.dark, scores.bright),
    ]


def page(splits: int, output_dir: str) -> str:
    """Return the page."""
    tables: tuple[list[str], list[str]] = ([], [])
    for method in METHODS:
        levels = scores_of(method, output_dir)
        if method == "rd":  # its image score is the map's maximum
            levels = {"image score = largest pixel": levels["image score"]}
        for level, scores in levels.items():
            held_out = np.concatenate([scores.dark, scores.bright])
            tables[0].extend(split_rows(f"{method}, {level}", held_out, splits))
            tables[1].extend(misuse_rows(f"{method}, {level}", scores))
    commands = (
        f"- {name}: `bench train {' '.join([*METHODS[name], *SHARED])} dataset.split_file=...`" for name in METHODS
    )
    return PAGE_TEXT.format(
        trained=len(scores.trained), dark=len(scores.dark), bright=len(scores.bright), splits=splits, seed=SEED,
        splits_table="\n".join(tables[0]), misuse_table="\n".join(tables[1]), commands="\n".join(commands),
        provenance=provenance("torch", "numpy", "scipy"),
    )  # fmt: skip


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--splits", type=int, default=10_000)
    options.add_argument("--output-dir", default="outputs/promise")
    options.add_argument("--write", action="store_true", help="also write docs/promise.md")
    given = options.parse_args()
    text = page(given.splits, given.output_dir)
    print(text)
    if given.write:
        write(PAGE, text)


if __name__ == "__main__":
    main()
