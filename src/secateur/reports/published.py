"""Scores of the published comparison.

Source: Markovic, Friston & Kiebel 2023, arXiv:2309.12095; read off the published figures, one seed:
        accuracy to .002, calibration error to .001, negative log-likelihood to .01.
"""

import math
from dataclasses import dataclass

__all__ = ["Published", "published"]


@dataclass(frozen=True, kw_only=True)
class Published:
    """Scores of one published method; nan where unknown.

    Attributes:
        method: As the command line calls it.
        sparsity: Share removed, from 0 to 1; a lower bound where `at_least`.
    """

    method: str
    accuracy: float
    expected_calibration_error: float = math.nan
    negative_log_likelihood: float = math.nan
    sparsity: float = 0.0
    at_least: bool = False


_TABLE = {
    # network, data: accuracy of MAP, of flat FF; accuracy, ECE, NLL, sparsity of reduction by spike and slab
    ("mlp", "fashion-mnist"): (0.898, 0.843, 0.869, 0.010, 0.358, 0.98),
    ("lenet", "fashion-mnist"): (0.89, 0.884, 0.902, 0.014, 0.283, 0.811),
    ("vit", "fashion-mnist"): (0.857, 0.845, 0.855, 0.009, 0.403, 0.999),
    ("mlp-mixer", "fashion-mnist"): (0.892, 0.853, 0.869, 0.007, 0.355, 0.992),
    ("mlp", "cifar10"): (0.562, 0.438, 0.514, 0.019, 1.37, 0.98),
    ("lenet", "cifar10"): (0.609, 0.558, 0.632, 0.036, 1.05, 0.970),
    ("vit", "cifar10"): (0.499, 0.510, 0.525, 0.015, 1.35, 0.999),
    ("mlp-mixer", "cifar10"): (0.687, 0.547, 0.566, 0.015, 1.18, 0.994),
    ("mlp", "cifar100"): (0.282, 0.026, 0.107, 0.026, 3.84, 0.966),
    ("lenet", "cifar100"): (0.252, 0.189, 0.297, 0.039, 2.86, 0.943),
    ("vit", "cifar100"): (0.372, 0.243, 0.264, 0.033, 3.01, 0.997),
    ("mlp-mixer", "cifar100"): (0.401, 0.287, 0.176, 0.026, 3.49, 0.985),
}
_LOWER_BOUNDS = {("mlp", "fashion-mnist"), ("mlp", "cifar10")}


def published(network: str, data: str) -> tuple[Published, ...]:
    """Return published scores for a network on a data set; empty where the paper has none.

    Args:
        network: As the command line calls it.
        data: As the command line calls it.

    >>> [(row.method, row.accuracy) for row in published("lenet", "cifar10")][-1]
    ('bmr-spike-and-slab', 0.632)
    """
    if (network, data) not in _TABLE:
        return ()
    flat_map, flat_ff, accuracy, calibration, likelihood, sparsity = _TABLE[network, data]
    return (
        Published(method="flat-map", accuracy=flat_map),
        Published(method="flat-ff", accuracy=flat_ff),
        Published(
            method="bmr-spike-and-slab",
            accuracy=accuracy,
            expected_calibration_error=calibration,
            negative_log_likelihood=likelihood,
            sparsity=sparsity,
            at_least=(network, data) in _LOWER_BOUNDS,
        ),
    )
