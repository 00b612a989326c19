"""Whole units by known methods: choice and compensation against brute force, and on a small Llama."""

import pytest
import torch
from neighbours import UNIT_METHODS, prune_units
from neighbours.units import DAMPING, _without_columns
from torch import nn

from support.llama import llama, sentences


def test_columns_go_and_others_take_over_as_brute_force_has_it(generator):
    matrix = torch.randn(3, 8, dtype=torch.float64, generator=generator)
    inputs = torch.randn(50, 8, dtype=torch.float64, generator=generator)
    inputs[:, 4:] += inputs[:, :4]
    moments = inputs.T @ inputs
    damped = moments + DAMPING * moments.diagonal().mean() * torch.eye(8, dtype=torch.float64)
    of_column = torch.arange(8) // 2
    found, out = _without_columns(matrix, moments, of_column, 1)

    def without(unit: int) -> torch.Tensor:
        kept = of_column != unit
        moved = torch.zeros_like(matrix)
        moved[:, kept] = torch.linalg.solve(damped[kept][:, kept], damped[kept] @ matrix.T).T
        return moved

    def rise(moved: torch.Tensor) -> float:
        return float(((moved - matrix) @ damped * (moved - matrix)).sum())

    rises = [rise(without(unit)) for unit in range(4)]
    assert out == [rises.index(min(rises))]
    torch.testing.assert_close(found, without(out[0]))


def test_a_second_column_goes_given_the_first(generator):
    matrix = torch.randn(3, 6, dtype=torch.float64, generator=generator)
    inputs = torch.randn(50, 6, dtype=torch.float64, generator=generator)
    moments = inputs.T @ inputs
    damped = moments + DAMPING * moments.diagonal().mean() * torch.eye(6, dtype=torch.float64)
    found, out = _without_columns(matrix, moments, torch.arange(6), 2)
    kept = torch.tensor([unit not in out for unit in range(6)])
    expected = torch.linalg.solve(damped[kept][:, kept], damped[kept] @ matrix.T).T
    torch.testing.assert_close(found[:, kept], expected)
    assert not found[:, ~kept].any()


@pytest.mark.parametrize("name", UNIT_METHODS)
def test_units_go_as_a_whole_and_no_more_than_asked_for(name):
    model, batches = llama(), sentences()
    weights = [each for each, _ in model.named_parameters() if each.endswith("_proj.weight")]
    masks = prune_units(name, model, batches, sparsity=0.3, granularity=["neuron", "head"], weights=weights)
    out = 1 - sum(int(mask.sum()) for mask in masks.values()) / sum(map(torch.numel, masks.values()))
    assert 0.15 < out < 0.301
    for layer in range(len(model.model.layers)):
        inside = f"model.layers.{layer}.mlp."
        stays = masks[f"{inside}down_proj.weight"][0]
        assert torch.equal(
            masks[f"{inside}down_proj.weight"], stays.expand(masks[f"{inside}down_proj.weight"].shape)
        )
        for made in ("gate", "up"):
            mask = masks[f"{inside}{made}_proj.weight"]
            assert torch.equal(mask, stays[:, None].expand(mask.shape))
    parameters = dict(model.named_parameters())
    assert all((parameters[each][~mask] == 0).all() for each, mask in masks.items())


def test_a_unit_whose_input_is_always_zero_goes_first():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    with torch.no_grad():
        model[0].weight[2], model[0].bias[2] = 0, -1
    inputs = torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    batches = [(inputs, torch.zeros(40, dtype=torch.long))]
    dense = model(inputs)
    for name in ("wanda", "sparsegpt"):
        masks = prune_units(
            name, model, batches, sparsity=1 / 6, granularity=["neuron"], weights=["0.weight", "2.weight"]
        )
        assert masks["0.weight"].all(1).tolist() == [True, True, False, True, True, True]
        torch.testing.assert_close(model(inputs), dense)
