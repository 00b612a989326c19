"""Joint removal inside training: measured evidence, means that move, exact targets, resumption."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from secateur import GradualPruner
from secateur.curvature import RunningCurvature
from secateur.errors import InvalidArgumentError
from secateur.inference import Calibrated
from secateur.modules import held_masks
from secateur.pruning import Schedule
from secateur.runs.checkpoint import load_nested, save_nested

NUM_DATA = 1500


@pytest.fixture
def data(generator):
    """Ten inputs, of which each has a twin that is almost the same: either can stand in for the other."""
    half = torch.randn(NUM_DATA, 5, generator=generator)
    inputs = torch.cat([half, half + 0.1 * torch.randn(half.shape, generator=generator)], 1)
    return inputs, (half @ torch.randn(5, 3, generator=generator)).argmax(1)


def network():
    source = torch.Generator().manual_seed(4)
    model = nn.Sequential(nn.Linear(10, 20), nn.Tanh(), nn.Linear(20, 12), nn.Tanh(), nn.Linear(12, 3))
    for parameter in model.parameters():
        parameter.data = 0.3 * torch.randn(parameter.shape, generator=source)
    return model


def build(model, data, *, schedule=None, observed=None, **options):
    curvature = RunningCurvature(model, every=2, max_data=None)
    optimizer = Calibrated(
        model.named_parameters(),
        lr=1e-2,
        num_data=NUM_DATA,
        temperature=0.01,
        generator=torch.Generator().manual_seed(5),
        curvature=curvature,
    )
    schedule = schedule or Schedule(first_epoch=1, last_epoch=8, max_fraction=0.3, max_loss_rise=0.25)
    loss = observed or (lambda network: float(F.cross_entropy(network(data[0]), data[1])))
    return optimizer, GradualPruner(model, optimizer, schedule, observe=loss, **options)


def train(model, optimizer, data, epochs=1):
    for _ in range(epochs):
        for inputs, labels in zip(data[0].split(60), data[1].split(60), strict=True):
            with optimizer.sampled_parameters():
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), labels).backward()
            optimizer.step()
            optimizer.curvature.step((inputs, labels))


def loss_of(model, data):
    with torch.no_grad():
        return float(F.cross_entropy(model(data[0]), data[1]))


def test_what_is_predicted_is_observed_and_what_stays_moves(data):
    model = network()
    optimizer, pruner = build(model, data)
    train(model, optimizer, data, epochs=12)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    loss_before = loss_of(model, data)
    result = pruner.step()
    assert result.num_removed == math.floor(0.3 * (200 + 240))  # the output layer stays, biases too
    assert result.predicted_delta_f > 0
    assert 0.5 < result.observed_delta_f / result.predicted_delta_f < 2
    assert result.loss_before == pytest.approx(loss_before, abs=1e-6)
    assert result.loss_after == pytest.approx(loss_of(model, data), abs=1e-6)
    now = dict(model.named_parameters())
    stays = result.masks["0.weight"]
    assert not torch.equal(now["0.weight"][stays], before["0.weight"][stays])
    assert not torch.equal(now["0.bias"], before["0.bias"])
    assert (now["0.weight"][~stays] == 0).all()
    assert torch.equal(now["4.weight"], before["4.weight"])
    # zeroing the same entries without the move does more harm
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(before[name] * result.masks[name])
    assert loss_of(model, data) > result.loss_after


def test_masks_hold_through_training_and_evidence_is_remembered_by_weight(data):
    model = network()
    optimizer, pruner = build(model, data)
    train(model, optimizer, data, epochs=4)
    results = []
    for _ in range(3):
        results.append(pruner.step())
        train(model, optimizer, data)
    out = {name: ~mask for name, mask in held_masks(model).items()}
    assert sum(int(mask.sum()) for mask in out.values()) == sum(each.num_removed for each in results)
    assert all(
        (parameter[out[name]] == 0).all() for name, parameter in model.named_parameters() if name in out
    )
    assert sum(pruner.removed_delta_f.values()) == pytest.approx(
        sum(each.predicted_delta_f for each in results)
    )
    assert pruner.removed_delta_f["0.weight"] != 0


def test_a_removal_whose_measured_evidence_is_a_loss_is_not_made(data):
    model = network()
    calls = []

    def observed(network):
        calls.append(sum(int((each == 0).sum()) for each in network.parameters()))
        return 0.0 if calls[-1] == 0 else 10.0  # nats per datum: no volume pays for that

    optimizer, pruner = build(
        model, data, observed=observed, schedule=Schedule(first_epoch=1, last_epoch=8, max_fraction=0.3)
    )
    train(model, optimizer, data, epochs=2)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    result = pruner.step()
    assert result.num_removed == 0
    assert result.observed_delta_f == 0
    assert calls[-4:] == [132, 66, 33, 16]  # halved three times
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_a_rise_above_the_bound_halves_though_the_evidence_would_pay(data):
    model = network()

    def observed(network):
        return 1e-6 * sum(int((each == 0).sum()) for each in network.parameters())

    schedule = Schedule(first_epoch=1, last_epoch=8, max_fraction=0.3, max_loss_rise=70e-6)
    optimizer, pruner = build(model, data, observed=observed, schedule=schedule)
    train(model, optimizer, data, epochs=2)
    assert pruner.step().num_removed == 66


def test_a_target_is_met_to_the_entry(data):
    model = network()
    schedule = Schedule(first_epoch=1, last_epoch=3)
    optimizer, pruner = build(model, data, schedule=schedule, sparsity=0.8)
    train(model, optimizer, data, epochs=2)
    for _ in range(3):
        pruner.step()
        train(model, optimizer, data)
    total = sum(parameter.numel() for parameter in model.parameters())
    assert sum(int((~mask).sum()) for mask in held_masks(model).values()) == round(0.8 * total)


def test_a_target_out_of_reach_is_refused_at_once(data):
    with pytest.raises(InvalidArgumentError, match=r"^sparsity: expected at most 0\.8611.* got 0\.9"):
        build(network(), data, sparsity=0.9)


def test_other_criteria_do_not_move_what_stays(data):
    model = network()
    optimizer, pruner = build(model, data, sparsity=0.5, criterion="magnitude")
    train(model, optimizer, data, epochs=2)
    before = model[0].bias.detach().clone()
    pruner.step()
    mask = held_masks(model).get("0.bias", torch.ones(20).bool())
    assert torch.equal(model[0].bias[mask], before[mask])


def test_it_goes_on_bit_for_bit(data, tmp_path):
    whole = network()
    optimizer, pruner = build(whole, data)
    train(whole, optimizer, data, epochs=2)
    pruner.step()
    first = {"model": whole.state_dict(), "optimizer": optimizer.state_dict(), "pruner": pruner.state_dict()}
    save_nested(tmp_path / "state", first)
    model = network()
    by_second, again = build(model, data)
    state = load_nested(tmp_path / "state")
    model.load_state_dict(state["model"])
    by_second.load_state_dict(state["optimizer"])
    again.load_state_dict(state["pruner"])
    results = []
    for each, own, its in ((whole, optimizer, pruner), (model, by_second, again)):
        train(each, own, data)
        results.append(its.step())
    assert results[0].predicted_delta_f == results[1].predicted_delta_f
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), model.parameters(), strict=True))
    assert pruner.removed_delta_f == again.removed_delta_f
