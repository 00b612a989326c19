"""Downloads from a server on this machine: whole, cut short, altered, missing, unreachable."""

import gzip
import hashlib
import os
import threading
import time
import tracemalloc
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pooch
import pytest

from secateur.data import files
from secateur.data.files import Remote, RemoteFile, Source, fetch, read_verified, user_folder
from secateur.errors import DataError

BODY = bytes(range(256)) * 300


def remote(server, *names: str) -> Remote:
    known = "md5:" + hashlib.md5(BODY, usedforsecurity=False).hexdigest()
    return Remote(base_url=server.url, files=tuple(RemoteFile(name, known) for name in names), retries=0)


@pytest.mark.parametrize("progress", [False, True])
def test_files_arrive_once(server, tmp_path, progress, capsys):
    server.bodies = {"a.bin": BODY, "b.bin": BODY}
    for _ in range(2):
        paths = fetch(remote(server, "a.bin", "b.bin"), tmp_path / "new" / "folder", progress=progress)
        assert [path.read_bytes() for path in paths] == [BODY, BODY]
    assert server.requests == ["a.bin", "b.bin"]
    assert ("a.bin" in capsys.readouterr().out) == progress


def test_base_url_needs_no_closing_slash(server, tmp_path):
    server.bodies = {"a.bin": BODY}
    fetch(replace(remote(server, "a.bin"), base_url=server.url.rstrip("/")), tmp_path)


@pytest.mark.parametrize("damage", ["altered", "cut short", "cut short unannounced", "missing"])
def test_damage_is_named_and_nothing_is_kept(server, tmp_path, damage):
    if damage != "missing":
        server.bodies["a.bin"] = b"x" + BODY[1:] if damage == "altered" else BODY[:1000]
    if damage == "cut short":
        server.announce["a.bin"] = len(BODY)
    with pytest.raises(
        DataError, match=f"a.bin: expected the original file from {server.url}, got"
    ) as raised:
        fetch(remote(server, "a.bin"), tmp_path)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_download_is_tried_again(server, tmp_path):
    server.bodies["a.bin"] = BODY[:10]
    with pytest.raises(DataError):
        fetch(replace(remote(server, "a.bin"), retries=1), tmp_path)
    assert server.requests == ["a.bin", "a.bin"]


@pytest.mark.usefixtures("connections_left_open")
@pytest.mark.parametrize("progress", [False, True])
def test_nobody_there(tmp_path, progress, capsys):
    nobody = Remote(base_url="http://127.0.0.1:9/", files=(RemoteFile("a.bin", "md5:0"),), retries=0)
    with pytest.raises(DataError, match=r"a\.bin: .*got: .*refused; .*--data-dir"):
        fetch(nobody, tmp_path, progress=progress)
    assert capsys.readouterr().out == ""


def test_a_folder_that_cannot_be_made(server, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"a\.bin"):
        fetch(remote(server, "a.bin"), tmp_path / "file" / "folder")


def test_a_download_that_trickles_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "SECONDS_OF_SILENCE", 0.5)

    class Trickle(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-length", "1000000")
            self.end_headers()
            try:
                for _ in range(500):
                    self.wfile.write(b"x")
                    time.sleep(0.02)
            except OSError:
                pass

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Trickle) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        slow = Remote(
            base_url=f"http://127.0.0.1:{server.server_port}/",
            files=(RemoteFile("a.bin", "md5:0"),),
            retries=0,
        )
        started = time.monotonic()
        with pytest.raises(DataError, match=r"a\.bin: expected the original file .*bytes in . seconds"):
            fetch(slow, tmp_path)
        assert time.monotonic() - started < 5
        server.shutdown()
    assert list(tmp_path.iterdir()) == []


def test_a_download_without_end_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST_DOWNLOAD", 1000)
    server.bodies["a.bin"] = BODY
    with pytest.raises(DataError, match="more than 1000 bytes"):
        fetch(remote(server, "a.bin"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_unfolds_to_more_than_any_original_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "LARGEST_CONTENT", 10_000)
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(bytes(10**7)))
    tracemalloc.start()
    with pytest.raises(DataError, match="expected at most 10000 bytes of content, got more"):
        read_verified(path, "0" * 64)
    assert tracemalloc.get_traced_memory()[1] < 10**6
    tracemalloc.stop()


def test_a_pipe_is_no_file_of_data(tmp_path):
    os.mkfifo(tmp_path / "a.gz")
    with pytest.raises(DataError, match="not an ordinary file"):
        read_verified(tmp_path / "a.gz", "0" * 64)


def test_pooch_logs_as_before(server, tmp_path):
    server.bodies["a.bin"] = BODY
    level = pooch.get_logger().level
    fetch(remote(server, "a.bin"), tmp_path)
    assert pooch.get_logger().level == level


def test_content_is_judged_not_the_packing(tmp_path):
    expected = hashlib.sha256(BODY).hexdigest()
    for level in (1, 9):
        packed = tmp_path / f"{level}.gz"
        packed.write_bytes(gzip.compress(BODY, compresslevel=level))
        assert read_verified(packed, expected) == BODY
    plain = tmp_path / "plain"
    plain.write_bytes(BODY)
    assert read_verified(plain, expected) == BODY


@pytest.mark.parametrize(
    "damage",
    [
        lambda packed: packed[:-20],
        lambda packed: packed[: len(packed) // 2],
        lambda packed: packed[:200] + bytes([packed[200] ^ 255]) + packed[201:],
        lambda packed: gzip.compress(BODY[:-1]),
        lambda packed: b"<html>not here</html>",
        lambda packed: b"",
    ],
    ids=["tail", "half", "one byte", "other content", "web page", "empty"],
)
def test_damaged_local_files_are_named(tmp_path, damage):
    path = tmp_path / "a.gz"
    path.write_bytes(damage(gzip.compress(BODY)))
    with pytest.raises(DataError, match=r"a\.gz: expected") as raised:
        read_verified(path, hashlib.sha256(BODY).hexdigest())
    assert "\n" not in str(raised.value)


def test_user_folder_by_argument_then_environment(tmp_path, monkeypatch):
    assert user_folder(None) is None
    monkeypatch.setenv("SECATEUR_DATA", str(tmp_path))
    assert user_folder(None) == tmp_path
    (tmp_path / "other").mkdir()
    assert user_folder(tmp_path / "other") == tmp_path / "other"
    with pytest.raises(DataError, match=r"existing folder as data_dir, got .*nowhere"):
        user_folder(tmp_path / "nowhere")
    monkeypatch.setenv("SECATEUR_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError, match="existing folder as SECATEUR_DATA"):
        user_folder(None)


def test_source_says_where(tmp_path):
    assert str(Source("embedded")) == "embedded in scikit-learn"
    assert str(Source("folder", tmp_path)) == f"folder {tmp_path}"
    download = Source("download", tmp_path, url="http://b/")
    assert str(download) == f"download from http://b/ to {tmp_path}"
    assert not download.is_local
