"""The directory of a run: one writer at a time, every file whole or absent."""

import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from secateur.errors import ArtifactError
from secateur.runs.checksum import file_checksum
from secateur.runs.lock import LOCK, only_writer
from secateur.runs.writing import is_unfinished, write_whole

__all__ = ["RunDirectory", "as_json", "read_json"]


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


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Args:
        path: File to read.

    Raises:
        ArtifactError: If it is missing or damaged.
    """
    if path.exists() and not path.is_file():
        raise ArtifactError(
            f"{path}: expected a readable JSON file, got no ordinary file"
        )  # a pipe never ends
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: expected a readable JSON file, got: {error}") from error
    if not isinstance(value, dict):
        raise ArtifactError(f"{path}: expected a JSON object, got {type(value).__name__}")
    return value


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
        """The figures of a finished run, and the digests of its tensors' files."""
        return self.path / "metrics.json"

    @property
    def history(self) -> Path:
        """One JSON object per epoch."""
        return self.path / "history.jsonl"

    @property
    def model(self) -> Path:
        """Posterior-mean weights and buffers; removed entries are zero."""
        return self.path / "model.safetensors"

    @property
    def posterior(self) -> Path:
        """Posterior of the weights, at the evidence's temperature."""
        return self.path / "posterior.safetensors"

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
            names = [entry.name for entry in self.path.iterdir()] if self.path.exists() else []
            writable = not self.path.exists() or os.access(self.path, os.W_OK | os.X_OK)
        except OSError as error:
            raise ArtifactError(f"--out {self.path}: expected a writable directory, got: {error}") from error
        # A run that ended before its first file was complete has only its lock and an unfinished file.
        found = sorted(name for name in names if name != LOCK and not is_unfinished(name))
        if found and not resume:
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
            raise ArtifactError(f"--out {self.path}: expected a writable directory, got one that is not")

    @contextmanager
    def claimed(self, *, resume: bool) -> Iterator[None]:
        """Make the directory and hold it for one fit, until the block ends.

        Args:
            resume: Whether to go on with the run that is there, if one is.

        Raises:
            ArtifactError: As of `check`, or if another process writes this run.
        """
        self.check(resume=resume)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ArtifactError(f"--out {self.path}: expected a writable directory, got: {error}") from error
        with only_writer(self.path):
            self.check(resume=resume)  # another may have begun and ended since
            for entry in self.path.iterdir():
                if is_unfinished(entry.name):
                    entry.unlink(missing_ok=True)
            yield

    def write_json(self, path: Path, value: Mapping[str, Any]) -> None:
        """Write one of the JSON files, whole; null stands for a number that is not finite."""
        write_whole(path, (json.dumps(as_json(value), indent=2, allow_nan=False) + "\n").encode())

    def write_history(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Write the history, whole."""
        lines = [json.dumps(as_json(row), allow_nan=False) + "\n" for row in rows]
        write_whole(self.history, "".join(lines).encode())

    def write_model(self, tensors: Mapping[str, Tensor]) -> None:
        """Write the network's tensors, whole; those that share memory are written apart."""
        copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
        write_whole(self.model, save(copies))

    def digests(self) -> dict[str, str]:
        """Return the SHA-256 of the files of tensors, by file name."""
        return {path.name: file_checksum(path) for path in (self.model, self.posterior)}

    def verify(self, digests: object) -> None:
        """Check that the files of tensors are those the run wrote.

        Args:
            digests: What `digests()` returned then, as `metrics.json` has it now.

        Raises:
            ArtifactError: If one is missing or altered, or has no digest.
        """
        digests = digests if isinstance(digests, Mapping) else {}
        for path in (self.model, self.posterior):
            if path.name not in digests:
                raise ArtifactError(
                    f"{self.metrics}: expected the SHA-256 of {path.name}, got none; fit again, or take the "
                    "file from an intact copy of the run"
                )
        for name, expected in digests.items():
            path = self.path / name
            if path.parent != self.path or not path.is_file():  # a pipe or a device would never end
                raise ArtifactError(f"{path}: expected the file of a finished run, got none")
            try:
                found = file_checksum(path)
            except OSError as error:
                raise ArtifactError(f"{path}: expected the file of a finished run, got: {error}") from error
            if found != expected:
                raise ArtifactError(
                    f"{path}: expected the file as the run wrote it (SHA-256 {str(expected)[:12]}...), got "
                    f"an altered one ({found[:12]}...); fit again, or take it from an intact copy of the run"
                )
