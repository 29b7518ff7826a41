from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from anomaly_bench.errors import UserError
from anomaly_bench.results.collect import collect
from anomaly_bench.runs.folder import RunFolder

Run = Callable[..., RunFolder]


def test_a_finished_run_is_a_row(run: Run, tmp_path: Path) -> None:
    folder = run("screw", 3, image_auroc=0.9, pixel_auroc=math.nan)
    (row,) = collect(tmp_path).rows
    assert (row.method, row.dataset, row.category, row.seed, row.label) == ("rd", "mvtec", "screw", 3, "rd")
    assert row.metrics["image_auroc"] == 0.9
    assert math.isnan(row.metrics["pixel_auroc"])
    assert row.seconds == pytest.approx(13.34)
    assert row.peak_memory_mb == 812
    assert row.path == folder.path
    assert row.config["betas"] == [0.5, 0.999]


def test_unfinished_runs_are_counted_by_status_and_named(run: Run, tmp_path: Path) -> None:
    run("screw", 0, image_auroc=0.9)
    running = run("screw", 1, image_auroc=0.1, finish=False)
    failed = run("screw", 2, image_auroc=0.1, finish=False)
    failed.fail(RuntimeError("out of\nmemory"))
    found = collect(tmp_path)
    assert [row.seed for row in found.rows] == [0]
    assert found.left_out_line() == "1 failed, 1 interrupted"
    texts = sorted(map(str, found.left_out))
    assert texts == [f"failed: {failed.path} (RuntimeError: out of memory)", f"interrupted: {running.path}"]


def damage_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text('{"status": "done", "seed"')


def drop_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def drop_seed(folder: Path) -> None:
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"seed"', '"sead"'))


def list_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("[1]")


def drop_metrics(folder: Path) -> None:
    (folder / "metrics.json").unlink()


def word_metric(folder: Path) -> None:
    (folder / "metrics.json").write_text('{"image_auroc": "high"}')


def damage_config(folder: Path) -> None:
    (folder / "config.yaml").write_text("method: [")


def drop_config(folder: Path) -> None:
    (folder / "config.yaml").unlink()


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (damage_manifest, "is damaged"),
        (drop_manifest, "no manifest.json"),
        (drop_seed, "manifest.json has no 'seed'"),
        (list_manifest, "manifest.json"),
        (drop_metrics, "metrics.json is missing"),
        (word_metric, "metrics.json was changed"),
        (damage_config, ""),
        (drop_config, "config.yaml"),
    ],
)
def test_a_damaged_folder_is_named_and_hides_no_other(
    run: Run, tmp_path: Path, damage: Callable[[Path], None], reason: str
) -> None:
    run("screw", 0, image_auroc=0.9)
    bad = run("screw", 1, image_auroc=0.8)
    damage(bad.path)
    found = collect(tmp_path)
    assert [row.seed for row in found.rows] == [0]
    (item,) = found.left_out
    assert (item.status, item.path) == ("damaged", bad.path)
    assert reason in item.reason
    assert "\n" not in item.reason


def test_a_copied_folder_is_not_a_second_seed(run: Run, tmp_path: Path) -> None:
    folder = run("screw", 0, image_auroc=0.9)
    copy = folder.path.with_name(folder.path.name + "-backup")
    shutil.copytree(folder.path, copy)
    found = collect(tmp_path)
    assert len(found.rows) == 1
    assert [(item.status, item.path) for item in found.left_out] == [("copy", copy)]


def test_no_such_folder_is_a_user_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        collect(tmp_path / "nowhere")
