"""The published data sets: what runs get of them, and what `bench data` says of whole, partial and damaged copies."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from omegaconf import OmegaConf
from small_benchmarks import COUNTS, DEFECTS, HEIGHT, WIDTH, WRITERS, region
from small_images import save

from anomaly_bench.commands.main import run_verb
from anomaly_bench.config import build, check, conf_dir
from anomaly_bench.datasets import prepare
from anomaly_bench.datasets.checks import check_overlap, checked_records
from anomaly_bench.datasets.mvtec_ad2 import MVTecAD2
from anomaly_bench.datasets.mvtec_loco import ChannelMasks, Defect, read_channel, read_defects
from anomaly_bench.errors import UserError
from anomaly_bench.loading.decode import read_mask
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.loading.image_list import list_images
from anomaly_bench.records import Dataset, Record

NAMES = sorted(COUNTS)
CATEGORY = {name: next(iter(counts)) for name, counts in COUNTS.items()}
SHAPE = (HEIGHT, WIDTH)
Capsys = pytest.CaptureFixture[str]
Say = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The small sets are the whole ones, and no data set of this machine is seen."""
    real = prepare._source
    monkeypatch.setattr(prepare, "_source", lambda name: real(name) | {"counts": COUNTS.get(name, {}), "sha256": None})
    monkeypatch.delenv("ANOMALY_BENCH_DATA", raising=False)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


@pytest.fixture
def root(tmp_path: Path, name: str) -> Path:
    return WRITERS[name](tmp_path / name, COUNTS[name])


@pytest.fixture
def say(capsys: Capsys) -> Say:
    """say("verify", "visa", ...): exit code and output, without the table."""

    def call(*words: str) -> tuple[int, str]:
        capsys.readouterr()
        code = run_verb(["data", *words])
        lines = [line for line in capsys.readouterr().out.splitlines() if not set(line) & set("┏┃┡│└┌├")]
        return code, "\n".join(lines)

    return call


def load(name: str, root: Path, category: str | None = None) -> Dataset:
    """The data set that conf/dataset describes."""
    file = f"{name}/{category or CATEGORY[name]}" if (conf_dir() / "dataset" / name).is_dir() else name
    values: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "dataset" / f"{file}.yaml"))
    dataset: Dataset = build("dataset", {**values, "root": str(root)})
    return dataset


def kinds(records: list[Record]) -> dict[str, int]:
    return dict(Counter(record.kind for record in records))


KINDS = {
    "visa": {"good": 2, "anomaly": 2},
    "mvtec_ad2": {"good": 2, "bad": 4},
    "mvtec_loco": {"good": 2, "logical_anomalies": 2, "structural_anomalies": 3},
    "btad": {"good": 2, "ko": 2},
    "mpdd": {"good": 2, "parts_mismatch": 4},
    "ksdd2": {"good": 3, "defect": 2},
    "autovi": {"good": 2, "blue_hoop": 2, "fastening": 2},
}


@pytest.mark.filterwarnings("ignore:.*not used")
@pytest.mark.parametrize("name", NAMES)
def test_what_runs_get(name: str, root: Path) -> None:
    for place in (root, root.parent):
        dataset = load(name, place)
        train, test = checked_records(dataset, "train"), checked_records(dataset, "test")
        validation = checked_records(dataset, "validation")
        assert kinds(test) == KINDS[name]
        assert kinds(train) == {"good": 4 if name == "ksdd2" else 3}
        assert kinds(validation) == ({"good": 2} if name in ("mvtec_ad2", "mvtec_loco") else {})
        assert all((record.mask is not None) == bool(record.label) for record in (*train, *test, *validation))
        assert all(record.image == root / record.path and record.image.is_file() for record in (*train, *test))
        assert all(file.is_file() for record in test for file in record.mask_files)
        check_overlap(train, test, list_images(train, test, validation))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("ksdd2", "mvtec_loco")])
