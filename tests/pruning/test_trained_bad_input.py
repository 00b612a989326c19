"""What cannot be pruned is refused in one line that names it, and the network is as before."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from secateur import prune_trained
from secateur.errors import InvalidArgumentError
from secateur.modules import held_masks, hold
from support.correlated import correlated, correlated_batches, trained_on_correlated
from support.networks import NETWORKS, Recurrent

INPUTS, LABELS = correlated(40, 3)
HALVES = [(INPUTS[:20], LABELS[:20]), (INPUTS[20:], LABELS[20:])]


def refuse(model: nn.Module, loader: Any, message: str, **options: Any) -> None:
    """Demand one line that says so, from a network that is as before."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    held = held_masks(model)
    modes = [module.training for module in model.modules()]
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        prune_trained(model, loader, progress=False, **options)
    assert "\n" not in str(caught.value)
    for name, value in model.state_dict().items():
        if not value.is_meta:
            assert torch.equal(value.nan_to_num(-99), before[name].nan_to_num(-99))
    after = held_masks(model)
    assert after.keys() == held.keys()
    assert all(torch.equal(after[name], held[name]) for name in held)
    assert [module.training for module in model.modules()] == modes


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": "dense"}, "structure: expected one of kronecker, row, diagonal, got 'dense'"),
        ({"spread": "wide"}, "spread: expected one of row, conditioned, got 'wide'"),
        ({"granularity": "filter"}, "granularity: expected one of weight, .*, got 'filter'"),
        ({"granularity": []}, "granularity: expected at least one"),
        ({"granularity": ["weight", "neuron"]}, "granularity: expected one of .*, got 'weight'"),
        ({"granularity": "neuron", "pattern": "2:4"}, "granularity: expected 'weight' beside a pattern"),
        ({"likelihood": "binomial"}, "binomial"),
        ({"sparsity": 1.2}, r"sparsity: expected a share between 0 and 1, got 1\.2"),
        ({"sparsity": -0.1}, r"sparsity: expected a share between 0 and 1, got -0\.1"),
        ({"sparsity": math.nan}, "sparsity: expected a share between 0 and 1, got nan"),
        ({"sparsity": 0.5, "pattern": "2:4"}, r"pattern: expected no sparsity beside it.*, got 0\.5"),
        ({"pattern": "4:2"}, r'pattern: expected "N:M" with 0 < N < M'),
        ({"pattern": "2:5"}, r"inputs divide by 5, got 12 inputs in 0\.weight; exclude it"),
        ({"sparsity": 0.5, "rounds": 0}, "rounds: expected at least 1, got 0"),
        ({"sparsity": 0.5, "rounds": []}, r"rounds: expected rising shares between 0 and 1, got \[\]"),
        ({"sparsity": 0.5, "rounds": [0.3, 0.2, 0.5]}, "rounds: expected rising shares"),
        ({"sparsity": 0.5, "rounds": [0.3, 0.3, 0.5]}, "rounds: expected rising shares"),
        ({"sparsity": 0.5, "rounds": [0.0, 0.5]}, "rounds: expected rising shares"),
        ({"rounds": [0.5, 1.5]}, "rounds: expected rising shares"),
        ({"rounds": [0.5, math.nan]}, "rounds: expected rising shares"),
        ({"sparsity": 0.5, "rounds": [0.3, 0.4]}, r"the last share to be the sparsity 0\.5, got 0\.4"),
        ({"pattern": "2:4", "rounds": [0.3, 0.4]}, r"the last share to be the sparsity 0\.5, got 0\.4"),
        ({"max_loss_rise": -1.0}, "max_loss_rise: expected nats per datum, finite and at least 0"),
        ({"max_loss_rise": math.inf}, "max_loss_rise: expected nats per datum, finite and at least 0"),
        ({"max_loss_rise": math.nan}, "max_loss_rise: expected nats per datum, finite and at least 0"),
        ({"max_loss_rise": 0.1, "sparsity": 0.5}, "max_loss_rise: expected no target .* with a sparsity"),
        ({"max_loss_rise": 0.1, "pattern": "2:4"}, "max_loss_rise: expected no target .* with a pattern"),
        ({"max_batches": 0}, "max_batches: expected at least 1, got 0"),
        ({"num_data": 0}, "num_data: expected at least 1, got 0"),
        ({"include": ["9.*"]}, r"include: expected patterns of parameter names, got '9\.\*'"),
        ({"exclude": ["9.*"]}, r"exclude: expected patterns of parameter names, got '9\.\*'"),
        ({"include": "0.weight"}, "include: expected a list of patterns"),
        ({"exclude": ["*"]}, "at least one weight matrix that may go"),
        ({"include": ["*.bias"]}, "at least one weight matrix that may go"),
    ],
)
def test_options(options, message):
    refuse(trained_on_correlated(), HALVES, message, **options)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([], "loader: expected at least one batch, got none"),
        (iter([]), "loader: expected at least one batch, got none"),
        (
            DataLoader(TensorDataset(torch.zeros(0, 12), torch.zeros(0))),
            "loader: expected at least one batch",
        ),
        (HALVES[:1], "loader: expected two batches or more, .* or give held_out"),
        ([INPUTS[:20], INPUTS[20:]], "loader: expected batches with targets"),
        ([{"input": INPUTS}, {"input": INPUTS}], "loader: expected batches with targets"),
        ([(INPUTS, LABELS), (INPUTS * math.nan, LABELS)] * 3, "expected finite inputs, got nan in batch"),
        ([(INPUTS, LABELS + 3)] * 2, r"targets: expected class numbers in 0 \.\.\. 2"),
        ([(INPUTS, LABELS.float())] * 2, "targets: expected class numbers as int64"),
        ([(INPUTS, LABELS[:9])] * 2, "targets"),
        ([(INPUTS, torch.full_like(LABELS, -100))] * 2, "loader: expected at least one datum with a label"),
    ],
)
def test_data(loader, message):
    refuse(trained_on_correlated(), loader, message, sparsity=0.5)


