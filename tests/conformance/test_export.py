"""Every network, masked every way, leaves through every door with the outputs of the masked network."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from secateur.compaction import compact, find_units
from secateur.export import KernelRow, artifact, onnx, sparse
from secateur.export.onnx_graph import onnx_session
from secateur.modules import hold
from secateur.networks import build, image_size, names

GRANULARITIES = ("weight", "neuron", "channel", "unit")
EXITS = ("compact", "sparse", "artifact", "onnx")
NETWORKS = [name for name in names() if f"{name}-small" not in names()]  # of two sizes, the smaller
QUICK = ("mlp", "lenet")  # to export as ONNX

# Scattered zeros leave nothing to take out, which `compact` says; what it returns must be right all the same.
pytestmark = pytest.mark.filterwarnings("ignore:.*cannot be made smaller")


def masked(name: str, granularity: str) -> tuple[nn.Module, Tensor]:
    size = image_size(name) or 8
    shape = (1, size, size)
    model = build(name, image_shape=shape, num_classes=4, seed=1).eval()
    generator = torch.Generator().manual_seed(2)
    if granularity == "unit":
        without_units(model, torch.zeros((2, *shape)), generator)
        return model, torch.randn((3, *shape), generator=generator)
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d))]
    for layer in layers[:-1]:
        mask = torch.rand(layer.weight.shape, generator=generator)
        if granularity == "weight":
            mask = mask > 0.8
        else:
            axis = 0 if granularity == "neuron" else 1
            others = [a for a in range(mask.dim()) if a != axis]
            mask = (mask.mean(others, keepdim=True) > mask.mean()).expand_as(mask)
        prune.custom_from_mask(layer, "weight", mask)
    return model, torch.randn((3, *shape), generator=generator)


def without_units(model: nn.Module, x: Tensor, generator: torch.Generator) -> None:
    """Remove a third of the neurons, channels and heads at random, and hold what is left."""
    units = find_units(model, x)
    gone = torch.rand(len(units) + 1, generator=generator) < 1 / 3
    gone[-1] = False  # stands for -1, no unit
    assert gone.any()
    masks = {name: torch.ones_like(each, dtype=torch.bool) for name, each in model.named_parameters()}
    for axis in units.axes:
        mask = masks[axis.parameter]
        mask &= ~gone[axis.unit].view([-1 if each == axis.axis else 1 for each in range(mask.dim())])
    hold(model, masks)


def assert_equal(expected: Tensor, found: Tensor, tolerance: float) -> None:
    assert expected.shape == found.shape
    assert (expected - found).abs().max() <= tolerance * expected.abs().max()


def everywhere(model: nn.Module) -> list[KernelRow]:
    """Choose the sparse kernel for each layer, so that none is left out for being slow."""
    layers = [(n, m) for n, m in model.named_modules() if type(m) is nn.Linear]
    return [KernelRow(n, tuple(m.weight.shape), 0.8, 1.0, 0.5, "csr") for n, m in layers]


def check(name: str, granularity: str, way_out: str, folder: Path) -> None:
    model, x = masked(name, granularity)
    with torch.no_grad():
        expected = model(x)
        if way_out == "compact":
            assert_equal(expected, compact(model, x[:1])(x), 1e-5)
        elif way_out == "sparse":
            for network in (model, compact(model, x[:1])):
                assert_equal(expected, sparse(network, x, kernels=everywhere(network))(x), 1e-5)
                assert_equal(expected[:1], sparse(network, x, kernels=everywhere(network))(x[:1]), 1e-5)
        elif way_out == "artifact":
            artifact.save(compact(model, x[:1]), folder / "net.safetensors", example_input=x[:1])
            assert_equal(expected, artifact.load(folder / "net.safetensors")(x), 1e-5)
        else:
            written = onnx(compact(model, x[:1]), folder / "net.onnx", x[:1])
            (found,) = onnx_session(written.path)((x,))
            assert_equal(expected, found, 1e-4)


@pytest.mark.parametrize("way_out", EXITS[:-1])
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_the_masked_network(
    name: str, granularity: str, way_out: str, tmp_path: Path
) -> None:
    check(name, granularity, way_out, tmp_path)


@pytest.mark.parametrize("name", QUICK)
def test_onnx_outputs_are_those_of_the_masked_network(name: str, tmp_path: Path) -> None:
    check(name, "neuron", "onnx", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", NETWORKS)
def test_onnx_outputs_of_every_network(name: str, granularity: str, tmp_path: Path) -> None:
    check(name, granularity, "onnx", tmp_path)
