"""Nested state without pickle: tensors as safetensors, their skeleton as JSON, one checksum over both.

One file holds everything and is replaced in one step, so a run killed at any moment leaves either the last
complete checkpoint or the one before.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from secateur.errors import ArtifactError
from secateur.runs.files import open_ordinary, write_whole

__all__ = ["load_nested", "save_nested", "tensors_checksum"]

FORMAT = "secateur-checkpoint-3"
TENSOR = "__tensor__"


def save_nested(path: Path, state: dict[str, Any]) -> None:
    """Write nested dictionaries and lists of tensors, numbers, strings, booleans and None.

    Args:
        path: File to replace, whole or not at all.
        state: What to write; tuples come back as lists.

    Raises:
        ArtifactError: If it cannot be written.
    """
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_take_apart(state, tensors))
    metadata = {"format": FORMAT, "skeleton": skeleton, "checksum": tensors_checksum(tensors, text=skeleton)}
    write_whole(path, save(tensors, metadata=metadata))


def load_nested(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `save_nested` wrote.

    Args:
        path: File to read; nothing in it is executed.

    Raises:
        ArtifactError: If it is missing, damaged, or of another format.
    """
    try:
        open_ordinary(Path(path)).close()
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") != FORMAT:
                raise ArtifactError(
                    f"{path}: expected a checkpoint ({FORMAT}), got {metadata.get('format')!r}; remove the "
                    "file to begin the run again, or finish it with the version that began it"
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        if metadata["checksum"] != tensors_checksum(tensors, text=metadata["skeleton"]):
            raise ValueError("another checksum than the one in it: the file was altered")
        state = _put_together(json.loads(metadata["skeleton"]), tensors.__getitem__)
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path}: expected a readable checkpoint, got: {error}; remove the file to begin the run again"
        ) from error
    return state


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


def _take_apart(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, torch.Tensor):
        key = str(len(tensors))
        tensors[key] = value.detach().cpu().contiguous().clone()
        return {TENSOR: key}
    if isinstance(value, dict):
        # A list of pairs keeps integer keys, which JSON objects would turn into strings.
        return {"items": [[key, _take_apart(item, tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        return [_take_apart(item, tensors) for item in value]
    return value


def _put_together(value: Any, tensor_named: Callable[[str], Tensor]) -> Any:
    if isinstance(value, list):
        return [_put_together(item, tensor_named) for item in value]
    if isinstance(value, dict):
        if TENSOR in value:
            return tensor_named(value[TENSOR])
        return {key: _put_together(item, tensor_named) for key, item in value["items"]}
    return value
