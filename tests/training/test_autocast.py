"""`autocast`: the network runs in bfloat16 while it trains, and nothing else does."""

import pytest
import torch
from torch import nn

from secateur.data import crop_and_flip
from secateur.training.step import StepOptions, loss_function

METHODS = ("calibrated", "flat-map", "flat-ff")


@pytest.fixture
def dtypes(monkeypatch, tiny):
    """Kind of number of the last layer's outputs, in training and in evaluation."""
    seen = {True: set(), False: set()}
    plain = nn.Linear.forward

    def watch(module, inputs):
        outputs = plain(module, inputs)
        seen[module.training].add(outputs.dtype)
        return outputs

    monkeypatch.setattr(nn.Linear, "forward", watch)
    return seen


def test_is_off_unless_asked_for(fit, dtypes):
    assert fit(epochs=1).config["autocast"] is False
    assert dtypes == {True: {torch.float32}, False: {torch.float32}}


@pytest.mark.parametrize("method", METHODS)
def test_trains_in_bfloat16_and_predicts_in_float32(fit, dtypes, digits, method):
    run = fit(autocast=True, method=method, epochs=5, learning_rate=1e-2)
    assert run.config["autocast"] is True
    assert dtypes == {True: {torch.bfloat16}, False: {torch.float32}}
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    for values in (run.posterior.mean, run.posterior.precision):
        assert {value.dtype for value in values.values()} == {torch.float32}
    assert run.history[-1]["train_loss"] < 0.8 * run.history[0]["train_loss"]
    assert run.predict(digits.test.images[:3], num_samples=2).dtype == torch.float32


def test_loss_and_gradients_are_those_of_float32_to_the_precision_of_bfloat16(tiny, digits):
    network = tiny()
    losses, gradients = [], []
    for autocast in (False, True):
        network.zero_grad()
        loss = loss_function(network, StepOptions(autocast=autocast))(
            digits.train.images, digits.train.labels
        )
        loss.backward()
        assert loss.dtype == torch.float32
        losses.append(float(loss.detach()))
        gradients.append(torch.cat([p.grad.flatten() for p in network.parameters()]))
        assert gradients[-1].dtype == torch.float32
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
    assert (gradients[0] - gradients[1]).norm() < 0.03 * gradients[0].norm()


@pytest.mark.parametrize("method", METHODS)
def test_an_interrupted_run_goes_on_bit_for_bit(fit, stop_at, repeatable, tmp_path, method):
    options = {"autocast": True, "method": method, "epochs": 4}
    fit(out=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        fit(out=tmp_path / "part", progress=stop_at(50), **options)
    fit(out=tmp_path / "part", resume=True, **options)
    assert repeatable(tmp_path / "part") == repeatable(tmp_path / "whole")


def test_double_precision_stays_double_without_it(tiny, digits):
    loss_of = loss_function(tiny().double(), StepOptions())
    assert loss_of(digits.train.images.double(), digits.train.labels).dtype == torch.float64


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", METHODS)
def test_on_a_gpu_with_augmentation_and_a_compiled_network(fit, tiny, method):
    run = fit(tiny(), autocast=True, augment=True, compile=True, device="cuda", method=method, epochs=4)
    assert run.config["compile_network"] is True
    assert {p.dtype for p in run.model.parameters()} == {torch.float32}
    assert run.history[-1]["train_loss"] < run.history[0]["train_loss"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_forward_half_of_a_step_does_not_wait_for_the_gpu(tiny, digits):
    network, images, labels = tiny().cuda(), digits.train.images.cuda(), digits.train.labels.cuda()
    generator = torch.Generator("cuda").manual_seed(0)
    loss_of = loss_function(network, StepOptions(autocast=True))
    loss_of(crop_and_flip(images, generator=generator), labels)
    torch.cuda.set_sync_debug_mode("error")
    try:
        loss_of(crop_and_flip(images, generator=generator), labels).backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
