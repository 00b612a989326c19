"""Files that are whole or absent, written through no planted link, and read only if they are ordinary.

A file is written under a random name in its own directory, brought to the disk, and renamed. The name cannot
be guessed, and the file is opened with O_EXCL and O_NOFOLLOW: it is a new one, and no link is followed.
"""

import errno
import glob
import hashlib
import json
import math
import os
import re
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from secateur.errors import ArtifactError

__all__ = [
    "as_json",
    "file_checksum",
    "is_unfinished",
    "json_bytes",
    "open_appending",
    "open_exclusive",
    "open_ordinary",
    "read_bytes",
    "read_json",
    "replacing",
    "write_json",
    "write_whole",
]

LARGEST_TEXT = 2**24  # bytes of a JSON file; a history of ten thousand epochs has four million
_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{16}\.partial")
_DRAFT = re.compile(r"\..+\.draft\.\w+")


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one step: readers see the old content or the new, never a part.

    A link of this name is replaced by the file; what it points to stays as it was.

    Args:
        path: File to write.
        content: All of it.

    Raises:
        ArtifactError: If it cannot be written. The old file is then untouched, and nothing else is left.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:
        try:
            with open_exclusive(temporary) as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:  # also when the user interrupts
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        _sync_directory(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a name for other libraries to write to; the file there replaces `path` in one step.

    Args:
        path: The file to write. Its directory is made if it is missing.

    Yields:
        A name in a new directory beside `path`, which only this user can enter. After an error nothing of
        it is left, and `path` is as it was.

    Raises:
        ArtifactError: If it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        with (
            tempfile.TemporaryDirectory(prefix=f".{path.name}.draft.", dir=path.parent) as folder,
            _in_use(Path(folder)),
        ):
            draft = Path(folder) / path.name
            yield draft
            with draft.open("rb") as written:
                os.fsync(written.fileno())
            draft.replace(path)
            _sync_directory(path.parent)
    except OSError as error:
        raise _not_written(path, error) from error


def open_exclusive(path: Path) -> BinaryIO:
    """Open a new file for writing; refuse a name that exists, a link included.

    Args:
        path: File to make.

    Raises:
        OSError: If something has that name, or the file cannot be made.
    """
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINKS, 0o666), "wb")


def open_appending(path: Path) -> BinaryIO:
    """Open a log for appending, made if it is missing; refuse a link, a pipe or a device.

    Args:
        path: File to append to.

    Raises:
        OSError: If it is no ordinary file, or cannot be opened.
    """
    return _opened(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINKS, "ab")


def open_ordinary(path: Path) -> BinaryIO:
    """Open a file for reading; refuse a pipe or a device, which may never end.

    Args:
        path: File to read.

    Raises:
        OSError: If it is no ordinary file, or cannot be opened.
    """
    return _opened(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0), "rb")


def _opened(path: Path, flags: int, mode: str) -> Any:
    # Without O_NONBLOCK a pipe that nobody else has open would wait for ever.
    descriptor = os.open(path, flags | getattr(os, "O_NONBLOCK", 0), 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not an ordinary file", str(path))
    return os.fdopen(descriptor, mode)


def read_bytes(path: Path, *, largest: int = LARGEST_TEXT) -> bytes:
    """Read an ordinary file of bounded size.

    Args:
        path: File to read.
        largest: Most bytes that are read.

    Raises:
        ArtifactError: If it is missing, unreadable, no ordinary file, or too large.
    """
    try:
        with open_ordinary(path) as file:
            content = file.read(largest + 1)
    except FileNotFoundError:
        raise ArtifactError(
            f"expected {path.name} in {path.parent}, got no such file; "
            "the run is not finished (resume it with `secateur fit ... --resume`) or is no run at all"
        ) from None
    except OSError as error:
        raise ArtifactError(f"{path}: expected a readable file, got: {error.strerror or error}") from error
    if len(content) > largest:
        raise ArtifactError(f"{path}: expected at most {largest} bytes, got more")
    return content


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: File to read.

    Raises:
        ArtifactError: If it is missing or damaged.
    """
    try:
        value = json.loads(read_bytes(path))
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: expected a readable JSON file, got: {error}") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON file, whole; null stands for a number that is not finite.

    Args:
        path: File to write.
        value: The object.

    Raises:
        ArtifactError: If it cannot be written.
    """
    write_whole(path, json_bytes(value))


def json_bytes(value: Mapping[str, Any]) -> bytes:
    """Return a JSON object as it is written; null stands for a number that is not finite."""
    return (json.dumps(as_json(value), indent=2, allow_nan=False) + "\n").encode()


def as_json(value: Any) -> Any:
    """Return a value as it comes back from a JSON file: lists for tuples, None for what is not finite.

    >>> as_json({"temperatures": (0.1, 1.0), "cap": float("inf")})
    {'temperatures': [0.1, 1.0], 'cap': None}
    """
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def file_checksum(path: Path) -> str:
    """Return the SHA-256 of an ordinary file.

    Args:
        path: File to read.

    Raises:
        OSError: If it cannot be read.
    """
    with open_ordinary(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def is_unfinished(name: str) -> bool:
    """Return whether a name is that of a write that never ended, of this version or an earlier one.

    Args:
        name: The last part of a path.

    >>> is_unfinished(".config.json.0123456789abcdef.partial"), is_unfinished("config.json")
    (True, False)
    """
    return bool(_UNFINISHED.fullmatch(name) or _DRAFT.fullmatch(name)) or name.endswith(".partial")


@contextmanager
def _in_use(folder: Path) -> Iterator[bool]:
    """Lock a folder against removal until the block ends; yield False where another process uses it."""
    try:
        import fcntl
    except ImportError:  # Windows
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY | _NO_LINKS)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        yield False
    else:
        yield True
    finally:
        os.close(descriptor)


def _remove_abandoned(path: Path) -> None:
    """Remove the drafts of a file that killed processes left."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.draft.*"):
        with suppress(OSError), _in_use(folder) as free:
            if free:
                shutil.rmtree(folder)


def _not_written(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(f"{path}: expected to write it, got: {error}; free space or choose another --out")


def _sync_directory(directory: Path) -> None:
    """Bring a renaming to the disk, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in {errno.EINVAL, errno.ENOTSUP}:  # some network file systems
            raise
    finally:
        os.close(descriptor)
