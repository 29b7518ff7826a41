"""What is built is what is needed: the wheel alone, without the checkout, knows its configuration and its commands."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from small_runs import ROOT

pytest.importorskip("build")
pytest.importorskip("hatchling")
pytest.importorskip("pip")
# The folder of the installed package in place of the checkout, wherever the environment may have put that on the path.
START = """
import sys
sys.path[:] = [sys.argv.pop(1)] + [p for p in sys.path if p not in ("", {root!r})]
import anomaly_bench.commands.main
print(anomaly_bench.commands.main.__file__, anomaly_bench.__version__)
raise SystemExit(anomaly_bench.commands.main.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    (file,) = folder.glob("anomaly_bench-*.whl")
    return file


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--no-compile", "--target"]
    done = subprocess.run([*command, str(folder), str(wheel)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_wheel_holds_every_module_yaml_and_table_and_nothing_else(wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    modules = {f.relative_to(ROOT).as_posix() for f in (ROOT / "anomaly_bench").rglob("*.py")}
    yamls = {f"anomaly_bench/{f.relative_to(ROOT).as_posix()}" for f in (ROOT / "conf").rglob("*.yaml")}
    assert {"anomaly_bench/commands/main.py", "anomaly_bench/results/published.csv"} <= names
    assert {"anomaly_bench/conf/config.yaml", "anomaly_bench/conf/method/rd.yaml"} <= yamls
    teachers = {f"anomaly_bench/nets/teachers/p{size}.{end}" for size in (17, 33) for end in ("safetensors", "md")}
    templates = {f.relative_to(ROOT).as_posix() for f in (ROOT / "anomaly_bench").rglob("templates/*.html")}
    assert "anomaly_bench/html_report/templates/index.html" in templates
    report = {
        f"anomaly_bench/{name}"
        for name in (
            "results/published.csv",
            "html_report/static/report.css",
            "html_report/static/report.js",
            "html_report/static/gallery.js",
        )
    }
    assert names == modules | yamls | teachers | templates | report


def installed_bench(installed: Path, cwd: Path, *words: str) -> str:
    """What the installed `bench` prints, started in a folder from which no checkout can be seen."""
    hidden = {"PYTHONPATH", "BENCH_CONF"}
    done = subprocess.run(
        [sys.executable, "-c", START.format(root=str(ROOT)), str(installed), *words],
        cwd=cwd, env={k: v for k, v in os.environ.items() if k not in hidden}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    first, _, rest = done.stdout.partition("\n")
    assert first.startswith(f"{installed}/anomaly_bench/commands/main.py ")
    return rest


def test_installed_alone_it_lists_and_shows(installed: Path, tmp_path: Path) -> None:
    assert "Reverse Distillation" in installed_bench(installed, tmp_path, "list", "methods")
    shown = installed_bench(installed, tmp_path, "show", "method=rd", "dataset=demo/brick")
    assert "authors' code" in shown
    assert "deviations from the paper" in shown
    assert "mvtec/bottle" in installed_bench(installed, tmp_path, "list", "datasets")


def test_the_commands_entry_point_is_declared(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (name,) = [n for n in archive.namelist() if n.endswith("entry_points.txt")]
    assert "bench = anomaly_bench.commands.main:main" in archive.read(name).decode()
