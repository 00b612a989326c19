"""Networks of the Transformers library in a directory: load them, read text by their tokenizer, write them.

No code of the directory is run, nothing is downloaded, and weights come from safetensors files alone.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from secateur.compaction import plain_copy
from secateur.errors import ArtifactError, DataError, UsageError, in_a_line
from secateur.runs import read_json, replacing, write_whole

__all__ = ["CONFIG", "Windows", "load_network", "read_text", "write_network"]

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "tokenizer.model")
COPIED = ("preprocessor_config.json", "processor_config.json")
LOCAL: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
ONE_FILE = "10TB"  # more than any network: weights stay in a single file


class Windows(Dataset[dict[str, Tensor]]):
    """Windows of consecutive tokens of a text, each with itself as labels.

    Args:
        tokens: All tokens, shape (number,); a last part that fills no window is left out.
        length: Tokens of a window.
    """

    def __init__(self, tokens: Tensor, length: int) -> None:
        self.rows = tokens[: len(tokens) // length * length].reshape(-1, length)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self.rows[index], "labels": self.rows[index]}


def load_network(directory: Path) -> nn.Module:
    """Load a network in single precision, of the class that its `config.json` names.

    Args:
        directory: With `config.json` and safetensors files.

    Raises:
        ArtifactError: If the directory holds no such network, or not all of its weights.
        UsageError: If the Transformers library is not installed.
    """
    library = _library()
    names = read_json(directory / CONFIG).get("architectures")
    name = names[0] if isinstance(names, list) and names else None
    kind: Any = getattr(library, name, None) if isinstance(name, str) and name.isidentifier() else None
    if not (isinstance(kind, type) and issubclass(kind, library.PreTrainedModel)):
        raise ArtifactError(
            f"{directory / CONFIG}: expected a class of the Transformers library first in architectures, got "
            f"{name!r}; code of a directory is not run, so give --model package.module:factory"
        )
    with _quiet(library):
        try:
            load: Any = kind.from_pretrained  # type: ignore[attr-defined]
            model, info = load(
                directory, dtype=torch.float32, use_safetensors=True, output_loading_info=True, **LOCAL
            )
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


def read_text(path: Path, directory: Path, model: nn.Module, *, window: int, option: str) -> Windows:
    """Read a text as windows of tokens of a network's own tokenizer.

    Args:
        path: Text file, UTF-8.
        directory: Of the network and its tokenizer.
        model: The network.
        window: Tokens of a window.
        option: What the error calls the file, `--data`.

    Raises:
        ArtifactError: If the directory has no tokenizer that can be loaded, or not this network's.
        DataError: If the file cannot be read, or fills no window.
        UsageError: If the network does not predict the next token.
    """
    if not any(part in type(model).__name__ for part in ("ForCausalLM", "LMHead")):
        raise UsageError(
            f"{option} {path}: expected a network that predicts the next token, got {type(model).__name__}; "
            f"give {option} package.module:factory, which returns a loader with labels"
        )
    longest = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    if isinstance(longest, int) and window > longest:
        raise UsageError(f"--window: expected at most the network's {longest} positions, got {window}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{option} {path}: expected a text file in UTF-8, got: {error}") from error
    tokenizer = _tokenizer(directory)
    if tokenizer is None:
        raise ArtifactError(f"{directory}: expected a tokenizer beside the network, got none")
    with _quiet(_library()):
        tokens = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    if len(tokens) < window:
        raise DataError(
            f"{option} {path}: expected at least one window of {window} tokens, got {len(tokens)}; give more "
            "text or a smaller --window"
        )
    vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
    if int(tokens.max()) >= vocabulary:
        raise ArtifactError(
            f"{directory}: expected a tokenizer of at most the network's {vocabulary} tokens, got token "
            f"{int(tokens.max())}"
        )
    return Windows(tokens, window)


def write_network(model: nn.Module, source: Path, out: Path) -> Path:
    """Write a network as its library does, in the precision it came in, with its tokenizer.

    Args:
        model: The network; removed weights are written as zeros.
        source: Directory it came from.
        out: Directory to write to.

    Returns:
        The file with the weights.
    """
    library = _library()
    network = plain_copy(model)
    stored = read_json(source / CONFIG)
    name = stored.get("dtype", stored.get("torch_dtype"))
    dtype = getattr(torch, name, None) if isinstance(name, str) else None
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        network = network.to(dtype)
    tokenizer = _tokenizer(source)
    with _quiet(library), replacing(out / WEIGHTS) as draft:
        network.save_pretrained(draft.parent, max_shard_size=ONE_FILE)  # type: ignore[operator]
        if tokenizer is not None:
            tokenizer.save_pretrained(draft.parent)
        for each in COPIED:
            if (source / each).is_file():
                (draft.parent / each).write_bytes((source / each).read_bytes())
        for path in sorted(draft.parent.iterdir()):
            if path != draft and path.is_file():
                write_whole(out / path.name, path.read_bytes())
        draft.chmod((out / CONFIG).stat().st_mode)  # safetensors makes files that only their owner reads
    return out / WEIGHTS


def _library() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise UsageError(
            "--model: expected the Transformers library for a directory, got none; install it by "
            "pip install 'secateur[transformers]'"
        ) from error
    return transformers


def _tokenizer(directory: Path) -> Any:
    """Return the tokenizer of a directory; None where it has none."""
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        return None
    library = _library()
    with _quiet(library):
        try:
            return library.AutoTokenizer.from_pretrained(directory, **LOCAL)
        except Exception as error:  # the library raises what its parts raise
            raise ArtifactError(
                f"{directory}: expected a tokenizer that the Transformers library loads, got "
                f"{in_a_line(error)}"
            ) from error


@contextmanager
def _quiet(library: ModuleType) -> Iterator[None]:
    """Keep the library's bars and remarks off the terminal."""
    logging = library.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
