"""Every name in the table, through one suite, on every shape of image that the data sets have."""

import copy

import pytest
import torch
from torch import nn

from secateur import networks
from secateur.errors import InvalidArgumentError, UsageError

SHAPES = {"digits": (1, 8, 8), "fashion-mnist": (1, 28, 28), "cifar": (3, 32, 32)}


def shape_for(name: str, shape: tuple[int, int, int]) -> tuple[int, int, int]:
    size = networks.image_size(name)
    return shape if size is None else (shape[0], size, size)


def small_batch(shape, generator) -> torch.Tensor:
    return torch.randn(3, *shape, generator=generator)


@pytest.mark.parametrize("data", SHAPES)
@pytest.mark.parametrize("name", networks.names())
def test_every_network_takes_every_data_set(name, data, generator):
    shape = shape_for(name, SHAPES[data])
    network = networks.build(name, image_shape=shape, num_classes=7, seed=0)
    logits = network(small_batch(shape, generator))
    assert logits.shape == (3, 7)
    nn.functional.cross_entropy(logits, torch.tensor([0, 3, 6])).backward()
    for parameter_name, parameter in network.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        # A softmax does not see what is added to all keys alike, so their bias has no gradient.
        assert "key.bias" in parameter_name or parameter.grad.abs().sum() > 0, parameter_name


@pytest.mark.parametrize("name", networks.names())
def test_seed_decides_the_weights_and_leaves_the_world_alone(name):
    shape = shape_for(name, (1, 28, 28))
    before = torch.get_rng_state()
    first, second, other = (
        networks.build(name, image_shape=shape, num_classes=4, seed=seed).state_dict() for seed in (1, 1, 2)
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_the_default_device_has_no_say():
    with torch.device("meta"):
        network = networks.build("lenet", image_shape=(1, 32, 32), num_classes=4, seed=3)
    expected = networks.build("lenet", image_shape=(1, 32, 32), num_classes=4, seed=3)
    assert torch.equal(network.conv1.weight, expected.conv1.weight)


def test_without_a_seed_the_global_state_decides():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        drawn = networks.build("lenet", image_shape=(1, 32, 32), num_classes=4)
    seeded = networks.build("lenet", image_shape=(1, 32, 32), num_classes=4, seed=3)
    assert torch.equal(drawn.conv1.weight, seeded.conv1.weight)


@pytest.mark.parametrize("name", networks.names())
def test_dropout_is_for_training_only(name, generator):
    shape = shape_for(name, (1, 28, 28))
    plain, dropping = (
        networks.build(name, image_shape=shape, num_classes=4, seed=0, dropout=p) for p in (0.0, 0.5)
    )
    images = small_batch(shape, generator)
    assert torch.equal(plain.eval()(images), dropping.eval()(images))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        dropping.train()
        assert not torch.equal(dropping(images), dropping(images))
    assert [key for key, _ in plain.named_parameters()] == [key for key, _ in dropping.named_parameters()]


@pytest.mark.parametrize("name", networks.names())
def test_copies_and_state_are_complete(name, generator):
    shape = shape_for(name, (1, 28, 28))
    network = networks.build(name, image_shape=shape, num_classes=4, seed=0).eval()
    other = networks.build(name, image_shape=shape, num_classes=4, seed=1).eval()
    other.load_state_dict(network.state_dict())
    images = small_batch(shape, generator)
    expected = network(images)
    assert torch.equal(other(images), expected)
    assert torch.equal(copy.deepcopy(network)(images), expected)


@pytest.mark.parametrize("name", networks.names())
def test_images_of_a_batch_do_not_mix(name, generator):
    shape = shape_for(name, (1, 28, 28))
    network = networks.build(name, image_shape=shape, num_classes=4, seed=0).eval()
    images = small_batch(shape, generator)
    alone = torch.cat([network(image[None]) for image in images])
    torch.testing.assert_close(network(images), alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "call", [networks.image_size, lambda name: networks.build(name, image_shape=(1, 32, 32), num_classes=2)]
)
def test_unknown_names_get_the_list_and_the_nearest(call):
    with pytest.raises(UsageError, match=r"networks mlp, lenet.*got 'LeNet5'; did you mean lenet"):
        call("LeNet5")


@pytest.mark.parametrize("dropout", [-0.1, 1.0, float("nan")])
def test_dropout_must_be_a_probability(dropout):
    with pytest.raises(InvalidArgumentError, match="dropout"):
        networks.build("mlp", image_shape=(1, 8, 8), num_classes=2, dropout=dropout)
