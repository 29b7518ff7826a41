"""Tab completion: what may follow the words typed so far."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from small_runs import environment

from anomaly_bench.commands.main import main
from anomaly_bench.datasets.demo import Category


@pytest.mark.parametrize(
    ("words", "candidates"),
    [
        (["tr"], ["train"]),
        (["data", "p"], ["prepare"]),
        (["data", "cache", "cl"], ["clear"]),
        (
            ["data", "cache", "clear", "pixels", ""],
            ["features", "teachers", "demo", "checksums", "parts", "cache_dir=", "root=", "older="],
        ),
        (["list", "m"], ["methods"]),
        (["reproduce", "rd_mvtec", "rd"], ["rd_one_class"]),
        (["reproduce", "preset="], ["preset=smoke"]),
        (["reproduce", "--"], ["--plan", "--dry-run"]),
        (["eval", "--ma"], ["--maps", "--masks"]),
        (["train", "dataset=demo/"], [f"dataset=demo/{c}" for c in (*sorted(get_args(Category)), "all")]),
        (["train", "dataset=mvtec/t"], [f"dataset=mvtec/{c}" for c in ("tile", "toothbrush", "transistor")]),
        (["train", "dataset=mvtec/a"], ["dataset=mvtec/all"]),
        (["train", "hardware.prec"], ["hardware.precision="]),
        (["train", "hardware.precision="], [f"hardware.precision={p}" for p in ("32-true", "bf16-mixed", "16-mixed")]),
        (["train", "hardware.devices="], ["hardware.devices=auto"]),
        (["train", "method=rd", "method.l"], ["method.lr="]),
        (["train", "force="], ["force=true", "force=false"]),
        (["train", "method=rd", "method.lr="], []),
        (["train", "method.l"], []),
        (["show", "dataset=mt"], ["dataset=mtd"]),
    ],
)
def test_completion(words: list[str], candidates: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--complete", *words]) == 0
    assert capsys.readouterr().out.splitlines() == candidates


@pytest.mark.skipif(not shutil.which("bash"), reason="needs bash")
def test_completion_works_in_bash(tmp_path: Path) -> None:
    (tmp_path / "bench").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m anomaly_bench "$@"\n')
    (tmp_path / "bench").chmod(0o755)
    typed = "bench train method=rd dataset=mvtec/bo"
    script = f"""eval "$(bench completion bash)"; COMP_LINE={typed!r} COMP_POINT={len(typed)}
        _bench 2>/dev/null; printf '%s\\n' "${{COMPREPLY[@]}}" """
    env = environment(PATH=f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, text=True)
    assert done.stdout == "mvtec/bottle\n", done.stderr  # readline itself keeps what stands before the =
