"""What every likelihood answers: loss, Hessian root, random targets, predictions and their scores.

Shapes: `*d` data (a batch, or a batch and its positions), c outputs per datum, s posterior samples. The last
        axis of the outputs belongs to one datum; the axes before it count data. Targets and outputs of shape
        (n,) are n data of one output each, where the likelihood allows a single output.
Units:  nats. A loss is -ln p(target | outputs) with all its constants, so a mean loss is a negative log
        likelihood per datum.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.likelihoods.finite import all_finite
from secateur.metrics import Intervals, Reliability

__all__ = ["Likelihood", "check_outputs", "check_same_shape", "paired", "widened"]


@dataclass(frozen=True)
class Likelihood(ABC):
    """The distribution of a target given a network's outputs.

    Attributes:
        name: Name by which `resolve` finds the class.
        link: Name of the function from outputs to the expected target.
    """

    name: ClassVar[str]
    link: ClassVar[str]

    @abstractmethod
    def check(self, outputs: Tensor, targets: Tensor | None = None) -> None:
        """Refuse outputs and targets that do not fit this likelihood.

        This reads values, so call it once before training, not at every step.

        Args:
            outputs: Outputs of the network.
            targets: Their targets; None checks the outputs alone.

        Raises:
            InvalidArgumentError: If shapes, kinds or values do not fit; the message says what to do.
        """

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Compute the negative log likelihood of each datum, shape (*d).

        Args:
            outputs: Outputs of the network, shape (*d, c).
            targets: Observed targets.

        Raises:
            InvalidArgumentError: If the shapes do not fit each other.
        """

    @abstractmethod
    def root(self, outputs: Tensor) -> Tensor:
        """Factorise the Hessian of the loss in the outputs: B with B B^T the Hessian of each datum.

        Args:
            outputs: Outputs of the network, shape (*d, c).

        Returns:
            B, shape (*d, c, c). It depends on no target.
        """

    @abstractmethod
    def sample(self, outputs: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Draw one target per datum from its predictive distribution.

        Args:
            outputs: Outputs of the network, shape (*d, c).
            generator: Source of randomness, on the outputs' device.
        """

    @abstractmethod
    def mean(self, outputs: Tensor) -> Tensor:
        """Compute the expected target (for classes, their probabilities), in the outputs' shape.

        Args:
            outputs: Outputs of the network, shape (*d, c).
        """

    @abstractmethod
    def predict(self, outputs: Tensor) -> Tensor:
        """Turn the outputs of one network into a prediction that can be averaged over posterior samples.

        Args:
            outputs: Outputs of the network, shape (n, ...).

        Returns:
            The prediction in float32 or wider; its first axis still counts the data.
        """

    @abstractmethod
    def average(self, predictions: Iterable[Tensor]) -> Tensor:
        """Average predictions of several posterior samples, read one at a time.

        Args:
            predictions: What `predict` returned for each sample; at least one.
        """

    @abstractmethod
    def expectation(self, prediction: Tensor) -> Tensor:
        """Compute the expected target under a prediction (for classes, their probabilities), shape (*d, c).

        Args:
            prediction: What `predict` or `average` returned.
        """

    @abstractmethod
    def log_likelihood(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Compute ln p(target) of each labelled datum under a prediction, shape (num_data,).

        Args:
            prediction: What `predict` or `average` returned.
            targets: Observed targets.
        """

    @abstractmethod
    def prediction_scores(
        self, prediction: Tensor, targets: Tensor, *, sample_log_likelihoods: Tensor | None = None
    ) -> dict[str, float]:
        """Score a prediction by the metrics that fit this likelihood.

        Args:
            prediction: What `predict` or `average` returned.
            targets: Observed targets.
            sample_log_likelihoods: `log_likelihood` of each posterior sample, shape (s, num_data), for the
                log predictive density. None counts the prediction as the only sample.
        """

    def mean_loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Average the loss over the labelled data: the training loss, in nats per datum.

        Args:
            outputs: Outputs of the network, shape (*d, c).
            targets: Observed targets.
        """
        return self.loss(outputs, targets).mean()

    def num_data(self, targets: Tensor) -> int:
        """Count the data that carry a target.

        Args:
            targets: Observed targets.
        """
        return targets.numel() if targets.dim() < 2 else targets[..., 0].numel()

    def sample_like(
        self, outputs: Tensor, targets: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draw targets as `sample` does, but keep ignored targets ignored.

        Args:
            outputs: Outputs of the network, shape (*d, c).
            targets: Observed targets; only which of them are ignored is read.
            generator: Source of randomness, on the outputs' device.
        """
        return self.sample(outputs, generator)

    def prediction_loss(self, prediction: Tensor, targets: Tensor) -> Tensor:
        """Average -ln p(target) over the labelled data, under a prediction, in nats per datum.

        Args:
            prediction: What `predict` or `average` returned.
            targets: Observed targets.
        """
        return -self.log_likelihood(prediction, targets).mean()

    def reliability(self, prediction: Tensor, targets: Tensor) -> Reliability | None:
        """Compare confidence with accuracy in bins; None where predictions are not probabilities.

        Args:
            prediction: What `predict` or `average` returned.
            targets: Observed targets.
        """
        return None

    def intervals(self, prediction: Tensor, targets: Tensor) -> Intervals | None:
        """Compare the probability of central intervals with the share of targets inside.

        Args:
            prediction: What `predict` or `average` returned.
            targets: Observed targets.

        Returns:
            None where predictions have no intervals.
        """
        return None

    def target_units(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Return what outputs have to be multiplied by and shifted by to be in the targets' unit.

        Returns:
            Shift and factor, one for each output, or one for all.
        """
        return (0.0,), (1.0,)

    def updated(self, outputs: Tensor, targets: Tensor) -> "Likelihood":
        """Return this likelihood after it has learned its own parameters from data, if it has any.

        Args:
            outputs: Outputs of the network, shape (*d, c).
            targets: Observed targets.
        """
        return self

    def scores(self, outputs: Tensor, targets: Tensor, *, samples: bool = False) -> dict[str, float]:
        """Score a network's outputs by the metrics that fit this likelihood.

        Args:
            outputs: Outputs of the network, shape (*d, c), or (s, *d, c) of several posterior samples.
            targets: Observed targets.
            samples: Whether the first axis of the outputs counts posterior samples.

        Raises:
            InvalidArgumentError: If outputs or targets do not fit.
        """
        members = outputs if samples else outputs.unsqueeze(0)
        if samples and (outputs.dim() < 2 or not len(outputs)):
            raise InvalidArgumentError(
                f"outputs: expected a first axis that counts samples, got shape {tuple(outputs.shape)}"
            )
        for member in members:
            self.check(member, targets)
        predictions = [self.predict(member) for member in members]
        each = torch.stack([self.log_likelihood(prediction, targets) for prediction in predictions])
        return self.prediction_scores(self.average(predictions), targets, sample_log_likelihoods=each)

    @property
    def learned(self) -> bool:
        """Whether this likelihood has parameters of its own that `updated` learns."""
        return False

    def describe(self) -> dict[str, Any]:
        """Return the name and the parameters as JSON values, which `resolve` reads back."""
        return {"name": self.name, **asdict(self)}


def widened(values: Tensor) -> Tensor:
    """Return half-precision values as float32, others unchanged.

    Args:
        values: Floating-point numbers.
    """
    return values.float() if values.dtype in (torch.bfloat16, torch.float16) else values


def paired(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return outputs and targets of one common shape (*d, c), in float32 or wider.

    A single output per datum may come without its axis: (n,) stands for (n, 1) on either side.

    Args:
        outputs: Outputs of the network.
        targets: One target per output.

    Raises:
        InvalidArgumentError: If the shapes differ otherwise; broadcasting them would be a silent error.
    """
    check_same_shape(outputs, targets)
    if outputs.dim() == 1:
        outputs = outputs.unsqueeze(-1)
    outputs = widened(outputs)
    return outputs, targets.to(outputs.dtype).reshape(outputs.shape)


def check_same_shape(outputs: Tensor, targets: Tensor) -> None:
    """Refuse targets that are not one for each output.

    Args:
        outputs: Outputs of the network.
        targets: One target per output; a last axis of one may be missing on either side.

    Raises:
        InvalidArgumentError: If the shapes differ otherwise.
    """
    single = outputs.shape if outputs.dim() != 1 else (*outputs.shape, 1)
    if outputs.dim() and (targets.shape == outputs.shape or targets.shape == single):
        return
    if single[-1:] == (1,) and targets.shape == single[:-1]:
        return
    raise InvalidArgumentError(
        f"targets: expected one for each output, shape {tuple(outputs.shape)}, got {tuple(targets.shape)}; "
        "reshape them, or give the network one output per target"
    )


def check_outputs(outputs: Tensor) -> None:
    """Refuse outputs that are not finite floating-point numbers.

    Args:
        outputs: Outputs of the network.

    Raises:
        InvalidArgumentError: If they are of another kind, empty, or nan or infinite somewhere.
    """
    if not outputs.is_floating_point():
        raise InvalidArgumentError(
            f"outputs: expected floating-point numbers, got {outputs.dtype}; "
            "return what the last layer computes"
        )
    if outputs.dim() == 0 or not outputs.numel():
        raise InvalidArgumentError(
            f"outputs: expected at least one datum and output, got shape {tuple(outputs.shape)}"
        )
    if not all_finite(outputs):
        bad = int((~outputs.isfinite()).sum())
        raise InvalidArgumentError(
            f"outputs: expected finite numbers, got nan or infinity in {bad} of {outputs.numel()}; "
            "look at the inputs and the learning rate"
        )
