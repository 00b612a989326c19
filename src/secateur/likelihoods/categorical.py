"""Classes: one logit per class, one class number per datum or token."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.likelihoods.base import Likelihood, check_outputs, widened
from secateur.metrics import Reliability, evaluate, log_likelihoods, reliability

__all__ = ["Categorical", "average_log_tables"]


@dataclass(frozen=True)
class Categorical(Likelihood):
    """Class labels under softmax: cross-entropy loss.

    The outputs are logits, shape (n, classes), or (batch, positions, classes) of a network of tokens. The
    targets are class numbers (int64) of the shape before the last axis.

    Attributes:
        ignore_label: A target that does not count: padding, or tokens that nobody asks about.
    """

    ignore_label: int = -100

    name: ClassVar[str] = "categorical"
    link: ClassVar[str] = "softmax"

    def check(self, outputs: Tensor, targets: Tensor | None = None) -> None:
        """Refuse fewer than two logits, and targets that are not class numbers; see `Likelihood.check`.

        Args:
            outputs: Logits.
            targets: Class numbers; None checks the logits alone.

        Raises:
            InvalidArgumentError: If shapes, kinds or values do not fit; the message says what to do.
        """
        check_outputs(outputs)
        num_classes = outputs.shape[-1]
        if num_classes < 2:
            raise InvalidArgumentError(
                f"outputs: expected a logit for each of at least two classes, got {num_classes}; "
                'use likelihood="bernoulli" for a single logit, or "gaussian" for real targets'
            )
        if targets is None:
            return
        if targets.dtype != torch.int64:
            raise InvalidArgumentError(
                f"targets: expected class numbers as int64, got {targets.dtype}; convert them by .long(), or "
                'use likelihood="gaussian" for real targets'
            )
        self._check_shapes(outputs, targets)
        labels = targets[targets != self.ignore_label]
        if not len(labels):
            raise InvalidArgumentError(
                f"targets: expected at least one label, got ignored ones ({self.ignore_label}) only; "
                "leave such batches out"
            )
        if labels.min() < 0 or labels.max() >= num_classes:
            raise InvalidArgumentError(
                f"targets: expected class numbers in 0 ... {num_classes - 1}, got {int(labels.min())} ... "
                f"{int(labels.max())}; give the network one logit per class, or renumber the classes"
            )

    def _check_shapes(self, outputs: Tensor, targets: Tensor) -> None:
        if outputs.dim() and targets.shape == outputs.shape[:-1]:
            return
        remedy = "give one class number per datum"
        if outputs.dim() > 2 and targets.shape == (*outputs.shape[:1], *outputs.shape[2:]):
            remedy = "put the classes last: outputs.movedim(1, -1)"
        raise InvalidArgumentError(
            f"targets: expected shape {tuple(outputs.shape[:-1])} for logits of shape {tuple(outputs.shape)}"
            f", got {tuple(targets.shape)}; {remedy}"
        )

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the cross-entropy of each datum or token, shape (*d); 0 where the label is ignored.

        Args:
            outputs: Logits, shape (*d, classes).
            targets: Class numbers, shape (*d).

        Raises:
            InvalidArgumentError: If the shapes do not fit each other.
        """
        return self._cross_entropy(outputs, targets, "none").view(targets.shape)

    def mean_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Average the cross-entropy over labelled data; nan where no target is labelled.

        Args:
            outputs: Logits, shape (*d, classes).
            targets: Class numbers, shape (*d).

        Raises:
            InvalidArgumentError: If the shapes do not fit each other.
        """
        return self._cross_entropy(outputs, targets, "mean")

    def _cross_entropy(self, outputs: Tensor, targets: Tensor, reduction: str) -> Tensor:
        self._check_shapes(outputs, targets)
        if outputs.dim() > 2:
            outputs, targets = outputs.flatten(0, -2), targets.flatten()
        return F.cross_entropy(widened(outputs), targets, ignore_index=self.ignore_label, reduction=reduction)

    def num_data(self, targets: Tensor) -> int:
        """Count the targets that are not ignored.

        Args:
            targets: Class numbers.
        """
        return int((targets != self.ignore_label).sum())

    def root(self, outputs: Tensor) -> Tensor:
        """Factorise the Hessian diag(p) - p p^T by B = (diag(p) - p p^T) diag(p)^-1/2.

        Args:
            outputs: Logits, shape (*d, classes).

        Returns:
            B, shape (*d, classes, classes).
        """
        probabilities = widened(outputs).softmax(-1)
        identity = torch.eye(outputs.shape[-1], dtype=probabilities.dtype, device=outputs.device)
        rows = probabilities.sqrt().unsqueeze(-1) * (identity - probabilities.unsqueeze(-2))
        return rows.mT.to(outputs.dtype)

    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw a class for each datum or token.

        Args:
            outputs: Logits, shape (*d, classes).
            generator: Source of randomness, on the outputs' device.

        Returns:
            Class numbers, shape (*d).
        """
        probabilities = widened(outputs.detach()).softmax(-1)
        drawn = probabilities.reshape(-1, outputs.shape[-1]).multinomial(1, generator=generator)
        return drawn.view(outputs.shape[:-1])

    def sample_like(
        self, outputs: Tensor, targets: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw a class for each datum or token, but keep the ignored label where the target has it.

        Args:
            outputs: Logits, shape (*d, classes).
            targets: Class numbers, shape (*d); only which of them are ignored is read.
            generator: Source of randomness, on the outputs' device.

        Returns:
            Class numbers, shape (*d).
        """
        return self.sample(outputs, generator).masked_fill(targets == self.ignore_label, self.ignore_label)

    def mean(self, outputs: Tensor) -> Tensor:
        """Compute the class probabilities.

        Args:
            outputs: Logits, shape (*d, classes).
        """
        return outputs.softmax(-1)

    def predict(self, outputs: Tensor) -> Tensor:
        """Compute the log probabilities of the classes in float32 or wider.

        Args:
            outputs: Logits, shape (*d, classes).
        """
        return widened(outputs).log_softmax(-1)

    def average(self, predictions: Iterable[Tensor]) -> Tensor:
        """Average class probabilities over posterior samples; a running log-sum holds one table at a time.

        Args:
            predictions: Log probabilities of each sample, shape (*d, classes).

        Returns:
            Logs of the averaged probabilities.
        """
        return average_log_tables(predictions)

    def expectation(self, prediction: Tensor) -> Tensor:
        """Compute the class probabilities of a prediction.

        Args:
            prediction: Log probabilities, shape (*d, classes).
        """
        return prediction.exp()

    def log_likelihood(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Return the log probability of each label that is not ignored, shape (num_data,).

        Args:
            prediction: Log probabilities, shape (*d, classes).
            targets: Class numbers, shape (*d).
        """
        return log_likelihoods(*self._labelled(prediction, targets))

    def prediction_loss(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Average -ln p(label) over the labels that are not ignored.

        Args:
            prediction: Log probabilities, shape (*d, classes).
            targets: Class numbers, shape (*d).
        """
        return F.nll_loss(prediction.flatten(0, -2), targets.flatten(), ignore_index=self.ignore_label)

    def prediction_scores(
        self, prediction: Tensor, targets: Tensor, *, sample_log_likelihoods: Tensor | None = None
    ) -> dict[str, float]:
        """Score averaged class probabilities: accuracy, likelihoods, calibration (`metrics.evaluate`).

        Args:
            prediction: Log probabilities, shape (*d, classes).
            targets: Class numbers, shape (*d).
            sample_log_likelihoods: `log_likelihood` of each posterior sample, shape (s, num_data).
        """
        table, labels = self._labelled(prediction, targets)
        return evaluate(table, labels, sample_log_likelihoods=sample_log_likelihoods).as_dict()

    def reliability(self, prediction: Tensor, targets: Tensor) -> Reliability:
        """Compare confidence with accuracy in bins of equal mass.

        Args:
            prediction: Log probabilities, shape (*d, classes).
            targets: Class numbers, shape (*d).
        """
        return reliability(*self._labelled(prediction, targets))

    def _labelled(self, prediction: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return log probabilities (num_data, classes) and labels (num_data,), ignored ones left out."""
        table, labels = prediction.flatten(0, -2), targets.flatten()
        counts = labels != self.ignore_label
        return (table, labels) if counts.all() else (table[counts], labels[counts])


def average_log_tables(predictions: Iterable[Tensor]) -> Tensor:
    """Return the log of the probabilities averaged over samples, of which one is held at a time.

    Args:
        predictions: Log probabilities of each sample.

    Raises:
        InvalidArgumentError: If there is none.
    """
    total, number = None, 0
    for prediction in predictions:
        total = prediction if total is None else torch.logaddexp(total, prediction)
        number += 1
    if total is None:
        raise InvalidArgumentError("predictions: expected at least one sample, got none")
    # float32, as tables are; a single sample is returned to the last digit
    return total - torch.tensor(float(number)).log() if number > 1 else total
