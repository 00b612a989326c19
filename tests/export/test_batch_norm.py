"""Batch norm on the way out: whatever network is written has moments of its own."""

import pytest
import torch
from safetensors.torch import load_file

import secateur
from secateur import Posterior
from secateur.errors import InvalidArgumentError
from secateur.export.onnx_graph import onnx, onnx_session
from secateur.modules import moments
from secateur.networks.resnet import ResNet
from secateur.training import load_run
from secateur.training.prediction import predictions
from secateur.training.prune_run import prune_run


@pytest.fixture(scope="module")
def images():
    return torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def network(images):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = ResNet((1, 8, 8), 3, num_blocks=1, width=4)
    for _ in range(20):  # running moments like those of training
        model(images)
    return model.eval()


@pytest.fixture(scope="module")
def posterior(network):
    mean = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    return Posterior(
        mean,
        {name: torch.full_like(value, 30.0) for name, value in mean.items()},
        {name: torch.tensor(1.0) for name in mean},
    )


def test_an_average_of_samples_needs_images_for_their_moments(network, posterior, images, tmp_path):
    with pytest.raises(
        InvalidArgumentError, match="calibration: expected training images to average samples"
    ):
        onnx(network, tmp_path / "a.onnx", images[:2], posterior=posterior, num_samples=3)
    assert not (tmp_path / "a.onnx").exists()


def test_each_sample_in_the_graph_has_moments_of_its_own(network, posterior, images, tmp_path):
    path = tmp_path / "a.onnx"
    onnx(
        network,
        path,
        images[:2],
        posterior=posterior,
        num_samples=3,
        calibration=images,
        generator=torch.Generator().manual_seed(1),
    )
    (found,) = onnx_session(path)((images,))
    generator = torch.Generator().manual_seed(1)
    drawn = [posterior.sample(generator=generator) for _ in range(3)]
    own = torch.stack([
        predictions(network, images, weights, calibration=images).exp() for weights in drawn
    ]).mean(0)
    shared = torch.stack([predictions(network, images, weights).exp() for weights in drawn]).mean(0)
    torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-5)
    assert (found - shared).abs().max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["weight", "channel"])
def test_a_pruned_run_has_the_moments_of_what_is_left_and_keeps_its_images(granularity, tmp_path):
    run = secateur.fit(
        "resnet20", "digits", method="flat-ff", epochs=2, num_samples=2, out=tmp_path / "run", compile=False
    )
    options = {"granularity": granularity, "sparsity": 0.3, "rounds": 2, "num_samples": 2}
    prune_run(tmp_path / "run", out=tmp_path / "pruned", **options)
    pruned = load_run(tmp_path / "pruned")
    assert torch.equal(pruned.calibration, run.calibration)
    train = secateur.data.load("digits", image_size=32).train.images
    stored = load_file(tmp_path / "pruned" / "model.safetensors")
    expected = moments(pruned.model, train)  # all 1,437, in fewer than the 2,000 that are taken
    for name, value in expected.items():
        torch.testing.assert_close(stored[name], value, rtol=1e-3, atol=1e-4)
    last = "layer3.2.bn2.running_mean"  # the first ones follow only where their own layer has lost weights
    assert not torch.allclose(stored[last], load_file(tmp_path / "run" / "model.safetensors")[last])
