"""Which likelihood targets have, and the targets as a network learns them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from secateur.errors import DataError
from secateur.likelihoods import Gaussian, Likelihood, Poisson, resolve

__all__ = ["Encoded", "encode", "guess_likelihood", "likelihood_for"]

MOST_CLASSES = 20  # different whole numbers that are still taken for classes


@dataclass(frozen=True, eq=False)
class Encoded:
    """Targets as a network learns them.

    Attributes:
        labels: Class numbers (int64), or numbers in double precision.
        class_names: What the classes are called, by number; empty for other targets.
        likelihood: The likelihood, in the targets' unit.
    """

    labels: Tensor
    class_names: tuple[str, ...]
    likelihood: Likelihood


def guess_likelihood(targets: np.ndarray) -> tuple[str, str]:
    """Guess the likelihood of targets.

    Args:
        targets: Numbers, truth values or words, shape (n,) or (n, values).

    Returns:
        Its name, and why, in words.

    >>> guess_likelihood(np.array([0.5, 2.25, 1.0]))
    ('gaussian', 'the targets are real numbers')
    """
    if targets.dtype.kind in "UO":
        return "categorical", "the targets are words"
    if targets.ndim == 2 and targets.shape[1] > 1:
        if not np.isin(targets, (0, 1)).all():
            return "gaussian", f"each input has {targets.shape[1]} numbers as targets"
        if targets.shape[1] > 2 and (targets.sum(1) == 1).all():
            return "categorical", "each row of the targets has a single 1"
        return "bernoulli", f"the targets are {targets.shape[1]} columns of 0 and 1"
    if not np.isfinite(targets.astype(float)).all() or (targets != np.floor(targets)).any():
        return "gaussian", "the targets are real numbers"
    number = len(np.unique(targets))
    if number <= min(MOST_CLASSES, max(2, len(targets) // 2)):
        return "categorical", f"the targets are {number} different whole numbers"
    return "gaussian", f"the targets are {number} different whole numbers; counts are poisson"


def encode(train: np.ndarray, test: np.ndarray, likelihood: str, name: str) -> tuple[Encoded, Tensor]:
    """Return training targets and test targets as a network learns them.

    Args:
        train: Numbers, truth values or words, shape (n,) or (n, values).
        test: The same of the test data.
        likelihood: Name of a likelihood.
        name: What messages call the data.

    Raises:
        DataError: If the targets do not fit the likelihood, or tell nothing.
    """
    if likelihood == "categorical":
        return _classes(train, test, name)
    if train.dtype.kind in "UO" or test.dtype.kind in "UO":
        raise DataError(
            f"{name}: expected numbers as targets of likelihood {likelihood}, got words; use categorical"
        )
    labels, judged = (
        torch.from_numpy(np.ascontiguousarray(part, dtype=np.float64)) for part in (train, test)
    )
    for part in (labels, judged):
        if not part.isfinite().all():
            bad = int((~part.isfinite()).sum())
            raise DataError(f"{name}: expected finite targets, got {bad} that are not; leave these rows out")
    if labels.shape[1:] != judged.shape[1:]:
        raise DataError(
            f"{name}: expected test targets like the training targets, got shapes {tuple(labels.shape)} and "
            f"{tuple(judged.shape)}"
        )
    if likelihood == "bernoulli" and not all(((part == 0) | (part == 1)).all() for part in (labels, judged)):
        raise DataError(
            f"{name}: expected targets of 0 and 1 for likelihood bernoulli, got others; use categorical for "
            "classes, gaussian for numbers"
        )
    counts = all(((part >= 0) & (part == part.floor())).all() for part in (labels, judged))
    if likelihood == "poisson" and not counts:
        raise DataError(
            f"{name}: expected counts (0, 1, 2, ...) as targets of likelihood poisson, got others; use "
            "gaussian"
        )
    if (labels == labels[0]).all():
        raise DataError(
            f"{name}: expected targets that differ, got {labels[0].tolist()} in all {len(labels)} "
            "training rows"
        )
    return Encoded(labels, (), likelihood_for(likelihood, labels)), judged


def likelihood_for(name: str, labels: Tensor) -> Likelihood:
    """Return a likelihood in the unit of the targets, so that a network learns standardised ones.

    Gaussian noise is learned.

    Args:
        name: Name of a likelihood.
        labels: Training targets.

    Raises:
        InvalidArgumentError: If there is no likelihood of that name.
    """
    kind, values = resolve(name), labels.double()
    if isinstance(kind, Gaussian):
        mean, std = values.mean(0), values.std(0, correction=0)
        std = torch.where(std > 0, std, 1.0)
        return Gaussian(noise="learned", location=_plain(mean), scale=_plain(std))
    if isinstance(kind, Poisson):
        return Poisson(scale=max(values.mean().item(), 1e-6))
    return kind


def _plain(values: Tensor) -> float | tuple[float, ...]:
    return tuple(values.tolist()) if values.dim() else values.item()


def _classes(train: np.ndarray, test: np.ndarray, name: str) -> tuple[Encoded, Tensor]:
    train, test = (_single_column(part, name) for part in (train, test))
    classes, labels = np.unique(train, return_inverse=True)
    if len(classes) < 2:
        raise DataError(
            f"{name}: expected targets of two classes at least, got {classes[0]!s} in all {len(train)} "
            "training rows"
        )
    unseen = sorted(set(np.unique(test).tolist()) - set(classes.tolist()), key=str)
    if unseen:
        raise DataError(
            f"{name}: expected test targets of the {len(classes)} classes in the training data, got "
            f"{unseen[0]!s} as well; add training rows of it, or leave its test rows out"
        )
    names = tuple(_class_name(each) for each in classes.tolist())
    found = Encoded(torch.from_numpy(labels.reshape(-1).astype("int64")), names, resolve("categorical"))
    return found, torch.from_numpy(np.searchsorted(classes, test).astype("int64"))


def _single_column(targets: np.ndarray, name: str) -> np.ndarray:
    """Return one class for each row, of words or numbers; of several columns the one that has the 1."""
    if targets.ndim == 2 and targets.shape[1] > 1:
        if (
            targets.dtype.kind in "UO"
            or not ((targets == 1).sum(1) == 1).all()
            or (targets == 0).sum() != (targets.size - len(targets))
        ):
            raise DataError(
                f"{name}: expected one class for each row, got {targets.shape[1]} columns of targets; use "
                "bernoulli for several labels, gaussian for several numbers"
            )
        return targets.argmax(1)
    column = targets.reshape(-1)
    if column.dtype.kind == "f" and not np.isfinite(column).all():
        raise DataError(f"{name}: expected a class in every row, got nan; leave these rows out")
    if column.dtype.kind == "f" and (column != np.floor(column)).any():
        raise DataError(
            f"{name}: expected class numbers or words as targets of likelihood categorical, got real "
            "numbers; use gaussian"
        )
    return column.astype(str) if column.dtype.kind == "O" else column


def _class_name(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) else str(value)