def test_masks_are_read_as_they_were_written(name: str, root: Path) -> None:
    anomalous = [record for category in COUNTS[name] for record in load(name, root, category).records("test")]
    anomalous = [record for record in anomalous if record.label]
    assert len(anomalous) >= 6
    for record in anomalous:
        assert record.mask is not None
        assert (read_mask(record.mask, SHAPE) == (region(1) > 0)).all()


@pytest.mark.parametrize("name", ["mvtec_loco"])
def test_several_masks_of_an_image_are_their_union(name: str, root: Path, tmp_path: Path) -> None:
    records = load(name, root).records("test")
    several = [record for record in records if len(record.mask_files) == 2]
    assert [record.path for record in several] == [
        f"breakfast_box/test/{kind}/001.png" for kind in ("logical_anomalies", "structural_anomalies")
    ]
    union = (region(1) > 0) | (region(1, 5) > 0)
    assert (read_mask(several[0].mask_files, SHAPE) == union).all()
    images = ImageSet([record for record in records if record.label], 32, tmp_path / "cache")
    assert images[1]["mask"].sum() > images[0]["mask"].sum() > 0
    before = list_images([], records)
    for file in several[0].mask_files:  # each of them is part of what identifies the data
        kept = file.read_bytes()
        save(file, region(7, 1))
        changed = [old.path for old, new in zip(before, list_images([], records), strict=True) if old != new]
        assert changed == [several[0].path]
        file.write_bytes(kept)
    one, two = ([sha256(file.read_bytes()).hexdigest() for file in r.mask_files] for r in (records[2], several[0]))
    assert [entry.mask for entry in before if entry.path in (records[2].path, several[0].path)] == [
        one[0],
        sha256(" ".join(two).encode()).hexdigest(),
    ]


@pytest.mark.parametrize("name", ["mvtec_loco", "autovi"])
def test_each_channel_has_its_defect(name: str, root: Path) -> None:
    dataset = load(name, root)
    assert isinstance(dataset, ChannelMasks)
    found = {
        record.path: [read_channel(file, dataset.defects()) for file in record.mask_files]
        for record in dataset.records("test")
    }
    names = [[defect.name for _, defect in channels] for channels in found.values() if channels]
    if name == "mvtec_loco":
        one, two = ["missing_toast"], ["missing_toast", "stain"]
        assert names == [one, two, one, two, one]
        assert (found["breakfast_box/test/logical_anomalies/001.png"][1][0] == (region(1, 5) > 0)).all()
    else:
        assert names == [["missing_toast"], ["missing_toast"], ["stain"], ["stain"]]


@pytest.mark.parametrize("name", ["mvtec_loco"])
def test_a_mask_that_changes_while_it_is_read_is_noticed(name: str, root: Path, tmp_path: Path) -> None:
    from anomaly_bench.loading.image_cache import _contents

    (record,) = (r for r in load(name, root).records("test") if r.path.endswith("logical_anomalies/001.png"))
    (entry,) = list_images([], [record])
    assert len(_contents(record.mask_files, entry.mask)) == 2
    save(record.mask_files[1], region(9))
    with pytest.raises(UserError, match=r"001\.png: was changed while it was read"):
        _contents(record.mask_files, entry.mask)


@pytest.mark.parametrize("name", ["mvtec_ad2"])
def test_images_without_labels(name: str, root: Path) -> None:
    dataset = MVTecAD2("can", str(root))
    assert [f.name for f in dataset.unlabelled_files("test_private")] == [f"{i:03}_regular.png" for i in range(3)]
    assert [f.name for f in dataset.unlabelled_files("test_private_mixed")] == [f"{i:03}_mixed.png" for i in range(3)]
    shutil.rmtree(root / "can/test_private")
    with pytest.raises(UserError, match=r"can/test_private: no such folder"):
        dataset.unlabelled_files("test_private")


@pytest.mark.parametrize("name", ["ksdd2"])
def test_defective_training_images_are_not_used_and_no_pickle_is_read(name: str, root: Path) -> None:
    with pytest.warns(UserWarning, match="not used") as said:
        train = load(name, root).records("train")
    assert [record.path for record in train] == [f"train/{10000 + i}.png" for i in (0, 2, 4, 5)]
    assert [str(each.message) for each in said] == [
        f"{root}: not used: 2 x name that is no <number>.png and no <number>_GT.png (train/10000 (copy).png, "
        "train/10000_GT (copy).png); 2 x defective training image (train/10001.png, train/10003.png)"
    ]
    assert not Path("ran").exists()


