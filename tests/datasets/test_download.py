from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from anomaly_bench.datasets import download as archive
from anomaly_bench.datasets.download import download
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
        with suppress(BrokenPipeError, ConnectionResetError):  # who has seen enough goes
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
