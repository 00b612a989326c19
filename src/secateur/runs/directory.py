"""The directory of a run: one writer at a time, every file whole or absent, and checksums over all of them.

`metrics.json` is written last and marks the run as finished. `checksums.json` holds the SHA-256 of every file
of the run, by fixed names.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from secateur.errors import ArtifactError
from secateur.runs.files import (
    as_json,
    file_checksum,
    is_unfinished,
    json_bytes,
    read_json,
    write_json,
    write_whole,
)

__all__ = ["LOCK", "RunDirectory", "is_held", "only_writer"]

LOCK = ".lock"


@dataclass(frozen=True)
class RunDirectory:
    """Paths and files of one run.

    Attributes:
        path: The directory.
    """

    path: Path

    @property
    def config(self) -> Path:
        """What was asked for, and with which versions."""
        return self.path / "config.json"

    @property
    def metrics(self) -> Path:
        """The figures of a finished run, and the checksums of its files."""
        return self.path / "metrics.json"

    @property
    def history(self) -> Path:
        """One JSON object per epoch."""
        return self.path / "history.jsonl"

    @property
    def checksums(self) -> Path:
        """The SHA-256 of the other files of a finished run."""
        return self.path / "checksums.json"

    @property
    def bench(self) -> Path:
        """Sizes and latencies of each form of the network, where they were measured."""
        return self.path / "bench.json"

    @property
    def model(self) -> Path:
        """Posterior-mean weights and buffers; removed entries are zero."""
        return self.path / "model.safetensors"

    @property
    def posterior(self) -> Path:
        """Posterior of the weights, at the evidence's temperature."""
        return self.path / "posterior.safetensors"

    @property
    def calibration(self) -> Path:
        """Training images for the moments of batch norm, where the network has any."""
        return self.path / "calibration.safetensors"

    @property
    def checkpoint(self) -> Path:
        """All that the next epoch depends on."""
        return self.path / "checkpoint.safetensors"

    def check(self, *, resume: bool) -> None:
        """Check that a fit may write here; nothing is changed.

        Args:
            resume: Whether to go on with the run that is there, if one is.

        Raises:
            ArtifactError: If the directory has files and `resume` is not set, holds something other than a
                run, or cannot be written.
        """
        try:
            str(self.path).encode()  # the name is written to files and pages, which are UTF-8
            names = [entry.name for entry in self.path.iterdir()] if self.path.exists() else []
            writable = not self.path.exists() or os.access(self.path, os.W_OK | os.X_OK)
        except (OSError, ValueError) as error:
            raise _not_writable(self.path, str(error)) from error
        # A run that ended before its first file was complete has only its lock and an unfinished file.
        found = sorted(name for name in names if name != LOCK and not is_unfinished(name))
        if found and not resume and not self._is_part_of_a_prune():
            raise ArtifactError(
                f"--out {self.path}: expected a new or empty directory, got one with files; "
                "choose another, or go on with that run by --resume"
            )
        if found and self.config.name not in found:
            raise ArtifactError(
                f"--resume {self.path}: expected a run ({self.config.name}) or an empty directory, got "
                f"other files ({found[0]}, ...); choose another --out"
            )
        if not writable:
            raise _not_writable(self.path, "one that is not")

    def _is_part_of_a_prune(self) -> bool:
        """Whether a `secateur prune` that was killed left all that is here: it can begin again."""
        if self.metrics.exists() or self.checkpoint.exists() or not self.config.is_file():
            return False
        return "pruned" in read_json(self.config)

    @contextmanager
    def claimed(self, *, resume: bool) -> Iterator[None]:
        """Make the directory and hold it for one fit, until the block ends.

        Args:
            resume: Whether to go on with the run that is there, if one is.

        Raises:
            ArtifactError: As of `check`, or if another process writes this run.
        """
        self.check(resume=resume)
        with only_writer(self.path, what="process that writes this run"):
            self.check(resume=resume)  # another may have begun and ended since
            yield

    def write_history(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the history, whole."""
        lines = [json.dumps(as_json(row), allow_nan=False) + "\n" for row in rows]
        write_whole(self.history, "".join(lines).encode())

    def finish(
        self,
        *,
        config: Mapping[str, Any],
        metrics: Mapping[str, Any],
        history: Iterable[Mapping[str, Any]],
        model: Mapping[str, Tensor],
        save_posterior: Callable[[Path], None],
        calibration: Tensor | None,
    ) -> dict[str, Any]:
        """Write the files of a finished run, `metrics.json` last.

        Args:
            config: What becomes `config.json`.
            metrics: What becomes `metrics.json`, but for the checksums.
            history: One row per epoch.
            model: Parameters and buffers of the posterior-mean network.
            save_posterior: Writes the posterior to a path.
            calibration: Training images that each draw's batch norm is calibrated on, if the network has any.

        Returns:
            The metrics with the checksums.

        Raises:
            ArtifactError: If a file cannot be written.
        """
        try:
            self.metrics.unlink(missing_ok=True)  # from now until the last file it is no finished run
        except OSError as error:
            raise _not_writable(self.path, str(error)) from error
        write_json(self.config, config)
        self.write_history(history)
        _write_tensors(self.model, model)
        save_posterior(self.posterior)
        if calibration is not None:
            _write_tensors(self.calibration, {"images": calibration})
        sums = {path.name: file_checksum(path) for path in self._checked() if path.exists()}
        tensors = {name: sums[name] for name in sums if name.endswith(".safetensors")}
        complete = dict(metrics) | {"sha256": tensors}
        content = json_bytes(complete)
        write_json(self.checksums, sums | {self.metrics.name: hashlib.sha256(content).hexdigest()})
        write_whole(self.metrics, content)
        return complete

    def verify(self) -> None:
        """Check that the files of a finished run are those it wrote; only files of fixed names are opened.

        Raises:
            ArtifactError: If one is missing or altered, or has no checksum.
        """
        sums = read_json(self.checksums)
        for path in (self.metrics, *self._checked()):
            if path == self.calibration and not path.exists() and path.name not in sums:
                continue
            if path.name not in sums:
                raise ArtifactError(
                    f"{self.checksums}: expected the SHA-256 of {path.name}, got none; fit again, or take "
                    "the file from an intact copy of the run"
                )
            try:
                found = file_checksum(path)
            except OSError as error:
                raise ArtifactError(f"{path}: expected the file of a finished run, got: {error}") from error
            if found != sums[path.name]:
                raise _altered(path)

    def _checked(self) -> tuple[Path, ...]:
        return self.config, self.history, self.model, self.posterior, self.calibration


@contextmanager
def only_writer(directory: Path, *, what: str, lock: str = LOCK) -> Iterator[None]:
    """Make a directory and hold it until the block ends; what killed writers left in it is removed.

    The lock is the operating system's, on an open file: it goes with the process that holds it, however that
    ends. The file itself stays, because removing it would let two processes lock two files of one name.

    Args:
        directory: Directory to hold.
        what: Which other process there must not be, in words.
        lock: Name of the file that is locked.

    Raises:
        ArtifactError: If another process holds it, or the lock cannot be made there.
    """
    from filelock import FileLock, Timeout

    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(directory, str(error)) from error
    held = FileLock(directory / lock, timeout=0)
    try:
        held.acquire()
    except Timeout:
        raise ArtifactError(
            f"{directory}: expected no other {what}, got one; wait for it to end, or choose another --out"
        ) from None
    except OSError as error:
        raise ArtifactError(
            f"{directory / lock}: expected a file to lock, got: {error}; remove what is there, or choose "
            "another --out"
        ) from error
    try:
        for entry in directory.iterdir():
            if is_unfinished(entry.name):
                shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        yield
    finally:
        held.release()


def is_held(directory: Path) -> bool:
    """Return whether a process writes to a run's directory, which need not exist.

    Args:
        directory: Of the run.
    """
    from filelock import FileLock, Timeout

    if not (directory / LOCK).exists():
        return False
    try:
        with FileLock(directory / LOCK, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:
        return False  # a fit there will say what is wrong


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors, whole; those that share memory are written apart."""
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_whole(path, save(copies))


def _not_writable(path: Path, got: str) -> ArtifactError:
    text = f"--out {path}: expected a writable directory, got: {got}"
    return ArtifactError(text.encode(errors="backslashreplace").decode())


def _altered(path: Path) -> ArtifactError:
    return ArtifactError(
        f"{path}: expected the file as the run wrote it, got an altered one (its SHA-256 differs); fit "
        "again, or take it from an intact copy of the run"
    )
