"""Composing, checking and identifying a configuration; every yaml that is shipped is a valid choice."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from small_runs import ROOT, TOYS

from anomaly_bench import config
from anomaly_bench.errors import Mistakes, UserError

CONF = ROOT / "conf"
BASE = ["method=rd", "dataset=mvtec/bottle"]


def choices(group: str) -> list[str]:
    """The yaml files of a group, found without the code under test."""
    return sorted(f.relative_to(CONF / group).with_suffix("").as_posix() for f in (CONF / group).rglob("[!_]*.yaml"))


def validated(*words: str) -> config.Settings:
    return config.validate(config.compose(words))


def ids(*words: str) -> tuple[str, str]:
    return config.identify(validated(*words))


@pytest.fixture(scope="module")
def base_ids() -> tuple[str, str]:
    return ids(*BASE)


def test_the_folders_hold_what_the_next_tests_go_through() -> None:
    least = {"method": 1, "dataset": 20, "hardware": 4, "logger": 4, "experiment": 1}
    assert all(len(choices(group)) >= n for group, n in least.items())
    with config.hydra_context() as loader:
        assert {group: config.options(loader, group) for group in least} == {group: choices(group) for group in least}


@pytest.mark.parametrize("method", choices("method"))
def test_every_method_is_valid(method: str) -> None:
    settings = validated(f"method={method}", "dataset=mvtec/bottle")
    assert settings.method["name"] == method
    with torch.device("meta"):  # no numbers are drawn
        assert config.build("method", settings.method).image_size == settings.method["image_size"]


LAST = [*{name.partition("/")[0]: name for name in choices("dataset")}.values()]  # category of each


@pytest.mark.parametrize("datasets", [LAST, pytest.param(choices("dataset"), marks=pytest.mark.slow)], ids=len)
def test_every_data_set_is_valid(datasets: list[str]) -> None:
    jobs = config.compose_jobs(["method=rd", f"dataset={','.join(datasets)}"], multirun=True)
    assert len(jobs) == len(datasets) >= 14
    for job, dataset in zip(jobs, datasets, strict=True):
        name, _, category = dataset.partition("/")
        assert job.settings
        assert (job.settings.dataset["name"], job.settings.dataset.get("category") or "") == (name, category)
        config.build("dataset", job.settings.dataset)


@pytest.mark.parametrize("word", [f"{group}={name}" for group in ("hardware", "logger") for name in choices(group)])
def test_every_hardware_and_logger_is_valid(word: str) -> None:
    validated(*BASE, word)


@pytest.mark.parametrize("experiment", choices("experiment"))
def test_every_experiment_is_valid(experiment: str) -> None:
    assert validated(f"experiment={experiment}").method["name"]  # its matrix: tests/test_reproduce.py


@pytest.mark.parametrize(
    "words",
    [
        ["dataset.root=elsewhere"], ["hardware=cpu"], ["hardware.precision=bf16-mixed"], ["hardware.workers=3"],
        ["hardware.scoring_precision=bf16-mixed"], ["hardware.tf32=false"],
        ["output_dir=elsewhere"], ["cache_dir=elsewhere"], ["logger=csv"], ["force=true"], ["save_maps=false"],
        ["weights_dtype=float16"], ["save_heatmaps=false"], ["checkpoint_seconds=1"], ["resamples=0"],
        ["track_test=true"], ["hardware.metrics_memory_mb=0"], ["method.epochs=200"], ["method.sigma=4"],
    ],
)  # fmt: skip
def test_the_id_does_not_depend_on(words: list[str], base_ids: tuple[str, str]) -> None:
    assert ids(*BASE, *words) == base_ids


@pytest.mark.parametrize("key", sorted(set(validated(*BASE).method) - {"_target_", "name", "weights"}))
def test_the_id_depends_on_each_key_of_the_method(key: str, base_ids: tuple[str, str]) -> None:
    other: dict[str, Any] = {"backbone": "resnet18", "image_size": 64, "betas": "[0.9,0.999]", "flatten_loss": "false"}
    other["feature_dtype"] = "float16"
    identity, setting = ids(*BASE, f"method.{key}={other.get(key, 7)}")
    assert identity != base_ids[0]
    assert setting != base_ids[1]


def test_the_id_depends_on_seed_and_data_the_setting_on_neither_seed_nor_category() -> None:
    identity, setting = ids(*BASE)
    assert len(identity) == len(setting) == 8
    for words in (["seed=1"], ["dataset=mvtec/screw"]):
        other = ids(*BASE, *words)
        assert other[0] != identity
        assert other[1] == setting
    assert ids(*BASE, "dataset=mtd")[1] != setting
    assert ids(*BASE, "dataset=mtd")[0] != ids(*BASE, "dataset=mtd", "dataset.train_share=0.5")[0]


@pytest.mark.parametrize("key", ["method.weights", "dataset.split_file"])
def test_the_id_depends_on_the_content_of_a_file_and_not_on_its_path(key: str, tmp_path: Path) -> None:
    one, same, other = (tmp_path / name for name in ("one", "same", "other"))
    for file, text in ((one, "a"), (same, "a"), (other, "b")):
        file.write_text(text)
    base = ["method=rd", "dataset=mtd"]
    assert ids(*base, f"{key}={one}") == ids(*base, f"{key}={same}")
    assert len({ids(*base)[0], ids(*base, f"{key}={one}")[0], ids(*base, f"{key}={other}")[0]}) == 3


def test_a_file_that_happens_to_be_named_like_a_value_changes_no_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*BASE, "method.backbone=resnet18"]
    before = ids(*words)
    monkeypatch.chdir(tmp_path)
    for name in ("rd", "resnet18", "bottle", "mvtec"):
        (tmp_path / name).write_text("a file of the user's")
    assert ids(*words) == before


def test_validate_gives_declared_types_and_resolves_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANOMALY_BENCH_CACHE", "~/x")
    settings = validated(*BASE, "method.sigma=4")
    assert repr(settings.method["sigma"]) == "4.0"
    assert settings.method["betas"] == (0.5, 0.999)
    assert settings.cache_dir == Path.home() / "x"
    assert settings.hardware.devices == 1


def test_all_mistakes_are_found_at_once() -> None:
    words = ["method=rd", "dataset=mvtec/botle", "sede=3", "method.lr=-1", "hardware=gpuu", "save_maps=perhaps"]
    with pytest.raises(Mistakes) as caught:
        config.check(words)
    assert {m.where for m in caught.value.errors} == {"dataset", "sede", "method.lr", "hardware", "save_maps"}


def test_a_sweep_becomes_its_jobs_and_each_is_checked() -> None:
    words = ["method=rd", "dataset=mvtec/bottle,mvtec/screw", "seed=0,1,2"]
    jobs = config.check(words, multirun=True, types=False)
    assert len({tuple(sorted(job)) for job in jobs}) == 6
    assert {validated(*job).dataset["category"] for job in jobs} == {"bottle", "screw"}
    with pytest.raises(Mistakes) as caught:
        config.check(["method=rd", "dataset=mvtec/bottle,mvtec/scrw", "seed=0,-1"], multirun=True)
    assert {m.where for m in caught.value.errors} == {"dataset", "seed"}


def test_all_stands_for_every_category() -> None:
    categories = [name for name in choices("dataset") if name.startswith("mvtec/")]
    jobs = config.check(["method=rd", "dataset=mtd,mvtec/all,mvtec/screw", "seed=3"], multirun=True, types=False)
    assert jobs == [["method=rd", f"dataset={name}", "seed=3"] for name in ["mtd", *categories]]
    for word, said in (
        ("dataset=mvtec/all", "several values"),
        ("dataset=mvtc/all", "is none of"),
        ("dataset=all", "is"),
    ):
        with pytest.raises(UserError, match=said):
            config.check(["method=rd", word])
    with pytest.raises(Mistakes, match="none of"):
        config.check(["method=rd", "dataset=mvtc/all"], multirun=True)


def test_the_matrix_of_an_experiment(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    for name, params in (("a", "{dataset: demo/all, seed: '0,1'}"), ("b", "{method.patch_sizes: '[17],[33]'}")):
        text = "# @package _global_\ndefaults: [override /method: us, override /dataset: mtd]\n"
        (tmp_path / "experiment" / f"{name}.yaml").write_text(f"{text}hydra: {{sweeper: {{params: {params}}}}}\n")

    def count(*words: str, multirun: bool = True) -> int:
        jobs = config.check(words, multirun=multirun, types=False, extra=str(tmp_path))
        return len({tuple(job) for job in jobs})

    assert count("experiment=a") == 12
    assert count("experiment=a", "seed=7") == 6
    assert count("experiment=a", "dataset=mtd,mvtec/screw,mvtec/wood", "seed=7") == 3
    assert count("experiment=a,b", "seed=0") == 6 + 2
    assert count("experiment=a", "seed=1", "dataset=mtd", multirun=False) == 1
    composed = config.compose_jobs(["experiment=b"], multirun=True, types=False, extra=str(tmp_path))
    assert [list(cfg.method.patch_sizes) for _, cfg, _ in composed] == [[17], [33]]
    assert {cfg.dataset.name for _, cfg, _ in composed} == {"mtd"}
    said = r"experiment: a matrix of 12 runs over dataset, seed \(add --multirun to run them, or give each of these one"
    with pytest.raises(UserError, match=said):
        count("experiment=a", multirun=False)


def test_a_glob_stands_for_the_choices_that_match() -> None:
    assert len(config.check(["method=rd", "dataset=glob(m*)"], multirun=True, types=False)) == 1  # mtd
    with pytest.raises(UserError, match="no run is asked for"):
        config.check(["method=rd", "dataset=glob(nix*)"], multirun=True)


def test_a_list_is_one_value_and_not_a_sweep() -> None:
    assert config.check([*BASE, "method.betas=[0.9,0.99]"]) == [[*BASE, "method.betas=[0.9,0.99]"]]
    with pytest.raises(UserError, match="several values"):
        config.check([*BASE, "seed=1,2"])


def test_flatten_names_every_key() -> None:
    cfg = OmegaConf.create({"a": {"b": 1, "c": {"d": None}}, "e": {}, "f": [1]})
    assert list(config.flatten(cfg)) == ["a", "a.b", "a.c", "a.c.d", "e", "f"]


def test_a_folder_of_ones_own_adds_choices_and_overrides_none() -> None:
    with config.hydra_context(str(TOYS / "conf")) as loader:
        assert config.options(loader, "method") == sorted([*choices("method"), "toy"])
    assert config.compose(["method=toy", "dataset=mtd"], str(TOYS / "conf")).method.name == "toy"
    with pytest.raises(UserError, match="'toy' is none of"):
        config.compose(["method=toy", "dataset=mtd"])


def test_conf_dir_is_the_environments_then_the_checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert config.conf_dir() == CONF
    shutil.copytree(CONF, tmp_path / "conf")
    monkeypatch.setenv("BENCH_CONF", str(tmp_path / "conf"))
    assert config.conf_dir() == tmp_path / "conf"
    monkeypatch.setenv("BENCH_CONF", str(tmp_path))
    with pytest.raises(UserError, match=r"no config\.yaml in"):
        config.conf_dir()
