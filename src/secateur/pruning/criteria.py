"""Criteria that rank entries for removal: the evidence, and those it is compared with.

A score is high where an entry should go first, so every ranking is cut in the same way. The evidence alone
has a natural zero; the others order entries and do not say how many go.

    evidence          delta_f                                            (nats)
    magnitude         -|mean|
    signal-to-noise   -|mean| / std                                      Graves 2011; arXiv:1505.05424, 5.1
    obd               -(precision - prior_precision) mean^2 / 2          LeCun, Denker & Solla 1990, eq. 4

Precisions are marginal ones, 1 / variance. The last is the rise of the loss by the data's curvature alone,
in nats, as optimal brain damage has it. With the whole precision in its place it would rank single weights
as the signal-to-noise ratio does.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.posterior import Block, Diagonal

__all__ = ["CRITERIA", "evidence_or_nan", "scores"]


def _evidence(block: Block) -> dict[str, Tensor]:
    found = block.delta_f()
    assert isinstance(found, dict)  # of single entries
    return found


def _magnitude(block: Block) -> dict[str, Tensor]:
    return {name: -mean.abs() for name, mean in block.mean.items()}


def _signal_to_noise(block: Block) -> dict[str, Tensor]:
    return {name: -mean.abs() * block.precision[name].sqrt() for name, mean in block.mean.items()}


def _obd(block: Block) -> dict[str, Tensor]:
    found = {}
    for name, mean in block.mean.items():
        # noise may bring an estimate below the prior's
        curvature = (block.precision[name] - block.prior_precision[name]).clamp(min=0)
        found[name] = -0.5 * curvature * mean.square()
    return found


CRITERIA: dict[str, Callable[[Block], dict[str, Tensor]]] = {
    "evidence": _evidence,
    "magnitude": _magnitude,
    "signal-to-noise": _signal_to_noise,
    "obd": _obd,
}
"""Criterion by name: scores of a block's entries by parameter."""


def scores(block: Block, criterion: str = "evidence") -> dict[str, Tensor]:
    """Return a criterion's score of every entry of a block, by parameter.

    Args:
        block: Posterior of one layer.
        criterion: One of `CRITERIA`.

    Raises:
        InvalidArgumentError: If the block is a point estimate and the criterion needs a precision.
    """
    if criterion != "magnitude" and (name := _point(block)) is not None:
        raise InvalidArgumentError(
            f"posterior.precision[{name!r}]: expected finite values, got inf: a point estimate has "
            "no evidence; use secateur.inference.laplace(model, loader) or a method with a posterior"
        )
    return CRITERIA[criterion](block)


def evidence_or_nan(block: Block) -> dict[str, Tensor]:
    """Return delta_f of every entry of a block, by parameter; nan throughout for a point estimate.

    Args:
        block: Posterior of one layer.
    """
    if _point(block) is None:
        return _evidence(block)
    return {name: mean.new_full((), math.nan).expand(mean.shape) for name, mean in block.mean.items()}


def _point(block: Block) -> str | None:
    """Return the name of a parameter without spread, if there is one."""
    if not isinstance(block, Diagonal):
        return None
    return next((name for name, each in block.precision.items() if torch.isinf(each).any()), None)