ALL = {"visa": 12, "mvtec_ad2": 8, "mvtec_loco": 5, "btad": 3, "mpdd": 6, "autovi": 6}


@pytest.mark.parametrize(
    ("name", "count"),
    [pytest.param(*each, marks=() if each[0] in ("btad", "mpdd") else pytest.mark.slow) for each in ALL.items()],
)
def test_all_is_each_category(name: str, count: int) -> None:
    jobs = check([f"dataset={name}/all", "method=brightness"], multirun=True, types=False)
    assert len({tuple(job) for job in jobs}) == count
    assert list(OmegaConf.load(conf_dir() / f"download/{name}.yaml").counts) == sorted(
        word.partition("/")[2] for job in jobs for word in job if word.startswith("dataset=")
    )


def test_the_counts_add_up_to_what_was_published() -> None:
    private = {"test_private": 2045, "test_private_mixed": 2045}  # 8004 images in all
    anomalies = {"logical_anomalies": 561, "structural_anomalies": 432}  # 3651 in all
    published = {
        "visa": {"train": 8659, "good": 962, "defective": 1200},  # 10821 in all, 9621 of them normal
        "mvtec_ad2": {"train": 2528, "validation": 302, "good": 379, "bad": 705} | private,
        "mvtec_loco": {"train": 1778, "validation": 305, "good": 575} | anomalies,
        "btad": {"train": 1799, "good": 451, "defective": 290},
        "mpdd": {"train": 888, "good": 176, "defective": 282},
        "ksdd2": {"good": 2979, "defective": 356},
        "autovi": {"train": 1523, "good": 1521, "defective": 878},
    }
    assert sorted(published) == NAMES
    for name, totals in published.items():
        found: Counter[str] = Counter()
        for row in OmegaConf.load(conf_dir() / f"download/{name}.yaml").counts.values():
            found.update(row)
        assert found == totals, name


# --- bench data verify


@pytest.mark.filterwarnings("ignore:.*not used")
@pytest.mark.parametrize("name", NAMES)
def test_a_whole_set_is_complete(name: str, root: Path, say: Say) -> None:
    code, said = say("verify", name, f"root={root}", "decode=true")
    total = sum(sum(row.values()) for row in COUNTS[name].values())
    assert f"{name}: complete, {total} images" in said.splitlines()
    assert code == 0


@pytest.mark.filterwarnings("ignore:.*not used")
@pytest.mark.parametrize("name", NAMES)
def test_half_a_set_is_partial(name: str, root: Path, say: Say) -> None:
    first, *_, last = COUNTS[name]
    total = sum(sum(row.values()) for row in COUNTS[name].values())
    lost = sum(COUNTS[name][last].values())
    shutil.rmtree(root / last)
    code, said = say("verify", name, f"root={root}", "decode=true")
    assert f"{name}: partial, {total - lost} of {total} images; missing: {last}" in said.splitlines()
    assert code == (1 if name == "ksdd2" else 0)  # a category can be used alone, a part of one cannot
    gone = next(path for path in sorted((root / first).rglob("*")) if _is_train_image(path))
    gone.unlink()
    code, said = say("verify", name, f"root={root}", "decode=true")
    count = sum(COUNTS[name][first].values())
    line = (
        f"{name}: partial, {total - lost - 1} of {total} images; incomplete: {first} ({count - 1} of {count} images); "
    )
    assert f"{line}missing: {last}" in said.splitlines()
    assert code == 1


def _is_train_image(path: Path) -> bool:
    """Whether it is an image that is trained on; of KSDD2 the one without a defect."""
    return path.is_file() and (path.parent.name == "Normal" or path.parts[-3] == "train" or path.name == "10000.png")


