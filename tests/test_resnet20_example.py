"""The ResNet-20 example's steps, on a small network and images of noise."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur.data import Dataset, Split
from secateur.export.measure import num_macs
from secateur.networks import build

_spec = importlib.util.spec_from_file_location(
    "resnet20_structured", Path(__file__).parents[1] / "examples" / "resnet20_structured.py"
)
example = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(example)


@pytest.fixture
def network():
    return build("resnet20", image_shape=(3, 32, 32), num_classes=10, seed=0, num_blocks=1, width=8).eval()


@pytest.fixture
def train():
    generator = torch.Generator().manual_seed(0)
    return Split(torch.randn(96, 3, 32, 32, generator=generator), torch.arange(96) % 10)


def test_half_of_the_work_goes_and_the_rest_learns(network, train, capsys):
    before = {name: value.clone() for name, value in network.state_dict().items()}
    small = example.without_channels(network, train, num_evidence=96, multiply_adds=0.6, rounds=2)
    one = (train.images[:1],)
    assert 0.6 <= num_macs(small, one) / num_macs(network, one) < 0.65
    convolutions = {name: m for name, m in small.named_modules() if isinstance(m, nn.Conv2d)}
    streams = {name: m.out_channels for name, m in convolutions.items() if not name.endswith(".conv1")}
    assert streams == {"conv1": 8, "layer1.0.conv2": 8, "layer2.0.conv2": 16, "layer3.0.conv2": 32}
    example.recover(small, network, train, epochs=3, seed=0)
    told = [float(line.split()[2]) for line in capsys.readouterr().out.splitlines() if "epoch" in line]
    assert told[-1] < told[0]  # nats from the trained network
    assert not small.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    example.show_times(network, small, train.images[:2], seconds=0.01)
    shown = capsys.readouterr().out
    assert [line.split(":")[0] for line in shown.splitlines()] == [
        "trained", "smaller", "trained, onnxruntime", "smaller, onnxruntime",
    ]  # fmt: skip


def test_images_are_standardised_as_the_network_knows_them():
    pixels = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    own = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    split = Split(own, torch.zeros(5, dtype=torch.long))
    names = tuple("abcdefghij")
    found = example.standardised(Dataset("cifar10", split, split, 10, names, mean, std))
    expected = (pixels - torch.tensor(example.MEAN).view(3, 1, 1)) / torch.tensor(example.STD).view(3, 1, 1)
    torch.testing.assert_close(found.test.images, expected)
    assert example.accuracy(lambda images: torch.eye(10)[[0] * len(images)], found.test) == 1.0
