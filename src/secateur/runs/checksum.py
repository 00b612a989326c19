"""Checksums: of named tensors, covering all that makes them what they are, and of whole files."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

__all__ = ["file_checksum", "tensors_checksum"]


def tensors_checksum(tensors: Mapping[str, Tensor], *, text: str = "") -> str:
    """Return the SHA-256 of tensors: their names, types, shapes and bytes, in the order of the names.

    A type or a shape that is altered gives another checksum, though the bytes are the same.

    Args:
        tensors: By name.
        text: What else the file says and the checksum has to cover.

    >>> ones = torch.ones(4)
    >>> tensors_checksum({"a": ones}) == tensors_checksum({"a": ones.view(torch.int32)})
    False
    """
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        # The header is unambiguous: `repr` ends a name by its quote, whatever characters are in it.
        digest.update(f"{name!r} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    digest.update(text.encode())
    return digest.hexdigest()


def file_checksum(path: Path) -> str:
    """Return the SHA-256 of a file.

    Args:
        path: File to read.

    Raises:
        OSError: If it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
