"""Files of rows: what is on disk comes back only when it is whole and made for the key that is asked for."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest

from anomaly_bench.errors import UserError
from anomaly_bench.loading.row_file import HEADER_BYTES, LONGEST, get_or_create, open_if_whole

ROWS = [bytes(range(i, i + 10)) for i in range(5)]
ABOUT = {"images": 5, "first": "bottle/train/good/000.png", "shapes": [[2, 5]]}


class Maker:
    """Makes ROWS and counts how often."""

    def __init__(self, rows: list[bytes] = ROWS) -> None:
        self.rows, self.made = rows, 0

    def __call__(self) -> tuple[dict[str, Any], Iterator[bytes]]:
        self.made += 1
        return ABOUT, iter(self.rows)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """RowFile that are whole, for the key `k`."""
    get_or_create(tmp_path / "c" / "a.pixels", "k", Maker())
    return tmp_path / "c" / "a.pixels"


def only(file: Path) -> bool:
    """Nothing else is in its folder: no part is left."""
    return list(file.parent.iterdir()) == [file]


def test_rows_are_made_once(tmp_path: Path) -> None:
    file, make = tmp_path / "not" / "there" / "a.pixels", Maker()
    for _ in range(3):
        kept = get_or_create(file, "k", make)
        assert [row.tobytes() for row in kept] == ROWS
        assert kept.about == ABOUT
        assert not kept[0].flags.writeable
    assert make.made == 1
    assert only(file)
    table = b"".join(zlib.crc32(row).to_bytes(4, "little") for row in ROWS)
    assert file.read_bytes()[HEADER_BYTES:] == b"".join(ROWS) + table
    assert open_if_whole(file, "another key") is None


def flipped(place: int) -> Callable[[bytes], bytes]:
    return lambda whole: whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda whole: whole[:-1],
    "only a header": lambda whole: whole[:HEADER_BYTES],
    "half a header": lambda whole: whole[:100],
    "longer": lambda whole: whole + b"\0",
    "empty": lambda whole: b"",
    "foreign": lambda whole: b"?" * len(whole),
    "another format": lambda whole: whole.replace(b"rows 2", b"rows 1", 1),
    "header of another key": lambda whole: whole.replace(b'"k"', b'"l"', 1),
    "a byte of the rows": flipped(HEADER_BYTES + 25),
    "the last byte": flipped(-1 + HEADER_BYTES + 50),
    "a byte of the table": flipped(HEADER_BYTES + 50 + 7),
    "a byte of the magic": flipped(3),
    "the checksum of the header": flipped(22),
    "the shapes in the header": lambda whole: whole.replace(b"[[2, 5]]", b"[[5, 2]]", 1),
    "the header is no JSON": lambda whole: whole.replace(b"{", b"[", 1),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_not_whole_is_made_again(file: Path, damage: str) -> None:
    whole, make = file.read_bytes(), Maker()
    wrong = DAMAGE[damage](whole)
    assert wrong != whole
    file.write_bytes(wrong)
    assert open_if_whole(file, "k") is None
    kept = get_or_create(file, "k", make)
    assert [row.tobytes() for row in kept] == ROWS
    assert kept.about == ABOUT
    assert make.made == 1
    assert file.read_bytes() == whole
    assert only(file)


def test_a_whole_file_of_another_key_under_this_name_is_replaced(file: Path) -> None:
    others = [row[::-1] for row in ROWS]
    assert [row.tobytes() for row in get_or_create(file, "another", Maker(others))] == others
    assert open_if_whole(file, "k") is None
    assert only(file)


@pytest.mark.parametrize("damage", ["bit", "cut", "zeros", "swapped"])
def test_damage_while_it_is_in_use_is_an_error_and_never_another_row(file: Path, damage: str, spots: int) -> None:
    kept, whole = get_or_create(file, "k", Maker()), file.read_bytes()
    for seed in range(spots):
        draw = random.Random(seed)
        index = draw.randrange(len(ROWS))
        start = HEADER_BYTES + 10 * index
        place = start + draw.randrange(10)
        harmed = {
            "bit": whole[:place] + bytes([whole[place] ^ 1 << draw.randrange(8)]) + whole[place + 1 :],
            "cut": whole[:place],
            "zeros": whole[:start] + bytes(10) + whole[start + 10 :],
            "swapped": whole[:start] + ROWS[index - 1] + whole[start + 10 :],
        }[damage]
        with file.open("r+b") as opened:  # the same file: a new one of that name would harm nobody
            opened.truncate(len(harmed))
            opened.write(harmed)
        with pytest.raises(UserError, match=rf"^{file}: row {index} was damaged .*\(start the same command again"):
            kept[index]
        with file.open("r+b") as opened:
            opened.write(whole)
    assert [row.tobytes() for row in kept] == ROWS


def test_a_process_that_starts_afresh_must_find_the_same_rows(file: Path) -> None:
    kept = get_or_create(file, "k", Maker())
    copies = [pickle.loads(pickle.dumps(kept)) for _ in range(3)]
    assert [row.tobytes() for row in copies[0]] == ROWS
    get_or_create(file, "another", Maker([row[::-1] for row in ROWS]))
    assert [row.tobytes() for row in kept] == ROWS  # who has it open keeps it
    with pytest.raises(UserError, match="was removed or replaced while it was in use"):
        copies[1][0]
    file.unlink()
    with pytest.raises(UserError, match="was removed or replaced while it was in use"):
        copies[2][0]


def test_parts_of_dead_processes_go_and_those_of_living_ones_stay(file: Path) -> None:
    script = f"""
