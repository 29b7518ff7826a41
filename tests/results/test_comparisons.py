from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy.special import stdtrit

from anomaly_bench.commands.report import write_report
from anomaly_bench.results.aggregate import settings
from anomaly_bench.results.collect import Measured, Row, collect
from anomaly_bench.results.comparisons import MOST, Comparison, alarms, compare_settings, shortened, skipped
from anomaly_bench.runs.folder import RunFolder
from anomaly_bench.runs.stored_run import ScoreRow

Run = Callable[..., RunFolder]
NAMES = [f"c{i:02}" for i in range(15)]


def row(label: str, category: str, seed: int, value: float, metric: str = "image_auroc", **more: str) -> Row:
    dataset, data, setting = (more.get(k, v) for k, v in (("dataset", "mvtec"), ("data", "d"), ("setting", label)))
    figures = {"metrics": {metric: value}, "seconds": 1.0, "peak_memory_mb": 1.0, "measured": Measured()}
    names = {"setting": setting, "label": label, "method": label, "dataset": dataset, "category": category}
    return Row(**names, **figures, seed=seed, path=Path("nowhere"), config={}, data=data)  # type: ignore[arg-type]


def rows(label: str, effect: float, seeds: int = 3, categories: int = 15, **more: str) -> list[Row]:
    """Scatters by 0.02; the same base for all labels."""
    rng = np.random.default_rng([1, *map(ord, label)])
    base = np.linspace(0.5, 0.9, categories)
    return [
        row(label, NAMES[c], seed, base[c] + effect + rng.normal(0, 0.02), **more)
        for c in range(categories)
        for seed in range(seeds)
    ]


def between(found: list[Comparison]) -> list[Comparison]:
    return [c for c in found if not c.check]


def test_a_better_setting_is_found_and_equal_ones_are_not_told_apart() -> None:
    found = compare_settings(rows("a", 0) + rows("b", 0.05) + rows("c", 0))
    verdicts = {(c.first, c.second): c for c in between(found)}
    assert list(verdicts) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert verdicts["a", "b"].verdict == "b better (p < 0.001)"
    assert verdicts["b", "c"].verdict == "b better (p < 0.001)"
    same = verdicts["a", "c"]
    assert same.verdict == f"not distinguishable (p = {same.p:.3f}; {same.detectable:.3f} could have been told apart)"
    assert 0.005 < same.detectable < 0.05
    assert (same.pairs, same.categories) == (45, 15)
    assert same.low < same.difference < same.high


def test_each_setting_is_compared_with_itself() -> None:
    checks = [c for c in compare_settings(rows("a", 0, seeds=5) + rows("b", 0.1, seeds=2)) if c.check]
    assert [(c.first, c.second, c.pairs) for c in checks] == [
        ("a, seeds 0, 2", "a, seeds 1, 3", 30),  # seed 4 has no partner
        ("b, seed 0", "b, seed 1", 15),
    ]
    assert not any(c.distinguishable for c in checks)
    assert alarms(checks) == []
    assert all(c.verdict.startswith("not distinguishable (p = ") for c in checks)


def test_halves_are_by_rank_in_each_category() -> None:
    values = {("x", 3): 0.1, ("x", 7): 0.2, ("y", 7): 0.5, ("y", 9): 0.9, ("z", 3): 0.4}
    (check,) = compare_settings([row("a", c, s, v) for (c, s), v in values.items()])
    assert (check.pairs, check.categories) == (2, 2)  # z has one seed
    assert check.difference == pytest.approx(-(0.1 + 0.4) / 2)
    assert (check.first, check.second) == ("a, one half of the seeds", "a, the other half")  # 7 is in both


def test_a_setting_that_differs_from_itself_raises_an_alarm(run: Run, tmp_path: Path) -> None:
    for i, name in enumerate(NAMES):
        for seed in (0, 1):
            run(name, seed, image_auroc=0.5 + 0.01 * i + 0.1 * seed)
    (check,) = compare_settings(collect(tmp_path).rows)
    assert check.distinguishable
    assert check.verdict == "DIFFERS FROM ITSELF (p < 0.001)"
    printed, folder = report(tmp_path)
    line = "mvtec image_auroc: rd, seed 0 and rd, seed 1 are the same method and came out as different (p < 0.001)"
    assert line in printed
    assert f"**{line}" in (folder / "report.md").read_text()


def test_one_family_is_corrected_together() -> None:
    two = compare_settings(rows("a", 0) + rows("b", 0.01))
    four = compare_settings(rows("a", 0) + rows("b", 0.01) + rows("x", 0.5) + rows("y", 0.6))
    (alone,), among = between(two), {(c.first, c.second): c for c in between(four)}
    assert 1 > alone.p > 2**-44
    assert among["a", "b"].p == pytest.approx(alone.p)  # the largest of six is taken once
    assert among["a", "x"].p == pytest.approx(6 * 2**-14)  # of 15 categories
    assert [c.p for c in four if c.check] != []
    more = compare_settings(rows("a", 0) + rows("b", 0.01) + rows("x", 0.5, categories=2, seeds=2))
    (same,) = (c for c in between(more) if (c.first, c.second) == ("a", "b"))
    assert same.p == pytest.approx(alone.p)  # what cannot come out needs no correction


