"""How good, and how honest, predictions of classes are.

Input:  natural-log probabilities. Those of shape (n, k) belong to the averaged prediction,
        ln [1/S sum_s p(y | x, w_s)], as `average_log_probabilities` makes them from posterior samples.
Shapes: s posterior samples, n data, k classes, b bins.
Sign:   `negative_log_likelihood`, `brier_score` and `expected_calibration_error` fall as predictions
        improve; `accuracy`, `log_predictive_density` and `auroc` rise.
Units:  nats per datum where there is a logarithm; everything else is a fraction.

Two likelihoods are reported, as the code of the published comparison does (arXiv:2309.12095). The
negative log likelihood averages the probability of each datum over the samples. The log predictive density
asks for the whole test set at once, which one and the same draw of the weights must explain:

    NLL = -1/n sum_i ln [1/S sum_s p(y_i | w_s)]          LPD = 1/n ln [1/S sum_s prod_i p(y_i | w_s)]

With many data the best sample decides LPD, so -NLL - LPD is about what averaging gains over the best
single draw. For one sample, or a point estimate, LPD = -NLL.
"""

import math
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn.functional import one_hot

from secateur.errors import InvalidArgumentError
from secateur.metrics.mixture import joint_log_density

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
    "predictive_entropy",
    "reliability",
]

_SUM_TOLERANCE = 0.05  # |ln sum p|; bfloat16 log-probabilities stay below it, logits do not


@dataclass(frozen=True)
class Metrics:
    """The figures of one evaluation; each is defined by the function of its name."""

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
    """Confidence against accuracy, bin by bin; what a reliability diagram draws.

    Attributes:
        confidence: Mean of the largest probability, per bin, rising.
        accuracy: Fraction of hits, per bin.
        count: Data per bin, never 0.
    """

    confidence: Float[Tensor, " b"]
    accuracy: Float[Tensor, " b"]
    count: Int64[Tensor, " b"]


def average_log_probabilities(log_probabilities: Float[Tensor, "s n k"]) -> Float[Tensor, "n k"]:
    """Return the log of the probabilities averaged over posterior samples, ln [1/S sum_s p_s].

    Args:
        log_probabilities: Log probabilities of every sample, shape (s, n, k).

    >>> average_log_probabilities(torch.tensor([[[0.2, 0.8]], [[0.6, 0.4]]]).log()).exp()
    tensor([[0.4000, 0.6000]])
    """
    return log_probabilities.logsumexp(0) - math.log(len(log_probabilities))


def log_likelihoods(
    log_probabilities: Float[Tensor, "*s n k"], labels: Int64[Tensor, " n"]
) -> Float[Tensor, "*s n"]:
    """Return the log probability of each datum's own label, in nats.

    Args:
        log_probabilities: Log probabilities, with or without leading axes for samples.
        labels: True classes.
    """
    index = labels.expand(log_probabilities.shape[:-1]).unsqueeze(-1)
    return log_probabilities.gather(-1, index).squeeze(-1)


def accuracy(log_probabilities: Float[Tensor, "n k"], labels: Int64[Tensor, " n"]) -> float:
    """Return the fraction of data whose most probable class is the label.

    Args:
        log_probabilities: Of the averaged prediction.
        labels: True classes.
    """
    return (log_probabilities.argmax(-1) == labels).double().mean().item()


def negative_log_likelihood(log_probabilities: Float[Tensor, "n k"], labels: Int64[Tensor, " n"]) -> float:
    """Return the mean over data of -ln p(label), in nats per datum.

    Args:
        log_probabilities: Of the averaged prediction.
        labels: True classes.
    """
    return -log_likelihoods(log_probabilities, labels).double().mean().item()


def brier_score(log_probabilities: Float[Tensor, "n k"], labels: Int64[Tensor, " n"]) -> float:
    """Return the mean over data of the squared distance between probabilities and one-hot label.

    The distance is summed over the classes, so the score lies between 0 and 2.

    Args:
        log_probabilities: Of the averaged prediction.
        labels: True classes.

    References:
        Brier 1950, Monthly Weather Review 78, equation 2.
    """
    probabilities = log_probabilities.double().exp()
    truth = one_hot(labels, probabilities.shape[-1])
    return (probabilities - truth).square().sum(-1).mean().item()


def log_predictive_density(log_probabilities: Float[Tensor, "*s n k"], labels: Int64[Tensor, " n"]) -> float:
    """Return the log probability of all labels jointly, averaged over samples, divided by n.

    Args:
        log_probabilities: Log probabilities of every sample; without the leading axis, of one sample.
        labels: True classes.

    Returns:
        1/n ln [1/S sum_s prod_i p(y_i | w_s)], in nats per datum.
    """
    return joint_log_density(log_likelihoods(log_probabilities, labels))


