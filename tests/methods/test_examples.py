"""The examples in the docstrings of methods run as they are printed."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from anomaly_bench import methods

FILES = sorted(Path(str(methods.__file__)).parent.glob("[!_]*.py"))


@pytest.mark.parametrize("name", [file.stem for file in FILES])
def test_the_examples_of_a_method(name: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(f"anomaly_bench.methods.{name}"))
    assert failed == 0
    assert tried >= 4


def test_there_are_methods() -> None:
    assert len(FILES) >= 4
