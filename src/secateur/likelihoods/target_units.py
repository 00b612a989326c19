"""The unit of real targets: where they lie and how far they spread, one pair for all outputs or for each."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from secateur.errors import InvalidArgumentError

__all__ = ["TargetUnits"]


@dataclass(frozen=True)
class TargetUnits:
    """Location and scale of targets: target = location + scale * standardised target.

    Attributes:
        location: A number, or one for each output.
        scale: A positive number, or one for each output.

    Raises:
        InvalidArgumentError: If a number is out of range.
    """

    location: float | tuple[float, ...] = 0.0
    scale: float | tuple[float, ...] = 1.0

    def __post_init__(self) -> None:
        locations, scales = self.per_output
        if not (all(0 < each < math.inf for each in scales) and all(map(math.isfinite, locations))):
            raise InvalidArgumentError(
                "location, scale: expected finite numbers, and positive scales, got "
                f"{self.location} and {self.scale}"
            )

    @property
    def trivial(self) -> bool:
        """Whether targets are standardised as they are."""
        return self.location == 0 and self.scale == 1

    @property
    def per_output(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Locations and scales, one for each output or one for all."""
        location, scale = self.location, self.scale
        return (
            location if isinstance(location, tuple) else (location,),
            scale if isinstance(scale, tuple) else (scale,),
        )

    def check(self, num_outputs: int) -> None:
        """Refuse a location or scale of another number of outputs.

        Args:
            num_outputs: Of a network.

        Raises:
            InvalidArgumentError: If there are others.
        """
        for name, given in zip(("location", "scale"), (self.location, self.scale), strict=True):
            if isinstance(given, tuple) and len(given) != num_outputs:
                raise InvalidArgumentError(
                    f"{name}: expected one number for each of {num_outputs} outputs, got {len(given)}"
                )

    def standardise(self, targets: Tensor) -> Tensor:
        """Return standardised targets; in double precision, since a location may be large.

        Args:
            targets: Shape (*d, values), or (n,) for one location and scale.
        """
        if self.trivial:
            return targets
        location, scale = self._tensors(targets)
        return (targets.double() - location) / scale

    def restore(self, values: Tensor) -> Tensor:
        """Return standardised values in the targets' unit.

        Args:
            values: Shape (*d, values), or (n,) for one location and scale.
        """
        if self.trivial:
            return values
        location, scale = self._tensors(values)
        return (location + scale * values.double()).to(values.dtype)

    def scales(self, num_values: int) -> Tensor:
        """Return the scale of each of a datum's values.

        Args:
            num_values: Values of a datum.
        """
        return torch.tensor(self.per_output[1], dtype=torch.float64).expand(num_values)

    def log_scale(self, num_values: int) -> float:
        """Return the log of the scales of a datum's values, summed.

        Args:
            num_values: Values of a datum.
        """
        return self.scales(num_values).log().sum().item()

    def _tensors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        locations, scales = (
            torch.tensor(values, dtype=torch.float64, device=like.device) for values in self.per_output
        )
        return locations, scales
