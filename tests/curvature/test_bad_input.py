"""What cannot be used is refused in one line that names it, and nothing has changed."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from secateur.curvature import estimate
from secateur.errors import InvalidArgumentError


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))


INPUTS = torch.linspace(-1, 1, 24).view(6, 4)
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"structure": "dense"}, "structure: expected one of diagonal, row, kronecker, got 'dense'"),
        ({"outputs": "empirical"}, "outputs: expected one of sampled, exact, got 'empirical'"),
        ({"likelihood": "binomial"}, "binomial"),
        ({"include": ["none"]}, "include: expected patterns of parameter names, got 'none'"),
        ({"exclude": "0.*"}, "exclude: expected a list"),
        ({"exclude": ["*"]}, "at least one parameter"),
        ({"max_batches": 0}, "max_batches: expected at least 1"),
        ({"tolerance": 0.0}, "tolerance: expected a positive"),
        ({"num_data": 0}, "num_data: expected at least 1"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        estimate(network(), [(INPUTS, LABELS)], **options)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([], "loader: expected at least one batch, got none"),
        ([(INPUTS, torch.full((6,), -100))], "loader: expected at least one datum with a label"),
        ([(INPUTS, LABELS), (INPUTS * math.nan, LABELS)], "expected finite inputs, got nan in batch 2"),
        ([(INPUTS, LABELS + 1)], r"targets: expected class numbers in 0 \.\.\. 2"),
        ([(INPUTS, LABELS.float())], "targets: expected class numbers as int64"),
        ([{"text": "none"}], "example: expected a tensor"),
    ],
)
def test_wrong_data_are_named(loader, message):
    with pytest.raises(InvalidArgumentError, match=message):
        estimate(network(), loader)


def test_outputs_that_do_not_fit_and_weights_that_are_not_finite_are_named():
    with pytest.raises(InvalidArgumentError, match='use likelihood="bernoulli"'):
        estimate(nn.Linear(4, 1), [INPUTS])
    model = network()
    model[2].bias.data[1] = math.nan
    with pytest.raises(
        InvalidArgumentError, match=r"2\.bias: expected finite weights, got nan or infinity in 1"
    ):
        estimate(model, [INPUTS])
    with pytest.raises(InvalidArgumentError, match=r"0\.weight: .* tensor on meta"):
        estimate(network().to("meta"), [INPUTS])
    model = network()
    model[0].weight.data *= 3e38
    model[1].weight.data *= 3e38
    with pytest.raises(InvalidArgumentError, match=r"in batch 1; it is in the inputs of 2\.weight first"):
        estimate(model, [INPUTS * 1e3])


def test_frozen_parameters_are_left_out_unless_they_are_asked_for():
    model = network()
    model[0].requires_grad_(False)
    found = estimate(model, [INPUTS])
    assert found.parameters().keys() == {"1.weight", "1.bias", "2.weight", "2.bias"}
    with pytest.raises(
        InvalidArgumentError, match=r"include: .* got the frozen 0\.weight; call requires_grad_"
    ):
        estimate(model, [INPUTS], include=["0.*"])
    with pytest.raises(InvalidArgumentError, match="at least one parameter that takes a gradient"):
        estimate(model.requires_grad_(False), [INPUTS])


@pytest.mark.parametrize("fails", [False, True])
def test_the_network_is_as_before(fails):
    model = network()
    model[1].eval()
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    if fails:
        with pytest.raises(
            InvalidArgumentError,
            match=r"^loader: expected batches that the network takes, got for batch 2 RuntimeError",
        ):
            estimate(model, [(INPUTS, LABELS), (INPUTS[:, :3], LABELS)])
    else:
        estimate(model, [(INPUTS, LABELS)])
    assert torch.equal(torch.rand(3), expected)
    assert [module.training for module in model] == [True, False, True]
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert all((parameter.grad == 1).all() for parameter in model.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    assert torch.nn.functional.linear(INPUTS, model[0].weight).requires_grad  # no mode is left on


def test_a_seed_fixes_the_draws_and_batches_are_read_once_at_most():
    read = []

    def loader():
        for number in range(10):
            read.append(number)
            yield INPUTS, LABELS

    found = [estimate(network(), loader(), seed=seed, max_batches=2) for seed in (1, 1, 2)]
    assert read == [0, 1] * 3
    assert torch.equal(found[0].layers["0"].G, found[1].layers["0"].G)
    assert not torch.equal(found[0].layers["0"].G, found[2].layers["0"].G)
    drawn = estimate(network(), loader(), generator=torch.Generator().manual_seed(1), max_batches=2)
    assert torch.equal(drawn.layers["0"].G, found[0].layers["0"].G)


def test_it_stops_when_factors_have_settled():
    torch.manual_seed(0)
    batches = [torch.randn(64, 4) for _ in range(64)]
    found = estimate(network(), batches, tolerance=0.3)
    assert found.num_seen in {64 * 4, 64 * 8, 64 * 16}
    assert estimate(network(), batches, tolerance=1e-9).num_seen == 64 * 64


def test_layers_above_the_largest_factor_have_one_factor_or_the_diagonal():
    model = nn.Sequential(nn.Linear(4, 40), nn.Tanh(), nn.Linear(40, 3))
    found = estimate(model, [INPUTS], largest_factor=20)
    assert found.layers["0"].A is not None
    assert found.layers["0"].G is None
    assert found.layers["2"].A is None
    assert found.layers["2"].diagonal is not None
    full = estimate(model, [INPUTS], diagonal=True)
    torch.testing.assert_close(found.layers["2"].diagonal, full.layers["2"].diagonal)
    torch.testing.assert_close(found.layers["0"].row_sums, full.layers["0"].row_sums)
    types = [type(block).__name__ for block in found.posterior(model).blocks.values()]
    assert types == ["Rowwise", "Diagonal"]


def test_progress_is_shown_only_where_asked(monkeypatch):
    totals = []

    def track(batches, **options):
        totals.append(options["total"])
        return batches

    monkeypatch.setattr("rich.progress.track", track)
    batches = [(INPUTS, LABELS)] * 3
    estimate(network(), batches)
    assert totals == []
    shown = [estimate(network(), batches, progress=True, max_batches=most).num_seen for most in (None, 2)]
    assert totals == [3, 2]
    assert shown == [18, 12]


class Checkpointed(nn.Module):
    """A network that keeps no activations of its first layer."""

    def __init__(self, *, reentrant: bool) -> None:
        super().__init__()
        self.first, self.last, self.reentrant = nn.Linear(4, 8), nn.Linear(8, 3), reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone().requires_grad_()  # as embeddings do it for a language model
        hidden = checkpoint(self.first, x, use_reentrant=self.reentrant)
        return self.last(hidden.relu())


def test_activations_that_the_graph_does_not_have_are_named() -> None:
    batches = [(torch.randn(5, 4), torch.arange(5) % 3)]
    with pytest.raises(
        InvalidArgumentError, match="expected gradient checkpointing with use_reentrant=False"
    ):
        estimate(Checkpointed(reentrant=True), batches)
    found = estimate(Checkpointed(reentrant=False), batches)
    assert set(found.layers) == {"first", "last"}