MASKS = {
    "visa": "candle/Data/Masks/Anomaly/001.png",
    "mvtec_ad2": "can/test_public/ground_truth/bad/000_overexposed_mask.png",
    "mvtec_loco": "breakfast_box/ground_truth/logical_anomalies/000/000.png",
    "btad": "01/ground_truth/ko/0001.png",
    "mpdd": "connector/ground_truth/parts_mismatch/001_mask.png",
    "ksdd2": "train/10001_GT.png",
    "autovi": "engine_wiring/ground_truth/blue_hoop/0000/0000.png",
}


@pytest.mark.filterwarnings("ignore:.*not used")
@pytest.mark.parametrize("name", NAMES)
def test_a_missing_mask_is_damage(name: str, root: Path, say: Say) -> None:
    (root / MASKS[name]).unlink()
    code, said = say("verify", name, f"root={root}")
    (line,) = [line for line in said.splitlines() if line.startswith(f"{name}: ")]
    assert line.startswith(f"{name}: damaged, ")
    assert f"damaged: {CATEGORY[name]} (1 cannot be used)" in line
    assert "mask" in said.splitlines()[1].lower()
    assert code == 1
    with pytest.raises(UserError, match=r"mask|Masks"):
        load(name, root).records("train" if name == "ksdd2" else "test")


@pytest.mark.filterwarnings("ignore:.*not used")
@pytest.mark.parametrize("name", NAMES)
def test_a_file_that_is_cut_short_is_damage(name: str, root: Path, say: Say) -> None:
    file = next(path for path in sorted((root / CATEGORY[name]).rglob("*")) if _is_train_image(path))
    file.write_bytes(file.read_bytes()[:70])
    code, said = say("verify", name, f"root={root}", "decode=true")
    assert f"{file}: cannot be read as an image" in said
    assert f"{name}: damaged, " in said
    assert code == 1


@pytest.mark.parametrize("name", ["mvtec_ad2", "btad"])
def test_a_mask_of_another_size_and_images_too_many_are_damage(name: str, root: Path, say: Say) -> None:
    save(root / MASKS[name], np.zeros((9, 9), np.uint8))
    assert "the mask has 9 x 9 pixels, its image 16 x 10" in say("verify", name, f"root={root}")[1]
    save(root / MASKS[name], region(255))
    folder = root / CATEGORY[name] / ("train/ok" if name == "btad" else "train/good")
    save(folder / "9999_x.png", region(99))
    code, said = say("verify", name, f"root={root}")
    assert f"damaged: {CATEGORY[name]} (more than expected: " in said
    assert code == 1


@pytest.mark.parametrize("name", ["mvtec_loco", "autovi"])
def test_channels_must_be_of_a_defect_of_the_configuration(name: str, root: Path, say: Say) -> None:
    save(root / MASKS[name], region(33))
    code, said = say("verify", name, f"root={root}", "decode=true")
    what = "holds the value 33, which defects_config.json does not know; known: 254 (stain), 255 (missing_toast)"
    assert f"{root / MASKS[name]}: {what}" in said
    assert code == 1
    (root / CATEGORY[name] / "defects_config.json").unlink()
    code, said = say("verify", name, f"root={root}")
    assert "defects_config.json: cannot be read" in said
    assert code == 1


@pytest.mark.parametrize("name", ["mvtec_loco"])
def test_half_a_category_is_not_trained_on_in_silence(name: str, root: Path) -> None:
    shutil.rmtree(root / "breakfast_box/test/logical_anomalies")
    with pytest.raises(UserError, match=r"test/logical_anomalies: no such folder"):
        load(name, root).records("test")
    shutil.rmtree(root / "pushpins/ground_truth/logical_anomalies/001")
    (root / "pushpins/ground_truth/logical_anomalies/001").mkdir()
    with pytest.raises(UserError, match=r"ground_truth/logical_anomalies/001: holds no mask of .*001.png"):
        load(name, root, "pushpins").records("test")


