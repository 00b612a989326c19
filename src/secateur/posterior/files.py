"""Posteriors as files: safetensors, with the structure as JSON in the metadata.

Format 2: `structure` lists the parameters in the order of draws, and of each block its layer, kind and
layout. A tensor's name is the block's number and what `Block.tensors` calls it. `sha256` covers names, types,
shapes and bytes of all tensors, and the structure.

Format 1 has "kind/parameter" tensors of independent entries.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from secateur.errors import ArtifactError, InvalidArgumentError
from secateur.modules import by_layer
from secateur.posterior.block import Block
from secateur.posterior.dense import Dense
from secateur.posterior.diagonal import Diagonal
from secateur.posterior.kronecker import Kronecker
from secateur.posterior.rowwise import Rowwise
from secateur.runs import tensors_checksum, write_whole

__all__ = ["load", "save"]

_FORMAT, _FIRST_FORMAT = "secateur-posterior-2", "secateur-posterior-1"
_KINDS: dict[str, type[Block]] = {
    "diagonal": Diagonal,
    "rowwise": Rowwise,
    "kronecker": Kronecker,
    "dense": Dense,
}
_LONGEST_MESSAGE = 300  # characters of an error that may quote the file


def save(blocks: Mapping[str, Block], names: Sequence[str], path: Path) -> None:
    """Write blocks to one file, whole or not at all.

    Args:
        blocks: By layer.
        names: All parameters, in the order of draws.
        path: File to write.

    Raises:
        ArtifactError: If it cannot be written; the old file is then untouched.
    """
    kinds = {block: kind for kind, block in _KINDS.items()}
    listed = [
        {"layer": layer, "kind": kinds[type(block)], "transposed": block.transposed}
        for layer, block in blocks.items()
    ]
    structure = json.dumps({"names": list(names), "blocks": listed})
    # Parameters are often views of one vector, which the format refuses.
    tensors = {
        f"{number}/{key}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for number, block in enumerate(blocks.values())
        for key, tensor in block.tensors().items()
    }
    metadata = {
        "format": _FORMAT,
        "structure": structure,
        "sha256": tensors_checksum(tensors, text=structure),
    }
    write_whole(path, _repeatable(serialise(tensors, metadata)))


def _repeatable(content: bytes) -> bytes:
    """Sort the metadata of a safetensors file, whose order is random: equal values make equal bytes."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the numbers that follow
    return b"".join([len(text).to_bytes(8, "little"), text, memoryview(content)[start:]])


def load(path: Path) -> tuple[list[Block], list[str]]:
    """Read a file that `save` or an earlier version wrote.

    Args:
        path: A safetensors file.

    Returns:
        Its blocks, and the names of all parameters in the order of draws.

    Raises:
        ArtifactError: If the file is missing, damaged, or not a posterior.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") not in {_FORMAT, _FIRST_FORMAT}:
                raise ArtifactError(
                    f"{path}: expected a posterior ({_FORMAT}), got format {metadata.get('format')!r}"
                )
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
        if metadata["format"] == _FIRST_FORMAT:
            return _first(tensors)
        return _second(metadata, tensors)
    # What torch and json raise for a hostile file is not documented, beyond these types.
    except (SafetensorError, OSError, LookupError, ValueError, TypeError, RuntimeError) as error:
        line = " ".join(str(error).split())[:_LONGEST_MESSAGE]
        raise ArtifactError(f"{path}: expected a readable posterior, got: {line}; write it again") from error


def _first(tensors: Mapping[str, Tensor]) -> tuple[list[Block], list[str]]:
    names = [key.partition("/")[2] for key in tensors if key.startswith("mean/")]
    layer_of = {name: layer for layer, own in by_layer(names).items() for name in own}
    own: dict[str, dict[str, Tensor]] = {layer: {} for layer in layer_of.values()}
    for key, tensor in tensors.items():
        kind, _, name = key.partition("/")
        if name not in layer_of:
            raise InvalidArgumentError(f"{kind}: expected the names of mean, got a difference at {name!r}")
        own[layer_of[name]][key] = tensor
    return [Diagonal.from_tensors(layer, mine) for layer, mine in own.items()], names


def _second(metadata: Mapping[str, str], tensors: dict[str, Tensor]) -> tuple[list[Block], list[str]]:
    if metadata.keys() != {"format", "structure", "sha256"}:
        raise InvalidArgumentError(f"metadata of other names: {', '.join(sorted(metadata))}")
    found = tensors_checksum(tensors, text=metadata["structure"])
    if found != metadata["sha256"]:
        raise InvalidArgumentError(f"a checksum of {found} where the file says {metadata['sha256']}")
    structure = json.loads(metadata["structure"])
    _require(structure, {"names": list, "blocks": list})
    own: list[dict[str, Tensor]] = [{} for _ in structure["blocks"]]
    for key, tensor in tensors.items():
        number, _, rest = key.partition("/")
        own[int(number)][rest] = tensor
    blocks: list[Block] = []
    for listed, mine in zip(structure["blocks"], own, strict=True):
        _require(listed, {"layer": str, "kind": str, "transposed": bool})
        kind = _KINDS[listed["kind"]]
        blocks.append(kind.from_tensors(listed["layer"], mine, transposed=listed["transposed"]))
    names = structure["names"]
    held = [name for block in blocks for name in block.mean]
    if not all(isinstance(name, str) for name in names) or sorted(names) != sorted(held):
        raise InvalidArgumentError("other names in its list of parameters than in its blocks")
    if len(set(names)) < len(names) or len({block.layer for block in blocks}) < len(blocks):
        raise InvalidArgumentError("a parameter or a layer that is in it twice")
    return blocks, names


def _require(found: Any, types: Mapping[str, type]) -> None:
    """Demand a JSON object of exactly these keys and types."""
    if not isinstance(found, dict) or found.keys() != types.keys():
        raise InvalidArgumentError(f"a structure without exactly the keys {', '.join(types)}")
    for key, kind in types.items():
        if type(found[key]) is not kind:
            raise InvalidArgumentError(f"a structure whose {key} is no {kind.__name__}")