def test_held_out_data():
    options = {"sparsity": 0.5}
    model = trained_on_correlated()
    refuse(model, HALVES, "held_out: expected at least one batch, got none", held_out=[], **options)
    refuse(model, HALVES, "held_out: expected batches with targets", held_out=[INPUTS], **options)
    nans = [(INPUTS * math.nan, LABELS)]
    refuse(model, HALVES, "held_out: expected finite inputs, got nan in batch 1", held_out=nans, **options)
    refuse(model, [], "loader: expected at least one batch, got none", held_out=HALVES, **options)


@pytest.mark.parametrize(
    ("likelihood", "targets", "message"),
    [
        ("bernoulli", LABELS, "targets"),
        ("poisson", -torch.ones(40, 3), "targets"),
        ("gaussian", torch.ones(40, 2), "targets"),
        ("gaussian", torch.full((40, 3), math.nan), "loader: expected finite targets, got nan in batch"),
    ],
)
def test_outputs_that_do_not_fit_the_likelihood(likelihood, targets, message):
    parts = [(INPUTS[:20], targets[:20]), (INPUTS[20:], targets[20:])]
    refuse(trained_on_correlated(), parts, message, likelihood=likelihood)


def test_a_network_of_one_output_is_no_classifier():
    model = nn.Sequential(nn.Linear(12, 4), nn.Linear(4, 1))
    refuse(model, HALVES, 'use likelihood="bernoulli"')


@pytest.mark.parametrize("place", ["0.weight", "2.bias", "4.weight"])
def test_weights_that_are_not_finite_are_named(place):
    model = trained_on_correlated()
    model.get_parameter(place).data.view(-1)[3] = math.nan
    message = rf"{place.replace('.', chr(92) + '.')}: expected finite weights, got nan or infinity in 1 of"
    refuse(model, HALVES, message)


