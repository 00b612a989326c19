"""Masks go to `torch.nn.utils.prune` and come back."""

import pytest
import torch
from torch.nn.utils import prune as torch_prune

from secateur.errors import InvalidArgumentError
from secateur.modules import from_torch_prune, held_masks, hold, to_torch_prune
from support.networks import Attention, Tied, mlp


@pytest.mark.parametrize("make", [mlp, Tied])
def test_there_and_back(make) -> None:
    torch.manual_seed(0)
    model = make()
    hold(model, {name: torch.rand(value.shape) > 0.5 for name, value in model.named_parameters()})
    masks, weights = held_masks(model), {name: value.clone() for name, value in model.state_dict().items()}
    to_torch_prune(model)
    assert held_masks(model) == {}
    assert torch_prune.is_pruned(model)
    assert model.state_dict().keys() == {f"{name}_{kind}" for name in masks for kind in ("orig", "mask")}
    found = from_torch_prune(model)
    assert not torch_prune.is_pruned(model)
    for result in (found, held_masks(model)):
        assert result.keys() == masks.keys()
        assert all(torch.equal(result[name], mask) for name, mask in masks.items())
    assert model.state_dict().keys() == weights.keys()
    assert all(torch.equal(model.state_dict()[name], value) for name, value in weights.items())


def test_masks_of_torch_are_held() -> None:
    model = mlp()
    torch_prune.l1_unstructured(model[0], "weight", amount=0.5)
    torch_prune.random_unstructured(model[0], "weight", amount=0.2)
    torch_prune.ln_structured(model[2], "weight", amount=2, n=2, dim=0)
    expected = {"0.weight": model[0].weight_mask != 0, "2.weight": model[2].weight_mask != 0}
    from_torch_prune(model)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(3, 5)).sum().backward()
    optimizer.step()
    for name, mask in expected.items():
        assert not model.get_parameter(name)[~mask].any()
        assert model.get_parameter(name)[mask].all()


def test_without_masks_nothing_happens() -> None:
    model = mlp()
    names = list(model.state_dict())
    assert from_torch_prune(model) == {}
    to_torch_prune(model)
    assert list(model.state_dict()) == names


def test_an_uncalled_layer_is_refused() -> None:
    """Attention reads its output projection's weight itself, so the projection's hooks would never run."""
    model = Attention()
    hold(model, {"attention.out_proj.weight": torch.rand(8, 8) > 0.5, "head.weight": torch.rand(4, 8) > 0.5})
    masks = held_masks(model)
    with pytest.raises(InvalidArgumentError, match="never called; keep the held mask"):
        to_torch_prune(model)
    assert held_masks(model).keys() == masks.keys()
    assert not torch_prune.is_pruned(model)
