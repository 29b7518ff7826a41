"""A sample of the table of bad inputs (`make bad-inputs` runs all of it), and whether its judge notices anything."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
from bad_inputs.cases import GROUPS
from bad_inputs.judge import CODE, SILENT, TRACEBACK, UNCLEAR, Case, Outcome, judge, refused, said, start, works
from forks import Forks
from small_runs import ROOT, environment

TABLE = ROOT / "tests" / "bad_inputs" / "table.py"


def test_a_sample_ends_as_it_should(forks: Forks, tmp_path: Path) -> None:
    done = forks.run([TABLE, "--sample", "32"], tmp_path, environment())
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| all " in done.stdout
    assert "32 cases" in done.stdout


def test_the_cases_differ() -> None:
    names = [(group, case.name, str(case.words)) for group, cases in GROUPS.items() for case in cases]
    assert len(set(names)) == len(names) >= 368


@pytest.mark.parametrize(
    ("words", "outcome", "kind"),
    [
        (["list", "nix"], refused("'nix'"), ""),
        (["list", "nix"], refused("other"), UNCLEAR),
        (["list", "nix"], works(), CODE),
        (["list", "methods"], refused("nix"), SILENT),
        (["list", "methods"], said("csflow"), ""),
        (["list", "methods"], said("something else"), SILENT),
        (["list", "methods"], Outcome(0, check=lambda work, out: "" if "rd" in out else "no rd"), ""),
    ],
)
def test_the_judge_of_a_real_command(
    words: list[str], outcome: Outcome, kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for folder in ("place", "worlds/empty"):
        (tmp_path / folder).mkdir(parents=True)
    case = Case("a case", words, (outcome,))
    status = os.waitpid(start(case, tmp_path / "place", tmp_path / "worlds"), 0)[1]
    assert judge(case, tmp_path / "place", status, tmp_path / "worlds").kind == kind


@pytest.mark.parametrize(
    ("status", "err", "written", "kind"),
    [
        (2 << 8, "bench: nix: no such folder\n", "", ""),
        (2 << 8, "Traceback (most recent call last):\nbench: nix\n", "", TRACEBACK),
        (9, "bench: nix: no such folder\n", "", TRACEBACK),
        (2 << 8, "bench: nix: no such folder\nmore\n", "", UNCLEAR),
        (2 << 8, "bench: nix: no such folder\n", "outputs/x", UNCLEAR),
        (0, "bench: nix: no such folder\n", "elsewhere", SILENT),
        (1 << 8, "bench: nix: no such folder\n", "", CODE),
    ],
)
def test_the_judge_of_what_a_command_left(status: int, err: str, written: str, kind: str, tmp_path: Path) -> None:
    (tmp_path / "work/outputs").mkdir(parents=True)
    (tmp_path / "before").write_bytes(pickle.dumps({"outputs": "folder"}))
    (tmp_path / "stdout").touch()
    (tmp_path / "stderr").write_text(err)
    if written:
        (tmp_path / "work" / written).touch()
    assert judge(Case("a case", [], (refused("nix"),)), tmp_path, status, tmp_path).kind == kind