def test_too_few_runs_say_so() -> None:
    found = between(compare_settings(rows("a", 0, categories=1) + rows("b", 0.4, categories=1)))
    assert [c.verdict for c in found] == ["too few runs (3 pairs of runs, at least 6 could tell)"]
    assert math.isnan(found[0].p)
    assert math.isnan(found[0].low)
    (one,) = between(compare_settings([row("a", "x", 0, 0.9), row("b", "x", 0, 0.1)]))
    assert one.why == "1 pair of runs, at least 6 could tell"
    equal = [row(label, name, 0, 1.0) for label in "ab" for name in NAMES]
    assert between(compare_settings(equal))[0].why == "too few of the values differ at all"


def test_few_categories_limit_the_verdict() -> None:
    scopes = {}
    for n in (1, 2, 3, 6):
        (found,) = between(compare_settings(rows("a", 0.3, 6, categories=n) + rows("b", 0, 6, categories=n)))
        scopes[n] = found.verdict.partition(" (")[0]
    assert scopes == {
        1: "a better on c00",
        2: "a better on c00 and c01",
        3: "a better on these 3 categories",
        6: "a better",  # and on categories like these
    }


def test_a_difference_on_these_categories_is_no_difference_on_others() -> None:
    """Three of ten categories suit a method: new seeds would show that again, other categories may not."""
    noise = np.random.default_rng(0).normal(0, 0.005, (10, 4))
    every = [(c, seed) for c in range(10) for seed in range(4)]
    flat = [row("b", NAMES[c], seed, 0.7) for c, seed in every]
    better = [row("a", NAMES[c], seed, 0.7 + 0.1 * (c < 3) + noise[c, seed]) for c, seed in every]
    (one,) = between(compare_settings(better + flat))
    assert one.verdict.startswith("a better on these 10 categories (p ")
    mixed = [row("a", NAMES[c], seed, 0.8 - 0.2 * (c % 2) + noise[c, seed]) for c, seed in every]
    (neither,) = between(compare_settings(mixed + flat))
    assert neither.verdict.startswith("not distinguishable (p = ")


def test_settings_that_differ_by_less_than_the_margin_are_equivalent() -> None:
    near = rows("a", 0, seeds=4) + rows("b", 0, seeds=4)
    (found,) = between(compare_settings(near, margin=0.02))
    assert found.verdict.startswith("equivalent within 0.02 (p = ")
    assert found.margin == 0.02
    assert not found.distinguishable
    half = stdtrit(14, 0.95) * (found.high - found.low) / 2 / stdtrit(14, 0.975)  # 90 %: two one-sided tests
    for margin, same in ((abs(found.difference) + half * 1.01, True), (abs(found.difference) + half * 0.99, False)):
        (again,) = between(compare_settings(near, margin=margin))
        assert again.verdict.startswith("equivalent") == same
    (apart,) = between(compare_settings(rows("a", 0) + rows("b", 0.05), margin=0.2))
    assert apart.verdict == "b better (p < 0.001)"  # a difference that was told is said


def test_the_interval_has_a_veto() -> None:
    values = [0.01] * 14 + [-0.9]  # p is small, the mean is anybody's guess
    found = between(
        compare_settings(
            [row(label, n, 0, v * (label == "a")) for label in "ab" for n, v in zip(NAMES, values, strict=True)]
        )
    )
    assert found[0].p < 0.05
    assert found[0].low < 0 < found[0].high
    assert found[0].verdict.startswith(f"not distinguishable (p = {found[0].p:.3f}, but the interval holds 0; ")


def test_nothing_is_compared_that_has_nothing_in_common() -> None:
    assert compare_settings([]) == []
    assert compare_settings([row("a", "x", 0, 0.9), row("b", "x", 1, 0.9), row("b", "y", 0, 0.9)]) == []
    assert compare_settings([row("a", "x", 0, 0.9), row("b", "x", 0, 0.9, dataset="mtd")]) == []
    assert compare_settings([row("a", "x", 0, 0.9), row("b", "x", 0, 0.9, data="other images")]) == []
    assert compare_settings([row("a", "x", 0, 0.9), row("b", "x", 0, math.nan)]) == []
    assert compare_settings([row("a", "x", 0, 0.9), row("b", "x", 0, 0.9, metric="pixel_auroc")]) == []
    assert compare_settings([row(label, "x", 0, 0.9, metric="image_ap") for label in "ab"]) == []  # not a main metric


def test_more_settings_than_can_be_told_apart_are_skipped_and_said() -> None:
    many = [row(f"m{i:02}", NAMES[0], 0, 0.5 + i / 100) for i in range(MOST + 1)]
    many += [row("m12", NAMES[1], 0, 0.5)]
    found = compare_settings(many)
    assert {c.first for c in found} | {c.second for c in found} == {f"m{i:02}" for i in range(MOST + 1)} - {"m11"}
    assert skipped(many) == ["mvtec: 12 of 13 settings are compared, those with the most runs"]
    assert skipped(many[:3]) == []


