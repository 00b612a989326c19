"""Save a pruned network to one file, with entropy-coded masks, and load it.

A safetensors file. Its metadata hold `format`, `version` and `sha256`, over names, types, shapes and bytes of
all tensors. The tensor `network` is a JSON text, deflated (zlib): an index of the tensors, the names of the
parameters, and how the network is built: its name in `secateur.networks`, its class and config in the
Transformers library, its `architecture` (torch's layers and functions), or nothing, where the caller builds
it. `numbers` are the whole numbers that its modules hold, which say what `compact` did to their sizes.
Floating-point tensors lie end to end, zeros left out, in one stream per stored type (`values.float32`, ...);
which entries they are is Rice-coded (`codec`) in `masks`. Other tensors are stored as they are. Nothing is
pickled, no code of the file's is run, and what the file declares is bounded by what it holds.
"""

import json
import math
import zlib
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
from secateur.export import transformers_network
from secateur.export.architecture import DTYPES, build, describe
from secateur.export.class_network import build_named, fit, numbers_of, registered_name
from secateur.export.codec import CodedMask, decode_mask, encode_mask, entropy_bits
from secateur.export.sparse_kernels import with_csr, without_csr
from secateur.runs import replacing, tensors_checksum

__all__ = ["VERSION", "entropy_bound", "load", "save"]

VERSION = 3
_FORMAT = "secateur-network"
_SMALL_TEXT, _LARGEST_TEXT = 1 << 20, 1 << 26  # bytes that a description may unfold to, whatever the file
_UNFOLDING = 64  # times its own size, above that; JSON of a network shrinks to a tenth or a twentieth
_FEW_WEIGHTS = 1 << 24  # that any file may declare
_WEIGHTS_PER_BYTE = 1024  # above that; one weight in 2,000 that is kept needs as much
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
    network: nn.Module, path: str | Path, *, example_input: Any = None, values: str | None = None
) -> int:
    """Write a network to one file.

    Args:
        network: Any network, masked or compact. Masks are made permanent in the file; layers with CSR kernels
            get them again when it is loaded. Networks of this and of the Transformers library keep their
            class; others of torch's layers and functions are loaded as a graph of these, without their
            code; any other needs `load(..., model=...)`.
        path: The file, usually `*.safetensors`; replaced as a whole.
        example_input: Arguments of a call, for a network whose code reads shapes, as `compact` takes them. A
            graph, and code that reads none, need no example.
        values: Type that weights are rounded to: `"float32"`, `"float16"` or `"bfloat16"`. None keeps each
            as it is.

    Returns:
        Bytes written.

    Raises:
        InvalidArgumentError: If `values` is no such type, or a graph calls what is not torch's own.
        ArtifactError: If the file cannot be written; the old one is then untouched.
    """
    if values is not None and values not in _STORED:
        raise InvalidArgumentError(f"values: expected one of {', '.join(_STORED)} or None, got {values!r}")
    plain, csr = without_csr(network)
    plain.eval()
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in plain.state_dict().items()}
    parameters = [name for name, _ in plain.named_parameters(remove_duplicate=False) if name in state]
    header = {**_description(plain, example_input, state, parameters), "parameters": parameters}
    tied = _tied(plain)
    apart = {name: tensor for name, tensor in state.items() if name not in tied}
    tensors, header["tensors"] = _pack(apart, None if values is None else _STORED[values])
    header |= {"csr": list(csr)} if csr else {}
    header |= {"tied": tied} if tied else {}
    text = json.dumps(header, separators=(",", ":"), allow_nan=False)
    tensors["network"] = torch.frombuffer(bytearray(zlib.compress(text.encode(), 9)), dtype=torch.uint8)
    metadata = {"format": _FORMAT, "version": str(VERSION), "sha256": tensors_checksum(tensors)}
    content = as_bytes(tensors, metadata)
    with replacing(Path(path)) as draft:
        draft.write_bytes(content)
    return len(content)


def _tied(network: nn.Module) -> dict[str, str]:
    """Return the names of parameters that another name stands for as well, with that name."""
    first: dict[int, str] = {}
    return {
        name: first[id(parameter)]
        for name, parameter in network.named_parameters(remove_duplicate=False)
        if first.setdefault(id(parameter), name) != name
    }


