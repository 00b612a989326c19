"""The costs of units along their way out of a layer, against dense algebra."""

import pytest
import torch
from torch import Tensor

from secateur.pruning.joint_layer import DAMPING, JointLayer
from secateur.pruning.unit_path import UnitPath

ROWS, UNITS = 5, 4
FLOAT64 = torch.float64


def damped(columns: Tensor) -> Tensor:
    return columns + DAMPING * columns.diagonal().mean() * torch.eye(len(columns), dtype=FLOAT64)


def layer_of(generator: torch.Generator, taps: int, *, bias: bool) -> JointLayer:
    size = UNITS * taps + bias
    rows, columns = (torch.randn(each, each + 2, generator=generator, dtype=FLOAT64) for each in (ROWS, size))
    weights = torch.randn(ROWS, size, generator=generator, dtype=FLOAT64)
    present = torch.ones(ROWS, size, dtype=torch.bool)
    return JointLayer("layer", weights, present, rows @ rows.mT, columns @ columns.mT, None)


def dense_cost(layer: JointLayer, gone: Tensor) -> float:
    """Return how the quadratic loss rises when columns go and all other entries move, by one inverse."""
    assert layer.column_curvature is not None
    precision = torch.kron(layer.row_curvature, damped(layer.column_curvature))
    out = gone.expand(ROWS, -1).flatten()
    covariance = torch.linalg.inv(precision)[out][:, out]
    removed = layer.weights.flatten()[out]
    return float(0.5 * removed @ torch.linalg.solve(covariance, removed))


@pytest.mark.parametrize("taps", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_costs_along_the_way_add_up_to_that_of_all(taps: int, bias: bool, generator: torch.Generator) -> None:
    layer = layer_of(generator, taps, bias=bias)
    path, sizes = UnitPath(torch.arange(UNITS), layer), torch.ones(UNITS, dtype=FLOAT64)
    of_column = torch.cat([torch.arange(UNITS).repeat_interleave(taps), torch.full((int(bias),), -1)])
    for unit, cost in zip(path.units.tolist(), path.costs().tolist(), strict=True):
        assert cost == pytest.approx(dense_cost(layer, of_column == unit), rel=1e-9)
    gone, total = torch.zeros(len(of_column), dtype=torch.bool), 0.0
    while (found := path.cheapest(sizes, 1.0)) is not None:
        cost, unit = found
        assert cost == pytest.approx(float(path.costs().min()), rel=1e-12)
        total += cost
        gone |= of_column == unit
        path.remove(unit)
        assert total == pytest.approx(dense_cost(layer, gone), rel=1e-8)
    assert int(gone.sum()) == (UNITS - 1) * taps  # one stays


def test_two_units_that_stand_in_for_each_other_are_not_both_free(generator: torch.Generator) -> None:
    layer = layer_of(generator, 1, bias=False)
    assert layer.column_curvature is not None
    same = layer.column_curvature.clone()
    same[1], same[:, 1] = same[0], same[:, 0]
    same[1, 1] = same[0, 0] + 1e-6
    path = UnitPath(
        torch.arange(UNITS), JointLayer("", layer.weights, layer.present, layer.row_curvature, same, None)
    )
    first, second = (float(path.costs()[place]) for place in (0, 1))
    path.remove(0)
    assert float(path.costs()[1]) > 20 * max(first, second)
    assert float(path.costs()[0]) == torch.inf


def test_what_is_out_and_what_does_not_fit_is_passed_over(generator: torch.Generator) -> None:
    layer = layer_of(generator, 1, bias=True)
    layer.present[:, 2] = False
    layer.weights[:, 2] = 0
    path = UnitPath(torch.arange(UNITS), layer)
    assert path.units.tolist() == [0, 1, 3]
    cheapest = path.units[path.costs().argmin()]
    sizes = torch.ones(UNITS, dtype=FLOAT64)
    sizes[cheapest] = 5
    found = path.cheapest(sizes, 2.0)
    assert found is not None
    assert found[1] != cheapest
    assert path.cheapest(sizes, 0.5) is None
