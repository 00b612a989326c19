"""Words that reports and terminal summaries share: names of networks, data sets and metrics."""

import math
import shlex

from secateur.reports.record import Record
from secateur.runs import formatting

__all__ = [
    "METRICS",
    "command",
    "data_name",
    "key_scores",
    "network_name",
    "outcome",
]

METRICS = (
    ("accuracy", "Accuracy", "share of test examples put in the right class; higher is better"),
    (
        "negative_log_likelihood",
        "Negative log-likelihood",
        "mean surprise at the right class, in nats; lower is better, 0 is perfect",
    ),
    (
        "expected_calibration_error",
        "Calibration error",
        "mean distance between confidence and share right (20 groups of equal size); 0 is honest",
    ),
    (
        "brier_score",
        "Brier score",
        "mean squared error of the probabilities, summed over classes; lower is better, 2 is the worst",
    ),
    (
        "log_predictive_density",
        "Log predictive density",
        "nats per example for all labels under one and the same network; higher is better",
    ),
)
"""Field of `Scores`, its name in words, and one line on what it says."""

_NETWORKS = {
    "mlp": "MLP",
    "lenet": "LeNet",
    "lenet-relu": "LeNet (ReLU)",
    "vit": "ViT",
    "vit-small": "small ViT",
    "mlp-mixer": "MLP-Mixer",
    "mlp-mixer-small": "small MLP-Mixer",
    "resnet20": "ResNet-20",
}
_DATA = {"digits": "digits", "fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


def network_name(record: Record) -> str:
    """Return the network's name as its literature writes it."""
    return _NETWORKS.get(record.config["network"], record.config["network"])


def data_name(record: Record) -> str:
    """Return the data set's name as its literature writes it."""
    return _DATA.get(record.config["data"], record.config["data"])


def key_scores(record: Record) -> str:
    """Return the three scores people ask for first, in one line; empty where nothing was tested."""
    scores = record.averaged
    named = (
        ("accuracy", scores.accuracy),
        ("negative log-likelihood", scores.negative_log_likelihood),
        ("calibration error", scores.expected_calibration_error),
    )
    return ", ".join(f"{name} {formatting.number(value)}" for name, value in named if math.isfinite(value))


def judged_on(split: str) -> str:
    """Return the name of the data that scores are from."""
    return {"test": "the test set", "train": "the training set, for want of a test set"}.get(split, split)


def outcome(record: Record) -> str:
    """Summarise the sparsity of a run in one line."""
    if record.num_kept < record.num_weights:
        what = f"{formatting.percent(record.sparsity)} of {record.num_weights:,} weights removed"
    else:
        what = f"all {record.num_weights:,} weights kept"
    return f"{network_name(record)} on {data_name(record)}: {what}"


def command(record: Record) -> str | None:
    """Return the shell command that repeats the run, or None where the run came from Python."""
    given = record.config.get("command")
    if isinstance(given, list):
        return shlex.join(map(str, given))
    return str(given) if given else None
