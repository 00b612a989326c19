"""What every method is given, and what happens around every method: checks, evaluation mode, zeros."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from typing import Any

import torch
from torch import Tensor, nn

from secateur.curvature.batches import Batch, read_batch
from secateur.errors import InvalidArgumentError
from secateur.modules import evaluation_mode

from .layers import Layer, find_layers
from .selection import keep_globally, keep_n_of_m, parse_pattern

__all__ = ["Task", "prune", "restored_on_error", "without_cache"]


@dataclass(frozen=True)
class Task:
    """A network, calibration data, and how much shall go.

    Attributes:
        model: The network, in evaluation mode.
        batches: Calibration data, as `secateur.curvature.estimate` reads them.
        layers: The weight matrices that may lose entries.
        sparsity: Share of entries that go; None where there is a pattern.
        pattern: N and M where N of each M consecutive inputs stay.
        likelihood: Distribution of the targets.
        seed: Of sampled targets.
        num_data: Size of the whole data; that of the batches when None.
    """

    model: nn.Module
    batches: Sequence[Any]
    layers: list[Layer]
    sparsity: float | None
    pattern: tuple[int, int] | None
    likelihood: str
    seed: int
    num_data: int | None

    def read(self) -> Iterator[Batch]:
        """Yield the batches in their parts, on the network's device."""
        device = self.layers[0].weight.device
        for batch in self.batches:
            yield read_batch(batch, device)

    def share(self, entries: int) -> int:
        """Return how many of so many entries go."""
        assert self.sparsity is not None
        return round(self.sparsity * entries)

    def share_per_row(self, matrix: Tensor) -> Tensor:
        """Return how many entries of each row go: equal up to one, so that the matrix has its exact share."""
        rows, columns = matrix.shape
        ends = [self.share(columns * row) for row in range(rows + 1)]
        return torch.tensor(ends, device=matrix.device).diff()

    def name_patterns(self) -> list[str]:
        """Return `include` of `secateur.curvature.estimate` for exactly these weights."""
        return [escape(layer.name) for layer in self.layers]

    def select(self, scores: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return masks without the lowest scores of all layers together, or by the pattern."""
        if self.pattern is not None:
            return {name: keep_n_of_m(score, self.pattern) for name, score in scores.items()}
        return keep_globally(scores, self.share(sum(score.numel() for score in scores.values())))


def prune(
    method: Callable[..., dict[str, Tensor]],
    model: nn.Module,
    batches: Sequence[Any],
    *,
    sparsity: float | None = None,
    pattern: str | None = None,
    likelihood: str = "categorical",
    weights: list[str],
    seed: int = 0,
    num_data: int | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """Prune a trained network in place by one of the methods, and return the masks.

    Args:
        method: Takes a `Task` and its own options, may write compensated weights, and returns the mask of
            each layer's matrix.
        model: Trained network. Its modes stay; its weights too if an error is raised.
        batches: Calibration data, as `secateur.curvature.estimate` reads them.
        sparsity: Share of the entries of all the weights that go. Methods that decide within a layer or row
            apply the share there.
        pattern: "N:M" instead: N of each M consecutive inputs stay.
        likelihood: Distribution of the targets.
        weights: Names of the weight parameters that may lose entries.
        seed: Of sampled targets.
        num_data: Size of the whole data where the batches are a part.
        options: The method's own.

    Returns:
        A mask for each of the weights, True where an entry stays.

    Raises:
        InvalidArgumentError: If an argument cannot be used.
    """
    if (sparsity is None) == (pattern is None):
        raise InvalidArgumentError(f"expected sparsity or pattern, got sparsity={sparsity}, {pattern=}")
    if sparsity is not None and not 0 <= sparsity < 1:
        raise InvalidArgumentError(f"sparsity: expected a share in [0, 1), got {sparsity}")
    if not len(batches):
        raise InvalidArgumentError("batches: expected at least one batch of data, got none")
    task = Task(
        model=model,
        batches=batches,
        layers=find_layers(model, weights),
        sparsity=sparsity,
        pattern=None if pattern is None else parse_pattern(pattern),
        likelihood=likelihood,
        seed=seed,
        num_data=num_data,
    )
    with restored_on_error(task.layers), without_cache(model), evaluation_mode(model):
        kept = method(task, **options)
        masks = {layer.name: layer.as_parameter(kept[layer.name]) for layer in task.layers}
        with torch.no_grad():
            for layer in task.layers:
                layer.weight.masked_fill_(~masks[layer.name], 0)  # not a product: no -0.0
    return masks


@contextmanager
def restored_on_error(layers: list[Layer]) -> Iterator[None]:
    parameters = [parameter for layer in layers for parameter in layer.module.parameters()]  # biases too
    before = [parameter.detach().clone() for parameter in parameters]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
        raise


@contextmanager
def without_cache(model: nn.Module) -> Iterator[None]:
    """Keep language models from storing keys and values: a block that is called again would see old ones."""
    config: Any = getattr(model, "config", None)
    before = getattr(config, "use_cache", None)
    if before is None:
        yield
        return
    config.use_cache = False
    try:
        yield
    finally:
        config.use_cache = before
