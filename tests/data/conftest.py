"""A web server on this machine, and small data sets in the official layouts."""

import functools
import gc
import gzip
import hashlib
import struct
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from secateur.data.files import DATA_DIR_VARIABLE, Remote, RemoteFile


@dataclass
class Server:
    """What the loopback server holds; `announce` makes it promise more bytes than it sends."""

    url: str
    bodies: dict[str, bytes] = field(default_factory=dict)
    announce: dict[str, int] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, server: Server, *args) -> None:
        self.held = server
        super().__init__(*args)

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[-1]
        self.held.requests.append(name)
        if name not in self.held.bodies:
            self.send_error(404)
            return
        body = self.held.bodies[name]
        self.send_response(200)
        self.send_header("Content-Length", str(self.held.announce.get(name, len(body))))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args) -> None:
        """Say nothing."""


@pytest.fixture
def server(connections_left_open: None) -> Iterator[Server]:
    held = Server("")
    web = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, held))
    held.url = f"http://127.0.0.1:{web.server_address[1]}/data/"
    thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield held
    web.shutdown()
    thread.join()
    web.server_close()


@pytest.fixture
def connections_left_open() -> Iterator[None]:
    """Collect the sockets that pooch leaves to the garbage collector where a download fails."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        gc.collect()


@pytest.fixture(autouse=True)
def _no_user_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may have data of their own; the tests do not look there."""
    monkeypatch.delenv(DATA_DIR_VARIABLE, raising=False)


def idx(values: bytes, *shape: int) -> bytes:
    return struct.pack(f">BBBB{len(shape)}I", 0, 0, 8, len(shape), *shape) + values


@pytest.fixture
def tiny_fashion() -> tuple[Remote, dict[str, bytes]]:
    """Three training and two test images of 28 x 28 in Fashion-MNIST's four files, and their hashes."""
    contents = {
        "train-images-idx3-ubyte.gz": idx(bytes(i % 256 for i in range(3 * 784)), 3, 28, 28),
        "train-labels-idx1-ubyte.gz": idx(bytes([9, 0, 3]), 3),
        "t10k-images-idx3-ubyte.gz": idx(bytes(range(256)) * 6 + bytes(32), 2, 28, 28),
        "t10k-labels-idx1-ubyte.gz": idx(bytes([1, 2]), 2),
    }
    bodies = {name: gzip.compress(content, mtime=0) for name, content in contents.items()}
    files = tuple(
        RemoteFile(
            name,
            "md5:" + hashlib.md5(bodies[name], usedforsecurity=False).hexdigest(),
            hashlib.sha256(contents[name]).hexdigest(),
        )
        for name in contents
    )
    return Remote(base_url="http://127.0.0.1:9/", files=files, retries=0), bodies


@pytest.fixture
def write(tmp_path) -> Callable:
    """Write files by name into a folder under the test's own one, and return that folder."""

    def into(folder: str, bodies: dict[str, bytes]):
        path = tmp_path / folder
        path.mkdir(parents=True, exist_ok=True)
        for name, body in bodies.items():
            (path / name).write_bytes(body)
        return path

    return into
