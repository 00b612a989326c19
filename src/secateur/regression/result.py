"""What a regression found, with the names of the regressors."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from secateur.data.arrays import as_inputs
from secateur.errors import InvalidArgumentError
from secateur.likelihoods import Likelihood
from secateur.reduction import SubsetSearch

__all__ = ["Regression", "Subset"]

TITLES = {
    "gaussian": "linear regression, exact",
    "bernoulli": "logistic regression, by Laplace's method",
    "categorical": "multinomial regression, by Laplace's method",
    "poisson": "Poisson regression, by Laplace's method",
}
MOST_ROWS = 40


@dataclass(frozen=True)
class Subset:
    """Some of the regressors.

    Attributes:
        names: Those that are kept.
        delta_f: Log evidence of this model against that of all regressors, in nats.
        probability: Posterior probability among the models that were visited.
    """

    names: tuple[str, ...]
    delta_f: float
    probability: float


@dataclass(frozen=True, eq=False)
class Regression:
    """Posterior of a regression, and the evidence of smaller ones. Coefficients are in the data's own units.

    Those of several classes sum to 0 over the classes, since probabilities depend on their differences alone.

    Attributes:
        likelihood: Distribution of the targets.
        names: The regressors.
        classes: What the classes are called; the second is the 1 of a logistic regression.
        num_data: Number of data.
        intercept: Posterior mean, shape (outputs).
        intercept_error: Its posterior standard deviation, shape (outputs).
        coefficients: Posterior means, shape (regressors, outputs).
        standard_errors: Posterior standard deviations, likewise.
        delta_f: Log evidence of dropping each regressor alone, in nats, shape (regressors); > 0 favours it.
        search: The models that were visited.
        best_intercept: Posterior mean in the most probable of them.
        best_coefficients: Posterior means there; 0 for dropped regressors.
    """

    likelihood: Likelihood
    names: tuple[str, ...]
    classes: tuple[str, ...]
    num_data: int
    intercept: Tensor
    intercept_error: Tensor
    coefficients: Tensor
    standard_errors: Tensor
    delta_f: Tensor
    search: SubsetSearch
    best_intercept: Tensor
    best_coefficients: Tensor

    @property
    def keep_probability(self) -> Tensor:
        """Probability of the visited models that keep each regressor, shape (regressors)."""
        return self.search.keep_probability

    @property
    def best(self) -> Subset:
        """The most probable subset."""
        return self.subsets(1)[0]

    def subsets(self, number: int = 5) -> list[Subset]:
        """Return the most probable subsets, the best first.

        Args:
            number: How many, at most.
        """
        order = self.search.probability.argsort(descending=True)[:number].tolist()
        return [self._subset(k) for k in order]

    def _subset(self, k: int) -> Subset:
        gone = self.search.removed[k].tolist()
        kept = tuple(name for name, out in zip(self.names, gone, strict=True) if not out)
        return Subset(kept, self.search.delta_f[k].item(), self.search.probability[k].item())

    def predict(self, inputs: Any, *, best: bool = True) -> Tensor:
        """Return the expected targets at the posterior mean: numbers, rates, or probabilities.

        Args:
            inputs: Regressors, shape (n, regressors), in their own units.
            best: Whether by the most probable subset, or by all regressors.

        Returns:
            Shape (n, outputs).

        Raises:
            InvalidArgumentError: If there are other regressors.
        """
        values = torch.from_numpy(as_inputs(inputs).astype(float))
        if values.shape[1:] != (len(self.names),):
            raise InvalidArgumentError(
                f"inputs: expected the {len(self.names)} regressors {', '.join(self.names)}, got shape "
                f"{tuple(values.shape)}"
            )
        coefficients = self.best_coefficients if best else self.coefficients
        return self.likelihood.mean((self.best_intercept if best else self.intercept) + values @ coefficients)

    def __str__(self) -> str:
        best, others = self.best, self.subsets(4)[1:]
        lines = [
            f"Bayesian {TITLES[self.likelihood.name]}: {self.num_data} data, {len(self.names)} regressors",
            "",
            *self._table(),
            "",
            "delta_f: log evidence of dropping the regressor, in nats; above 0 the data favour it.",
            f"Best of {len(self.search.removed)} subsets: {_described(best)}",
            *(f"  then {_described(each)}" for each in others),
        ]
        return "\n".join(lines)

    def _table(self) -> list[str]:
        width = max(map(len, (*self.names, "intercept")))
        several = self.coefficients.shape[1] > 1
        heads = list(self.classes) if several else ["coefficient", "std. error"]
        rows = []
        every = [("intercept", self.intercept, self.intercept_error, "", "")]
        for k, name in enumerate(self.names):
            evidence, kept = f"{self.delta_f[k]:+.2f}", f"{self.keep_probability[k]:.3f}"
            every.append((name, self.coefficients[k], self.standard_errors[k], evidence, kept))
        for name, value, error, evidence, kept in every[: MOST_ROWS + 1]:
            pairs = list(zip(value.tolist(), error.tolist(), strict=True))
            numbers = [f"{a:.4g} ({b:.2g})" for a, b in pairs]
            if not several:
                numbers = [f"{pairs[0][0]:.4g}", f"{pairs[0][1]:.2g}"]
            rows.append([name, *numbers, evidence, kept])
        table = [["", *heads, "delta_f", "kept"], *rows]
        widths = [max(len(row[column]) for row in table) for column in range(1, len(table[0]))]
        lines = []
        for first, *rest in table:
            cells = [cell.rjust(size) for cell, size in zip(rest, widths, strict=True)]
            lines.append("  ".join([first.ljust(width), *cells]).rstrip())
        if len(every) > MOST_ROWS + 1:
            lines.append(f"... and {len(every) - MOST_ROWS - 1} more")
        return lines


def _described(subset: Subset) -> str:
    names = ", ".join(subset.names) or "no regressor"
    return f"{names} (delta_f {subset.delta_f:+.2f}, probability {subset.probability:.3f})"
