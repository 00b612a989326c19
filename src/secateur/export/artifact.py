"""Save a pruned network to one file, with entropy-coded masks, and load it.

A safetensors file. Its metadata hold `format`, `version` and `sha256`, over names, types, shapes and bytes of
all tensors; version 2 had one over the bytes alone, and is refused. The tensor `network` is a JSON text,
deflated (zlib), with the architecture (`architecture`) and an index of the tensors. Floating-point tensors
lie end to end, zeros left out, in one stream per stored type (`values.float32`, ...); which entries they are
is Rice-coded (`codec`) in `masks`. Other tensors are stored as they are. Nothing is pickled, and no code of
the file's is run when it is read.
"""

import importlib
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as as_bytes
from torch import Tensor, fx, nn

from secateur.compaction import plain_copy
from secateur.compaction.graphs import traced_module
from secateur.errors import ArtifactError, InvalidArgumentError
from secateur.export.architecture import DTYPES, build, describe
from secateur.export.codec import CodedMask, decode_mask, encode_mask, entropy_bits
from secateur.export.csr import with_csr, without_csr
from secateur.runs import replacing, tensors_checksum

__all__ = ["VERSION", "entropy_bound", "load", "save"]

VERSION = 3
_FORMAT = "secateur-network"
_LARGEST_TEXT = 1 << 26  # bytes; a small file could otherwise unfold to any size
_STORED = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def entropy_bound(network: nn.Module, *, value_bytes: int = 4) -> float:
    """Return the minimum size of a network in bytes, by the entropy of its masks.

    sum over tensors of n H(kept / n) / 8 + kept * value_bytes

    Args:
        network: Masked or compact network; its floating-point parameters and buffers count.
        value_bytes: Bytes of one kept weight.
    """
    total = 0.0
    for tensor in plain_copy(network).state_dict().values():
        if tensor.is_floating_point():
            kept = int(torch.count_nonzero(tensor))
            total += entropy_bits(tensor.numel(), kept) / 8 + kept * value_bytes
    return total


def save(
    network: nn.Module,
    path: str | Path,
    *,
    example_input: Any = None,
    values: str | None = None,
    factory: str | None = None,
    factory_arguments: Mapping[str, Any] | None = None,
) -> int:
    """Write a network to one file.

    Args:
        network: A compact network, or any that is built of torch's own layers and functions. Masks are
            made permanent in the file; layers with CSR kernels get them again when it is loaded.
        path: The file, usually `*.safetensors`; replaced as a whole.
        example_input: Arguments of a call, for a network whose code reads shapes, as `compact` takes them. A
            graph, and code that reads none, need no example.
        values: Type that weights are rounded to: `"float32"`, `"float16"` or `"bfloat16"`. None keeps each
            as it is.
        factory: For any other network, `"package.module:function"` that returns one of the same shapes;
            whoever loads the file has to confirm it.
        factory_arguments: Keyword arguments of the factory; plain values.

    Returns:
        Bytes written.

    Raises:
        InvalidArgumentError: If `values` is no such type, or the network is neither and has no factory.
        ArtifactError: If the file cannot be written; the old one is then untouched.
    """
    if values is not None and values not in _STORED:
        raise InvalidArgumentError(f"values: expected one of {', '.join(_STORED)} or None, got {values!r}")
    plain, csr = without_csr(network)
    plain.eval()
    parameters = [name for name, _ in plain.named_parameters()]
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in plain.state_dict().items()}
    description: dict[str, Any]
    if factory is None:
        traced = plain if isinstance(plain, fx.GraphModule) else _traced(plain, example_input)
        description = {"architecture": describe(traced)}
        build(description["architecture"], state, set(parameters))
    else:
        description = {"factory": factory, "arguments": dict(factory_arguments or {})}
    tensors, index = _pack(state, None if values is None else _STORED[values])
    header = {**description, "parameters": parameters, "tensors": index}
    if csr:
        header["csr"] = list(csr)
    text = json.dumps(header, separators=(",", ":"), allow_nan=False)
    tensors["network"] = _deflated(text)
    metadata = {"format": _FORMAT, "version": str(VERSION), "sha256": tensors_checksum(tensors)}
    content = as_bytes(tensors, metadata)
    with replacing(Path(path)) as draft:
        draft.write_bytes(content)
    return len(content)


def _traced(network: nn.Module, example_input: Any) -> fx.GraphModule:
    try:
        if example_input is not None:
            return traced_module(network, example_input)
        return fx.symbolic_trace(network)
    except Exception as error:  # whatever the network's own code raises when it meets a proxy
        raise InvalidArgumentError(
            f"network: expected a compact or traceable one, got {type(network).__name__}, which is not "
            f"({' '.join(str(error).split())}): give an example_input, or save with factory=..."
        ) from error


