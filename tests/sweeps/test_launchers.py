"""Sweeps through Hydra's launchers, as far as that goes without Ray and SLURM (`make test-ray`, `make test-slurm`)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
from hydra.core.plugins import Plugins
from hydra.types import RunMode
from omegaconf import OmegaConf
from small_runs import TOY, TOYS, Bench

from anomaly_bench import config
from anomaly_bench.config.compose import PLUGINS
from anomaly_bench.errors import UserError
from anomaly_bench.runs.folder import find
from anomaly_bench.sweeps.launchers import launch, require_resources

JOB = ["method=us_fast", "dataset=demo/brick"]
LAUNCHERS = config.conf_dir() / "hydra" / "launcher"


def mistake(*words: str) -> str:
    with pytest.raises(UserError) as error:
        config.check([*JOB, *words], multirun=True, types=False)
    return str(error.value)


def is_installed(launcher: str) -> bool:
    return bool(find_spec("hydra_plugins") and find_spec(f"hydra_plugins.{PLUGINS[launcher]}"))


def test_a_launcher_that_is_not_known() -> None:
    said = mistake("hydra/launcher=slrm", "hydra.launcher.timeout_min=3")
    assert said.startswith("hydra/launcher: 'slrm' is none of basic, ray")
    assert said.endswith("slurm (did you mean 'slurm'?)" if "submitit" not in said else "(did you mean 'slurm'?)")
    assert "\n" not in said


@pytest.mark.parametrize(("launcher", "plugin"), [("ray", "hydra-ray-launcher"), ("slurm", "hydra-submitit-launcher")])
def test_a_plugin_that_is_not_installed(launcher: str, plugin: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = f"hydra/launcher: '{launcher}' needs {plugin}, which is not installed"
    if is_installed(launcher):  # another name, then, that surely is not there
        needs = needs.replace(plugin, "no-such-plugin")
        monkeypatch.setitem(PLUGINS, launcher, "no_such_plugin")
    said = mistake(f"hydra/launcher={launcher}")
    assert said.startswith(needs)
    assert f"pip install 'anomaly_bench[{launcher}]'" in said


@pytest.mark.parametrize("launcher", ["ray", "slurm"])
def test_a_key_that_the_launcher_does_not_have(launcher: str) -> None:
    if not is_installed(launcher):
        pytest.skip(f"pip install 'anomaly_bench[{launcher}]'")
    key, near = {"ray": ("ray.remote.num_gpu", "ray.remote.num_gpus"), "slurm": ("timeout_mn", "timeout_min")}[launcher]
    said = mistake(f"hydra/launcher={launcher}", f"hydra.launcher.{key}=1")
    assert said.startswith(f"hydra.launcher.{key}: no such key")
    assert f"'hydra.launcher.{near}'?" in said
    assert config.check([*JOB, f"hydra/launcher={launcher}", f"hydra.launcher.{near}=1"], multirun=True, types=False)


def test_keys_of_hydra_itself() -> None:
    assert "no such key (did you mean 'hydra.sweep.dir'?)" in mistake("hydra.swep.dir=sweep")
    assert config.check([*JOB, "hydra.sweep.dir=sweep"], multirun=True, types=False)


@pytest.mark.parametrize("file", sorted(LAUNCHERS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_key_is_explained(file: Path) -> None:
    first, *others = file.read_text().splitlines()
    assert f"hydra/launcher={file.stem}" in first
    assert [line for line in others if ": " in line and "#" not in line and not line.startswith("_target_")] == []


@pytest.mark.parametrize("kind", ["num_cpus", "num_gpus"])
def test_ray_is_not_asked_for_what_is_not_there(kind: str) -> None:
    launcher = OmegaConf.load(LAUNCHERS / "ray.yaml")
    launcher.ray.init.update({"num_cpus": 2, "num_gpus": 2})
    launcher.ray.remote.update({"num_cpus": 2, "num_gpus": 0.5, kind: 3})
    with pytest.raises(UserError) as error:
        require_resources(launcher)
    key = f"hydra.launcher.ray.remote.{kind}"
    assert str(error.value).startswith(f"{key}: 3 for each run, but 2 ")
    assert f"{key}=2" in str(error.value)
    launcher.ray.remote[kind] = 2
    require_resources(launcher)
    launcher.ray.remote[kind], launcher.ray.init.address = 3, "auto"  # a cluster may have them
    require_resources(launcher)
    require_resources(OmegaConf.create({"gpus_per_node": 3}))  # SLURM refuses by itself


def test_ray_counts_what_the_machine_has() -> None:
    launcher = OmegaConf.load(LAUNCHERS / "ray.yaml")
    launcher.ray.remote.update({"num_cpus": 1, "num_gpus": 1000})
    with pytest.raises(UserError, match=r"num_gpus: 1000 for each run"):
        require_resources(launcher)
    launcher.ray.remote.num_gpus = 0
    require_resources(launcher)


def test_exit_codes_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hydra_plugins.toy_launcher import ToyLauncher, end

    Plugins.instance().register(ToyLauncher)  # which looked for plugins before the toys could be found
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    extra = str(TOYS / "conf")
    jobs = [[*JOB, f"seed={seed}"] for seed in (0, 2, 9)]
    with config.hydra_context(extra) as loader:
        chosen = ["hydra/launcher=toy", f"output_dir={tmp_path}"]
        master = loader.load_configuration("config", chosen, RunMode.MULTIRUN)
        assert launch(jobs, master, loader, end) == [0, 2, -9]
        master.hydra.launcher.gives_up = True
        assert launch(jobs[:1], master, loader, end) == [None]
    noted = (folder / "words").read_text().splitlines()
    assert noted[0] == f"here train --quiet --config-dir {extra} {' '.join(jobs[0])}"
    assert len(noted) == 4


def test_a_killed_job(bench: Bench, images: Path, tmp_path: Path) -> None:
    for seed in (0, 1):
        (tmp_path / "notes" / str(seed)).mkdir(parents=True)
    (tmp_path / "notes" / "0" / "die").touch()
    words = [*TOY, f"dataset.root={images}", "method.notes=notes/${seed}", "seed=0,1", "resamples=0"]
    ended = bench("train", "-m", *words, "output_dir=elsewhere", "hydra/launcher=toy")
    assert ended.returncode == 1, ended.stderr
    states = {f.manifest["seed"]: (f.status, f.manifest.get("error")) for f in find(tmp_path / "elsewhere")}
    assert states == {0: ("failed", "killed by SIGKILL (out of memory?)"), 1: ("done", None)}
    assert not (tmp_path / "outputs").exists()  # the launcher's own files are where the runs are
