"""log.txt where the disk is full."""

from __future__ import annotations

import logging
import resource
from pathlib import Path

import pytest

from anomaly_bench.errors import UserError
from anomaly_bench.runs import logs
from anomaly_bench.runs.folder import RunFolder


def test_a_full_disk_is_said_once_and_hides_no_other_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs.log, "handlers", [])  # of other tests
    folder = RunFolder(tmp_path)
    folder.start({}, "", [], afresh=False)
    (tmp_path / "log.txt").write_text("x" * 100_000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    console = logging.StreamHandler()
    console.setLevel(logging.INFO)
    logs.log.addHandler(console)

    def run() -> None:
        with logs.recorded(folder):
            logs.log.warning("the first line")
            logs.log.warning("the second line")
            folder.write_text("scores.csv", "x" * 100_001)

    try:
        with pytest.raises(UserError, match=r"scores\.csv: cannot be written: File too large"):
            run()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        logs.log.removeHandler(console)
    lines = capsys.readouterr().err.splitlines()
    said = f"{tmp_path / 'log.txt'} cannot be written: File too large; what follows is missing there"
    assert sorted(lines) == sorted(["the first line", said, "the second line"])
    assert folder.status == "failed"
    assert folder.manifest["error"].startswith(f"UserError: {tmp_path / 'scores.csv'}: cannot be written")


def test_ctrl_c_is_in_log_txt_and_not_on_the_console(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # there `bench` itself says it
    monkeypatch.setattr(logs.log, "handlers", [])
    monkeypatch.setattr(logs.log, "propagate", True)  # restored afterwards
    folder = RunFolder(tmp_path)
    folder.start({}, "", [], afresh=False)
    logs.console_log()
    with pytest.raises(KeyboardInterrupt), logs.recorded(folder):
        raise KeyboardInterrupt
    assert capsys.readouterr().err == ""
    assert "interrupted; the same command goes on" in (tmp_path / "log.txt").read_text()
    assert folder.status == "running"
