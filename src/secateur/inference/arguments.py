"""Checks of hyper-parameters."""

import math
from collections.abc import Sequence

from secateur.errors import InvalidArgumentError

__all__ = ["check_decay_rates", "check_positive"]


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