def _pack(state: dict[str, Tensor], stored: torch.dtype | None) -> tuple[dict[str, Tensor], list[list[Any]]]:
    """Return the file's tensors, and per tensor of the network: name, type, shape, how it is stored."""
    tensors: dict[str, Tensor] = {}
    streams: dict[str, list[Tensor]] = {}
    masks: list[np.ndarray] = []
    index: list[list[Any]] = []
    for name, tensor in state.items():
        entry: list[Any] = [name, _type_name(tensor.dtype), list(tensor.shape)]
        index.append(entry)
        if not tensor.is_floating_point():
            tensors[f"plain.{name}"] = tensor
            continue
        rounded = tensor.to(stored or tensor.dtype).flatten()
        code = encode_mask((rounded != 0).numpy())
        entry.append(_type_name(rounded.dtype))
        if code.num_bytes < (code.num_weights - code.num_kept) * rounded.element_size():
            entry += [code.num_kept, code.k, len(code.quotients), len(code.remainders)]
            masks += [code.quotients, code.remainders]
            rounded = rounded[rounded != 0]
        streams.setdefault(entry[3], []).append(rounded)
    tensors |= {f"values.{kind}": torch.cat(parts) for kind, parts in streams.items()}
    if masks:
        tensors["masks"] = torch.from_numpy(np.concatenate(masks))
    return tensors, index


def _type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _deflated(text: str) -> Tensor:
    return torch.frombuffer(bytearray(zlib.compress(text.encode(), 9)), dtype=torch.uint8)


def _inflated(packed: Tensor) -> str:
    stream = zlib.decompressobj()
    content = stream.decompress(packed.numpy().tobytes(), _LARGEST_TEXT)
    if not stream.eof:
        raise ValueError(f"the description is cut off or longer than {_LARGEST_TEXT} bytes")
    return content.decode()


def load(path: str | Path, *, factory: str | Callable[..., nn.Module] | None = None) -> nn.Module:
    """Load a network from a file that `save` wrote.

    Args:
        path: The file.
        factory: Confirmation that the factory named in the file may be imported and called: its name, or
            the function to call instead. Not needed for networks of torch's own layers.

    Returns:
        The network, on the CPU, in evaluation mode, with its weights in their original types.

    Raises:
        ArtifactError: If the file is missing, damaged, newer than this version, or of another kind; or if
            it names a factory that was not confirmed.
    """
    tensors = _read(Path(path))
    try:
        header = json.loads(_inflated(tensors["network"]))
        state = _unpack(header["tensors"], tensors)
        parameters, csr = set(header["parameters"]), header.get("csr", [])
        if "architecture" in header:
            return with_csr(build(header["architecture"], state, parameters), csr)
        name, arguments = header["factory"], header["arguments"]
    except ArtifactError:
        raise
    except Exception as error:  # a damaged description can ask for anything
        reason = " ".join(str(error).split())
        raise ArtifactError(f"expected a whole network in {path}, got a damaged one: {reason}") from error
    network = _confirmed(name, factory)(**arguments)
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ArtifactError(f"expected weights for what {name} returns, got others: {error}") from error
    return with_csr(network.eval(), csr)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except FileNotFoundError as error:
        raise ArtifactError(f"expected a network in {path}, got no such file") from error
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"expected a network in {path}, got a damaged or other file: {error}") from error
    if metadata.get("format") != _FORMAT:
        raise ArtifactError(f"expected a network that Secateur saved in {path}, got another safetensors file")
    version = metadata.get("version", "")
    if version != str(VERSION):
        older = version.isdigit() and int(version) < VERSION
        what_to_do = "save the network again" if older else "update Secateur"
        raise ArtifactError(f"expected version {VERSION} in {path}, got {version}: {what_to_do}")
    if metadata.get("sha256") != tensors_checksum(tensors):
        raise ArtifactError(f"expected {path} as it was written, got another checksum: copy or save it again")
    return tensors


def _unpack(index: list[list[Any]], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    state = {}
    masks = tensors["masks"].numpy() if "masks" in tensors else np.zeros(0, dtype=np.uint8)
    used: dict[str, int] = {"masks": 0}

    def take(name: str, stream: Any, count: int) -> Any:
        start = used.get(name, 0)
        if count < 0 or start + count > len(stream):
            raise ValueError(f"{name} is too short")
        used[name] = start + count
        return stream[start : start + count]

    for name, type_name, shape, *storage in index:
        dtype = DTYPES[f"torch.{type_name}"]
        if not storage:
            state[name] = tensors[f"plain.{name}"].reshape(shape).to(dtype)
            continue
        stream = f"values.{storage[0]}"
        count = int(np.prod(shape, dtype=np.int64))
        if len(storage) == 1:
            state[name] = take(stream, tensors[stream], count).to(dtype).reshape(shape).clone()
            continue
        num_kept, k, num_quotients, num_remainders = storage[1:]
        quotients, remainders = (take("masks", masks, length) for length in (num_quotients, num_remainders))
        mask = torch.from_numpy(decode_mask(CodedMask(count, num_kept, k, quotients, remainders)))
        values = torch.zeros(count, dtype=dtype)
        values[mask] = take(stream, tensors[stream], num_kept).to(dtype)
        state[name] = values.reshape(shape)
    return state


def _confirmed(name: str, factory: str | Callable[..., nn.Module] | None) -> Callable[..., nn.Module]:
    if callable(factory):
        return factory
    if factory != name:
        raise ArtifactError(
            f"expected confirmation that {name!r} may be imported to build this network, got {factory!r}: "
            f"load(..., factory={name!r}) if you trust it"
        )
    module, _, attribute = name.partition(":")
    try:
        found: Callable[..., nn.Module] = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ArtifactError(f"expected the factory {name!r} to be importable, got {error}") from error
    return found
