"""Archives of any kind are unpacked without surprises: nothing outside, nothing twice, no more than was expected."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import subprocess
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest

from anomaly_bench.datasets.download import extract
from anomaly_bench.errors import UserError

LIMIT = 10**6


def tar(path: Path, members: list[tarfile.TarInfo], mode: str = "w:xz") -> Path:
    with tarfile.open(path, mode) as archive:
        for member in members:
            member.size = 3 if member.isfile() else 0
            archive.addfile(member, io.BytesIO(b"abc"))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


@pytest.mark.parametrize("mode", ["w:xz", "w:gz", "w:bz2", "w"])
def test_a_tar_is_unpacked(tmp_path: Path, mode: str) -> None:
    members = [member("a", tarfile.DIRTYPE), member("a/b.txt"), member("./c.txt")]
    extract(tar(tmp_path / "x", members, mode), tmp_path / "out", LIMIT)
    assert (tmp_path / "out/a/b.txt").read_text() == "abc"
    assert (tmp_path / "out/c.txt").read_text() == "abc"


def test_a_zip_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/", "")
        file.writestr("a/b.txt", "abc")
    extract(tmp_path / "x", tmp_path / "out", LIMIT)
    assert (tmp_path / "out/a/b.txt").read_text() == "abc"


@pytest.mark.parametrize(
    "evil",
    [
        member("../evil"),
        member("a/../../evil"),
        member("/tmp/evil"),
        member("link", tarfile.SYMTYPE, "/etc"),
        member("link", tarfile.SYMTYPE, "../.."),
        member("hard", tarfile.LNKTYPE, "../evil"),
        member("device", tarfile.CHRTYPE),
        member("pipe", tarfile.FIFOTYPE),
    ],
    ids=lambda info: f"{info.name}-{info.type.decode()}",
)
def test_a_member_that_would_leave_the_folder_is_refused(tmp_path: Path, evil: tarfile.TarInfo) -> None:
    with pytest.raises(UserError, match=rf"x: '{re.escape(evil.name)}' is a link, a device or leads out"):
        extract(tar(tmp_path / "x", [member("fine"), evil, member(f"{evil.name}/inner")]), tmp_path / "out", LIMIT)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize(
    ("name", "mode"), [("../evil", 0o100644), ("/evil", 0o100644), ("link", 0o120777), ("pipe", 0o010644)]
)
def test_a_zip_member_that_would_leave_the_folder_is_refused(tmp_path: Path, name: str, mode: int) -> None:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    with zipfile.ZipFile(tmp_path / "x", "w") as file:
        file.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match=rf"'{name}' is a link, a device or leads out"):
        extract(tmp_path / "x", tmp_path / "out", LIMIT)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def refused(archive: Path, said: str, limit: int | None = LIMIT) -> None:
    """Unpacking says this in one line and leaves nothing."""
    folder = archive.with_name("out")
    with pytest.raises(UserError) as error:
        extract(archive, folder, limit)
    assert re.search(said, str(error.value)), error.value
    assert "\n" not in str(error.value)
    assert not folder.exists()


def test_a_damaged_archive_is_said(tmp_path: Path) -> None:
    whole = tar(tmp_path / "x", [member(f"a{i}") for i in range(100)]).read_bytes()
    flat = tar(tmp_path / "x", [member("a")], "w").read_bytes()
    packed = zipped(tmp_path / "x", [("a.txt", b"the content")]).read_bytes()
    other = packed.replace(b"the content", b"The content")  # its checksum is wrong
    for content in (whole[: len(whole) // 2], flat[:513], other, b"no archive", b""):
        (tmp_path / "x").write_bytes(content)
        refused(tmp_path / "x", "x: is damaged: .*delete it")


@pytest.mark.parametrize("mode", ["w:xz", "w:gz", "w:bz2", "w", "zip"])
def test_no_damage_is_a_traceback_or_another_content(tmp_path: Path, mode: str) -> None:
    rng = np.random.default_rng(0)
    content = rng.bytes(3000)
    with tarfile.open(tmp_path / "x", mode) if mode != "zip" else contextlib.nullcontext() as archive:
        for name in ("a", "b/c", "long" * 60):
            info = member(name)
            info.size = len(content)
            if archive:
                archive.addfile(info, io.BytesIO(content))
    if mode == "zip":
        zipped(tmp_path / "x", [(name, content) for name in ("a", "b/c", "long" * 60)])
    whole = (tmp_path / "x").read_bytes()
    checked = mode != "w"  # a plain tar has checksums of its headers alone
    for _ in range(60):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), rng.integers(1, 4)):
            damaged[at] ^= 1 << rng.integers(8)
        (tmp_path / "x").write_bytes(damaged[: rng.integers(1, len(whole))] if rng.random() < 0.2 else damaged)
        try:
            extract(tmp_path / "x", tmp_path / "out", LIMIT)
        except UserError:
            assert not (tmp_path / "out").exists()
            continue
        found = [path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()]
        assert not checked or all(one == content for one in found)
        shutil.rmtree(tmp_path / "out")


def zipped(path: Path, members: list[tuple[str, bytes]], how: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", how) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name twice
        for name, content in members:
            file.writestr(name, content)
    return path


TOO_LARGE = r"x: unpacks to more than the 1000000 bytes that this data set can have: nothing is kept of it"


@pytest.mark.parametrize("mode", ["w:xz", "w:gz", "w:bz2", "zip"])
def test_a_bomb_is_refused(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = bytes(50 * LIMIT)
    if mode == "zip":
        zipped(tmp_path / "x", [("first", b"1"), ("a", bomb)], zipfile.ZIP_DEFLATED)
        monkeypatch.setattr("anomaly_bench.datasets.download._write", lambda *_: pytest.fail("its list says enough"))
    else:
        with tarfile.open(tmp_path / "x", mode) as archive:
            for name, content in (("first", b"1"), ("a", bomb)):
                info = member(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    assert (tmp_path / "x").stat().st_size < LIMIT / 10
    refused(tmp_path / "x", TOO_LARGE)


def test_a_bomb_that_lies_is_refused(tmp_path: Path) -> None:
    """A zip whose list has a small size, a long name of a tar, a sparse file that is large on disk alone."""
    packed = zipped(tmp_path / "x", [("a", bytes(2 * LIMIT))], zipfile.ZIP_DEFLATED).read_bytes()
    lied = packed.replace((2 * LIMIT).to_bytes(4, "little"), (3).to_bytes(4, "little"))
    assert lied.count((3).to_bytes(4, "little")) >= 2
    (tmp_path / "x").write_bytes(lied)
    refused(tmp_path / "x", "x: is damaged: ")

    with tarfile.open(tmp_path / "x", "w:gz", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(member("a" * 50 * LIMIT))
    refused(tmp_path / "x", TOO_LARGE)

    file = tmp_path / "sparse"
    with file.open("wb") as out:
        out.truncate(50 * LIMIT)
        out.write(b"end")
    subprocess.run(["tar", "cSf", tmp_path / "x", "-C", tmp_path, "sparse"], check=True)
    assert (tmp_path / "x").stat().st_size < LIMIT
    file.unlink()
    refused(tmp_path / "x", TOO_LARGE)


def test_where_nothing_is_known_the_archive_s_size_bounds_it(tmp_path: Path) -> None:
    extract(zipped(tmp_path / "x", [("a", bytes(900_000))], zipfile.ZIP_DEFLATED), tmp_path / "out")
    assert (tmp_path / "out/a").stat().st_size == 900_000
    shutil.rmtree(tmp_path / "out")
    refused(zipped(tmp_path / "x", [("a", bytes(9_000_000))], zipfile.ZIP_DEFLATED), "unpacks to more than", None)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["a", "a"], "x: holds 'a' twice"),
        (["a/b", "a"], "x: holds 'a' twice"),
        (["a", "./a"], "x: holds './a' twice"),
        (["a", "a/b"], "out/a/b: cannot be written: (Not a directory|File exists)"),
        (["n" * 300], "out/n{300}: cannot be written: File name too long"),
        (["."], "leads out"),
    ],
)
def test_names_that_cannot_be_files(tmp_path: Path, names: list[str], said: str) -> None:
    refused(tar(tmp_path / "x", [member(name) for name in names]), said)
    if names != ["a", "./a"]:
        refused(zipped(tmp_path / "x", [(name, b"abc") for name in names]), said)


@pytest.mark.usefixtures("small_files_only")
def test_a_disk_that_is_full(tmp_path: Path) -> None:
    refused(zipped(tmp_path / "x", [("a", bytes(200_000))], zipfile.ZIP_DEFLATED), "out/a: cannot be written: File too")


def test_an_archive_that_is_a_folder_or_locked_with_a_password(tmp_path: Path) -> None:
    packed = bytearray(zipped(tmp_path / "y", [("a", b"abc")]).read_bytes())
    packed[6] = packed[packed.index(b"PK\x01\x02") + 8] = 1  # encrypted
    (tmp_path / "x").write_bytes(packed)
    refused(tmp_path / "x", "x: is damaged: .*encrypted")
    (tmp_path / "x").unlink()
    (tmp_path / "x").mkdir()
    refused(tmp_path / "x", "x: cannot be read: Is a directory")
