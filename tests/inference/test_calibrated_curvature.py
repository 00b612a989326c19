"""`Calibrated` with a running curvature: its precision, its state, training that goes on bit for bit."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from secateur.curvature import RunningCurvature
from secateur.errors import ArtifactError, InvalidArgumentError
from secateur.inference import Calibrated
from secateur.runs.checkpoint import load_nested, save_nested

NUM_DATA = 600


@pytest.fixture
def data(generator):
    inputs = torch.randn(NUM_DATA, 6, generator=generator)
    return inputs, (inputs @ torch.randn(6, 3, generator=generator)).argmax(1)


def build(data, *, compile=False, **options):
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    source = torch.Generator().manual_seed(4)
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=source)
    curvature = RunningCurvature(model, every=2, max_data=16)
    optimizer = Calibrated(
        model.named_parameters(),
        lr=1e-2,
        num_data=NUM_DATA,
        generator=torch.Generator().manual_seed(5),
        curvature=curvature,
        compile=compile,
        **options,
    )
    return model, optimizer


def train(model, optimizer, data, steps):
    inputs, labels = data
    for step in steps:
        part = slice(30 * step, 30 * (step + 1))
        with optimizer.sampled_parameters():
            optimizer.zero_grad()
            F.cross_entropy(model(inputs[part]), labels[part]).backward()
        optimizer.step()
        optimizer.curvature.step((inputs[part], labels[part]))


def test_the_precision_is_the_curvature_and_the_prior(data):
    model, optimizer = build(data)
    train(model, optimizer, data, range(7))
    expected = optimizer.curvature.value(NUM_DATA).diagonals()
    posterior = optimizer.posterior()
    for name, precision in posterior.precision.items():
        torch.testing.assert_close(precision, NUM_DATA * expected[name] + posterior.prior_precision[name])


def test_gradients_at_draws_do_not_move_the_precision(data):
    """The noise of the draw multiplies its gradient in the other estimate; here it must have no effect."""
    model, optimizer = build(data)
    train(model, optimizer, data, range(1))
    before = optimizer.posterior().precision
    with optimizer.sampled_parameters():
        optimizer.zero_grad()
        (1e3 * F.cross_entropy(model(data[0]), data[1])).backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in optimizer.posterior().precision.items())


def test_training_goes_on_bit_for_bit(data, tmp_path):
    whole, by_whole = build(data)
    train(whole, by_whole, data, range(14))
    first, by_first = build(data)
    train(first, by_first, data, range(7))
    save_nested(tmp_path / "state", {"optimizer": by_first.state_dict(), "model": first.state_dict()})
    second, by_second = build(data)
    state = load_nested(tmp_path / "state")
    second.load_state_dict(state["model"])
    by_second.load_state_dict(state["optimizer"])
    train(second, by_second, data, range(7, 14))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))
    ours, theirs = by_second.posterior(), by_whole.posterior()
    assert all(torch.equal(value, theirs.precision[name]) for name, value in ours.precision.items())


def test_states_with_and_without_a_curvature_are_not_confused(data):
    model, optimizer = build(data)
    plain = Calibrated(model.named_parameters(), num_data=NUM_DATA)
    with pytest.raises(ArtifactError, match="expected one with a running curvature, got none"):
        optimizer.load_state_dict(plain.state_dict())
    with pytest.raises(ArtifactError, match="expected none with a running curvature, got one"):
        plain.load_state_dict(optimizer.state_dict())


def test_a_state_of_another_network_leaves_the_curvature_as_it_was(data):
    model, optimizer = build(data)
    train(model, optimizer, data, range(5))
    other, by_other = build(data)
    train(other, by_other, data, range(3))
    state = by_other.state_dict()
    state["posterior"] = {"blocks": []}
    before = optimizer.curvature.value(1).diagonals()
    with pytest.raises(ArtifactError):
        optimizer.load_state_dict(state)
    assert optimizer.curvature.num_steps == 5
    assert all(
        torch.equal(value, before[name]) for name, value in optimizer.curvature.value(1).diagonals().items()
    )


def test_another_optimiser_for_the_mean_leaves_the_precision_to_the_curvature(data):
    model, optimizer = build(data, inner=lambda points: torch.optim.SGD(points, lr=0.1))
    train(model, optimizer, data, range(3))
    expected = optimizer.curvature.value(NUM_DATA).diagonals()["0.weight"]
    posterior = optimizer.posterior()
    torch.testing.assert_close(
        posterior.precision["0.weight"], NUM_DATA * expected + posterior.prior_precision["0.weight"]
    )


def test_it_has_settled_after_enough_looks(data):
    model, optimizer = build(data)
    train(model, optimizer, data, range(19))
    assert not optimizer.curvature_has_settled  # ten looks
    for batch in data[0][:100].split(10):
        optimizer.curvature.add((batch, torch.zeros(10).long()))
    assert optimizer.curvature_has_settled


def test_a_parameter_without_curvature_is_refused(data):
    model, _ = build(data)
    curvature = RunningCurvature(model, every=1, include=["0.*"])
    optimizer = Calibrated(model.named_parameters(), num_data=NUM_DATA, curvature=curvature)
    train(model, optimizer, data, range(1))
    with pytest.raises(
        InvalidArgumentError, match=r"^curvature: expected that of every parameter .* 2\.weight"
    ):
        optimizer.posterior()