def test_one_setting_is_one_column_however_it_was_asked_for() -> None:
    asked = [row("rd", "x", 0, 0.9, setting="s"), row("rd experiment=rd_table1", "x", 1, 0.8, setting="s")]
    assert {head: [r.seed for r in runs] for head, runs in settings(asked).items()} == {"rd": [0, 1]}
    apart = [row("rd", "x", 0, 0.9, setting="s"), row("rd", "x", 0, 0.8, setting="t")]
    assert list(settings(apart)) == ["rd #s", "rd #t"]


def scored(folder: RunFolder, quality: float, images: int = 60) -> None:
    """scores.csv whose scores hold the truth, times `quality`, and noise that differs from run to run."""
    rng = np.random.default_rng(int(folder.manifest["id"], 16))
    labels = [int(i >= images / 2) for i in range(images)]
    folder.write_scores(
        ScoreRow(f"test/{i}.png", "bad" if label else "good", label, quality * label + rng.normal())
        for i, label in enumerate(labels)
    )


def test_one_category_counts_its_test_images(run: Run, tmp_path: Path) -> None:
    for label, quality, value in (("rd", 3.0, 0.98), ("poor", 0.0, 0.5)):
        scored(run("screw", label=label, image_auroc=value, pixel_auroc=value), quality)
    image, pixel = between(compare_settings(collect(tmp_path).rows))
    assert (image.first, image.second, image.metric) == ("poor", "rd", "image_auroc")
    assert -0.8 < image.low < image.difference < image.high < -0.2
    assert math.isnan(pixel.low)  # of pixels no scores are kept
    assert not image.distinguishable  # one training each: images alone do not tell
    assert image.why == "1 pair of runs, at least 6 could tell; the interval is over test images"
    other = run("screw", label="other images", image_auroc=0.9)
    scored(other, 1.0, images=61)
    lows = {(c.first, c.second): c.low for c in compare_settings(collect(tmp_path).rows) if c.metric == "image_auroc"}
    assert {pair for pair, low in lows.items() if math.isnan(low)} == {("other images", "poor"), ("other images", "rd")}


def test_settings_are_called_by_their_method_where_that_is_unambiguous(run: Run, tmp_path: Path) -> None:
    for seed in (0, 1):
        for label in ("rd epochs=2", "rd epochs=3", "us_fast lr=0.1"):
            run("tile", label=label, seed=seed, image_auroc=0.9)
    found = [c for c in shortened(compare_settings(collect(tmp_path).rows)) if c.metric == "image_auroc"]
    assert {(c.first, c.second) for c in found} == {
        ("rd epochs=2", "rd epochs=3"),
        ("rd epochs=2", "us_fast"),
        ("rd epochs=3", "us_fast"),
        ("rd epochs=2, seed 0", "rd epochs=2, seed 1"),
        ("rd epochs=3, seed 0", "rd epochs=3, seed 1"),
        ("us_fast, seed 0", "us_fast, seed 1"),
    }


def report(outputs: Path) -> tuple[str, Path]:
    console = Console(file=io.StringIO(), width=160)
    folder = write_report(outputs, console=console)
    return console.file.getvalue(), folder  # type: ignore[attr-defined]


def test_the_report_shows_comparisons_everywhere(run: Run, tmp_path: Path) -> None:
    for i, name in enumerate(NAMES[:8]):
        for label, gain in (("rd", 0.0), ("better | best", 0.1)):
            run(name, label=label, image_auroc=0.5 + 0.01 * i + gain)
    printed, folder = report(tmp_path)
    assert "mvtec  image_auroc, compared" in printed
    assert "better better (p = 0.008)" in printed  # by its first word, which is its alone
    markdown, latex = (folder / "report.md").read_text(), (folder / "report.tex").read_text()
    line = r"| better \| best | rd | +0.1000 [+0.1000, +0.1000] | 100% | 8 in 8 | better \| best better (p = 0.008) |"
    assert line in markdown
    assert (
        r"better \textbar{} best & rd & +0.1000 [+0.1000, +0.1000] & 100\% & 8 in 8 "
        r"& better \textbar{} best better (p = 0.008) \\" in latex
    )
    assert r"\caption{Comparisons of image AUROC on MVTec AD.}" in latex
    with (folder / "comparisons.csv").open(newline="") as file:
        (found,) = csv.DictReader(file)
    assert float(found["difference"]) == pytest.approx(0.1)
    assert (found["p"], found["distinguishable"], found["check"]) == (str(2 / 2**8), "True", "False")
    assert found["verdict"] == "better | best better (p = 0.008)"


def test_the_report_of_a_single_run_compares_nothing(run: Run, tmp_path: Path) -> None:
    run("screw", image_auroc=0.9)
    printed, folder = report(tmp_path)
    assert "compared" not in printed
    assert "Comparisons" not in (folder / "report.md").read_text()
    assert not (folder / "comparisons.csv").exists()
