"""Checks of hyper-parameters, and the choice of parameters by name patterns."""

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

from secateur.errors import InvalidArgumentError

__all__ = ["check_decay_rates", "check_patterns", "check_positive", "chosen"]


def chosen(name: str, include: Sequence[str] | None, exclude: Sequence[str] | None) -> bool:
    """Return whether a name matches a pattern of `include` (any name when None) and none of `exclude`.

    Args:
        name: Qualified parameter name.
        include: `fnmatch` patterns.
        exclude: `fnmatch` patterns; they win over `include`.

    Raises:
        InvalidArgumentError: If one string is given where a list of patterns is meant.

    >>> chosen("head.bias", ["head.*"], ["*.bias"]), chosen("head.weight", None, ["*.bias"])
    (False, True)
    """
    check_patterns(include, exclude)
    included = include is None or any(fnmatchcase(name, pattern) for pattern in include)
    return included and not any(fnmatchcase(name, pattern) for pattern in exclude or ())


def check_patterns(include: Sequence[str] | None, exclude: Sequence[str] | None) -> None:
    """Raise if one string is given where a list of patterns is meant; each letter would be a pattern.

    Args:
        include: Patterns or None.
        exclude: Patterns or None.

    Raises:
        InvalidArgumentError: Naming the argument.
    """
    for argument, patterns in (("include", include), ("exclude", exclude)):
        if isinstance(patterns, str):
            raise InvalidArgumentError(f"{argument}: expected a list of patterns, got {patterns!r}")


def check_positive(**values: float | int) -> None:
    """Raise if a hyper-parameter is not a positive finite number.

    Args:
        **values: Hyper-parameters by name.

    Raises:
        InvalidArgumentError: Naming the first that is not.
    """
    for name, value in values.items():
        if not (value > 0 and math.isfinite(value)):
            raise InvalidArgumentError(f"{name}: expected a positive finite number, got {value}")


def check_decay_rates(betas: Sequence[float]) -> None:
    """Raise unless there are two decay rates in [0, 1).

    Args:
        betas: Decay rates of two running averages.

    Raises:
        InvalidArgumentError: If there are not.
    """
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise InvalidArgumentError(f"betas: expected two numbers in [0, 1), got {betas}")
