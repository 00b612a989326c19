"""Which regressors to drop together.

With one output the subsets are those of `reduction.search_subsets`, whose evidence is that of a Gaussian:
the model's own, or for linear regression one at the expected noise, after which each subset is judged by its
exact evidence. With several outputs a regressor goes with all its coefficients.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from secateur.reduction import SubsetSearch, search_subsets
from secateur.reduction.search import MAX_EXHAUSTIVE
from secateur.regression.models import RegressionModel

__all__ = ["best_subsets"]

MAX_GROUPS = 12
"""Regressors of several outputs up to which all subsets are visited."""


def best_subsets(model: RegressionModel, *, log_odds: float) -> SubsetSearch:
    """Visit subsets of the regressors: all where they are few, else a path of removals.

    Args:
        model: The posterior of all of them.
        log_odds: Prior log odds of a regressor staying, in nats.
    """
    size = model.num_regressors
    if model.num_outputs > 1:
        removed, method = _groups(model.delta_f, size)
    else:
        mean, precision, prior = model.gaussian()
        # the intercept stays whatever goes, so it is integrated over
        column = precision[1:, 0]
        marginal = precision[1:, 1:] - torch.outer(column, column) / precision[0, 0]
        found = search_subsets(mean[1:], 0.5 * (marginal + marginal.mT), prior_precision=prior[1:, 1:])
        removed, method = found.removed, found.method
    evidence = model.delta_f(removed)
    probability = torch.softmax(evidence - log_odds * removed.sum(-1), 0)
    keep_probability = probability @ (~removed).to(probability.dtype)
    best = removed[probability.argmax()]
    return SubsetSearch(removed, evidence, probability, best, keep_probability, method)


def _groups(delta_f: Callable[[Tensor], Tensor], size: int) -> tuple[Tensor, Literal["exhaustive", "greedy"]]:
    if size <= min(MAX_GROUPS, MAX_EXHAUSTIVE):
        numbers = torch.arange(2**size)[:, None]
        return (numbers >> torch.arange(size)).bitwise_and(1).bool(), "exhaustive"
    removed = torch.zeros(1, size, dtype=torch.bool)
    for _ in range(size):
        candidates = removed[-1] | torch.eye(size, dtype=torch.bool)[~removed[-1]]
        removed = torch.cat([removed, candidates[delta_f(candidates).argmax()][None]])
    return removed, "greedy"
