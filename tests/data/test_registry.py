"""The table of names, and the digits that need no file."""

from dataclasses import replace

import pytest
import torch

from secateur import data
from secateur.errors import UsageError


def test_names():
    assert data.names()[:2] == ("digits", "fashion-mnist")


@pytest.mark.parametrize("call", [data.load, data.locate])
def test_unknown_names_get_the_list_and_the_nearest(call):
    with pytest.raises(
        UsageError, match=r"data sets digits, fashion-mnist.*got 'fashion'; did you mean fashion-mnist"
    ):
        call("fashion")


def test_digits_at_both_sizes():
    small, large = data.load("digits"), data.load("digits", image_size=32)
    assert small.image_shape == (1, 8, 8)
    assert large.image_shape == (1, 32, 32)
    assert torch.equal(large.test.images[:, :, ::4, ::4], small.test.images)
    assert small.num_classes == len(small.class_names) == 10


def test_digits_seen_by_a_network_of_another_data_set():
    own = data.load("digits")
    other = replace(own, pixel_mean=(0.25,), pixel_std=(0.5,))
    seen = data.load("digits", like=other)
    assert seen.test.images.min() == -0.5  # black
    assert seen.test.images.max() == 1.5  # white
    assert (seen.pixel_mean, seen.pixel_std) == ((0.25,), (0.5,))


def test_digits_parts_are_disjoint_balanced_and_always_the_same():
    first, second = data.load("digits"), data.load("digits")
    assert torch.equal(first.train.images, second.train.images)
    assert torch.equal(first.test.labels, second.test.labels)
    share = first.test.labels.bincount() / (first.test.labels.bincount() + first.train.labels.bincount())
    assert ((share - 0.2).abs() < 0.01).all()
    images = torch.cat([first.train.images, first.test.images]).flatten(1)
    assert len(images) == 1797
    assert len(images.unique(dim=0)) == 1797
