"""Batches of a loader: what the network is called with, the targets, and which tokens are padding."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.distributed import Share, concatenated, gathered, num_ranks
from secateur.errors import InvalidArgumentError, SecateurError, in_a_line
from secateur.likelihoods import Likelihood
from secateur.modules.inputs import batch_size, call, call_arguments, map_tensors, to_device

__all__ = [
    "Batch",
    "Dealt",
    "Labelled",
    "answers",
    "first_data",
    "in_step",
    "label_shift",
    "labelled",
    "learned_likelihood",
    "read_batch",
    "tensor_outputs",
]

LABELS = "labels"
ATTENTION = "attention_mask"
DECODER_INPUTS = "decoder_input_ids"


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        example: What the network is called with; see `secateur.modules.inputs`.
        targets: Observed targets; None where the loader has none.
        attended: False at padding tokens, shape (data, tokens); None where nothing says so. Of an encoder
            and decoder, at those of the encoder, where positions of the two can be told by their number.
        size: Number of data.
        share: Where they are in the batch that all ranks have together; None where it is this one.
    """

    example: Any
    targets: Tensor | None
    attended: Tensor | None
    size: int
    share: Share | None = None


@dataclass(frozen=True)
class Dealt:
    """A batch of a loader that is a rank's part of a batch of all ranks.

    Attributes:
        batch: As a loader gives it. Of a part without data any batch, none of which counts.
        share: Which part.
    """

    batch: Any
    share: Share


def read_batch(batch: Any, device: torch.device, model: nn.Module | None = None) -> Batch:
    """Return a loader's batch in its parts, on a device.

    Args:
        batch: A pair `(inputs, targets)`; a dict of keyword arguments, whose `labels` are the targets; a pair
            `(inputs, kwargs)` with `labels` among the latter; or inputs alone. `Dealt` among ranks.
        device: Where the network is.
        model: The network. One of the Transformers library with a decoder reads that one's inputs off the
            labels, where the batch does not have them.

    Raises:
        InvalidArgumentError: If no tensor in it counts data.
    """
    if isinstance(batch, Dealt):
        read = read_batch(batch.batch, device, model)
        return replace(first_data(read, len(batch.share.places)), share=batch.share)
    targets: Any = None
    if isinstance(batch, list):
        batch = tuple(batch)
    if isinstance(batch, tuple) and len(batch) > 1 and not isinstance(batch[-1], Mapping):
        *inputs, targets = batch
        batch = inputs[0] if len(inputs) == 1 else tuple(inputs)
        if isinstance(batch, list):
            batch = tuple(batch)
    positional, named = call_arguments(batch)
    if targets is None and LABELS in named:
        targets = named.pop(LABELS)
    if targets is not None and not isinstance(targets, Tensor):
        targets = torch.as_tensor(targets)
    if targets is not None and DECODER_INPUTS not in named and _has_decoder(model):
        named[DECODER_INPUTS] = model.prepare_decoder_input_ids_from_labels(targets)  # type: ignore[union-attr, operator]
    example = to_device((positional, named), device)
    attended, decoded = example[1].get(ATTENTION), example[1].get(DECODER_INPUTS)
    if not (isinstance(attended, Tensor) and attended.dim() == 2):
        attended = None
    elif isinstance(decoded, Tensor) and decoded.shape == attended.shape:
        attended = None  # it would be taken for that of the decoder's positions
    return Batch(
        example=example,
        targets=None if targets is None else targets.to(device),
        attended=None if attended is None else attended.bool(),
        size=batch_size(example),
    )


def _has_decoder(model: nn.Module | None) -> bool:
    config = getattr(model, "config", None)
    shifts = callable(getattr(model, "prepare_decoder_input_ids_from_labels", None))
    return bool(getattr(config, "is_encoder_decoder", False)) and shifts


def first_data(batch: Batch, count: int) -> Batch:
    """Return the first data of a batch; of one of all ranks, this rank's part of them.

    Args:
        batch: The batch.
        count: How many; all where there are fewer.
    """
    if batch.share is not None:
        share = batch.share.first(count)
        return replace(first_data(replace(batch, share=None), len(share.places)), share=share)
    if count >= batch.size:
        return batch

    def first(tensor: Tensor) -> Tensor:
        return tensor[:count] if tensor.dim() and len(tensor) == batch.size else tensor

    return Batch(
        example=map_tensors(first, batch.example),
        targets=None if batch.targets is None else first(batch.targets),
        attended=None if batch.attended is None else first(batch.attended),
        size=count,
    )


def in_step(batches: Iterable[Any], device: torch.device, model: nn.Module | None = None) -> Iterator[Batch]:
    """Read batches at one pace on all ranks, until every rank has run out.

    The batches that ranks read at one time are one batch of them all. A rank that has run out gives batches
    without data.

    Args:
        batches: Of this rank, as `read_batch` takes them.
        device: Where the network is.
        model: As for `read_batch`.

    Raises:
        InvalidArgumentError: If a rank has no batch at all.
    """
    if num_ranks() == 1:
        yield from (read_batch(each, device, model) for each in batches)
        return
    iterator, last = iter(batches), None
    while True:
        each = next(iterator, None)
        read = None if each is None else read_batch(each, device, model)
        if read is not None and read.share is not None:  # as on every other rank
            yield read
            continue
        counts = gathered(0 if read is None else read.size)
        if not any(counts):
            return
        last = last if read is None else read
        if last is None:
            raise InvalidArgumentError("loader: expected at least one batch on every rank, got none on this")
        share = Share.dealt(counts)
        yield replace(first_data(last, len(share.places)), share=share)


