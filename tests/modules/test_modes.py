"""Modes return as they were, module by module."""

from contextlib import nullcontext

import pytest
from torch import nn

from secateur.modules import evaluation_mode


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


@pytest.mark.parametrize("fails", [False, True])
def test_each_module_gets_its_own_mode_back(fails: bool) -> None:
    model = nn.Sequential(nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)), nn.Dropout())
    model[0][1].eval()
    before = modes(model)
    assert before == [True, True, True, False, True]
    outcome = pytest.raises(RuntimeError, match="meanwhile") if fails else nullcontext()
    with outcome, evaluation_mode(model):
        assert not any(modes(model))
        model[1].train()
        if fails:
            raise RuntimeError("meanwhile")
    assert modes(model) == before
