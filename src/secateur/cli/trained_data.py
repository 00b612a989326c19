"""Data for a trained network, by what the command line calls them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from secateur import data, networks
from secateur.curvature.batches import answers, read_batch
from secateur.data import arrays, tables
from secateur.errors import ArtifactError, DataError, SecateurError, UsageError, in_a_line
from secateur.export.transformers_network import library, quiet, tokenizer
from secateur.factories import call_factory, is_factory
from secateur.modules import evaluation_mode

__all__ = ["DataSource", "TrainedData", "Windows", "check_batch"]

TENSORS = ("inputs", "targets")
WINDOWS = 4  # of a text, in a batch
BATCH = 128


@dataclass(frozen=True)
class TrainedData:
    """Batches for a network.

    Attributes:
        loader: Batches; they can be read again.
        image_shape: Channels, height and width, where the data are images of one shape.
        num_classes: Number of classes, where it is known.
    """

    loader: Iterable[Any]
    image_shape: tuple[int, ...] | None = None
    num_classes: int | None = None


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


@dataclass(frozen=True)
class DataSource:
    """How data are found by their names.

    Attributes:
        model_name: What `--model` says.
        batch_size: Data in a batch; None takes the default of the kind of data.
        window: Tokens of a window of text.
        image_size: Height and width of the images of a data set; None takes what the network needs.
        data_dir: Folder with data sets.
        target: Columns of a table to predict.
        ignore: Columns of a table to leave out.
        likelihood: Name of the likelihood, which says whether whole numbers are classes.
    """

    model_name: str
    batch_size: int | None
    window: int
    image_size: int | None
    data_dir: Path | None
    target: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()
    likelihood: str = "categorical"

    def load(
        self, text: str, *, option: str = "--data", model: nn.Module | None = None, like: str | None = None
    ) -> TrainedData:
        """Return the data that an option names.

        Args:
            text: `package.module:function`, the name of a data set, a file of arrays, a table, or a `.txt`
                file.
            option: Its name: `--data` takes the training images of a data set, `--held-out` the test images.
            model: The network, if it is there already; text is read by the tokenizer beside it.
            like: Name of the data set that the network was trained on, whose moments standardise the images.

        Raises:
            SecateurError: If there are no such data, or they are damaged.
        """
        suffix = Path(text).suffix.lower()
        if is_factory(text):
            return self._returned(call_factory(option, text), option, text)
        if suffix == ".safetensors":
            return self._tensors(Path(text), option)
        if suffix == ".npz" or suffix in tables.SUFFIXES:
            return self._examples(Path(text), option)
        if suffix == ".txt":
            return self._text(Path(text), option, model)
        if text in data.names():
            return self._images(text, option, like)
        files = "a .safetensors, .npz, .csv, .tsv or .parquet file, a .txt file"
        near = f"{', '.join(data.names())}, {files}"
        raise UsageError(f"{option}: expected package.module:function, or one of {near}, got {text!r}")

    def _batches(self, rows: "Dataset[Any]", size: int = BATCH) -> "DataLoader[Any]":
        return DataLoader(rows, batch_size=self.batch_size or size)

    def _returned(self, value: Any, option: str, text: str) -> TrainedData:
        """Return what a function of the user's gave, read into memory where it can be read only once."""
        if isinstance(value, Dataset):
            return TrainedData(self._batches(value))
        if isinstance(value, Tensor | nn.Module | str | bytes | Mapping) or not isinstance(value, Iterable):
            raise UsageError(
                f"{option} {text}: expected a loader, batches of inputs and targets, got "
                f"{type(value).__name__}"
            )
        return TrainedData(list(value) if iter(value) is value else value)

    def _tensors(self, path: Path, option: str) -> TrainedData:
        try:
            tensors = load_file(path)
        except (OSError, SafetensorError, ValueError) as error:
            raise DataError(f"{option} {path}: expected a safetensors file, got: {error}") from error
        if any(name not in tensors for name in TENSORS):
            found = ", ".join(sorted(tensors)) or "none"
            raise DataError(f"{option} {path}: expected tensors inputs and targets, got {found}")
        inputs, targets = (tensors[name] for name in TENSORS)
        if not inputs.dim() or not targets.dim() or len(inputs) != len(targets) or not len(inputs):
            raise DataError(
                f"{option} {path}: expected one target for each input, got shapes {tuple(inputs.shape)} and "
                f"{tuple(targets.shape)}"
            )
        shape = tuple(inputs.shape[1:])
        whole = not targets.is_floating_point() and targets.dim() == 1
        return TrainedData(
            self._batches(TensorDataset(inputs, targets)),
            image_shape=(shape[0], shape[1], shape[2]) if len(shape) == 3 else None,
            num_classes=int(targets.max()) + 1 if whole else None,
        )

    def _examples(self, path: Path, option: str) -> TrainedData:
        """Return arrays or rows of a table as they are: a trained network knows its own units."""
        if not path.is_file():
            raise DataError(f"{option} {path}: expected a file, got none of that name")
        if path.suffix.lower() == ".npz":
            found = arrays.read_arrays(path)
        else:
            found = tables.read_tables(path, self.target, ignore=self.ignore)
        part = found.test if option == "--held-out" and found.test is not None else found.train
        targets = part.targets
        if targets.dtype.kind in "UO" and self.likelihood == "categorical":
            targets = np.unique(targets, return_inverse=True)[1].reshape(-1)  # in the order of the words
        if targets.dtype.kind in "UO":
            raise DataError(f"{option} {path}: expected numbers as targets, got words; use categorical")
        whole = (
            self.likelihood == "categorical" and targets.ndim == 1 and (targets == np.floor(targets)).all()
        )
        labels = torch.from_numpy(targets.astype(np.int64 if whole else np.float32))
        inputs = torch.from_numpy(part.inputs.astype(np.float32))
        shape = tuple(inputs.shape[1:])
        rows = TensorDataset(inputs, labels)
        return TrainedData(self._batches(rows), shape, int(labels.max()) + 1 if whole else None)

    def _images(self, name: str, option: str, like: str | None) -> TrainedData:
        size = self.image_size
        if size is None and self.model_name in networks.names():
            size = networks.image_size(self.model_name)
        options: dict[str, Any] = {"data_dir": self.data_dir, "image_size": size}
        trained_on = data.load(like, **options) if like in data.names() and like != name else None
        images = data.load(name, like=trained_on, **options)
        split = images.test if option == "--held-out" else images.train
        rows = TensorDataset(split.images, split.labels)
        return TrainedData(self._batches(rows), split.image_shape, images.num_classes)

    def _text(self, path: Path, option: str, model: nn.Module | None) -> TrainedData:
        """Return windows of tokens of a text, by the tokenizer of the network's own directory."""
        directory = Path(self.model_name)
        if model is None or not directory.is_dir():
            raise UsageError(
                f"{option} {path}: expected text only for a network in a directory of the Transformers "
                f"library, got --model {self.model_name}"
            )
        if not any(part in type(model).__name__ for part in ("ForCausalLM", "LMHead")):
            raise UsageError(
                f"{option} {path}: expected a network that predicts the next token, got "
                f"{type(model).__name__}; give {option} package.module:factory, which returns a loader with "
                "labels"
            )
        longest = getattr(getattr(model, "config", None), "max_position_embeddings", None)
        if isinstance(longest, int) and self.window > longest:
            raise UsageError(
                f"--window: expected at most the network's {longest} positions, got {self.window}"
            )
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{option} {path}: expected a text file in UTF-8, got: {error}") from error
        words = tokenizer(directory)
        if words is None:
            raise ArtifactError(f"{directory}: expected a tokenizer beside the network, got none")
        with quiet(library()):
            tokens = torch.tensor(words(text, add_special_tokens=False, verbose=False)["input_ids"])
        if len(tokens) < self.window:
            raise DataError(
                f"{option} {path}: expected at least one window of {self.window} tokens, got {len(tokens)}; "
                "give more text or a smaller --window"
            )
        vocabulary = model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        if int(tokens.max()) >= vocabulary:
            raise ArtifactError(
                f"{directory}: expected a tokenizer of at most the network's {vocabulary} tokens, got token "
                f"{int(tokens.max())}"
            )
        return TrainedData(self._batches(Windows(tokens, self.window), WINDOWS))


def check_batch(model: nn.Module, loader: Iterable[Any], option: str) -> None:
    """Call the network with the first batch.

    Args:
        model: The network.
        loader: Batches.
        option: What the error calls them, `--data`.

    Raises:
        DataError: If there is no batch, or it is not what the network takes.
    """
    device = next(model.parameters()).device
    try:
        batch = next(iter(loader), None)
    except SecateurError:
        raise
    except Exception as error:  # a loader raises what it likes
        raise DataError(f"{option}: expected a loader of batches, got {in_a_line(error)}") from error
    if batch is None:
        raise DataError(f"{option}: expected at least one batch, got none")
    read = read_batch(batch, device, model)
    with evaluation_mode(model), torch.no_grad():
        answers(model, read, "the first", option)
    if read.targets is None:
        raise DataError(
            f"{option}: expected batches with targets, got inputs alone; give (inputs, targets), or dicts "
            "with labels"
        )
