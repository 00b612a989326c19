"""Known methods agree with brute force, least squares and dense solves on small layers."""

import copy
import itertools

import pytest
import torch
from neighbours import METHODS
from neighbours.llm_surgeon import compensate
from neighbours.sparsegpt import sparsegpt_matrix
from torch import Tensor, nn

from secateur.inference.laplace import laplace
from support.networks import NETWORKS


def correlated(count: int, width: int, seed: int = 0) -> Tensor:
    """Return inputs of which any can be told from the others in good part."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    mixing = torch.randn(3, width, generator=generator, dtype=torch.float64)
    return hidden @ mixing + 0.3 * torch.randn(count, width, generator=generator, dtype=torch.float64)


def linear(rows: int, columns: int, seed: int = 0) -> nn.Sequential:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(columns, rows).double())
    with torch.no_grad():
        model[0].weight.copy_(torch.randn(rows, columns, generator=generator))
    return model


def test_magnitude_takes_the_smallest_of_all_and_the_first_of_equals() -> None:
    model = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[1.0, -2.0, 2.0], [5.0, -6.0, 7.0]]))
        model[1].weight.copy_(torch.tensor([[2.0, -8.0], [9.0, 2.0]]))
    batches = [(torch.zeros(1, 3), torch.zeros(1, dtype=torch.long))]
    weights = ["0.weight", "1.weight"]
    for_all = METHODS["magnitude"](copy.deepcopy(model), batches, sparsity=0.4, weights=weights)
    assert for_all["0.weight"].tolist() == [[False, False, False], [True, True, True]]
    assert for_all["1.weight"].tolist() == [[False, True], [True, True]]
    by_layer = METHODS["magnitude-layer"](model, batches, sparsity=0.5, weights=weights)
    assert by_layer["0.weight"].tolist() == [[False, False, False], [True, True, True]]
    assert by_layer["1.weight"].tolist() == [[False, True], [True, False]]


def test_wanda_by_hand() -> None:
    model = nn.Sequential(nn.Linear(3, 2, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, -2.0, 1.0], [-1.0, 0.5, 0.3]]))
    # Norms of the inputs: 1, 2, 5. Scores: 3, 4, 5 and 1, 1, 1.5.
    inputs = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, -4.0]])
    batches = [(row[None], torch.zeros(1, dtype=torch.long)) for row in inputs]
    masks = METHODS["wanda"](model, batches, sparsity=1 / 3, weights=["0.weight"])
    assert masks["0.weight"].tolist() == [[False, True, True], [False, True, True]]
    assert model[0].weight.tolist() == [[0, -2, 1], [0, 0.5, pytest.approx(0.3)]]


def test_diagonal_criteria_rank_by_the_exact_curvature() -> None:
    model = linear(2, 4)
    inputs = correlated(30, 4)
    probabilities = model(inputs).softmax(1)
    diagonal = (probabilities * (1 - probabilities)).T @ inputs.square()
    damage = (diagonal * model[0].weight.square()).detach()
    batches = [(inputs, torch.zeros(len(inputs), dtype=torch.long))]
    options = {"sparsity": 0.5, "weights": ["0.weight"]}
    masks = METHODS["obd"](copy.deepcopy(model), batches, **options)
    assert torch.equal(masks["0.weight"], damage > damage.flatten().sort().values[3])


def test_signal_to_noise_is_that_of_the_laplace_posterior() -> None:
    model = NETWORKS["mlp"].build()
    inputs = NETWORKS["mlp"].example()
    weights = ["0.weight", "2.weight", "4.weight"]
    batches = [(inputs, torch.zeros(len(inputs), dtype=torch.long))]
    posterior = laplace(model, batches, include=weights)
    ratio = {name: posterior.mean[name].abs() / posterior.std[name] for name in weights}
    masks = METHODS["signal-to-noise"](model, batches, sparsity=0.5, weights=weights)
    lowest_kept = min(ratio[name][mask].min() for name, mask in masks.items())
    assert all((ratio[name][~mask] <= lowest_kept).all() for name, mask in masks.items())


def test_sparsegpt_of_one_removal_is_optimal_brain_surgeon() -> None:
    inputs = correlated(40, 6)
    moments = inputs.T @ inputs
    weights = torch.randn(1, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    weights[0, 0] = 0.01  # the first column goes, so that all others can adapt
    matrix, kept = sparsegpt_matrix(weights, moments, sparsity=1 / 6, damping=0.0)
    assert kept.tolist() == [[False, True, True, True, True, True]]
    inverse = torch.linalg.inv(moments)
    expected = weights - weights[:, :1] / inverse[0, 0] * inverse[:1]
    assert torch.allclose(matrix, expected, atol=1e-12)


@pytest.mark.parametrize("block", [4, 128])
def test_sparsegpt_takes_up_the_error_to_the_right(block: int) -> None:
    """Under a fixed mask, each row is the sequential least-squares fit of the columns to the right."""
    inputs = correlated(40, 8)
    weights = linear(5, 8)[0].weight.detach()
    matrix, kept = sparsegpt_matrix(weights, inputs.T @ inputs, pattern=(2, 4), block=block, damping=0.0)
    for row, mask, found in zip(weights, kept, matrix, strict=True):
        values = row.clone()
        for column in (~mask).nonzero().flatten().tolist():
            right = inputs[:, column + 1 :]
            lost = (inputs[:, column] * values[column])[:, None]
            if right.shape[1]:
                values[column + 1 :] += torch.linalg.lstsq(right, lost).solution[:, 0]
            values[column] = 0
        assert torch.allclose(found, values, atol=1e-9)


@pytest.mark.parametrize("method", ["sparsegpt", "obc"])
def test_compensation_beats_magnitude_on_outputs(method: str) -> None:
    inputs = correlated(60, 12)
    errors = {}
    for name in ("magnitude", method):
        model = linear(8, 12)
        expected = model(inputs)
        METHODS[name](model, [(inputs, torch.zeros(60).long())], sparsity=0.5, weights=["0.weight"])
        errors[name] = (model(inputs) - expected).square().sum().item()
    assert errors[method] < 0.3 * errors["magnitude"]


def test_obc_first_removal_is_the_best_of_all_single_ones_with_a_refit() -> None:
    inputs = correlated(30, 5)
    model = linear(3, 5)
    dense = model[0].weight.detach().clone()
    errors = {}
    for row, column in itertools.product(range(3), range(5)):
        others = [each for each in range(5) if each != column]
        target = inputs @ dense[row]
        fit = torch.linalg.lstsq(inputs[:, others], target[:, None]).solution[:, 0]
        values = dense.clone()
        values[row, others], values[row, column] = fit, 0
        errors[row, column] = ((inputs[:, others] @ fit - target).square().sum().item(), values)
    (row, column), (_, best) = min(errors.items(), key=lambda item: item[1][0])
    batches = [(inputs, torch.zeros(30, dtype=torch.long))]
    masks = METHODS["obc"](model, batches, sparsity=1 / 15, weights=["0.weight"], damping=0.0)
    assert (~masks["0.weight"]).nonzero().tolist() == [[row, column]]
    assert torch.allclose(model[0].weight, best, atol=1e-9)


def test_obc_rows_of_all_layers_compete_and_go_on_from_their_downdates() -> None:
    """The greedy choice by refits over all rows, one entry at a time, loses the same entries."""
    inputs = correlated(40, 5)
    model = nn.Sequential(linear(2, 5, seed=4)[0], linear(3, 2, seed=5)[0])
    layers = {"0.weight": (model[0].weight.detach().clone(), inputs)}
    layers["1.weight"] = (model[1].weight.detach().clone(), model[0](inputs).detach())
    kept = {name: torch.ones_like(weight, dtype=torch.bool) for name, (weight, _) in layers.items()}

    def error(name: str, row: int, mask: Tensor) -> float:
        weight, data = layers[name]
        target = data @ weight[row]
        if not mask.any():
            return target.square().sum().item()
        fit = torch.linalg.lstsq(data[:, mask], target[:, None]).solution[:, 0]
        return (data[:, mask] @ fit - target).square().sum().item()

    for _ in range(8):
        options = {}
        for name, mask in kept.items():
            for row, column in mask.nonzero().tolist():
                less = mask[row].clone()
                less[column] = False
                options[name, row, column] = error(name, row, less) - error(name, row, mask[row])
        name, row, column = min(options, key=options.__getitem__)
        kept[name][row, column] = False
    batches = [(inputs, torch.zeros(40, dtype=torch.long))]
    masks = METHODS["obc"](model, batches, sparsity=0.5, weights=list(layers), damping=0.0)
    assert {name: mask.tolist() for name, mask in masks.items()} == {n: m.tolist() for n, m in kept.items()}


def test_llm_surgeon_compensates_as_a_dense_solve_does() -> None:
    generator = torch.Generator().manual_seed(0)
    roots = [torch.randn(size, size, generator=generator, dtype=torch.float64) for size in (3, 4)]
    rows, columns = (root @ root.T + 0.3 * torch.eye(len(root)) for root in roots)
    matrix = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    kept = torch.rand(3, 4, generator=generator) > 0.4
    metric, stays = torch.kron(rows, columns), kept.flatten()
    right = metric[stays][:, ~stays] @ matrix.flatten()[~stays]
    expected = torch.zeros(12, dtype=torch.float64)
    expected[stays] = matrix.flatten()[stays] + torch.linalg.solve(metric[stays][:, stays], right)
    assert torch.allclose(compensate(matrix, rows, columns, kept).flatten(), expected, rtol=1e-3, atol=1e-3)