import time
from pathlib import Path
from anomaly_bench.loading.row_file import get_or_create
def rows():
    yield b"1"
    print("writing", flush=True)
    time.sleep(60)
get_or_create(Path({str(file.with_name("b.pixels"))!r}), "k", lambda: ({{}}, rows()))
"""
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout
        assert writer.stdout.readline() == "writing\n"
        (part,) = file.parent.glob("*.part")
        get_or_create(file.with_name("c.pixels"), "k", Maker())
        assert part.exists()
    finally:
        writer.kill()
        writer.communicate()
    get_or_create(file.with_name("d.pixels"), "k", Maker())
    assert not part.exists()


def test_a_use_is_seen_in_the_time_of_modification(file: Path) -> None:
    os.utime(file, (0, 0))
    open_if_whole(file, "k")
    assert file.stat().st_mtime == 0
    get_or_create(file, "k", Maker())
    assert file.stat().st_mtime > 1e9


def test_rows_outlive_their_file(file: Path) -> None:
    kept = get_or_create(file, "k", Maker())
    file.unlink()
    assert [row.tobytes() for row in kept] == ROWS


def test_long_texts_do_not_reach_into_the_rows(tmp_path: Path) -> None:
    about = {"first": "画" * 5000, "network": "\udcff" * 5000, "shapes": [[304, 24, 24]] * 3}
    kept = get_or_create(tmp_path / "a.features", "k" * 64, lambda: (about, ROWS))
    assert [row.tobytes() for row in kept] == ROWS
    assert kept.about == {"first": "画" * LONGEST, "network": "\udcff" * LONGEST, "shapes": about["shapes"]}
    with pytest.raises(ValueError, match="bytes of header"):
        get_or_create(tmp_path / "b.features", "k", lambda: ({"shapes": [[304, 24, 24]] * 1000}, ROWS))
    assert only(tmp_path / "a.features")


@pytest.mark.parametrize("error", [UserError("bottle/7.png", "cannot be read"), KeyboardInterrupt(), MemoryError()])
def test_an_error_in_the_middle_leaves_nothing_and_what_was_there(file: Path, error: BaseException) -> None:
    def rows() -> Iterator[bytes]:
        yield ROWS[0]
        raise error

    before = file.read_bytes()
    for path in (file, file.with_name("b.pixels")):
        with pytest.raises(type(error)) as caught:
            get_or_create(path, "new", lambda: (ABOUT, rows()))
        assert caught.value is error
    assert file.read_bytes() == before
    assert only(file)


@pytest.mark.usefixtures("small_files_only")
def test_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^cache_dir: cannot write to .*: File too large \(another folder: cache_dir="):
        get_or_create(tmp_path / "a.pixels", "k", Maker([bytes(50_000)] * 3))
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"^cache_dir: cannot write to .*file/c: Not a directory \(another folder: "):
        get_or_create(tmp_path / "file" / "c" / "a.pixels", "k", Maker())
    (tmp_path / "a.pixels").mkdir()
    with pytest.raises(UserError, match=r"^cache_dir: cannot write to .*: Is a directory"):
        get_or_create(tmp_path / "a.pixels", "k", Maker())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.pixels", "file"]


def test_two_writers_at_once(tmp_path: Path) -> None:
    both = Barrier(2, timeout=20)

    def rows() -> Iterator[bytes]:
        both.wait()  # none has written a row yet
        yield from ROWS
        both.wait()  # none has put its file in place yet

    with ThreadPoolExecutor(2) as pool:
        kept = list(pool.map(lambda _: get_or_create(tmp_path / "a.pixels", "k", lambda: (ABOUT, rows())), range(2)))
    assert [[row.tobytes() for row in k] for k in kept] == [ROWS, ROWS]
    assert only(tmp_path / "a.pixels")


def test_neither_writing_nor_checking_holds_more_than_a_row_in_memory(tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        kept = get_or_create(tmp_path / "a.pixels", "k", lambda: (ABOUT, (bytes([i]) * 2**20 for i in range(32))))
        assert open_if_whole(tmp_path / "a.pixels", "k") is not None
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (len(kept), len(kept[0])) == (32, 2**20)
    assert peak < 4 * 2**20
