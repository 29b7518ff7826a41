"""A run is the run of these very images and these very weights, or it is another run."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from small_runs import QUICK, TOY, Train, make_images, save

from anomaly_bench import config
from anomaly_bench.commands.main import main
from anomaly_bench.results.collect import collect
from anomaly_bench.runs.folder import RunFolder, find
from anomaly_bench.runs.manifest import masked, masked_config

NEW = np.full((32, 32, 3), 7, np.uint8)
Capsys = pytest.CaptureFixture[str]


def bmp_folder(root: Path, brightness: int) -> Path:
    """good/ and bad/ with files of the same names and sizes, whatever the brightness."""
    for kind, count in (("good", 6), ("bad", 3)):
        for i in range(count):
            pixels = np.full((32, 32, 3), brightness + i, np.uint8)
            pixels[8:16, 8 : 12 + 4 * i] = brightness // 2 if kind == "bad" else brightness + i
            (root / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(root / kind / f"{i}.bmp")
    return root


def trained(capsys: Capsys, *overrides: str, code: int = 0) -> str:
    """What `bench train` says on standard error."""
    capsys.readouterr()
    assert main(["train", *TOY, *QUICK, *overrides]) == code
    return capsys.readouterr().err


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import logging

    monkeypatch.chdir(tmp_path)
    for name, value in {"handlers": [], "propagate": True}.items():  # a handler of its own for each test's capsys
        monkeypatch.setattr(logging.getLogger("anomaly_bench"), name, value)


def test_two_folders_of_one_name_are_two_results(tmp_path: Path, capsys: Capsys) -> None:
    for line, brightness in (("lineA", 60), ("lineB", 180)):
        bmp_folder(tmp_path / line / "parts", brightness)
        assert "already done" not in trained(capsys, f"dataset.root={line}/parts")
    one, other = find("outputs")
    assert one.path.parent == other.path.parent == Path("outputs/toy/folder/parts")
    assert [row.score for row in one.scores] != [row.score for row in other.scores]
    assert {folder.manifest["place"] for folder in (one, other)} == {f"{tmp_path}/line{x}/parts" for x in "AB"}
    assert "already done" in trained(capsys, "dataset.root=lineA/../lineA/parts")
    assert sorted(row.category for row in collect("outputs").rows) == ["lineA_parts", "lineB_parts"]
    assert main(["report"]) == 0
    assert "lineA_parts" in capsys.readouterr().out


def test_a_folder_with_a_name_may_move(tmp_path: Path, capsys: Capsys) -> None:
    bmp_folder(tmp_path / "lineA" / "parts", 60)
    trained(capsys, "dataset.root=lineA/parts", "dataset.name=screws")
    shutil.move("lineA", "lineC")
    assert "already done: outputs/toy/screws/screws/" in trained(
        capsys, "dataset.root=lineC/parts", "dataset.name=screws"
    )
    bmp_folder(tmp_path / "lineD" / "parts", 90)
    said = trained(capsys, "dataset.root=lineD/parts", "dataset.name=screws", code=2)
    assert "9 of 9 images differ: changed bad/0.bmp (image)," in said
    assert "dataset.name=NAME" in said


def test_a_run_that_was_begun_is_not_finished_on_other_images(tmp_path: Path, train: Train, images: Path) -> None:
    (tmp_path / "notes" / "raise").touch()
    begun = train(*QUICK, code=1)
    assert begun.status == "failed"
    (tmp_path / "notes" / "raise").unlink()
    shutil.rmtree(images)
    make_images(images)
    save(images / "train/good/003.png", np.zeros((32, 32, 3), np.uint8))
    before = (begun.path / "manifest.json").read_bytes()
    train(code=2)
    assert (begun.path / "manifest.json").read_bytes() == before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: invert(root / "ground_truth"), "6 of 22 images differ: changed test/hole/000.png (mask), "),
        (lambda root: swap(root / "test/hole/000.png", root / "test/hole/001.png"), "2 of 22 images differ: "),
        (lambda root: (root / "test/line/002.png").unlink(), "1 of 22 images differ: gone test/line/002.png ("),
        (lambda root: save(root / "train/good/x.png", NEW), "1 of 23 images differ: added train/good/x.png ("),
        (lambda root: repaint(root / "train/good/001.png"), "1 of 22 images differ: changed train/good/001.png (image"),
    ],
)  # fmt: skip
def test_changed_images_are_refused_and_named(train: Train, images: Path, capsys: Capsys, change, said) -> None:  # type: ignore[no-untyped-def]
    folder = train(*QUICK)
    files = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    change(images)
    if "gone" in said:  # its mask too, which would be left over
        (images / "ground_truth/line/002_mask.png").unlink()
    capsys.readouterr()
    train(code=2)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bench: ")]
    assert f"its files are not those that {folder.path} was trained on: {said}" in line
    assert {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()} == files


def invert(folder: Path) -> None:
    for mask in folder.rglob("*.png"):
        save(mask, 255 - np.asarray(Image.open(mask)))


def swap(one: Path, other: Path) -> None:
    a, b = one.read_bytes(), other.read_bytes()
    one.write_bytes(b)
    other.write_bytes(a)


def repaint(file: Path) -> None:
    save(file, 255 - np.asarray(Image.open(file)))


def test_the_manifest_and_the_list_of_images_say_what_was_there(train: Train, images: Path) -> None:
    folder = train()
    rows = (folder.path / "images.csv").read_text().splitlines()
    assert rows[0] == "split,path,kind,image,mask"
    assert len(rows) == 1 + 22
    import hashlib

    image, mask = (images / place for place in ("test/hole/000.png", "ground_truth/hole/000_mask.png"))
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (image, mask)]
    assert f"test,test/hole/000.png,hole,{digests[0]},{digests[1]}" in rows
    assert (
        folder.manifest["checksums"]["data"]
        == hashlib.sha256("".join(f"{line}\n" for line in [rows[0], *sorted(rows[1:])]).encode()).hexdigest()
    )


def weights_file(path: Path, value: float) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({"x": torch.full((3,), value)}, path)
    return path


def identity(*overrides: str) -> config.Identity:
    words = ["method=rd", "dataset=mvtec/bottle", "method.backbone=resnet18", *overrides]
    return config.identify(config.validate(config.compose(words)))


def test_weights_count_by_content_however_they_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = weights_file(tmp_path / "a/resnet18.x.safetensors", 1), weights_file(tmp_path / "b/r.safetensors", 2)
    monkeypatch.setenv("ANOMALY_BENCH_WEIGHTS", str(one.parent))
    implicit = identity()
    assert implicit == identity(f"method.weights={one}")
    assert implicit != identity(f"method.weights={other}")
    shutil.copy(other, one)
    assert identity() == identity(f"method.weights={other}") != implicit
    assert len({identity().run, identity("seed=1").run, identity("method.lr=1").run}) == 3
    assert identity().setting == identity("seed=1").setting


@pytest.mark.parametrize("key", ["weights", "teacher.file"])
def test_random_is_never_a_file(tmp_path: Path, key: str) -> None:
    words = [f"method={'rd' if key == 'weights' else 'us'}", "dataset=mvtec/bottle", f"method.{key}=random"]
    before = config.identify(config.validate(config.compose(words)))
    (tmp_path / "random").write_bytes(b"a file of that name")
    assert config.identify(config.validate(config.compose(words))) == before


def test_a_shipped_teacher_is_the_same_under_another_name(tmp_path: Path) -> None:
    from anomaly_bench.nets.teachers import teacher_files
    from tests.nets.small_teachers import teachers

    (shipped,) = teacher_files([33], teachers().config)
    shutil.copy(shipped, tmp_path / "mine.safetensors")
    words = ["method=us", "dataset=mvtec/bottle", "method.patch_sizes=[33]"]
    plain, named = (
        config.identify(config.validate(config.compose([*words, *more])))
        for more in ([], [f"method.teacher.file={tmp_path}/mine.safetensors"])
    )
    assert plain == named


def as_version_1(folder: RunFolder, settings: config.Settings) -> RunFolder:
    """The same run as an earlier version would have left it."""
    from anomaly_bench.loading.image_files import fingerprint
    from anomaly_bench.runs.find import find_data

    data = find_data(settings)
    manifest = folder.manifest
    manifest.pop("files")
    manifest |= {"format": 1, "checksums": {"data": fingerprint([*data.train, *data.test])}}
    (folder.path / "images.csv").unlink()
    (folder.path / "manifest.json").write_text(json.dumps(manifest))
    old = folder.path.with_name(f"s0-{config.identify_by_rule_1(settings)}")
    folder.path.rename(old)
    return RunFolder(old)


def test_runs_of_an_earlier_version_keep_working(train: Train, images: Path, capsys: Capsys, tmp_path: Path) -> None:
    overrides = [*TOY[2:], f"dataset.root={images}", "method.notes=notes", "seed=0"]
    settings = config.validate(config.compose(overrides, TOY[1]))
    old = as_version_1(train(), settings)
    file = old.path / "config.yaml"
    assert "anomaly_bench.datasets.folder.Folder" in file.read_text()
    file.write_text(file.read_text().replace("anomaly_bench.datasets.", "anomaly_bench.data."))  # where it lay then
    capsys.readouterr()
    train()
    assert f"already done: {old.path} (of an earlier version" in capsys.readouterr().err
    assert len(list(find("outputs"))) == len(collect("outputs").rows) == 1
    assert main(["eval", str(old.path)]) == 0
    images.rename(tmp_path / "elsewhere")  # an own folder in another place was never told apart by it
    make_images(tmp_path / "other" / "widgets")
    capsys.readouterr()
    assert "already done" not in trained(capsys, "dataset.root=other/widgets", "method.notes=notes", "seed=0")


def test_ids_of_an_earlier_version_name_the_classes_as_it_did() -> None:
    settings = config.validate(config.compose(["method=rd", "method.weights=random", "dataset=mvtec/bottle", "seed=3"]))
    left_out = {"root", *config.Images.model_fields}
    dataset = {key: value for key, value in settings.dataset.items() if key not in left_out}
    assert dataset["_target_"] == "anomaly_bench.datasets.mvtec.MVTec"
    method = {key: value for key, value in settings.method.items() if key != "steps"}  # which was added later
    values = {"seed": 3, "method": method, "dataset": dataset | {"_target_": "anomaly_bench.data.mvtec.MVTec"}}
    text = json.dumps(values, sort_keys=True, default=str)
    assert config.identify_by_rule_1(settings) == hashlib.sha256(text.encode()).hexdigest()[:8]


def test_secrets_are_not_kept(train: Train, capsys: Capsys) -> None:
    folder = train("logger=csv", "+logger.prefix=http://me:hunter2@host")
    for name in ("manifest.json", "config.yaml", "overrides.txt", "log.txt"):
        assert "hunter2" not in (folder.path / name).read_text()
    assert masked("logger.api_token=hunter2") == "logger.api_token=***"
    assert masked("logger.uri=https://me:hunter2@host/x") == "logger.uri=https://***@host/x"
    assert masked("method.tokens=3") == "method.tokens=3"
    cfg = config.compose([*TOY[2:], "+logger.password=hunter2", "+logger.uri=http://me:hunter2@host"], TOY[1])
    assert "hunter2" not in masked_config(cfg)
    assert main(["report"]) == 0
    assert not [f for f in Path("outputs/report").rglob("*") if f.is_file() and b"hunter2" in f.read_bytes()]


def test_a_word_that_the_logger_does_not_know_is_one_line(train: Train, capsys: Capsys) -> None:
    train("logger=csv", "+logger.colour=red", code=2)
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bench: ")]
    assert line.startswith("bench: logger")
    assert "colour" in line


def test_a_default_that_was_typed_out_is_the_same_setting(tmp_path: Path, capsys: Capsys) -> None:
    for name in "abc":
        make_images(tmp_path / name)
    for name, overrides in (("a", ["method.lr=0.05"]), ("b", []), ("c", ["method.lr=0.1"]), ("b", ["method.lr=0.1"])):
        trained(capsys, f"dataset.root={tmp_path / name}", "seed=0", *overrides)
    assert main(["report"]) == 0
    rows = collect("outputs").rows
    assert {row.label for row in rows} == {"toy", "toy method.lr=0.1"}
    assert len(list(Path("outputs/report/pages").glob("folder.?.html"))) == 3


def test_where_in_the_package_a_class_lies_does_not_count_which_one_it_is_does() -> None:
    words = ["method=rd", "method.weights=random", "dataset=mvtec/bottle", "hardware=cpu"]
    settings = config.validate(config.compose(words))

    def identity(target: str) -> config.Identity:
        changed = {"dataset": {**settings.dataset, "_target_": target}}
        return config.identify(settings.model_copy(update=changed), {})

    name = settings.dataset["_target_"].rpartition(".")[2]
    given = config.identify(settings, {})
    assert identity(f"anomaly_bench.elsewhere.{name}") == given
    for other in ("anomaly_bench.elsewhere.Other", f"mine.{name}", f"yours.{name}"):
        assert identity(other) != given
    assert identity(f"mine.{name}") != identity(f"yours.{name}")
