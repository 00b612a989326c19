"""Per-weight evidence against quadrature and its limits."""

import math

import torch

from secateur.reduction import delta_f


def test_a_point_mass_is_the_savage_dickey_ratio() -> None:
    mean, precision = torch.tensor(0.3, dtype=torch.float64), torch.tensor(7.0, dtype=torch.float64)
    expected = 0.5 * (math.log(7.0 / 2.5) - 7.0 * 0.3**2)
    torch.testing.assert_close(delta_f(mean, precision, prior_precision=2.5).item(), expected)
