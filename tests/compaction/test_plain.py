"""A plain copy has the masked network's outputs, its own parameters, and nothing that masks."""

import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from secateur.compaction import plain_copy
from secateur.modules import held_masks, hold


def test_masks_of_every_kind_are_written_into_the_weights() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2)).train()
    hold(model, {"0.weight": torch.rand(5, 4) > 0.5})
    prune.random_unstructured(model[2], "weight", 0.5)
    parametrizations.weight_norm(model[4])
    x = torch.randn(6, 4)
    model(x).sum().backward()  # the product that torch.nn.utils.prune keeps is no leaf now
    plain = plain_copy(model)
    assert torch.equal(plain(x), model(x))
    names = {f"{number}.{leaf}" for number in (0, 2, 4) for leaf in ("weight", "bias")}
    assert dict(plain.named_parameters()).keys() == names
    assert plain.training
    assert not held_masks(plain)
    assert held_masks(model)
    assert not plain[2]._forward_pre_hooks
    theirs = {parameter.data_ptr() for parameter in model.parameters()}
    assert theirs.isdisjoint(parameter.data_ptr() for parameter in plain.parameters())
