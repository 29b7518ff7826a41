"""`bench eval` in this process."""

from __future__ import annotations

import json
from typing import Any

import pytest

from anomaly_bench.commands.main import main

Capsys = pytest.CaptureFixture[str]


def eval_json(capsys: Capsys, *words: object) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["eval", "--json", *map(str, words)]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def refused(capsys: Capsys, *words: object) -> str:
    """The one line that `bench eval` says; it must leave with 2."""
    capsys.readouterr()
    assert main(["eval", *map(str, words)]) == 2
    answer = capsys.readouterr()
    assert answer.out == ""
    (line,) = answer.err.splitlines()
    return line
