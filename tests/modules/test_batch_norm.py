"""Moments of batch norm that follow a change of the weights; `training/test_batch_norm.py` has moments."""

import pytest
import torch
from torch import Tensor, nn

from secateur.modules.batch_norm import LARGEST_RATIO, carried, moments


def values(mean: list[float], variance: list[float]) -> dict[str, Tensor]:
    return {"1.running_mean": torch.tensor(mean), "1.running_var": torch.tensor(variance)}


RUNNING = values([1.0, 2.0], [4.0, 9.0])


def test_no_change_changes_nothing():
    some = values([0.5, -1.0], [3.0, 0.0])
    found = carried(RUNNING, some, some)
    assert found.keys() == RUNNING.keys()
    assert all(torch.equal(found[name], RUNNING[name]) for name in RUNNING)


def test_means_move_by_the_difference_and_variances_by_the_ratio():
    found = carried(RUNNING, values([0.5, -1.0], [3.0, 2.0]), values([0.7, -2.0], [6.0, 1.0]))
    torch.testing.assert_close(found["1.running_mean"], torch.tensor([1.2, 1.0]))
    torch.testing.assert_close(found["1.running_var"], torch.tensor([8.0, 4.5]), rtol=2e-3, atol=0.0)


def test_a_variance_moves_by_no_more_than_can_be_told():
    found = carried(RUNNING, values([0.0, 0.0], [1.0, 1.0]), values([0.0, 0.0], [1e4, 0.0]))
    expected = torch.tensor([4.0 * LARGEST_RATIO, 9.0 / LARGEST_RATIO])
    torch.testing.assert_close(found["1.running_var"], expected)


def test_a_layer_that_is_always_zero_stays_as_it_is():
    nothing = values([0.0, 0.0], [0.0, 0.0])
    found = carried(RUNNING, nothing, nothing)
    assert torch.equal(found["1.running_var"], RUNNING["1.running_var"])
    assert all(value.isfinite().all() for value in found.values())


def test_other_buffers_are_not_touched():
    running = {**RUNNING, "1.num_batches_tracked": torch.tensor(7), "mask": torch.ones(3)}
    assert carried(running, RUNNING, RUNNING).keys() == RUNNING.keys()


@pytest.mark.parametrize("scale", [0.8, 1.5])
def test_they_are_those_of_all_data_after_a_change_seen_on_some(scale):
    """Some data have other moments than all, and yet say how those of all data change."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).double().eval()
    everything = torch.randn(900, 3, dtype=torch.float64) + 1
    some = everything[:90] * 0.8 - 0.3  # not augmented as the others were
    running = moments(model, everything)
    before = moments(model, some)
    change = {"0.weight": scale * model[0].weight.detach(), "0.bias": scale * model[0].bias.detach()}
    found = carried(running, before, moments(model, some, change))
    expected = moments(model, everything, change)
    torch.testing.assert_close(found["1.running_var"], expected["1.running_var"], rtol=1e-2, atol=0.0)
    anew = moments(model, some, change)
    name = "1.running_mean"
    assert (found[name] - expected[name]).norm() < 0.7 * (anew[name] - expected[name]).norm()
