"""A file of the cache that is damaged, before a run or while it is read, is made again, harmless or named.

It never leads to another number or a crash, and nothing in it is ever run.
"""

from __future__ import annotations

import os
import pickle
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_images import grey, save
from small_runs import QUICK, TOY, Train, equal
from torch.utils.data import DataLoader

from anomaly_bench import checksums
from anomaly_bench.commands.main import main
from anomaly_bench.contracts import FrozenFeatures, Record
from anomaly_bench.errors import UserError
from anomaly_bench.files import sha256_of, write_sealed
from anomaly_bench.loading.feature_cache import FeatureSet
from anomaly_bench.loading.image_dataset import ImageSet
from anomaly_bench.nets.patch_descriptors import PatchDescriptor
from anomaly_bench.nets.teachers import read_teacher
from anomaly_bench.paths import cache_root
from anomaly_bench.runs import runner
from anomaly_bench.runs.folder import find
from tests.nets.small_teachers import teachers

FROZEN = FrozenFeatures(lambda x: [x[:, :, ::2, ::2]], "every other pixel", "float32", torch.device("cpu"))
FEATURES = """
import torch
from pytorch_lightning import LightningModule
from anomaly_bench.contracts import FrozenFeatures, Method, Scores, Stage

class Head(LightningModule):
    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.zeros(3, 8, 8))

    def training_step(self, batch, batch_idx):
        return (batch["features"][0] - self.mean).pow(2).mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

class Features(Method):
    def __init__(self, image_size: int, batch_size: int) -> None:
        super().__init__()
        self.image_size, self.batch_size, self.head = image_size, batch_size, Head()

    def stages(self, data):
        frozen = FrozenFeatures(lambda x: [x[:, :, ::2, ::2]], "halves", "float32", torch.device("cpu"))
        yield Stage("head", self.head, data.features("train", frozen, self.batch_size), {"max_epochs": 1})

    def score(self, images):
        return Scores((images[:, :, ::2, ::2] - self.head.mean).abs().flatten(1).amax(1), None)
"""


def flip(content: bytes, seed: int = 0) -> bytes:
    draw, flipped = random.Random(seed), bytearray(content)
    flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(flipped)


class Evil:
    """Leaves the file `ran` in the current folder when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch ran",)


def damaged(whole: bytes, spots: int) -> dict[str, bytes]:
    """What has become of a file's content."""
    half, poison = len(whole) // 2, pickle.dumps(Evil())
    return {
        **{f"bit {seed}": flip(whole, seed) for seed in range(spots)},
        **{"one byte short": whole[:-1], "half": whole[:half], "empty": b"", "zeros": bytes(len(whole))},
        **{"half zeros": whole[:half] + bytes(len(whole) - half), "a pickle": poison},
        "a long pickle": poison.ljust(len(whole), b"\0"),
    }


@pytest.fixture
def four(tmp_path: Path) -> list[Record]:
    """Images that differ."""
    return [Record(f"{i}.png", "good", save(tmp_path / f"{i}.png", grey(50 * i))) for i in range(4)]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANOMALY_BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(checksums, "_known", {})
    monkeypatch.setattr(checksums, "SETTLED", 0)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return cache_root()


def pixels(records: list[Record]) -> np.ndarray:
    return torch.stack([sample["image"] for sample in ImageSet(records, 8, cache_root())]).numpy()  # type: ignore[attr-defined]


def features(records: list[Record]) -> np.ndarray:
    kept = FeatureSet(ImageSet(records, 8, cache_root()), FROZEN)
    return torch.stack([kept[i][0][0] for i in range(len(kept))]).numpy()


@pytest.mark.parametrize("use", [pixels, features])
def test_rows_that_are_damaged_before_a_run_are_made_again(
    use: Callable[[list[Record]], np.ndarray], four: list[Record], place: Path, spots: int
) -> None:
    expected = use(four)
    (file,) = place.glob(f"*.{use.__name__}")
    whole = file.read_bytes()
    use(four[::-1])
    (another,) = set(place.glob(f"*.{use.__name__}")) - {file}
    for name, content in {**damaged(whole, spots), "another": another.read_bytes()}.items():
        file.write_bytes(content)
        np.testing.assert_array_equal(use(four), expected, name)
        assert file.read_bytes() == whole
    assert not Path("ran").exists()


