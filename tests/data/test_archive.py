from __future__ import annotations

import hashlib
import io
import re
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from anomaly_bench.data import archive
from anomaly_bench.data.archive import download, extract
from anomaly_bench.errors import UserError

CONTENT = bytes(range(256)) * 4000  # 1 MB
SHA = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """/whole ignores ranges, /range knows them; with /break only 300 kB arrive over one connection."""

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        if "absent" in self.path:
            return self.send_error(404)
        start = int(re.findall(r"\d+", asked)[0]) if asked and "range" in self.path else 0
        if start >= len(CONTENT):
            return self.send_error(416)
        self.send_response(206 if start else 200)
        if start:
            shift = 1 if "wrong" in self.path else 0
            self.send_header("Content-Range", f"bytes {start + shift}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.send_header("Content-Length", str(len(CONTENT) - start))
        self.end_headers()
        body = CONTENT[start : start + 300_000] if "break" in self.path else CONTENT[start:]
        self.wfile.write(body[::-1] if "other" in self.path else body)
        return None

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        httpd.asked = []
        httpd.url = f"http://127.0.0.1:{httpd.server_port}"
        threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True).start()
        yield httpd
        httpd.shutdown()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "TRIES", 1)


def test_a_file_arrives_whole(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    download([f"{server.url}/whole"], tmp_path / "new" / "a", len(CONTENT), SHA)
    assert (tmp_path / "new" / "a").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a"]


def test_a_broken_connection_goes_on_where_it_broke(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    download([f"{server.url}/range/break"], tmp_path / "a", len(CONTENT), SHA)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=300000-", "bytes=600000-", "bytes=900000-"]


def test_a_part_of_an_earlier_try_is_completed(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(CONTENT[:777])
    download([f"{server.url}/range"], tmp_path / "a", len(CONTENT), SHA)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.asked == [("/range", "bytes=777-")]


def test_a_complete_part_is_not_fetched_again(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(CONTENT)
    download([f"{server.url}/range"], tmp_path / "a", len(CONTENT), SHA)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert server.asked == []


def test_a_server_without_ranges_starts_again(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(b"x" * 777)
    download([f"{server.url}/whole"], tmp_path / "a", len(CONTENT), SHA)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_part_longer_than_the_file_starts_again(
    server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "TRIES", 2)
    (tmp_path / "a.part").write_bytes(CONTENT + b"more")
    download([f"{server.url}/range"], tmp_path / "a", len(CONTENT), SHA)
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_mirrors_are_tried_in_their_order(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    urls = [f"{server.url}/{name}" for name in ("absent", "other", "whole", "range")]
    download(urls, tmp_path / "a", len(CONTENT), SHA)
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert [path for path, _ in server.asked] == ["/absent", "/other", "/whole"]


def test_why_every_mirror_failed_is_said(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    urls = [f"{server.url}/absent", f"{server.url}/other", f"{server.url}/whole/break", "nonsense"]
    with pytest.raises(UserError) as error:
        download(urls, tmp_path / "a", len(CONTENT), SHA)
    text = str(error.value)
    assert "/absent: HTTP Error 404" in text
    assert (
        f"/other: is another file: SHA-256 {hashlib.sha256(CONTENT[::-1]).hexdigest()}, expected SHA-256 {SHA}" in text
    )
    assert "/whole/break: broke off after 300000 of 1024000 bytes" in text
    assert "nonsense: unknown url type" in text
    assert "urls=[...]" in text
    assert [path.name for path in tmp_path.iterdir()] == ["a.part"]


def test_a_file_of_another_size_is_not_kept(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is another file: 1024000 bytes, expected 5 bytes"):
        download([f"{server.url}/whole"], tmp_path / "a", 5, None)
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_range_is_not_glued_on(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    (tmp_path / "a.part").write_bytes(CONTENT[:777])
    with pytest.raises(UserError, match=r"asked for the bytes from 777 and got bytes 778-"):
        download([f"{server.url}/range/wrong"], tmp_path / "a", None, None)


def test_a_local_file_is_an_address_too(tmp_path: Path) -> None:
    (tmp_path / "b").write_bytes(CONTENT)
    download([(tmp_path / "b").as_uri()], tmp_path / "a", len(CONTENT), SHA)
    assert (tmp_path / "a").read_bytes() == CONTENT


# --- unpacking


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


@pytest.mark.parametrize("mode", ["w:xz", "w:gz", "w"])
def test_a_tar_is_unpacked(tmp_path: Path, mode: str) -> None:
    members = [member("a", tarfile.DIRTYPE), member("a/b.txt"), member("./c.txt")]
    extract(tar(tmp_path / "x", members, mode), tmp_path / "out")
    assert (tmp_path / "out/a/b.txt").read_text() == "abc"
    assert (tmp_path / "out/c.txt").read_text() == "abc"


def test_a_zip_is_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a/", "")
        file.writestr("a/b.txt", "abc")
    extract(tmp_path / "x", tmp_path / "out")
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
        extract(tar(tmp_path / "x", [member("fine"), evil, member(f"{evil.name}/inner")]), tmp_path / "out" / "deep")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["deep", "fine", "out", "x"]


@pytest.mark.parametrize(("name", "mode"), [("../evil", 0o100644), ("/evil", 0o100644), ("link", 0o120777)])
def test_a_zip_member_that_would_leave_the_folder_is_refused(tmp_path: Path, name: str, mode: int) -> None:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    with zipfile.ZipFile(tmp_path / "x", "w") as file:
        file.writestr(info, "/etc/passwd")
    with pytest.raises(UserError, match=rf"'{name}' is a link, a device or leads out"):
        extract(tmp_path / "x", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["out", "x"]


def test_a_damaged_archive_is_said(tmp_path: Path) -> None:
    whole = tar(tmp_path / "x", [member(f"a{i}") for i in range(100)]).read_bytes()
    flat = tar(tmp_path / "x", [member("a")], "w").read_bytes()
    with zipfile.ZipFile(tmp_path / "x", "w") as file:
        file.writestr("a.txt", "the content")
    packed = (tmp_path / "x").read_bytes().replace(b"the content", b"The content")  # its checksum is wrong
    for content in (whole[: len(whole) // 2], flat[:513], packed, b"no archive", b""):
        (tmp_path / "x").write_bytes(content)
        with pytest.raises(UserError, match=r"x: is damaged: .*delete it"):
            extract(tmp_path / "x", tmp_path / "out")
