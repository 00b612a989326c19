"""Write files that are there whole or not at all, and never through a link that someone planted.

A file is written under a random name in its own directory, brought to the disk, and renamed. The name cannot
be guessed, and the file is opened with O_EXCL and O_NOFOLLOW: it is a new one, and no link is followed.
"""

import errno
import os
import re
import secrets
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from secateur.errors import ArtifactError

__all__ = ["is_unfinished", "open_appending", "open_exclusive", "replacing", "write_whole"]

_NO_LINKS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_UNFINISHED = re.compile(r"\..+\.[0-9a-f]{16}\.partial")


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
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
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
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | _NO_LINKS | getattr(os, "O_NONBLOCK", 0)
    descriptor = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not an ordinary file", str(path))
    return os.fdopen(descriptor, "ab")


def is_unfinished(name: str) -> bool:
    """Return whether a file of this name is a write that never ended, of this version or an earlier one.

    Args:
        name: Its last part.

    >>> is_unfinished(".config.json.0123456789abcdef.partial"), is_unfinished("config.json")
    (True, False)
    """
    return bool(_UNFINISHED.fullmatch(name)) or name.endswith(".partial")


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
