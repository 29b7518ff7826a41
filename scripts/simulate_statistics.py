"""How often the printed intervals hold the true value, and how often equal methods are told apart: docs/statistics.md.

Image AUROC: scores of normal images from N(0, 1), of anomalous ones from N(d, s^2), d such that the true AUROC is as
stated; then with one normal image in twenty from N(2 d, 1), beyond the anomalous ones.  Maps: SIDE x SIDE pixels from
N(0, 1), with one N(0, 1) more for each image; on a defect of DEFECT x DEFECT N(d, 1/4) more for each image; the score
of an image is its largest pixel, the true values are those of POPULATION such images.  Comparisons: differences
between two methods with a mean of 0 over categories, a deviation between categories (`interaction`) and one of 0.02
between seeds.  Paper versus ours: a published figure and our seeds from one normal law.

    python scripts/simulate_statistics.py [--repeat 1000] [--write]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pages
from scipy.stats import norm

from anomaly_bench.metrics import bootstrap, bootstrap_interval, image_metrics, pixel_metrics
from anomaly_bench.metrics.auroc_interval import auroc_interval
from anomaly_bench.metrics.bootstrap import resampled_intervals
from anomaly_bench.metrics.inputs import check_limits
from anomaly_bench.metrics.pixel import pixel_metrics_and_curve
from anomaly_bench.metrics.significance import ALPHA, ENOUGH, Compared, Tested, compare, effect_told_apart
from anomaly_bench.results.published import figures
from anomaly_bench.results.reproduction import Line
from anomaly_bench.results.seed_means import mean_over_seeds

PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"
IMAGES = ((6, 6), (10, 40), (20, 20), (30, 60), (60, 20), (119, 41))  # anomalous, normal
AUROCS = (0.6, 0.8, 0.9, 0.97, 0.99, 0.999)
SHAPES = ((15, 3), (15, 1), (10, 3), (6, 3), (6, 1), (3, 3), (2, 3), (1, 8))  # categories, seeds
OUTLIERS = 0.05  # share of the normal images
MARGIN = 4.0  # standard errors
HIGHEST = 0.97  # coverage that is aimed at, as long as the images allow it
BOOTSTRAPPED = 400  # repetitions of what resamples
SIDE, DEFECT, POPULATION = 6, 3, 40_000
MAPPED = ((6, 6), (10, 40), (20, 20), (60, 20))  # anomalous, normal
PIXEL_AUROCS = (0.8, 0.95, 0.99)
MEASURED = {"pixel_auroc": "pixel AUROC", "aupro_0.3": "AUPRO", "pixel_ap": "pixel AP", "image_ap": "image AP"}


def scores(rng: np.random.Generator, m: int, n: int, auroc: float, deviation: float) -> tuple[np.ndarray, np.ndarray]:
    """Return scores [m + n] and which are of anomalous images."""
    d = norm.ppf(auroc) * math.hypot(1, deviation)
    return np.concatenate([rng.normal(d, deviation, m), rng.normal(0, 1, n)]), np.arange(m + n) < m


def auroc_coverage(repeat: int) -> str:
    """Markdown: coverage of the interval of an image AUROC, and beside it that of the bootstrap."""
    lines = ["| anomalous + normal images | deviations | " + " | ".join(f"AUROC {a}" for a in AUROCS) + " |"]
    lines.append("|---|---|" + "---:|" * len(AUROCS))
    free, forced = [], []
    for (m, n), deviation in product(IMAGES, (1, 2, 0.5)):
        cells = []
        for true in AUROCS:
            rng = np.random.default_rng([m, n, int(10 * deviation), int(1000 * true)])
            found = [auroc_interval(*scores(rng, m, n, true, deviation)) for _ in range(repeat)]
            covered = float(np.mean([low <= true <= high for low, high in found]))
            cells.append(f"{covered:.1%}")
            perfect = np.mean([high == 1 for _, high in found])
            if perfect > HIGHEST:
                forced.append(f"{m} + {n}, {deviation:g} : 1, {true}: {perfect:.1%}")
            else:
                free.append(covered)
            if deviation == 1:
                drawn = [scores(rng, m, n, true, deviation) for _ in range(BOOTSTRAPPED)]
                found = [resampled_intervals(*each, resamples=300)["image_auroc"] for each in drawn]
                cells[-1] += f" ({np.mean([low <= true <= high for *_, low, high in found]):.0%})"
        lines.append(f"| {m} + {n} | {deviation} : 1 | {' | '.join(cells)} |")
    lines += ["", f"Lowest of the closed form {min(free):.1%}, highest {max(free):.1%}, without these cells, where"]
    lines[-1] += " so many samples have every anomalous score above every normal one, all with the same AUROC of 1"
    lines[-1] += f" (whose interval has to hold the true value): {'; '.join(forced) or 'none'}."
    return "\n".join(lines)


def outlier_coverage(repeat: int) -> str:
    """Markdown: coverage of the same interval where one normal image in twenty lies beyond the anomalous ones."""
    aurocs = (0.6, 0.8, 0.9)
    lines = ["| anomalous + normal images | " + " | ".join(f"AUROC {a}" for a in aurocs) + " |", "|---|---:|---:|---:|"]
    for m, n in IMAGES:
        cells = []
        for true in aurocs:
            rng, held = np.random.default_rng([m, n, int(1000 * true)]), 0
            d = norm.ppf((true - OUTLIERS) / (1 - 2 * OUTLIERS)) * math.sqrt(2)
            for _ in range(repeat):
                centres = np.concatenate([np.full(m, d), np.where(rng.random(n) < OUTLIERS, 2 * d, 0)])
                low, high = auroc_interval(rng.normal(centres, 1), np.arange(m + n) < m)
                held += low <= true <= high
            cells.append(f"{held / repeat:.1%}")
        lines.append(f"| {m} + {n} | {' | '.join(cells)} |")
    return "\n".join(lines)


def maps(rng: np.random.Generator, m: int, n: int, d: float) -> tuple[np.ndarray, np.ndarray]:
    """Return maps float32 [m + n, SIDE, SIDE] and their masks; the first m have a defect."""
    masks = np.zeros((m + n, SIDE, SIDE), bool)
    masks[:m, 1 : 1 + DEFECT, 1 : 1 + DEFECT] = True
    image, defect = rng.normal(0, 1, (m + n, 1, 1)), rng.normal(d, 0.5, (m + n, 1, 1))
    return (rng.normal(0, 1, masks.shape) + image + defect * masks).astype(np.float32), masks


def map_coverage(repeat: int) -> str:
    """Markdown: coverage of the bootstrap intervals of maps and image scores, and beside it that of percentiles."""
    lines = [f"| anomalous + normal images | true pixel AUROC | {' | '.join(MEASURED.values())} |"]
    lines.append("|---|---:|" + "---:|" * len(MEASURED))
    limits = check_limits((0.3,))
    for (m, n), auroc in product(MAPPED, PIXEL_AUROCS):
        d, rng = norm.ppf(auroc) * math.sqrt(4.25), np.random.default_rng([m, n, int(100 * auroc)])
        times = POPULATION // (m + n)
        drawn, masks = maps(rng, times * m, times * n, d)
        true = pixel_metrics(drawn, masks) | image_metrics(drawn.max((1, 2)), masks.any((1, 2)))
        bounds = {name: np.empty((repeat, 2, 2)) for name in MEASURED}  # repetition, ours and percentiles, low and high
        for i in range(repeat):
            drawn, masks = maps(rng, m, n, d)
            values, curve = pixel_metrics_and_curve(drawn, masks, limits, 1)
            found = bootstrap.pixel_intervals(drawn, masks, values, curve, limits, resamples=300)
            found |= bootstrap.resampled_intervals(drawn.max((1, 2)), masks.any((1, 2)), resamples=300)
            for name in MEASURED:
                bounds[name][i] = np.reshape(found[name], (2, 2))
        cells = [coverage(bounds[name], true[name]) for name in MEASURED]
        lines.append(f"| {m} + {n} | {auroc} | {' | '.join(cells)} |")
    return "\n".join(lines)


def coverage(bounds: np.ndarray, true: float) -> str:
    """Return how many of the intervals that there are hold a value, how many of all percentiles, and how many are none.

    bounds [repetitions, ours and percentiles, low and high]
    """
    (ours, percentiles), there = ((bounds[..., 0] <= true) & (true <= bounds[..., 1])).T, ~np.isnan(bounds[:, 0, 0])
    none = f"; none in {np.mean(~there):.0%}" if there.mean() < 0.995 else ""
    return f"{ours[there].mean():.0%} ({percentiles.mean():.0%}{none})"


def with_percentiles(value: float, replicates: np.ndarray, strata: Sequence[int], level: float) -> tuple[float, ...]:
    """Return the interval, then the percentiles of the same replicates."""
    others = bootstrap_interval.percentile_interval(np.clip(replicates[~np.isnan(replicates)], 0, 1), level)
    return *bootstrap_interval.bootstrap_interval(value, replicates, strata, level), *others


def comparisons(repeat: int) -> str:
    """Markdown: coverage of the intervals of a difference, and how often equal methods are told apart."""
    headings = [
        "categories x seeds",
        "interaction",
        "interval holds 0",
        "told apart on these categories",
        "on others, too",
    ]
    lines = [f"| {' | '.join(headings)} |", "|---|---:|---:|---:|---:|"]
    for shape, interaction in product(SHAPES, (0.0, 0.05)):
        rng, held, told = np.random.default_rng([*shape, int(100 * interaction)]), 0, [0, 0]
        for _ in range(repeat):
            values = rng.normal(0, interaction, (shape[0], 1)) + rng.normal(0, 0.02, shape)
            found = against_none(values)
            shown = found.beyond or found.here
            held += shown.low <= 0 <= shown.high
            told[0] += apart(found.here)
            told[1] += bool(found.beyond) and apart(found.here) and apart(found.beyond)  # type: ignore[arg-type]
        limited = interaction and shape[0] < 6  # these categories do differ
        cells = ["-" if limited else f"{held / repeat:.1%}"]
        cells.append(f"{told[0] / repeat:.1%}" + " (they do differ)" * bool(interaction))
        cells.append(f"{told[1] / repeat:.1%}" if shape[0] >= 6 else "-")
        lines.append(f"| {shape[0]} x {shape[1]} | {interaction or 'none'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def against_none(values: np.ndarray) -> Compared:
    """Compare two methods whose values differ by these [categories, seeds]."""
    first = {(str(c), s): float(v) for (c, s), v in np.ndenumerate(values)}
    return compare(first, dict.fromkeys(first, 0.0))


def apart(answer: Tested) -> bool:
    return answer.p < ALPHA and not answer.low <= 0 <= answer.high


def power(repeat: int) -> str:
    """Markdown: how often what "could have been told apart" is, and how often methods are called equivalent."""
    headings = ["categories x seeds", "interaction", "printed, median", "true", "told apart at that true difference"]
    headings += ["equivalent within a margin that is the true difference", "where there is no difference"]
    lines = [f"| {' | '.join(headings)} |", "|---|---:|---:|---:|---:|---:|---:|"]
    for shape, interaction in product(SHAPES, (0.0, 0.05)):
        if interaction and shape[0] < ENOUGH:
            continue  # these categories do differ
        rng = np.random.default_rng([*shape, int(100 * interaction), 1])
        observations = shape[0] if interaction else math.prod(shape)
        deviation = math.hypot(interaction, 0.02 / shape[1] ** 0.5) if interaction else 0.02
        effect = effect_told_apart(observations, ALPHA) * deviation
        margin = MARGIN * deviation / observations**0.5
        printed, told, wrong, right = [], 0, 0, 0
        for _ in range(repeat):
            noise = rng.normal(0, interaction, (shape[0], 1)) + rng.normal(0, 0.02, shape)
            found = [against_none(noise + difference) for difference in (effect, margin, 0.0)]
            seen, off, same = [(f.beyond or f.here) if interaction else f.here for f in found]
            printed.append(seen.detectable())
            told += apart(seen)
            wrong += equivalent(found[1].difference, off, margin)
            right += equivalent(found[2].difference, same, margin)
        cells = [f"{np.median(printed):.4f}", f"{effect:.4f}", *(f"{n / repeat:.1%}" for n in (told, wrong, right))]
        lines.append(f"| {shape[0]} x {shape[1]} | {interaction or 'none'} | {' | '.join(cells)} |")
    return "\n".join(lines)


def equivalent(difference: float, answer: Tested, margin: float) -> bool:
    return abs(difference) + answer.half_width(1 - 2 * ALPHA) < margin


def verdicts(repeat: int) -> str:
    """Markdown: how often a published figure from the same law, or one that is off, is called outside."""
    lines = ["| seeds | off by 0 | by 2 deviations | by 4 deviations |", "|---:|---:|---:|---:|"]
    for seeds in (3, 5, 10):
        cells = []
        for shift in (0, 2, 4):
            rng, outside = np.random.default_rng([seeds, shift]), 0
            for _ in range(repeat):
                published, *ours = rng.normal(0.9, 0.01, seeds + 1)
                line = Line("c", replace(figures()[0], value=published + 0.01 * shift), mean_over_seeds(ours))
                outside += line.verdict == "outside"
            cells.append(f"{outside / repeat:.1%}")
        lines.append(f"| {seeds} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = pages.parser(__doc__, PAGE, 1000)
    args = parser.parse_args()
    bootstrap.bootstrap_interval = with_percentiles  # type: ignore[assignment]
    parts = {
        "The image AUROC of one run; in brackets the bootstrap's percentiles": auroc_coverage(args.repeat),
        "The same where one normal image in twenty lies beyond the anomalous ones": outlier_coverage(args.repeat),
        f"Maps and scores, {BOOTSTRAPPED} repetitions; in brackets percentiles": map_coverage(BOOTSTRAPPED),
        "Two methods that are equal on average": comparisons(args.repeat),
        f"What could have been told apart, and what is equivalent (margin: {MARGIN:g} standard errors)": power(
            args.repeat
        ),
        "Paper versus ours: called outside": verdicts(args.repeat),
    }
    text = "\n\n".join(f"**{title}**\n\n{body}" for title, body in parts.items())
    text += f"\n\n{args.repeat} repetitions for each cell where nothing else is said."
    text += f"\n\n{pages.provenance('numpy', 'scipy')}"
    print(text)
    if args.write:
        before, _, rest = PAGE.read_text("utf-8").partition("<!-- simulated: begin -->")
        after = rest.partition("<!-- simulated: end -->")[2]
        marked = f"<!-- simulated: begin -->\n\n{text.strip()}\n\n<!-- simulated: end -->"
        pages.write(PAGE, f"{before}{marked}{after}")


if __name__ == "__main__":
    main()