def reliability(
    log_probabilities: Float[Tensor, "n k"], labels: Int64[Tensor, " n"], *, num_bins: int = 20
) -> Reliability:
    """Return mean confidence, accuracy and count in bins of equal mass.

    A datum's confidence is its largest probability. The bins' edges are quantiles of the confidence, so each
    holds n / `num_bins` data, give or take one. Equal confidences share a bin: the order of the data
    has no say, and where many are equal (all at 1, say) there are fewer and larger bins.

    Args:
        log_probabilities: Of the averaged prediction.
        labels: True classes.
        num_bins: Number of bins asked for; with fewer data than that, each has its own.
    """
    confidence, predicted = log_probabilities.double().max(-1)
    confidence = confidence.exp()
    ordered = confidence.sort().values
    first = torch.arange(1, num_bins, device=ordered.device) * len(ordered) // num_bins
    bins = torch.bucketize(confidence, ordered[first], right=True)
    count = bins.bincount(minlength=num_bins)
    used = count > 0
    hits = bins.bincount((predicted == labels).double(), minlength=num_bins)
    mass = bins.bincount(confidence, minlength=num_bins)
    return Reliability(mass[used] / count[used], hits[used] / count[used], count[used])


def expected_calibration_error(
    log_probabilities: Float[Tensor, "n k"], labels: Int64[Tensor, " n"], *, num_bins: int = 20
) -> float:
    """Return the mean over data of |accuracy - confidence| of the datum's bin, between 0 and 1.

    Args:
        log_probabilities: Of the averaged prediction.
        labels: True classes.
        num_bins: Number of bins of equal mass; see `reliability`.

    References:
        Naeini, Cooper & Hauskrecht 2015, AAAI, for the measure; Nguyen & O'Connor 2015, arXiv:1508.05154,
        for bins of equal mass.
    """
    table = reliability(log_probabilities, labels, num_bins=num_bins)
    gap = (table.accuracy - table.confidence).abs()
    return ((gap * table.count).sum() / table.count.sum()).item()


def predictive_entropy(log_probabilities: Float[Tensor, "n k"]) -> Float[Tensor, " n"]:
    """Return the entropy -sum_k p ln p of each prediction, in nats: a score of out-of-distribution data.

    Args:
        log_probabilities: Of the averaged prediction; a probability of 0 counts nothing.
    """
    return torch.special.entr(log_probabilities.exp()).sum(-1)


def auroc(inside: Float[Tensor, " n"], outside: Float[Tensor, " m"]) -> float:
    """Return the AUROC: the probability that an out-of-distribution datum scores above a known one.

    This is the area under the ROC curve for detecting data from outside the training distribution.

    Args:
        inside: Scores of data of the training distribution, for example `predictive_entropy`.
        outside: Scores of out-of-distribution data; ties count one half.

    Raises:
        InvalidArgumentError: If either is empty or holds nan.

    >>> auroc(torch.tensor([0.1, 0.4]), torch.tensor([0.4, 0.9]))
    0.875
    """
    if not len(inside) or not len(outside) or inside.isnan().any() or outside.isnan().any():
        num_nan = int(inside.isnan().sum() + outside.isnan().sum())
        raise InvalidArgumentError(
            f"expected scores inside and outside, none of them nan, got {len(inside)} inside,"
            f" {len(outside)} outside, {num_nan} nan"
        )
    known = inside.double().sort().values
    foreign = outside.double()
    below = torch.searchsorted(known, foreign).double()  # those less than the foreign score, and ...
    not_above = torch.searchsorted(known, foreign, right=True).double()  # ... those that tie with it as well
    return ((below + not_above).sum() / (2 * len(known) * len(foreign))).item()


def evaluate(
    log_probabilities: Float[Tensor, "n k"],
    labels: Int64[Tensor, " n"],
    *,
    sample_log_likelihoods: Float[Tensor, "s n"] | None = None,
) -> Metrics:
    """Return all figures of an averaged prediction.

    Args:
        log_probabilities: Logs of the probabilities averaged over samples.
        labels: True classes.
        sample_log_likelihoods: ln p(label) per posterior sample and datum, from `log_likelihoods`, for
            the log predictive density. None counts the averaged prediction as the only sample.

    Raises:
        InvalidArgumentError: If there are no data, shapes or labels do not fit, or the probabilities
            are nan or do not sum to 1.
    """
    _check(log_probabilities, labels)
    if sample_log_likelihoods is None:
        sample_log_likelihoods = log_likelihoods(log_probabilities, labels).unsqueeze(0)
    return Metrics(
        accuracy=accuracy(log_probabilities, labels),
        negative_log_likelihood=negative_log_likelihood(log_probabilities, labels),
        expected_calibration_error=expected_calibration_error(log_probabilities, labels),
        brier_score=brier_score(log_probabilities, labels),
        log_predictive_density=joint_log_density(sample_log_likelihoods),
    )


def _check(log_probabilities: Tensor, labels: Tensor) -> None:
    num_data, num_classes = log_probabilities.shape
    if not num_data:
        raise InvalidArgumentError("expected at least one datum to evaluate, got none")
    if labels.shape != (num_data,):
        raise InvalidArgumentError(f"expected {num_data} labels, got shape {tuple(labels.shape)}")
    if labels.min() < 0 or labels.max() >= num_classes:
        raise InvalidArgumentError(
            f"expected labels in 0 ... {num_classes - 1}, got {int(labels.min())} ... {int(labels.max())}"
        )
    off = log_probabilities.double().logsumexp(-1).abs().max().item()
    if not off < _SUM_TOLERANCE:  # also catches nan
        raise InvalidArgumentError(
            f"expected log probabilities that sum to 1 per datum, got |ln sum| up to {off:.3g};"
            " pass logits through log_softmax"
        )
