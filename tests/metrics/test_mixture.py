"""Log densities of mixtures: by hand, and where densities underflow."""

import math

import pytest
import torch

from secateur import metrics


def test_each_datum_averages_its_own_density_and_all_data_share_a_sample():
    # two samples (last axis), two data: each sample explains another datum
    densities = torch.tensor([[0.9, 0.1], [0.1, 0.9]], dtype=torch.float64).log()
    torch.testing.assert_close(
        metrics.mixture_log_density(densities), torch.full((2,), 0.5, dtype=torch.float64).log()
    )
    assert metrics.joint_log_density(densities.T) == pytest.approx(math.log(0.09) / 2)
    assert metrics.joint_log_density(densities[0]) == pytest.approx((math.log(0.9) + math.log(0.1)) / 2)


def test_densities_that_underflow_are_averaged_all_the_same():
    densities = torch.tensor([[-1e4, -2e4]])
    torch.testing.assert_close(metrics.mixture_log_density(densities), torch.tensor([-1e4 - math.log(2)]))
    assert metrics.joint_log_density(densities.T) == pytest.approx(-1e4 - math.log(2))