@pytest.mark.parametrize("name", ["visa"])
@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("Anomaly/001.JPG", "Anomaly/9.JPG", r"1cls.csv:8: names candle/.*/9.JPG, which is not there"),
        ("object,split", "name,split", r"1cls.csv: begins with 'name,split,label,image,mask'; 'object,split"),
        ("candle,test,normal", "candle,tset,normal", r"1cls.csv:5: split: 'tset' is none of test, train"),
        ("candle,test,anomaly", "candle,train,anomaly", r"1cls.csv:7: .* is anomalous, and only normal images are"),
        ("candle,test,anomaly", "candle,test,normal", r"1cls.csv:7: an image of label normal has a mask"),
        ("candle/Data/Images/Anomaly/001.JPG", "../001.JPG", r"1cls.csv:8: '../001.JPG' does not lie below"),
        ("candle,train,normal", "candle,train", r"1cls.csv:2: has 4 values; 5 are needed"),
        ("candle,", "candel,", r"1cls.csv: 'candle' is none of candel, pcb1, pipe_fryum"),
    ],
)
def test_a_split_file_that_is_wrong(name: str, root: Path, old: str, new: str, said: str, say: Say) -> None:
    file = root / "split_csv/1cls.csv"
    text = file.read_bytes().decode()
    assert old in text
    file.write_bytes(text.replace(old, new).encode())
    with pytest.raises(UserError, match=said):
        load(name, root).records("test")
    code, _ = say("verify", name, f"root={root}")
    assert code == 1
    file.unlink()
    with pytest.raises(UserError, match=r"1cls.csv: cannot be read: .*spot-diff"):
        load(name, root).records("train")


# --- defects_config.json


def entry(**changed: object) -> dict[str, object]:
    return {**DEFECTS[0], **changed}


def test_the_defects_of_a_configuration(tmp_path: Path) -> None:
    file = tmp_path / "defects_config.json"
    file.write_text(json.dumps(DEFECTS))
    defects = read_defects(file)
    assert defects == {255: Defect("missing_toast", 255, 4, False), 254: Defect("stain", 254, 1.0, True)}
    channel, defect = read_channel(save(tmp_path / "000.png", region(254)), defects)
    assert defect.name == "stain"
    assert (channel == (region(1) > 0)).all()
    full, _ = read_channel(save(tmp_path / "full.png", np.full(SHAPE, 255, np.uint8)), defects)
    assert full.all()
    with pytest.raises(UserError, match=r"000.png: is empty; a channel has one value but 0"):
        read_channel(save(tmp_path / "000.png", region(0)), defects)
    with pytest.raises(UserError, match=r"000.png: holds the values 254, 255; a channel has one value but 0"):
        read_channel(save(tmp_path / "000.png", region(254) + region(255, 6)), defects)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "defects_config.json: holds no defect"),
        ({}, "defects_config.json: holds no defect"),
        (["x"], "entry 1: lacks defect_name, pixel_value, saturation_threshold, relative_saturation"),
        ([DEFECTS[0], {"defect_name": "x"}], "entry 2: lacks pixel_value, saturation_threshold, relative_saturation"),
        ([entry(pixel_value=0)], "entry 1: pixel_value is 0; allowed: a whole number from 1 to 255"),
        ([entry(pixel_value=256)], "entry 1: pixel_value is 256"),
        ([entry(pixel_value="9")], 'entry 1: pixel_value is "9"'),
        ([entry(defect_name="")], 'entry 1: defect_name is ""; allowed: a name'),
        ([entry(relative_saturation=1)], "entry 1: relative_saturation is 1; allowed: true or false"),
        ([entry(saturation_threshold=0.5)], "entry 1: saturation_threshold is 0.5; allowed: a whole number of pixels"),
        ([entry(saturation_threshold=2.5, relative_saturation=True)], "threshold is 2.5; allowed: above 0 to 1"),
        ([entry(), entry(defect_name="b")], "'b' and 'missing_toast' have the pixel value 255"),
    ],
)  # fmt: skip
def test_a_configuration_that_is_wrong(tmp_path: Path, content: object, said: str) -> None:
    file = tmp_path / "defects_config.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError) as error:
        read_defects(file)
    assert said in str(error.value)
    assert "\n" not in str(error.value)


# --- bench data prepare


