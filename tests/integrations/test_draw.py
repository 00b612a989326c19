"""The draw that stays in a network: who sees it, who gets the means, and what copies share."""

import copy

import pytest
import torch
from torch import Tensor, nn

from secateur.inference import Calibrated
from secateur.integrations.draw import StepDraw, hold_what_is_loaded
from secateur.modules import held_masks, hold
from support.networks import mlp


@pytest.fixture
def trained() -> tuple[nn.Module, Calibrated, StepDraw]:
    torch.manual_seed(0)
    model = mlp()
    optimizer = Calibrated(model.named_parameters(), num_data=50, generator=torch.Generator().manual_seed(1))
    draw = StepDraw(model, optimizer)
    draw.attach()
    return model, optimizer, draw


def weight(model: nn.Module) -> Tensor:
    return model.get_parameter("0.weight").detach().clone()


def test_a_draw_is_in_until_it_is_closed(trained: tuple[nn.Module, Calibrated, StepDraw]) -> None:
    model, optimizer, draw = trained
    means = weight(model)
    draw.open()
    first = weight(model)
    assert not torch.equal(first, means)
    model(torch.zeros(2, 5)).sum().backward()
    draw.open()  # another one in its place, and the gradients are gone
    assert not torch.equal(weight(model), first)
    assert model.get_parameter("0.weight").grad is None
    model(torch.zeros(2, 5)).sum().backward()
    draw.close()
    draw.close()
    assert torch.equal(weight(model), means)
    optimizer.step()


@pytest.mark.parametrize("look", ["evaluation", "state", "load", "detach"])
def test_others_get_the_means(trained: tuple[nn.Module, Calibrated, StepDraw], look: str) -> None:
    model, _, draw = trained
    means, state = weight(model), copy.deepcopy(dict(model.state_dict()))
    draw.open()
    with torch.no_grad():
        model.train()(torch.zeros(2, 5))  # a second pass within the step
    assert not torch.equal(weight(model), means)
    if look == "evaluation":
        with torch.no_grad():
            model.eval()(torch.zeros(2, 5))
    elif look == "state":
        assert torch.equal(model.state_dict()["0.weight"], means)
    elif look == "load":
        model.load_state_dict(state)
        draw.close()  # does not bring other means back
    else:
        draw.detach()
    assert torch.equal(weight(model), means)


def test_a_copy_has_its_own_weights(trained: tuple[nn.Module, Calibrated, StepDraw]) -> None:
    model, _, draw = trained
    draw.open()
    drawn, twin = weight(model), copy.deepcopy(model)
    with torch.no_grad():
        twin.eval()(torch.zeros(2, 5))
    twin.state_dict()
    assert torch.equal(weight(model), drawn)


@pytest.mark.parametrize("copied", [False, True])
def test_loaded_weights_keep_their_own_zeros(copied: bool) -> None:
    model = mlp()
    hold_what_is_loaded(model)
    before = copy.deepcopy(dict(model.state_dict()))
    mask = torch.rand(8, 5, generator=torch.Generator().manual_seed(0)) > 0.4
    hold(model, {"0.weight": mask})
    less = copy.deepcopy(dict(model.state_dict()))
    hold(model, {"0.weight": torch.arange(40).view(8, 5) % 3 > 0, "2.weight": torch.eye(6, 8) > 0})
    network = copy.deepcopy(model) if copied else model
    network.load_state_dict(less)
    assert torch.equal(weight(network), less["0.weight"])
    held = held_masks(network)
    assert held.keys() == {"0.weight"}
    assert torch.equal(held["0.weight"], mask)
    network.load_state_dict(before)
    assert torch.equal(weight(network), before["0.weight"])
    assert held_masks(network) == {}