def test_outputs_and_losses_that_are_not_finite():
    model = trained_on_correlated()
    model[4].weight.data.fill_(3e38)
    refuse(model, [(INPUTS * 1e3, LABELS)] * 2, "outputs: expected finite numbers, got nan or infinity")
    regression = nn.Sequential(nn.Linear(12, 4), nn.Linear(4, 3))
    parts = [(INPUTS, torch.full((40, 3), 3e38))] * 2
    refuse(regression, parts, "loader: expected a finite loss, got inf in batch 1", likelihood="gaussian")


def test_frozen_weights_that_are_asked_for():
    model = trained_on_correlated()
    model[0].requires_grad_(False)
    refuse(model, HALVES, r"0\.weight: .* got a frozen one; call requires_grad_", include=["0.*"])
    refuse(model.requires_grad_(False), HALVES, r"0\.weight: .* got a frozen one")
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_network_whose_frozen_layers_stay():
    model = trained_on_correlated()
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    result = prune_trained(model, HALVES, sparsity=0.5, rounds=1, progress=False)
    assert list(result.masks) == ["2.weight"]
    assert torch.equal(model[0].weight, before)
    assert not model[0].weight.requires_grad


def test_targets_that_cannot_be_reached():
    model = trained_on_correlated()
    mask = torch.rand(24, 12, generator=torch.Generator().manual_seed(0)) > 0.9
    hold(model, {"0.weight": mask})
    out = int((~mask).sum()) / 672
    refuse(
        model, HALVES, rf"sparsity: expected at least {out:.4f}, which is out already, got 0.2", sparsity=0.2
    )


def test_units_that_cannot_all_go():
    """The last neuron of a layer stays: without it the network would be a constant."""
    refuse(
        trained_on_correlated(),
        HALVES,
        r"sparsity: expected at most 0\.\d+, .* got 1\.0",
        sparsity=1.0,
        granularity="neuron",
    )


def test_weights_that_are_no_linear_maps():
    torch.manual_seed(0)
    model = Recurrent()
    inputs, labels = torch.randn(20, 4, 5), torch.randint(4, (20,))
    parts = [(inputs[:10], labels[:10]), (inputs[10:], labels[10:])]
    message = r"lstm\.weight_ih_l0: expected the weight of a linear map or convolution, .*; exclude it"
    refuse(model, parts, message, sparsity=0.5, include=["lstm.*"])
    refuse(model, parts, message, sparsity=0.5)  # nothing else may go
    result = prune_trained(model, parts, sparsity=0.5, include=["head.*"], progress=False, rounds=1)
    assert list(result.masks) == ["head.weight"]


def test_networks_without_anything_to_prune():
    class Gain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gain = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor) -> Tensor:
            return x[:, :3] * self.gain

    refuse(Gain(), HALVES, "at least one weight matrix that may go")
    refuse(nn.Sequential(nn.Flatten()), HALVES, "at least one weight matrix that may go")


def test_a_network_without_values():
    model = trained_on_correlated().to("meta")
    refuse(model, HALVES, r"0\.weight: expected weights in memory, got a tensor on meta; load them")
    lazy = nn.Sequential(nn.LazyLinear(4), nn.Linear(4, 3))
    with pytest.raises(InvalidArgumentError, match=r"0\.weight: expected weights in memory"):
        prune_trained(lazy, HALVES, progress=False)


def test_granularities_that_a_network_does_not_have():
    model = NETWORKS["residual"].build()
    parts = [(torch.randn(6, 2, 5, 5), torch.arange(6) % 4)] * 2
    refuse(
        model, parts, "granularity: expected heads .* got a network with", granularity="head", sparsity=0.2
    )


def test_batches_that_the_network_cannot_take_change_nothing():
    said = "loader: expected batches that the network takes, got for batch 4 RuntimeError: mat1 and mat2"
    wrong = [*correlated_batches()[:3], (INPUTS[:, :5], LABELS)]
    refuse(trained_on_correlated(), wrong, said, held_out=HALVES, sparsity=0.5)
    said = "held_out: expected batches that the network takes, got for batch 1 RuntimeError"
    refuse(trained_on_correlated(), HALVES, said, held_out=[(INPUTS[:, :5], LABELS)], sparsity=0.5)