def test_damaged_checksums_are_computed_again(
    four: list[Record], place: Path, spots: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [record.image for record in four if isinstance(record.image, Path)]
    expected = [sha256_of(file) for file in files]
    with checksums.remembered():
        assert checksums.checksums(files) == expected
    contents = damaged((place / "checksums.json").read_bytes(), spots)
    for value in ([1], {"a": 1}, {str(files[0]): 7}, {str(files[0]): [[1, 2, 3], "0"]}, "text"):
        write_sealed(place / "another", value)
        contents[f"another: {value}"] = (place / "another").read_bytes()
    for name, content in contents.items():
        (place / "checksums.json").write_bytes(content)
        for _ in ("damaged", "written again"):
            monkeypatch.setattr(checksums, "_known", {})
            with checksums.remembered():
                assert checksums.checksums(files) == expected, name
    assert not Path("ran").exists()


def test_a_distilled_teacher_that_is_damaged_is_named(weights: Path, tmp_path: Path, spots: int) -> None:
    photos, net, noticed = tmp_path / "photos", PatchDescriptor(17), 0
    for i in range(4):
        save(photos / f"{i}.png", grey(i))
    source = teachers(weights, images=photos)
    source.store(net)
    file, key = source.path(net), source.key(net)
    whole, values = file.read_bytes(), {name: value.clone() for name, value in net.state_dict().items()}
    teachers(weights, images=photos, steps=8).store(net)
    (another,) = set(file.parent.iterdir()) - {file}
    torch.save(Evil(), tmp_path / "evil")
    for name, content in {
        **damaged(whole, spots), "another": another.read_bytes(), "of torch": (tmp_path / "evil").read_bytes()
    }.items():  # fmt: skip
        file.write_bytes(content)
        for value in net.state_dict().values():
            value.zero_()
        with suppress(UserError):
            read_teacher(net, file, None, key)
            assert name.startswith("bit")  # one of what the file says of its recipe
            assert all(torch.equal(value, values[of]) for of, value in net.state_dict().items())
            continue
        noticed += 1
    assert noticed > spots
    with pytest.raises(UserError, match=rf"{file} cannot be read: .*\(remove {file}: it is distilled again\)"):
        source.load(net)
    file.write_bytes(another.read_bytes())
    with pytest.raises(UserError, match=rf"{file} is another teacher's file, or damaged \(remove {file}: "):
        source.load(net)
    assert not Path("ran").exists()


IN_PLACE: dict[str, Callable[[bytes], bytes]] = {
    "bit": lambda whole: whole[:4100] + bytes([whole[4100] ^ 4]) + whole[4101:],
    "cut": lambda whole: whole[:4096],
    "zeros": lambda whole: bytes(len(whole)),
}


@pytest.mark.parametrize(
    ("kind", "damage", "workers"),
    [
        *(("pixels", "zeros", 0), ("features", "cut", 0)),
        *(pytest.param(*each, 1, marks=pytest.mark.slow) for each in (("pixels", "cut"), ("features", "bit"))),
    ],
)
def test_damage_while_a_run_reads_is_named_and_the_same_command_goes_on(
    kind: str, damage: str, workers: int, train: Train, shared_images: Path, place: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    words = [*QUICK, f"hardware.workers={workers}", "method.epochs=2"]
    if kind == "features":
        (tmp_path / "conf/method").mkdir(parents=True)
        (tmp_path / "conf/halves.py").write_text(FEATURES)
        yaml = "_target_: halves.Features\nname: halves\nimage_size: 16\nbatch_size: 4\n"
        (tmp_path / "conf/method/halves.yaml").write_text(yaml)
        words = ["--config-dir", str(tmp_path / "conf"), "method=halves", "dataset=folder", "hardware=cpu", *words[:-1]]
        words = ["train", *words, f"dataset.root={shared_images}"]
    else:
        words = ["train", *TOY, *words, f"dataset.root={shared_images}"]
    harmed: list[Path] = []
    original = runner.fit

    def harm_then_fit(*args: Any) -> Any:
        for file in place.glob(f"*.{kind}"):
            content = IN_PLACE[damage](file.read_bytes())
            with file.open("r+b") as opened:  # the same file, which the run has open
                opened.truncate(len(content))
                opened.write(content)
            harmed.append(file)
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "fit", harm_then_fit)
        assert main(words) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bench: ")]
    (line,) = lines
    assert line.partition(": row ")[0] in {f"bench: {file}" for file in harmed}
    assert line.endswith(" was damaged while the file was in use (start the same command again: it is made anew)")
    assert main(words) == 0
    (after,) = find("outputs")
    shutil.rmtree(place)
    assert main([*words, "output_dir=afresh"]) == 0
    (afresh,) = find("afresh")
    assert (after.metrics, after.scores) == (afresh.metrics, afresh.scores)


def test_a_run_goes_on_while_its_files_are_replaced_and_removed(
    train: Train, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = [*QUICK, "method.epochs=1", "hardware.workers=1"]
    expected, original = train(*quiet, outputs="before"), runner.fit

    def replace_then_fit(*args: Any) -> Any:
        first, *others = sorted(place.glob("*.pixels"))
        for file in others:
            shutil.copy(first, file.with_suffix(".new"))
            file.with_suffix(".new").replace(file)
        first.unlink()
        return original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "fit", replace_then_fit)
        assert equal(train(*quiet), expected)


@pytest.mark.slow
def test_a_worker_that_is_started_afresh_says_that_its_file_was_replaced(four: list[Record], place: Path) -> None:
    data = ImageSet(four, 8, place)
    (file,) = place.glob("*.pixels")
    loader: Any = DataLoader(data, num_workers=1, multiprocessing_context="spawn")  # type: ignore[arg-type]
    assert len(list(pickle.loads(pickle.dumps(data)))) == 4  # what such a worker is given
    (another,) = {Path(ImageSet(four[::-1], 8, place)._rows.path)}  # type: ignore[union-attr]
    another.replace(file)
    with pytest.raises(UserError) as raised:
        list(loader)
    assert str(raised.value).startswith(f"{file}: was removed or replaced")
    assert "start the same command again" in str(raised.value)


def test_an_image_that_changes_between_its_checksum_and_its_decoding(
    four: list[Record], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anomaly_bench.loading import image_cache as cache

    file, original = four[2].image, cache.has_masks

    def another_program(records: list[Record]) -> bool:  # called just before the decoding
        save(file, grey(7))
        return original(records)

    with monkeypatch.context() as patch:
        patch.setattr(cache, "has_masks", another_program)
        with pytest.raises(UserError, match=rf"^{file}: was changed while it was read"):
            ImageSet(four, 8, place)
    assert not list(place.glob("*.*"))
    assert pixels(four)[2, 0, 0, 0] == np.float32(7 / 255)
