"""`oracle` is shown beside a run and below the tables, and is no result anywhere."""

from __future__ import annotations

import io

from rich.console import Console
from small_runs import Train

from anomaly_bench.commands.report import write_report
from anomaly_bench.results.collect import collect
from anomaly_bench.results.terminal import print_run


def test_where_oracle_is_shown(trained: Train) -> None:
    folder = trained()
    own, chosen = folder.metrics["image_auroc"], 0.98765
    folder.update(oracle={"state": "step_7", "of": 9, "metrics": {**folder.metrics, "image_auroc": chosen}})
    text = io.StringIO()
    print_run(folder, Console(file=text, width=200))
    assert "oracle (chosen on test images)" in text.getvalue()
    assert "0.9877" in text.getvalue()
    assert "step_7, the best of 9 states of this training, chosen on the test images" in text.getvalue()
    text = io.StringIO()
    target = write_report("outputs", console=Console(file=text, width=400))
    (note,) = [line for line in text.getvalue().splitlines() if "oracle" in line]
    assert note.startswith("oracle, chosen on test images, in no table: ")
    assert f"image_auroc 0.9877 at step_7, the best of 9 states; last {own:.4f}" in note
    for name in ("report.md", "index.html"):
        assert (target / name).read_text().count("0.9877") == 1
    assert "0.98" not in (target / "runs.csv").read_text() + (target / "table_folder.csv").read_text()
    (row,) = collect("outputs").rows
    assert row.metrics["image_auroc"] == own
