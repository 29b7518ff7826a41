"""The examples in docstrings print what they say."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import anomaly_bench
from anomaly_bench import metrics

PACKAGE = Path(anomaly_bench.__file__).parent
# Only these are imported: most modules have no example, and many need torch.  Methods: tests/methods/test_examples.py.
FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if file.parent.name != "methods"]
WITH_EXAMPLES = [file for file in FILES if ">>> " in file.read_text(encoding="utf-8")]


@pytest.mark.filterwarnings("ignore::anomaly_bench.metrics.UndefinedMetricWarning")
@pytest.mark.parametrize("file", WITH_EXAMPLES, ids=lambda file: file.stem)
def test_the_examples_of_a_module(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = import_module(".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts))
    found = doctest.testmod(module, optionflags=doctest.NORMALIZE_WHITESPACE)
    assert found.attempted
    assert not found.failed
    assert not list(tmp_path.iterdir())


def test_every_public_metric_has_an_example() -> None:
    for name in metrics.__all__:
        if not name.endswith(("Warning", "Measurement")):
            assert ">>> " in (getattr(metrics, name).__doc__ or ""), name
