"""Keys in a block, `method.teacher.steps`: checked like the others; former names are told, and stay in runs' ids."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from anomaly_bench import config
from anomaly_bench.commands import show
from anomaly_bench.commands.completion import candidates
from anomaly_bench.commands.main import main
from anomaly_bench.errors import Mistakes
from anomaly_bench.former_names import KEYS, present_keys, present_method

BASE = ["method=us", "dataset=mvtec/bottle"]
OWN = """
from pydantic import BaseModel
from anomaly_bench.config.schema import Checked
from anomaly_bench.contracts import Method

class Block(Checked):
    lr: float
    steps: int

class Mine(Method):
    def __init__(self, image_size: int, batch_size: int, block: Block) -> None:
        super().__init__()
        self.image_size, self.batch_size, self.block = image_size, batch_size, block
"""
YAML = """_target_: mine.Mine
name: mine
lr_of_nothing: 1
image_size: 8
block:
  lr: 1  # [ours] per step
  steps: x
batch_size: 2
"""


def mistakes(*words: str) -> list[str]:
    with pytest.raises(Mistakes) as caught:
        config.check([*BASE, *words])
    return [str(error) for error in caught.value.errors]


def test_all_wrong_values_are_found_at_once() -> None:
    words = [
        "method.teacher.steps=0",
        "method.teacher.losses=[1,x,1]",
        "method.teacher.compactness=sqare",
        "method.lr=-1",
    ]
    assert mistakes(*words, "method.teacher.batch_size=1.5") == [
        "method.lr: -1 given, allowed: greater than 0",
        "method.teacher.losses: 'x' given, allowed: a valid number, unable to parse string as a number",
        "method.teacher.compactness: 'sqare' given, allowed: 'square', 'abs' or 'signed' (did you mean 'square'?)",
        "method.teacher.steps: 0 given, allowed: greater than or equal to 1",
        "method.teacher.batch_size: 1.5 given, allowed: a whole number",
    ]


@pytest.mark.parametrize(
    ("word", "line"),
    [
        ("method.teacher.stps=5", "method.teacher.stps: no such key (did you mean 'method.teacher.steps'?)"),
        ("+method.teacher.stps=5", "method.teacher.stps: no such key (did you mean 'steps'?)"),
        ("~method.teacher.steps", "method.teacher.steps: not given (method.teacher.steps=VALUE)"),
        ("~method.teacher", "method.teacher: not given (method.teacher=VALUE)"),
        ("+method.teacher_steps=5", "method.teacher_steps: no such key (it is method.teacher.steps now)"),
    ],
)
def test_keys_that_are_not_there(word: str, line: str) -> None:
    assert mistakes(word) == [line]


@pytest.mark.parametrize("former", sorted(set(KEYS) - {"teacher", "decoder_layers"}))
def test_a_former_key_is_refused_with_its_present_name(former: str) -> None:
    assert mistakes(f"method.{former}=5") == [f"method.{former}: no such key (it is method.{KEYS[former]} now)"]


@pytest.mark.parametrize("value", ["t.safetensors", "null", "random", "5", "[1]"])
def test_a_value_for_a_block_is_refused(value: str) -> None:
    (line,) = mistakes(f"method.teacher={value}")
    assert line.startswith("method.teacher: ")
    assert " given, but it is a block of keys: file, images, layer, " in line
    assert line.endswith(" (it is method.teacher.file now)")


def test_a_block_may_be_given_as_a_whole() -> None:
    settings = config.validate(config.compose([*BASE, "method.teacher={steps: 7, lr: 1}"]))
    assert (settings.method["teacher"].steps, settings.method["teacher"].layer) == (7, 4)


def test_former_keys_in_own_files(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    text = "# @package _global_\ndefaults: [override /method: us, override /dataset: mtd]\nmethod: {%s}\n"
    for name, keys in (("a", "teacher_images: x"), ("b", "teacher: x"), ("c", "teacher: null")):
        (tmp_path / "experiment" / f"{name}.yaml").write_text(text % keys)
        with pytest.raises(Mistakes) as caught:
            config.check([f"experiment={name}"], extra=str(tmp_path))
        (line,) = map(str, caught.value.errors)
        assert line.endswith(f"(it is method.teacher.{'images' if name == 'a' else 'file'} now)"), line


def test_a_mistake_in_a_block_of_ones_own_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "method").mkdir()
    (tmp_path / "mine.py").write_text(OWN)
    (tmp_path / "method" / "mine.yaml").write_text(YAML)
    with pytest.raises(Mistakes) as caught:
        config.check(["method=mine", "dataset=mtd"], extra=str(tmp_path))
    found = [(error.where, error.hint.rpartition(":")[2]) for error in caught.value.errors]
    assert found == [("method.block.steps", "7"), ("method.lr_of_nothing", "3")]


RANDOM = ["method.teacher.file=random"]
TWELVE = ["method.epochs=12", "method.steps=null"]  # as us_fast was when it had no steps


def hashed(values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()[:8]


def test_a_run_has_the_id_that_it_had_when_the_keys_stood_beside_the_others() -> None:
    words = ["method=glf", "dataset=mvtec/bottle", "method.weights=random", "method.teacher.file=random", "seed=3"]
    settings = config.validate(config.compose([*words, "method.teacher.steps=7", "method.teacher.decoder_layers=2"]))
    later = {"iad_patches", "global_normalised", "stain_brightness"}  # keys, here with their former effect
    method = {key: value for key, value in settings.method.items() if key not in {"teacher", *later}}
    method |= {
        "teacher": "random", "teacher_images": None, "teacher_layer": 4, "teacher_target_size": None,
        "teacher_losses": [1.0, 0.0, 1.0], "teacher_compactness": "square", "teacher_steps": 7,
        "teacher_batch_size": 64, "teacher_lr": 0.0002, "teacher_weight_decay": 0.0, "decoder_layers": 2,
    }  # fmt: skip
    left_out = {"root", *config.Images.model_fields}
    dataset = {key: value for key, value in settings.dataset.items() if key not in left_out}
    by_rule_1 = {"method": method, "dataset": {**dataset, "_target_": "anomaly_bench.data.mvtec.MVTec"}}
    assert config.identify_by_rule_1(settings) == hashed({"seed": 3, **by_rule_1})
    named = {"method": {**method, "_target_": "GlancingAtThePatch"}, "dataset": {**dataset, "_target_": "MVTec"}}
    assert config.identify(settings).run == hashed({"rule": 2, "seed": 3, **named})


@pytest.mark.parametrize(
    ("words", "run", "by_rule_1"),
    [
        (["method=us", *RANDOM], "9d5dd21a", "8cb6006a"),
        (["method=glf_fast", *RANDOM], "309de55b", "f3675e6c"),
        (
            ["method=us_fast", *TWELVE, "method.teacher.file=random", "method.teacher.margin=2", "seed=4"],
            "c60b5618",
            "58962ab6",
        ),
    ],
)
def test_ids_of_runs_of_earlier_versions(words: list[str], run: str, by_rule_1: str) -> None:
    settings = config.validate(config.compose([*words, "dataset=demo/brick"]))
    assert (config.identify(settings).run, config.identify_by_rule_1(settings)) == (run, by_rule_1)


@pytest.mark.parametrize("change", ["iad_patches=all", "global_normalised=false", "stain_brightness=both"])
def test_a_later_key_is_part_of_an_id_unless_it_has_its_former_effect(change: str) -> None:
    words = ["method=glf", "method.teacher.file=random", "method.weights=random", "dataset=demo/brick"]
    plain, other = (config.validate(config.compose([*words, *more])) for more in ([], [f"method.{change}"]))
    assert config.identify(plain) != config.identify(other)


def test_a_method_of_an_earlier_version_has_what_later_keys_say_and_sets_nothing_aside_that_nothing_reads() -> None:
    glf = "anomaly_bench.methods.glancing_at_the_patch.GlancingAtThePatch"
    former = {"_target_": glf, "calibrate": False, "val_share": 0.1, "teacher_lr": 1}
    later = {"iad_patches": "clean", "global_normalised": True, "stain_brightness": "dark"}
    assert present_method(former) == {
        "_target_": glf, "calibrate": False, "val_share": 0, "teacher": {"lr": 1}, **later,
    }  # fmt: skip
    calibrated = {**former, "calibrate": True, "stain_brightness": "both"}
    assert present_method(calibrated)["val_share"] == 0.1
    assert present_method(calibrated)["stain_brightness"] == "both"
    assert present_method({"_target_": "another.Class", "lr": 1}) == {"_target_": "another.Class", "lr": 1}


def test_the_configuration_of_an_earlier_version_is_read_with_present_keys() -> None:
    assert present_keys({"teacher": "f", "teacher_lr": 1, "decoder_layers": 2, "lr": 3}) == {
        "teacher.file": "f", "teacher.lr": 1, "teacher.decoder_layers": 2, "lr": 3,
    }  # fmt: skip
    assert present_keys({"teacher": {"file": "f", "lr": 1}, "lr": 3}) == {"teacher.file": "f", "teacher.lr": 1, "lr": 3}


def test_a_block_is_shown_key_by_key(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "method=us", "method.teacher.steps=7"]) == 0
    shown = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    note = "teacher.layer 4 paper 512 features before the classifier; [2, 3]: several layers side by side"
    assert f"{note}; the shipped p17: 3, p33: 3" in shown
    assert any(
        line.startswith("teacher.steps 7 overridden 50000 in the yaml [paper] steps of a disti") for line in shown
    )
    assert "lr 0.0001 paper Adam" in shown
    assert "teacher.lr 0.0002 paper Adam" in shown
    assert not any(line.startswith("teacher ") for line in shown)


def test_notes_of_a_block() -> None:
    notes = show.notes_of(config.conf_dir() / "method" / "glf_fast.yaml")
    assert notes["teacher.steps"][:2] == ("50000", "unknown")
    assert notes["steps"][:2] == ("3000", "ours")


def test_completion_of_a_block() -> None:
    found = candidates(["train", "method=us", "method.teacher"])
    assert {"method.teacher.file=", "method.teacher.steps="} <= set(found)
    assert "method.teacher=" not in found
    assert all(word.startswith("method.teacher.") for word in found)
