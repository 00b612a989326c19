"""Networks of the Transformers library: their config in our file, or a directory as the library writes it.

No code of a directory or file is run, nothing is downloaded, and weights come from safetensors files alone.
A config may ask for any number of layers, so what is built by one is counted as it is built.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn.modules import module as registration

from secateur.compaction import plain_copy
from secateur.errors import ArtifactError, SecateurError, UsageError, in_a_line
from secateur.runs import read_json, replacing, write_whole

__all__ = [
    "CONFIG", "WEIGHTS", "build", "describe", "fits_its_config", "library", "load_network", "quiet",
    "tokenizer", "write_network",
]  # fmt: skip

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "tokenizer.model")
COPIED = ("preprocessor_config.json", "processor_config.json")
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
ONE_FILE = "10TB"  # more than any network: weights stay in a single file
KERNELS = (None, "eager", "sdpa")  # any other is code that the library fetches or imports
SPARE = 64  # parameters beside those of the file: tied ones, and such as it leaves at their defaults


def library() -> ModuleType:
    """Return the Transformers library.

    Raises:
        UsageError: If it is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise UsageError(
            "--model: expected the Transformers library for a directory, got none; install it by "
            "pip install 'secateur[transformers]'"
        ) from error
    return transformers


def describe(network: nn.Module) -> dict[str, Any] | None:
    """Return class and config of a Transformers' network, as JSON can hold them; None for any other.

    Args:
        network: Any network.
    """
    known = sys.modules.get("transformers")  # not imported: then it is none of its networks
    name = type(network).__name__
    if known is None or not isinstance(network, known.PreTrainedModel) or _class(name) is not type(network):
        return None
    config: Any = network.config
    return {"class": name, "config": json.loads(config.to_json_string(use_diff=False))}


def build(description: Mapping[str, Any], num_tensors: int, limit: int) -> nn.Module:
    """Return a network with new weights, of the sizes in its config.

    Args:
        description: Of `describe`, from a file.
        num_tensors: Tensors that the file holds.
        limit: Weights that the network may have.

    Raises:
        ArtifactError: If it is damaged, names code, or would be larger than allowed.
    """
    kind, values = _class(description["class"]), description["config"]
    _refuse_code(values, "the file")
    plain = {name: value for name, value in values.items() if not name.startswith("_")}
    with quiet(library()), torch.random.fork_rng(devices=[]):
        with torch.device("meta"), _counted(2 * num_tensors + SPARE, limit):
            kind(kind.config_class.from_dict(plain))
        network: nn.Module = kind(kind.config_class.from_dict(plain))
    return network.eval()


def fits_its_config(network: nn.Module) -> bool:
    """Return whether the library would build a network of the same sizes from its config alone.

    Args:
        network: A Transformers' network.
    """
    with quiet(library()), torch.device("meta"):
        fresh = type(network)(network.config)
    shapes = ({name: value.shape for name, value in each.state_dict().items()} for each in (network, fresh))
    return next(shapes) == next(shapes)


def _class(name: Any) -> Any:
    known = library()
    kind: Any = getattr(known, name, None) if isinstance(name, str) and name.isidentifier() else None
    return kind if isinstance(kind, type) and issubclass(kind, known.PreTrainedModel) else None


def _refuse_code(values: Any, source: str) -> None:
    """Refuse a config that names kernels of a hub or of another package, which are code."""
    for name, value in values.items() if isinstance(values, Mapping) else ():
        if "implementation" in name and not isinstance(value, Mapping) and value not in KERNELS:
            raise ArtifactError(
                f"{source}: expected a config that names no code, got {name} {value!r:.60}; remove that entry"
            )
        if isinstance(value, Mapping):
            _refuse_code({f"{name}.{key}": item for key, item in value.items()}, source)


