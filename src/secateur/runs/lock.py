"""One writer at a time in a run's directory.

The lock is the operating system's, on an open file: it goes with the process that holds it, however that
ends. The file itself stays, because removing it would let two processes lock two files of one name.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from secateur.errors import ArtifactError

__all__ = ["LOCK", "only_writer"]

LOCK = ".lock"


@contextmanager
def only_writer(directory: Path) -> Iterator[None]:
    """Hold a run's directory until the block ends.

    Args:
        directory: Of the run; it exists.

    Raises:
        ArtifactError: If another process holds it, or the lock cannot be made there.
    """
    lock = FileLock(directory / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise ArtifactError(
            f"{directory}: expected no other process that writes this run, got one; wait for it to end, or "
            "choose another --out"
        ) from None
    except OSError as error:
        raise ArtifactError(
            f"{directory / LOCK}: expected a file to lock, got: {error}; remove what is there, or choose "
            "another --out"
        ) from error
    try:
        yield
    finally:
        lock.release()