def zipped(folder: Path, file: Path, inside: str) -> Path:
    with zipfile.ZipFile(file, "w") as out:
        for path in sorted(folder.rglob("*")):
            out.write(path, Path(inside) / path.relative_to(folder))
    return file


@pytest.mark.filterwarnings("ignore:.*not used")
@pytest.mark.parametrize("name", [name for name in NAMES if name != "autovi"])
def test_prepare_says_the_licence_and_unpacks_an_archive(
    name: str, root: Path, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = prepare._source
    monkeypatch.setattr(prepare, "_source", lambda name: small(name) | {"size": None})
    archive = zipped(root, tmp_path / "archive.zip", "BTech_Dataset_transformed" if name == "btad" else ".")
    code, said = say("prepare", name, f"root={tmp_path / 'new'}", f"urls={archive.as_uri()}")
    source = OmegaConf.load(conf_dir() / f"download/{name}.yaml")
    assert said.splitlines()[0] == f"{name}: licence {source.licence}; {source.page}"
    assert f"{name}: complete, " in said
    assert code == 0
    assert load(name, tmp_path / "new").records("test")
    assert not Path("ran").exists()


@pytest.mark.parametrize("name", ["autovi"])
def test_prepare_unpacks_an_archive_of_each_category(
    name: str, root: Path, say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = tmp_path / "host"
    host.mkdir()
    files = [zipped(root / category, host / f"{category}.zip", category) for category in COUNTS[name]]
    sums = {file.name: sha256(file.read_bytes()).hexdigest() for file in files}
    small = prepare._source
    monkeypatch.setattr(prepare, "_source", lambda name: small(name) | {"files": sums})
    second = files[1].read_bytes()
    files[1].write_bytes(second + b"more")
    words = ("prepare", name, f"root={tmp_path / 'new'}", f"urls={host.as_uri()}")
    with pytest.raises(UserError, match=r"pipe_clip.zip: is another file: SHA-256 \w{64}, expected \w{64}"):
        say(*words)
    files[1].write_bytes(second)
    files[0].unlink()  # is unpacked already
    code, said = say(*words)
    assert "autovi: complete, 27 images" in said
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "new/autovi").iterdir()) == sorted(COUNTS[name])


@pytest.mark.parametrize("name", ["mpdd"])
def test_what_only_a_browser_can_fetch(name: str, root: Path, say: Say, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        say("prepare", name, f"root={tmp_path / 'new'}")
    assert str(error.value) == (
        "urls: mpdd cannot be downloaded from here: get it at https://github.com/stepanje/MPDD and unpack it to "
        f"{tmp_path / 'new' / 'mpdd'}, or name the archive: urls=file:///ARCHIVE "
        "(it then holds connector, metal_plate, tubes)"
    )
    shutil.copytree(root, tmp_path / "new/mpdd")
    code, said = say("prepare", name, f"root={tmp_path / 'new'}")
    assert "mpdd: complete, 27 images" in said
    assert code == 0


@pytest.mark.parametrize("name", ["mvtec_loco"])
def test_another_set_is_named(name: str, root: Path, say: Say, tmp_path: Path) -> None:
    archive = zipped(root, tmp_path / "archive.zip", ".").as_uri()
    with pytest.raises(UserError) as error:
        say("prepare", "mvtec_ad2", f"root={tmp_path / 'new'}", f"urls={archive}")
    assert str(error.value).endswith("holds none of can, rice, walnuts (looks like mvtec_loco)")
    with pytest.raises(UserError) as error:
        say("verify", "visa", f"root={root}")
    assert str(error.value).endswith("(what is there looks like mvtec_loco)")


@pytest.mark.parametrize("mask", [(), ("a.png",), (Path("a.png"), None)])
def test_a_tuple_of_masks_holds_files(mask: Any) -> None:
    class Own(Dataset):
        def records(self, split: str) -> list[Record]:
            return [Record("a.png", "hole", Path("a.png"), mask)]

    with pytest.raises(UserError, match=r"the mask of 'a.png' is \(.*\); a tuple holds one Path or more"):
        checked_records(Own(), "test")