def _description(
    network: nn.Module, example: Any, state: dict[str, Tensor], parameters: list[str]
) -> dict[str, Any]:
    """Return how the network is built again, as far as a file can say it."""
    if isinstance(network, fx.GraphModule):
        return {"architecture": _checked(network, state, parameters)}
    description: dict[str, Any] = {"numbers": numbers_of(network)}
    if (name := registered_name(network)) is not None:
        return {"network": name, **description}
    if (config := transformers_network.describe(network)) is not None:
        return {"transformers": config, **description}
    try:
        traced = fx.symbolic_trace(network) if example is None else traced_module(network, example)
        description["architecture"] = _checked(traced, state, parameters)
    except Exception as error:  # whatever the network's own code raises when it meets a proxy
        description["why"] = " ".join(str(error).split())[:200]
    return description


def _checked(network: fx.GraphModule, state: dict[str, Tensor], parameters: list[str]) -> dict[str, Any]:
    """Return a graph's architecture, after it was built again from its description."""
    architecture = describe(network)
    try:
        build(architecture, state, parameters, limit=_limit(sum(tensor.nbytes for tensor in state.values())))
    except ArtifactError as error:
        raise InvalidArgumentError(
            f"network: {error}; compact(..., as_graph=False) keeps its class"
        ) from error
    return architecture


def _limit(num_bytes: int) -> int:
    return max(_FEW_WEIGHTS, _WEIGHTS_PER_BYTE * num_bytes)


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


def load(path: str | Path, model: nn.Module | None = None, *, max_weights: int | None = None) -> nn.Module:
    """Load a network from a file that `save` wrote.

    Args:
        path: The file.
        model: A network of the saved one's class, freshly built: it gets the saved sizes and weights, in
            place, and is returned. Needed where a file cannot say how its network is built. None builds it
            from the file.
        max_weights: Weights that the file may unfold to; None allows 16 million, or 1,024 for each of its
            bytes if that is more.

    Returns:
        The network, on the CPU, in evaluation mode, with its weights in their original types.

    Raises:
        ArtifactError: If the file is missing, damaged, newer than this version, of another kind or another
            network, larger than allowed, or needs a `model`.
    """
    path = Path(path)
    tensors = _read(path)
    limit = max_weights or _limit(sum(tensor.nbytes for tensor in tensors.values()))
    try:
        header = json.loads(_inflated(tensors["network"]))
        _check_size(header["tensors"], limit)
        state, parameters = _unpack(header["tensors"], tensors), set(header["parameters"])
        state |= {name: state[first] for name, first in header.get("tied", {}).items()}
        if model is None and "network" in header:
            model = build_named(header["network"])
        if model is None and "transformers" in header:
            model = transformers_network.build(header["transformers"], len(state), limit)
        if model is not None:
            network = fit(model, state, header.get("numbers"))
        elif "architecture" in header:
            network = build(header["architecture"], state, parameters, limit=limit)
        else:
            raise ArtifactError(
                f"expected model=... for {path}, got none: a file cannot say how this network is built "
                f"({str(header.get('why', 'its class is not one of torch'))[:200]})"
            )
        return with_csr(network, header.get("csr", []))
    except ArtifactError:
        raise
    except Exception as error:  # a damaged description can ask for anything
        reason = " ".join(str(error).split())
        raise ArtifactError(f"expected a whole network in {path}, got a damaged one: {reason}") from error


def _inflated(packed: Tensor) -> str:
    most = min(_LARGEST_TEXT, max(_SMALL_TEXT, _UNFOLDING * packed.numel()))
    stream = zlib.decompressobj()
    content = stream.decompress(packed.numpy().tobytes(), most)
    if not stream.eof:
        raise ValueError(f"the description is cut off or longer than {most} bytes")
    return content.decode()


def _read(path: Path) -> dict[str, Tensor]:
    if path.exists() and not path.is_file():
        raise ArtifactError(f"expected a network in {path}, got no ordinary file")  # a pipe never ends
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


def _check_size(index: list[list[Any]], limit: int) -> None:
    """Refuse shapes that are none, and more weights than a file of its size may declare."""
    total = 0
    for name, _, shape, *_ in index:
        if not all(type(size) is int and size >= 0 for size in shape) or len(shape) > 16:
            raise ValueError(f"{name} has no shape")
        total += math.prod(shape)
    if total > limit:
        raise ArtifactError(
            f"expected at most {limit:,} weights in a file of this size, got {total:,}; if you trust it, "
            f"load(..., max_weights={total})"
        )


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
        count = math.prod(shape)
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
