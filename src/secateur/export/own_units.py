"""Networks of runs that standardised their own data, as networks that take and give numbers in own units."""

from collections import OrderedDict
from dataclasses import replace

import torch
from torch import Tensor, nn

from secateur.data import Standardisation
from secateur.posterior import Posterior
from secateur.training import Run

__all__ = ["Affine", "in_own_units"]

PART = "network"


class Affine(nn.Module):
    """Subtract a shift and multiply by a factor, for each feature; neither is trained.

    Args:
        shift: Shape (features,), or (channels, 1, 1) for images.
        factor: Likewise.
    """

    shift: Tensor
    factor: Tensor

    def __init__(self, shift: Tensor, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("shift", shift.float())
        self.register_buffer("factor", factor.float())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the shifted and scaled inputs."""
        return (inputs - self.shift) * self.factor


def in_own_units(run: Run, images: Tensor) -> tuple[Run, Tensor]:
    """Return a run whose network takes inputs and gives predictions in their own units, and inputs for it.

    Predicted means, or log rates of counts, come out in the targets' unit. A run that did not standardise its
    data is returned as it is.

    Args:
        run: A finished run.
        images: Standardised inputs.
    """
    shifts, factors = (torch.tensor(each, dtype=torch.float64) for each in run.likelihood.target_units())
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    calibration = run.calibration
    if run.inputs is not None:
        mean, std = _shaped(run.inputs, images.ndim)
        parts["standardise"] = Affine(mean, 1 / std)
        images = (images.double() * std + mean).float()
        calibration = None if calibration is None else (calibration.double() * std + mean).float()
    parts[PART] = run.model
    if shifts.any() or (factors != 1).any():
        parts["restore"] = Affine(-shifts / factors, factors)
    if len(parts) == 1:
        return run, images
    posterior = Posterior(**{
        kind: {f"{PART}.{name}": value for name, value in getattr(run.posterior, kind).items()}
        for kind in ("mean", "precision", "prior_precision", "keep")
    })
    whole = replace(run, model=nn.Sequential(parts).eval(), posterior=posterior, calibration=calibration)
    return whole, images


def _shaped(inputs: Standardisation, num_axes: int) -> tuple[Tensor, Tensor]:
    shape = (-1, *(1,) * (num_axes - 2))
    mean, std = (torch.tensor(each, dtype=torch.float64).view(shape) for each in (inputs.mean, inputs.std))
    return mean, std
