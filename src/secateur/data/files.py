"""Find, verify and download the files of a data set.

Every file is checked wherever it came from. A published checksum belongs to the file as its authors serve
it; distributions pack the same content again, so what is read is judged by the SHA-256 of its *content*.
"""

import gzip
import hashlib
import os
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from secateur.errors import DataError
from secateur.runs.files import open_ordinary

__all__ = [
    "DATA_DIR_VARIABLE",
    "Remote",
    "RemoteFile",
    "Source",
    "cache_folder",
    "fetch",
    "read_verified",
    "user_folder",
]

DATA_DIR_VARIABLE = "SECATEUR_DATA"
LARGEST_CONTENT = 2**28  # bytes of one file of a data set; Fashion-MNIST's training images are 47 million
LARGEST_DOWNLOAD = 2**30
SLOWEST = 1024  # bytes a second, on average; any slower, and a download is given up
SECONDS_OF_SILENCE = 30
CHUNK = 2**16


@dataclass(frozen=True)
class Source:
    """Where a data set was found, or would be fetched from.

    Attributes:
        kind: How it comes: inside a Python package, from the user's folder, from the operating system's
            package, from an earlier download, or to be downloaded.
        folder: Where its files are, or will be after the download. None if it is embedded.
        url: Where it is downloaded from; None unless it has to be.
    """

    kind: Literal["embedded", "folder", "system package", "cache", "download"]
    folder: Path | None = None
    url: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether it can be read without a network."""
        return self.kind != "download"

    def __str__(self) -> str:
        if self.kind == "embedded":
            return "embedded in scikit-learn"
        if self.kind == "download":
            return f"download from {self.url} to {self.folder}"
        return f"{self.kind} {self.folder}"


@dataclass(frozen=True)
class RemoteFile:
    """A file as its authors serve it.

    Attributes:
        name: Its name on the server.
        known_hash: `md5:...` or `sha256:...` of the file as served.
        content_sha256: SHA-256 of what is inside, once decompressed; empty for an archive of several.
    """

    name: str
    known_hash: str
    content_sha256: str = ""


@dataclass(frozen=True, kw_only=True)
class Remote:
    """A server and the files it should hold.

    Attributes:
        base_url: Address of the folder, with or without the closing slash.
        files: What is fetched from it.
        retries: How often a failed or damaged download is tried again.
    """

    base_url: str
    files: tuple[RemoteFile, ...]
    retries: int = 1


def user_folder(data_dir: Path | None) -> Path | None:
    """Return the user's data folder, from the argument or the environment; None if not set.

    Raises:
        DataError: If it is no folder.
    """
    named = data_dir or os.environ.get(DATA_DIR_VARIABLE)
    if not named:
        return None
    folder = Path(named).expanduser()
    if not folder.is_dir():
        origin = "data_dir" if data_dir else DATA_DIR_VARIABLE
        raise DataError(f"expected an existing folder as {origin}, got {folder}")
    return folder


def cache_folder(cache: Path | None, name: str) -> Path:
    """Return the folder of a data set's downloads.

    Args:
        cache: Folder of all downloads; None takes the operating system's place for caches.
        name: Folder of the data set in it.
    """
    import pooch

    return (cache or Path(pooch.os_cache("secateur"))) / name


def read_verified(path: Path, content_sha256: str) -> bytes:
    """Read a file, decompressed if it is a .gz, after checking its hash.

    Args:
        path: File to read.
        content_sha256: SHA-256 of its content.

    Raises:
        DataError: If it cannot be read, is cut short, or is not the original.
    """
    try:
        with open_ordinary(path) as packed:
            # No more is unfolded than any original has, whatever the file makes of it.
            source = gzip.GzipFile(fileobj=packed) if path.suffix == ".gz" else packed
            content = source.read(LARGEST_CONTENT + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path}: expected a complete file, got {type(error).__name__} ({error}); delete it and try again"
        ) from error
    if len(content) > LARGEST_CONTENT:
        raise DataError(
            f"{path}: expected at most {LARGEST_CONTENT} bytes of content, got more; delete it and try again"
        )
    got = hashlib.sha256(content).hexdigest()
    if got != content_sha256:
        raise DataError(
            f"{path}: expected the original content (sha256 {content_sha256[:16]}...), got {len(content)}"
            f" bytes of sha256 {got[:16]}...; the file is truncated or altered, delete it and try again"
        )
    return content


def fetch(remote: Remote, folder: Path, *, progress: bool = False) -> tuple[Path, ...]:
    """Download missing files, check their hashes, and return their paths in order.

    A file gets its name only once it is complete and its hash is right.

    Args:
        remote: The server and its files.
        folder: Where they are kept; made if need be.
        progress: Whether each download shows a bar.

    Raises:
        DataError: If the server cannot be reached, or what it sends has another hash.
    """
    import pooch  # here, so that reading local data does not wait for it

    wanted = {file.name: file.known_hash for file in remote.files}
    client = pooch.create(
        path=folder,
        base_url=remote.base_url.rstrip("/") + "/",
        registry=wanted,
        retry_if_failed=remote.retries,
    )
    logger = pooch.get_logger()
    level = logger.level
    logger.setLevel("ERROR")  # the bar, or the caller, says what is going on
    try:
        return tuple(_fetch_one(client, name, progress=progress) for name in wanted)
    finally:
        logger.setLevel(level)


def _fetch_one(client: Any, name: str, *, progress: bool) -> Path:
    try:
        return Path(client.fetch(name, downloader=_Download(name, shown=progress)))
    except (OSError, ValueError) as error:  # unreachable, refused or cut short; another hash
        cause: BaseException = error
        while (
            cause.__context__ is not None
        ):  # "name not known" rather than four layers of "could not connect"
            cause = cause.__context__
        reason = " ".join(str(cause).split())
        raise DataError(
            f"{name}: expected the original file from {client.base_url}, got: {reason}; put the files into a"
            f" folder and name it with --data-dir or {DATA_DIR_VARIABLE}"
        ) from error


class _Download:
    """Fetch one file when pooch asks for it; give up on one that trickles or does not end."""

    def __init__(self, name: str, *, shown: bool) -> None:
        self._name, self._shown = name, shown

    def __call__(self, url: str, output_file: str, client: Any) -> None:
        """Write what the address holds to a file.

        Args:
            url: The address.
            output_file: Path of the file, which pooch renames once its hash is right.
            client: Of pooch.

        Raises:
            OSError: If the server does not answer, refuses, ends too early or too late, or is too slow.
        """
        import requests
        from urllib3.exceptions import HTTPError

        started, received = time.monotonic(), 0
        try:
            with requests.get(url, stream=True, timeout=SECONDS_OF_SILENCE) as response:
                response.raise_for_status()
                total = int(response.headers.get("content-length", 0)) or None
                with self._bar(total) as advance, Path(output_file).open("wb") as file:
                    while chunk := response.raw.read1(CHUNK, decode_content=True):
                        file.write(chunk)
                        advance(len(chunk))
                        received += len(chunk)
                        seconds = time.monotonic() - started
                        if seconds > SECONDS_OF_SILENCE and received < SLOWEST * seconds:
                            raise OSError(f"{received} bytes in {seconds:.0f} seconds, which never ends")
                        if received > LARGEST_DOWNLOAD:
                            raise OSError(f"more than {LARGEST_DOWNLOAD} bytes")
        except HTTPError as error:
            raise OSError(str(error)) from error

    @contextmanager
    def _bar(self, total: int | None) -> Iterator[Callable[[int], object]]:
        """Show a bar, where one is wanted; yield what moves it."""
        if not self._shown:
            yield lambda num_bytes: None
            return
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        with Progress(*columns) as bar:
            task = bar.add_task(self._name, total=total)
            yield lambda num_bytes: bar.advance(task, num_bytes)
