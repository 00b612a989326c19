"""Yes or no: one logit per question, one question or several (multi-label) per datum."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur import metrics
from secateur.errors import InvalidArgumentError
from secateur.likelihoods.base import Likelihood, check_outputs, check_same_shape, paired, widened
from secateur.likelihoods.categorical import average_log_tables

__all__ = ["Bernoulli"]


@dataclass(frozen=True)
class Bernoulli(Likelihood):
    """Targets of 0 or 1 under a sigmoid: binary cross-entropy loss, summed over the labels of a datum.

    The outputs are logits, shape (n,) or (n, 1) for one label per datum, (n, labels) for several. The targets
    are 0 or 1 (of any number kind, or bool), one for each logit. A prediction holds ln p(0) and ln p(1) in
    its last axis.
    """

    name: ClassVar[str] = "bernoulli"
    link: ClassVar[str] = "sigmoid"

    def check(self, outputs: Tensor, targets: Tensor | None = None) -> None:
        """Refuse targets other than 0 and 1; see `Likelihood.check`.

        Args:
            outputs: Logits.
            targets: 0 or 1 for each logit; None checks the logits alone.

        Raises:
            InvalidArgumentError: If shapes, kinds or values do not fit; the message says what to do.
        """
        check_outputs(outputs)
        if targets is None:
            return
        if targets.dim() == outputs.dim() - 1 and outputs.shape[-1] > 1:
            raise InvalidArgumentError(
                f"targets: expected 0 or 1 for each of {outputs.shape[-1]} logits, got one number per datum; "
                'use likelihood="categorical" for class numbers'
            )
        check_same_shape(outputs, targets)
        if targets.is_complex() or not ((targets == 0) | (targets == 1)).all():
            raise InvalidArgumentError(
                f'targets: expected 0 or 1, got {_range(targets)}; use likelihood="categorical" for class '
                'numbers, or "gaussian" for real targets'
            )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the binary cross-entropy of each datum, summed over its labels, shape (*d).

        Args:
            outputs: Logits, shape (*d, labels).
            targets: 0 or 1 for each logit.

        Raises:
            InvalidArgumentError: If the shapes do not fit each other.
        """
        logits, labels = paired(outputs, targets)
        return F.binary_cross_entropy_with_logits(logits, labels, reduction="none").sum(-1)

    def root(self, outputs: Tensor) -> Tensor:
        """Return diag(sqrt(p (1 - p))), the root of the Hessian.

        Args:
            outputs: Logits, shape (*d, labels).

        Returns:
            B, shape (*d, labels, labels).
        """
        logits = widened(outputs)
        # through logarithms: p (1 - p) rounds to 0 from logits of 17 on in float32
        std = (0.5 * (F.logsigmoid(logits) + F.logsigmoid(-logits))).exp()
        return std.diag_embed().to(outputs.dtype)

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw 0 or 1 for each logit.

        Args:
            outputs: Logits, shape (*d, labels).
            generator: Source of randomness, on the outputs' device.

        Returns:
            0. or 1., in the outputs' shape.
        """
        probabilities = widened(outputs.detach()).sigmoid()
        return torch.bernoulli(probabilities, generator=generator)

    def mean(self, outputs: Tensor) -> Tensor:
        """Compute the probability of 1.

        Args:
            outputs: Logits, shape (*d, labels).
        """
        return outputs.sigmoid()

    def predict(self, outputs: Tensor) -> Tensor:
        """Compute ln p(0) and ln p(1) of each label.

        Args:
            outputs: Logits, shape (n,) or (*d, labels).

        Returns:
            Log probabilities, shape (*d, labels, 2).
        """
        logits = widened(outputs)
        logits = logits.unsqueeze(-1) if logits.dim() == 1 else logits
        return torch.stack([F.logsigmoid(-logits), F.logsigmoid(logits)], -1)

    def average(self, predictions: Iterable[Tensor]) -> Tensor:
        """Average the probabilities over posterior samples; one table is held at a time.

        Args:
            predictions: Log probabilities of each sample, shape (*d, labels, 2).
        """
        return average_log_tables(predictions)

    def expectation(self, prediction: Tensor) -> Tensor:
        """Compute the probability of 1 of each label.

        Args:
            prediction: Log probabilities, shape (*d, labels, 2).
        """
        return prediction[..., 1].exp()

    def log_likelihood(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return the log probability of each datum's labels, summed over them, shape (num_data,).

        Args:
            prediction: Log probabilities, shape (*d, labels, 2).
            targets: 0 or 1 for each label.
        """
        each = metrics.log_likelihoods(*_per_label(prediction, targets))
        return each.view(-1, prediction.shape[-2]).sum(-1)

    def prediction_scores(
        self, prediction: Tensor, targets: Tensor, *, sample_log_likelihoods: Tensor | None = None
    ) -> dict[str, float]:
        """Score probabilities: accuracy, calibration and Brier score per label, likelihoods per datum.

        The Brier score is the squared distance of p(1) from the label, between 0 and 1.

        Args:
            prediction: Log probabilities, shape (*d, labels, 2).
            targets: 0 or 1 for each label.
            sample_log_likelihoods: `log_likelihood` of each posterior sample, shape (s, num_data).
        """
        table, labels = _per_label(prediction, targets)
        each = self.log_likelihood(prediction, targets)
        return {
            "accuracy": metrics.accuracy(table, labels),
            "negative_log_likelihood": -each.double().mean().item(),
            "expected_calibration_error": metrics.expected_calibration_error(table, labels),
            "brier_score": metrics.brier_score(table, labels) / 2,  # of two classes it counts both
            "log_predictive_density": metrics.joint_log_density(
                each.unsqueeze(0) if sample_log_likelihoods is None else sample_log_likelihoods
            ),
        }

    def reliability(self, prediction: Tensor, targets: Tensor) -> metrics.Reliability:
        """Compare confidence with accuracy over all labels, in bins of equal mass.

        Args:
            prediction: Log probabilities, shape (*d, labels, 2).
            targets: 0 or 1 for each label.
        """
        return metrics.reliability(*_per_label(prediction, targets))


def _per_label(prediction: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return a table of log probabilities, shape (labels in all, 2), and the labels as class numbers."""
    return prediction.flatten(0, -2), targets.flatten().long()


def _range(targets: Tensor) -> str:
    if targets.is_complex():
        return str(targets.dtype)
    return f"{targets.min().item():g} ... {targets.max().item():g}"
