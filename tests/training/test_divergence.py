"""A loss or weight that is not finite stops the run: which step, which layer, what to try."""

import re

import pytest
import torch
from torch import nn

from secateur.errors import DivergenceError
from secateur.runs.directory import LOCK
from secateur.training import divergence


class Overflow(nn.Module):
    """Passes its input on, but returns infinity from one forward pass in training on."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.calls = at, 0

    def forward(self, x):
        self.calls += self.training
        return x / 0 if self.calls >= self.at else x


def network(at: int = 10**9) -> nn.Module:
    torch.manual_seed(0)
    layers = {
        "flat": nn.Flatten(),
        "first": nn.Linear(64, 8),
        "shaky": Overflow(at),
        "last": nn.Linear(8, 10),
    }
    model = nn.Sequential()
    for name, layer in layers.items():
        model.add_module(name, layer)
    return model


@pytest.mark.parametrize("step", [1, 19, 20, 44])
def test_names_the_step_and_the_layer(fit, step):
    with pytest.raises(DivergenceError) as caught:
        fit(network(at=step))
    text = str(caught.value)
    assert text.startswith(f"step {step}: expected a finite loss, got ")
    assert "first in layer shaky;" in text
    assert re.search(r"try a smaller --learning-rate \(now 0\.00\d+\)", text)
    assert "\n" not in text


def test_the_run_keeps_its_last_checkpoint(fit, repeatable, tmp_path):
    fit(network(), out=tmp_path / "whole")
    out = tmp_path / "part"
    with pytest.raises(DivergenceError):
        fit(network(at=50), out=out)
    left = {path.name for path in out.iterdir()}
    assert left == {LOCK, "config.json", "history.jsonl", "checkpoint.safetensors"}
    fit(network(), out=out, resume=True)
    assert repeatable(out) == repeatable(tmp_path / "whole")


@pytest.mark.parametrize("method", ["calibrated", "ivon", "flat-ff", "flat-map", "bmr-spike-and-slab"])
def test_a_huge_learning_rate_is_named(fit, tmp_path, method):
    with pytest.raises(DivergenceError, match=r"now 1e\+30") as caught:
        fit(method=method, learning_rate=1e30, out=tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "metrics.json").exists()


def test_weights_lost_in_the_last_step_of_an_epoch_are_found(fit, monkeypatch):
    """Their loss would only be seen in the next epoch, after the reduction and the epoch's figures."""
    model = network()
    plain = divergence.check_losses

    def spoil(losses, *, last_step, **options):
        if last_step == 19:
            model.last.bias.register_hook(lambda gradient: gradient * float("nan"))
        return plain(losses, last_step=last_step, **options)

    monkeypatch.setattr("secateur.training.loop.check_losses", spoil)
    with pytest.raises(DivergenceError, match=r"^step 19: expected finite weights, .*first in last\.bias;"):
        fit(model)


def test_losses_read_late_still_give_their_step():
    """As on a GPU, where the losses of many steps are read at once."""
    losses = [torch.tensor(value) for value in (1.0, 0.9, float("nan"), float("nan"))]
    with pytest.raises(DivergenceError, match=r"^step 99: .*first in the loss itself"):
        divergence.check_losses(
            losses, last_step=100, model=network(), batch=torch.zeros(1, 64), learning_rate=0.1
        )
    fine = losses[:2]
    assert divergence.check_losses(
        fine, last_step=2, model=network(), batch=torch.zeros(1, 64), learning_rate=0.1
    ) == pytest.approx(0.9)


def test_a_forward_pass_of_its_own_is_named_by_its_class():
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x):
            return self.inner(x).exp() / 0

    with pytest.raises(DivergenceError, match="first in the forward pass of Own"):
        divergence.check_losses(
            [torch.tensor(float("inf"))], last_step=1, model=Own(), batch=torch.ones(2, 4), learning_rate=0.1
        )
