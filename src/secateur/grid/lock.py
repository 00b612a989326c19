"""Lock the directory of a comparison against a second process.

The lock is the operating system's, on an open file: it goes with the process that holds it, however that
ends, so none is ever left behind. The runs inherit it: one that outlives a killed comparison still writes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from secateur.errors import ArtifactError

__all__ = ["locked"]

FILE = "comparison.lock"


@contextmanager
def locked(out: Path) -> Iterator[int]:
    """Lock a directory, created if missing; yield the descriptor that runs must inherit.

    Args:
        out: Directory of the comparison.

    Raises:
        ArtifactError: If another comparison, or a run that it started, holds it, or it cannot be written.
    """
    import fcntl  # not on Windows, where the rest of the package works

    path = out / FILE
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    except OSError as error:
        raise ArtifactError(f"--out {out}: expected a writable directory, got: {error}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(descriptor, 20).decode(errors="replace").strip()
            raise ArtifactError(_refusal(out, holder)) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _refusal(out: Path, holder: str) -> str:
    if holder.isdigit() and not _is_alive(int(holder)):
        return (
            f"{out}: expected nothing else to write there, got runs that process {holder}, which has ended, "
            "left going; wait for them, or end them"
        )
    return (
        f"{out}: expected no other comparison there, got one going on (process {holder or 'unknown'}); wait "
        "for it, or choose another --out"
    )


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
