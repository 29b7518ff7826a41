"""The examples in the docstrings of the metrics give what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

from anomaly_bench import metrics

MODULES = [module.name for module in pkgutil.iter_modules(metrics.__path__)]


@pytest.mark.filterwarnings("ignore::anomaly_bench.metrics.UndefinedMetricWarning")
@pytest.mark.parametrize("name", MODULES)
def test_the_examples_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"anomaly_bench.metrics.{name}")).failed == 0


def test_every_public_function_has_an_example() -> None:
    for name in metrics.__all__:
        if not name.endswith(("Warning", "Measurement")):
            assert ">>> " in (getattr(metrics, name).__doc__ or ""), name
