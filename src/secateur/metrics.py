"""How good, and how honest, predictions are.

All functions read natural-log probabilities. `log_probabilities` of shape (n, k) are those of the averaged
prediction, ln [1/S sum_s p(y | x, w_s)], as `average_log_probabilities` makes them.

Shapes: s posterior samples, n data, k classes.
Sign:   an error or loss falls as predictions improve (`negative_log_likelihood`, `brier_score`,
        `expected_calibration_error`); `accuracy`, `log_predictive_density`, `auroc` rise.
Units:  nats per datum where there is a logarithm; everything else is a fraction.

Two likelihoods are reported, as in the published comparison (arXiv:2309.12095). The negative log
likelihood averages the probabilities datum by datum, so every datum may be explained by other samples.
The log predictive density asks for the whole test set at once, under one and the same draw of weights:

    NLL = -1/n sum_i ln [ 1/S sum_s p(y_i | w_s) ]         LPD = 1/n ln [ 1/S sum_s prod_i p(y_i | w_s) ]

LPD <= -NLL whenever ... (see `log_predictive_density`); they agree for one sample.
"""

import math
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from secateur.errors import InvalidArgumentError

__all__ = [
    "Metrics",
    "Reliability",
    "accuracy",
    "auroc",
    "average_log_probabilities",
    "brier_score",
    "evaluate",
    "expected_calibration_error",
    "log_likelihoods",
    "log_predictive_density",
    "negative_log_likelihood",
    "reliability",
]


@dataclass(frozen=True)
class Metrics:
    """The figures of one evaluation."""

    accuracy: float
    negative_log_likelihood: float
    expected_calibration_error: float
    brier_score: float
    log_predictive_density: float

    def as_dict(self) -> dict[str, float]:
        """Return the figures by name, as `metrics.json` holds them."""
        return asdict(self)


@dataclass(frozen=True)
class Reliability:
    """Confidence against accuracy, bin by bin of equal mass; empty bins are left out."""

    confidence: Float[Tensor, "b"]
    accuracy: Float[Tensor, "b"]
    count: Int64[Tensor, "b"]


def average_log_probabilities(log_probabilities: Float[Tensor, "s n k"]) -> Float[Tensor, "n k"]:
    """Return the log of the probabilities averaged over posterior samples."""
    return log_probabilities.logsumexp(0) - math.log(len(log_probabilities))


def log_likelihoods(
    log_probabilities: Float[Tensor, "*s n k"], labels: Int64[Tensor, "n"]
) -> Float[Tensor, "*s n"]:
    """Return the log probability of each datum's own label, per sample where there are samples."""
    index = labels.expand(log_probabilities.shape[:-1]).unsqueeze(-1)
    return log_probabilities.gather(-1, index).squeeze(-1)


def accuracy(log_probabilities: Float[Tensor, "n k"], labels: Int64[Tensor, "n"]) -> float:
    """Return the fraction of data whose most probable class is the label."""
    return (log_probabilities.argmax(-1) == labels).double().mean().item()


def negative_log_likelihood(log_probabilities: Float[Tensor, "n k"], labels: Int64[Tensor, "n"]) -> float:
    """Return the mean over data of -ln p(label), of the averaged prediction, in nats per datum."""
    return -log_likelihoods(log_probabilities, labels).double().mean().item()


def brier_score(log_probabilities: Float[Tensor, "n k"], labels: Int64[Tensor, "n"]) -> float:
    """Return the mean over data of the squared distance of the probabilities from the one-hot label.

    Summed over the classes (Brier 1950), so between 0 and 2.
    """
    probabilities = log_probabilities.double().exp()
    truth = torch.nn.functional.one_hot(labels, probabilities.shape[-1])
    return (probabilities - truth).square().sum(-1).mean().item()


def log_predictive_density(log_probabilities: Float[Tensor, "*s n k"], labels: Int64[Tensor, "n"]) -> float:
    """Return 1/n of the log probability of all labels jointly, averaged over posterior samples."""
    return _joint_density(log_likelihoods(log_probabilities, labels))


def _joint_density(per_datum: Float[Tensor, "*s n"]) -> float:
    joint = per_datum.double().sum(-1).reshape(-1)
    return ((joint.logsumexp(0) - math.log(len(joint))) / per_datum.shape[-1]).item()


def reliability(
    log_probabilities: Float[Tensor, "n k"], labels: Int64[Tensor, "n"], *, num_bins: int = 20
) -> Reliability:
    """Return mean confidence, accuracy and count in bins of equal mass of the confidence.

    Confidence is the largest probability of a datum. The bins' edges are quantiles of the confidence, so
    each bin holds n / `num_bins` data; equal confidences share a bin, so the order of the data is of no account.
    """
    confidence, predicted = log_probabilities.double().max(-1)
    confidence = confidence.exp()
    ordered = confidence.sort().values
    n = len(ordered)
    first = torch.arange(1, num_bins, device=ordered.device) * n // num_bins
    bins = torch.bucketize(confidence, ordered[first], right=True)
    count = torch.bincount(bins, minlength=num_bins)
    hit = torch.bincount(bins, weights=(predicted == labels).double(), minlength=num_bins)
    mass = torch.bincount(bins, weights=confidence, minlength=num_bins)
    used = count > 0
    return Reliability(
        confidence=mass[used] / count[used], accuracy=hit[used] / count[used], count=count[used]
    )


def expected_calibration_error(
    log_probabilities: Float[Tensor, "n k"], labels: Int64[Tensor, "n"], *, num_bins: int = 20
) -> float:
    """Return the mean over data of |accuracy - confidence| of the datum's bin; bins of equal mass."""
    table = reliability(log_probabilities, labels, num_bins=num_bins)
    gap = (table.accuracy - table.confidence).abs()
    return ((gap * table.count).sum() / table.count.sum()).item()


def auroc(inside: Float[Tensor, "n"], outside: Float[Tensor, "m"]) -> float:
    """Return the probability that a foreign datum scores above a known one; ties count half.

    Args:
        inside: Scores of data of the training distribution, for example predictive entropies.
        outside: Scores of foreign data; higher should mean more foreign.
    """
    from torchmetrics.functional.classification import binary_auroc

    scores = torch.cat([inside, outside])
    foreign = torch.cat([torch.zeros_like(inside), torch.ones_like(outside)]).long()
    return binary_auroc(scores, foreign).item()


def evaluate(
    log_probabilities: Float[Tensor, "n k"],
    labels: Int64[Tensor, "n"],
    *,
    sample_log_likelihoods: Float[Tensor, "s n"] | None = None,
) -> Metrics:
    """Return all figures of an averaged prediction.

    Args:
        log_probabilities: Logs of the probabilities averaged over samples.
        labels: True classes.
        sample_log_likelihoods: ln p(label) per posterior sample and datum, as `log_likelihoods` makes it,
            for the log predictive density. None counts the averaged prediction as one sample.
    """
    if not len(labels):
        raise InvalidArgumentError("expected at least one datum to evaluate, got none")
    per_datum = log_likelihoods(log_probabilities, labels)
    return Metrics(
        accuracy=accuracy(log_probabilities, labels),
        negative_log_likelihood=negative_log_likelihood(log_probabilities, labels),
        expected_calibration_error=expected_calibration_error(log_probabilities, labels),
        brier_score=brier_score(log_probabilities, labels),
        log_predictive_density=_joint_density(
            per_datum if sample_log_likelihoods is None else sample_log_likelihoods
        ),
    )
