"""How good, and how honest, predictions are: of classes, of numbers, of counts."""

from secateur.metrics.classification import (
    Metrics,
    Reliability,
    accuracy,
    auroc,
    average_log_probabilities,
    brier_score,
    evaluate,
    expected_calibration_error,
    log_likelihoods,
    log_predictive_density,
    negative_log_likelihood,
    predictive_entropy,
    reliability,
)
from secateur.metrics.mixture import joint_log_density, mixture_log_density
from secateur.metrics.regression import (
    Intervals,
    continuous_ranked_probability_score,
    coverage,
    intervals,
    mixture_rank,
    poisson_deviance,
    root_mean_squared_error,
)

__all__ = [
    "Intervals",
    "Metrics",
    "Reliability",
    "accuracy",
    "auroc",
    "average_log_probabilities",
    "brier_score",
    "continuous_ranked_probability_score",
    "coverage",
    "evaluate",
    "expected_calibration_error",
    "intervals",
    "joint_log_density",
    "log_likelihoods",
    "log_predictive_density",
    "mixture_log_density",
    "mixture_rank",
    "negative_log_likelihood",
    "poisson_deviance",
    "predictive_entropy",
    "reliability",
    "root_mean_squared_error",
]
