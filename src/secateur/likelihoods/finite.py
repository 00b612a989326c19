"""Whether numbers are finite, asked of many at once."""

from torch import Tensor

__all__ = ["all_finite"]


def all_finite(values: Tensor) -> bool:
    """Return whether no number is nan or infinite, in one pass over them where that is so.

    Args:
        values: Floating-point numbers.
    """
    # a sum may overflow, so only a finite one proves something
    return bool(values.detach().sum().isfinite()) or bool(values.isfinite().all())