@dataclass(frozen=True)
class Labelled:
    """Outputs beside the targets they are judged by.

    Attributes:
        outputs: Those that have a target; without the last token where the labels lag behind.
        targets: Observed targets, ignored where a token is padding; None where the batch has none.
        attended: False at padding tokens; None where nothing says so.
        tokens: Whether padding of the batch can be told from the outputs' positions.
    """

    outputs: Tensor
    targets: Tensor | None
    attended: Tensor | None
    tokens: bool


def labelled(outputs: Tensor, batch: Batch, likelihood: Likelihood, shift: int) -> Labelled:
    """Return a batch's outputs beside their targets.

    Args:
        outputs: Of the network.
        batch: What it was called with.
        likelihood: Distribution of the targets.
        shift: From `label_shift`.
    """
    targets, attended = batch.targets, batch.attended
    tokens = attended is not None and outputs.dim() > 2 and outputs.shape[:2] == attended.shape
    if shift and targets is not None:
        outputs, targets = outputs[:, :-1], targets[:, 1:]
        attended = None if attended is None else attended[:, 1:]
    ignore = getattr(likelihood, "ignore_label", None)
    if tokens and attended is not None and targets is not None and ignore is not None:
        targets = torch.where(attended, targets, ignore)
    return Labelled(outputs, targets, attended, tokens)


def answers(model: nn.Module, batch: Batch, place: str = "a batch", argument: str = "loader") -> Tensor:
    """Return the outputs of a network for a batch.

    Args:
        model: The network.
        batch: The batch.
        place: Which batch, for the message.
        argument: What the user calls the batches, for the message.

    Raises:
        InvalidArgumentError: If the network fails on it, or returns no tensor.
    """
    try:
        return tensor_outputs(call(model, batch.example))
    except SecateurError:
        raise
    except Exception as error:  # a network raises what it likes
        raise InvalidArgumentError(
            f"{argument}: expected batches that the network takes, got for {place} {in_a_line(error)}"
        ) from error


def tensor_outputs(result: Any) -> Tensor:
    """Return the outputs in what a network returned: a tensor, `.logits`, or the first of several.

    Args:
        result: What the network returned.

    Raises:
        InvalidArgumentError: If there is no tensor in it.
    """
    if isinstance(result, Mapping) and "logits" in result:
        result = result["logits"]
    elif isinstance(result, tuple | list) and result:
        result = result[0]
    if not isinstance(result, Tensor):
        raise InvalidArgumentError(
            "model: expected a tensor, a tuple that starts with one, or `logits`, "
            f"got {type(result).__name__}; wrap the network"
        )
    return result


@torch.no_grad()
def label_shift(model: nn.Module, batch: Batch, likelihood: Likelihood) -> int:
    """Return by how many tokens the labels lag behind the outputs: 1 where a network shifts them itself.

    Networks of the Transformers library that predict the next token take the inputs as labels. What they do
    with labels is read off the loss that they compute.

    Args:
        model: The network.
        batch: A batch with its labels.
        likelihood: Distribution of the labels.
    """
    positional, named = call_arguments(batch.example)
    outputs = answers(model, batch)
    labels = batch.targets
    tokens = labels is not None and labels.dim() == 2 and outputs.shape[:2] == labels.shape
    if not tokens or labels is None or outputs.dim() != 3 or labels.shape[1] < 2 or not named:
        return 0
    own = call(model, (positional, {**named, LABELS: labels}))
    loss = own.get("loss") if isinstance(own, Mapping) else None
    if loss is None:
        return 0
    plain = likelihood.mean_loss(outputs, labels)
    shifted = likelihood.mean_loss(outputs[:, :-1], labels[:, 1:])
    return int((loss - shifted).abs() < (loss - plain).abs())


@torch.no_grad()
def learned_likelihood(
    likelihood: Likelihood, model: nn.Module, loader: Iterable[Any], device: torch.device
) -> Likelihood:
    """Return a likelihood that has learned its own parameters from the targets of all data, if it has any.

    Args:
        likelihood: Any likelihood.
        model: The network, in evaluation mode.
        loader: Batches with targets.
        device: Where the network is.

    Raises:
        InvalidArgumentError: If it learns, and the loader can be read only once or has no targets.
    """
    if not likelihood.learned:
        return likelihood
    if iter(loader) is loader:
        raise InvalidArgumentError(
            "loader: expected one that can be read twice, since the likelihood learns its noise first, "
            "got an iterator; give a list or a DataLoader"
        )
    outputs = None
    for read in in_step(loader, device, model):
        if read.targets is None:
            raise InvalidArgumentError("loader: expected targets, from which the noise is learned, got none")
        if read.size or outputs is None:
            outputs = answers(model, read)
        own = outputs if read.size else outputs[:0]
        likelihood = likelihood.updated(concatenated(own), concatenated(read.targets))
    return likelihood
