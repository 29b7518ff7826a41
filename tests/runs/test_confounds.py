"""What plain image statistics separate is measured and said, in the manifest and in words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import QUICK, save

from anomaly_bench.commands.main import main
from anomaly_bench.contracts import Record
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.runs.confounds import MEANS, file_statistics, separations, strongest
from anomaly_bench.runs.folder import find


def test_each_statistic_is_its_definition_and_its_auroc_the_share_of_pairs(tmp_path: Path) -> None:
    rng, records, expected = np.random.default_rng(0), [], []
    for i in range(9):
        image = rng.integers(0, 200 + 5 * i, (16, 16, 3), np.uint8)
        save(tmp_path / f"{i}.png", image)
        records.append(Record(f"{i}.png", "hole" if i % 2 else "good", tmp_path / f"{i}.png"))
        grey = image.mean(2)
        edges = grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * grey[1:-1, 1:-1]
        expected.append([grey.mean(), grey.std(), edges.var(), 1, 256, (tmp_path / f"{i}.png").stat().st_size])
    images = ImageSet(records, 16, tmp_path / "cache")
    np.testing.assert_allclose(list(images.plain_statistics()), expected, rtol=1e-4)
    assert list(file_statistics(records, 16)) == list(images.plain_statistics())  # also without a cache
    labels = [r.label for r in records]
    found = separations(images.plain_statistics(), labels)
    assert list(found) == list(MEANS)
    normal, anomalous = ([row for row, r in zip(expected, records, strict=True) if r.label == n] for n in (0, 1))
    for k, name in enumerate(MEANS):
        wins = [(a[k] > n[k]) + (a[k] == n[k]) / 2 for a in anomalous for n in normal]
        assert found[name] == pytest.approx(np.mean(wins))


def test_one_class_alone_has_no_figures(tmp_path: Path) -> None:
    save(tmp_path / "a.png", np.zeros((8, 8, 3), np.uint8))
    images = ImageSet([Record("a.png", "good", tmp_path / "a.png")], 8, tmp_path / "cache")
    assert separations(images.plain_statistics(), [0]) == {}
    assert strongest({}, 1, 0) is None


@pytest.mark.parametrize(
    ("auroc", "line"),
    [
        (1.0, "with AUROC 1.000: image scores on this data may measure lighting"),
        (0.02, "with AUROC 0.980: image scores on this data may measure lighting"),
        (0.8, "for scale: mean grey alone separates normal from anomalous test images with AUROC 0.800"),
        (0.56, ""),
    ],
)
def test_the_sentence_is_as_strong_as_the_figure(auroc: float, line: str) -> None:
    found = {"mean grey": auroc, "sharpness": 0.52}
    confound = strongest(found, 50, 50)
    assert str(confound).endswith(line) if line else confound is None


def test_chance_is_rarely_said() -> None:
    rng, said = np.random.default_rng(0), 0
    labels = np.array([0] * 40 + [1] * 40)
    for _ in range(400):
        ranks = rng.permutation(80)[labels == 1]
        auroc = (ranks.sum() - 40 * 39 / 2) / 1600
        said += strongest({"mean grey": auroc, **dict.fromkeys(list(MEANS)[1:], 0.5)}, 40, 40) is not None
    assert said <= 4  # 400 times 0.01 / 6, and some room


def test_a_run_on_darker_defects_says_so(
    images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(images.parent)
    for file in images.glob("test/*/*.png"):
        if file.parent.name != "good":
            Image.fromarray(np.asarray(Image.open(file)) // 2).save(file)
    words = ["method=brightness", "method.image_size=32", "dataset=folder", f"dataset.root={images}", "hardware=cpu"]
    assert main(["train", *words, *QUICK]) == 0
    (folder,) = find("outputs")
    line = "mean grey alone separates normal from anomalous test images with AUROC 1.000"
    assert f"protocol: {line}: image scores on this data may measure lighting" in capsys.readouterr().out
    assert folder.manifest["confounds"]["mean grey"] == 0.0
    assert [text for text in folder.manifest["protocol"] if text.startswith(line)]