@contextmanager
def _counted(most: int, most_weights: int) -> Iterator[None]:
    """Refuse to build a network of more parameters than this, as soon as there are so many."""
    count = weights = 0

    def hook(_: nn.Module, __: str, parameter: Tensor | None) -> None:
        nonlocal count, weights
        count += 1
        weights += 0 if parameter is None else parameter.numel()
        if count > most or weights > most_weights:
            raise ArtifactError(
                f"expected at most {most:,} parameters with {most_weights:,} weights, as the file's size "
                "allows, got a config that asks for more"
            )

    handle = registration.register_module_parameter_registration_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def load_network(directory: Path, dtype: torch.dtype | str = torch.float32) -> nn.Module:
    """Load a network of the class that its `config.json` names.

    Args:
        directory: With `config.json` and safetensors files.
        dtype: Type of its weights; "auto" keeps that of the files.

    Raises:
        ArtifactError: If the directory holds no such network, or not all of its weights.
        UsageError: If the Transformers library is not installed.
    """
    known, values = library(), read_json(directory / CONFIG)
    _refuse_code(values, str(directory / CONFIG))
    names = values.get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    kind = _class(name)
    if kind is None:
        raise ArtifactError(
            f"{directory / CONFIG}: expected a class of the Transformers library first in architectures, got "
            f"{name!r}; code of a directory is not run, so give --model package.module:factory"
        )
    try:
        with quiet(known), _counted(*_allowed(directory)):
            model, info = kind.from_pretrained(
                directory, dtype=dtype, use_safetensors=True, output_loading_info=True, **LOCAL
            )
    except SecateurError as error:
        raise ArtifactError(f"{directory}: {error}") from error
    except Exception as error:  # the library raises what its parts raise
        raise ArtifactError(
            f"{directory}: expected a network of class {name} with weights as safetensors, got "
            f"{in_a_line(error)}"
        ) from error
    if info["missing_keys"]:
        raise ArtifactError(
            f"{directory}: expected all weights of {name}, got none for {sorted(info['missing_keys'])[0]}"
        )
    assert isinstance(model, nn.Module)
    return model.eval()


def _allowed(directory: Path) -> tuple[int, int]:
    """Return how many parameters and weights a network of these files may have, with some to spare."""
    count = weights = 0
    for path in sorted(directory.glob("*.safetensors")):
        if path.is_file():
            with safe_open(path, "pt") as file:
                count += len(file.keys())
            weights += path.stat().st_size
    return 2 * count + SPARE, 2 * weights + (1 << 20)


def write_network(model: nn.Module, out: Path, source: Path | None = None) -> Path:
    """Write a network as its library does.

    Args:
        model: The network; removed weights are written as zeros.
        out: Directory to write to.
        source: Directory it came from: it is written in the precision it has there, with its tokenizer.

    Returns:
        The file with the weights.

    Raises:
        ArtifactError: If it cannot be written.
    """
    network = plain_copy(model)
    words = None if source is None else tokenizer(source)
    if source is not None:
        stored = read_json(source / CONFIG)
        dtype = getattr(torch, str(stored.get("dtype", stored.get("torch_dtype"))), None)
        if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
            network = network.to(dtype)
    with quiet(library()), replacing(out / WEIGHTS) as draft:
        network.save_pretrained(draft.parent, max_shard_size=ONE_FILE)  # type: ignore[operator]
        if words is not None:
            words.save_pretrained(draft.parent)
        for each in COPIED:
            if source is not None and (source / each).is_file():
                (draft.parent / each).write_bytes((source / each).read_bytes())
        for path in sorted(draft.parent.iterdir()):
            if path != draft and path.is_file():
                write_whole(out / path.name, path.read_bytes())
        draft.chmod((out / CONFIG).stat().st_mode)  # safetensors makes files that only their owner reads
    return out / WEIGHTS


def tokenizer(directory: Path) -> Any:
    """Return the tokenizer of a directory; None where it has none.

    Args:
        directory: Of a network.

    Raises:
        ArtifactError: If the library cannot load it.
    """
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        return None
    known = library()
    with quiet(known):
        try:
            return known.AutoTokenizer.from_pretrained(directory, **LOCAL)
        except Exception as error:  # the library raises what its parts raise
            raise ArtifactError(
                f"{directory}: expected a tokenizer that the Transformers library loads, got "
                f"{in_a_line(error)}"
            ) from error


@contextmanager
def quiet(known: ModuleType) -> Iterator[None]:
    """Keep the library's bars and remarks off the terminal.

    Args:
        known: The library.
    """
    logging = known.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
