"""The values and the checks: every kind of bad data gets one line that says which, expected and got."""

import math

import jaxtyping
import pytest
import torch

from secateur.data import Dataset, Split, validate
from secateur.errors import DataError


def split(num_data: int = 4) -> Split:
    return Split(torch.zeros(num_data, 1, 8, 8), torch.arange(num_data) % 3)


def test_length_and_shape():
    data = Dataset("squares", split(4), split(2), 3, ("a", "b", "c"))
    assert len(data.train) == 4
    assert data.image_shape == (1, 8, 8)


def test_values_are_frozen():
    with pytest.raises(AttributeError):
        split().labels = torch.zeros(4)


def test_good_data_pass():
    validate(split(), num_classes=3, image_shape=(1, 8, 8), name="good")


def test_huge_but_finite_pixels_pass_though_their_sum_overflows():
    validate(Split(torch.full((2, 1, 8, 8), 3e38), torch.zeros(2).long()), num_classes=1)


def bad_pixel(value: float) -> Split:
    images = torch.zeros(4, 1, 8, 8)
    images[2, 0, 3, 3] = value
    return Split(images, torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (lambda: split(0), "mine: expected at least one image, got an empty data set"),
        (
            lambda: Split(torch.zeros(4, 3, 8, 8), torch.zeros(4, dtype=torch.long)),
            r"mine: expected images of shape \(1, 8, 8\), got \(3, 8, 8\)",
        ),
        (
            lambda: bad_pixel(math.nan),
            "mine: expected finite pixels, got nan or infinity in 1 of 4 .* image 2",
        ),
        (lambda: bad_pixel(-math.inf), "mine: expected finite pixels"),
        (
            lambda: Split(torch.zeros(2, 1, 8, 8), torch.tensor([0, 3])),
            r"mine: expected labels in 0 \.\.\. 2, got 3 for image 1",
        ),
        (
            lambda: Split(torch.zeros(2, 1, 8, 8), torch.tensor([-1, 3])),
            r"mine: expected labels in 0 \.\.\. 2, got -1 for image 0",
        ),
    ],
    ids=["empty", "shape", "nan", "infinite", "label too high", "label negative"],
)
def test_bad_data_are_named(bad, says):
    with pytest.raises(DataError, match=says) as raised:
        validate(bad(), num_classes=3, image_shape=(1, 8, 8), name="mine")
    assert "\n" not in str(raised.value)


@pytest.fixture
def as_users_run_it():
    """Tests check shapes through jaxtyping before our own checks can speak; users have ours alone."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)


@pytest.mark.usefixtures("as_users_run_it")
@pytest.mark.parametrize(
    ("images", "labels", "says"),
    [
        (torch.zeros(4, 1, 8, 8), torch.zeros(3).long(), r"one label for each of 4 images, got \(3,\)"),
        (torch.zeros(4), torch.zeros(4).long(), r"rows of shape \(n, features\), got \(4,\)"),
        (torch.zeros(4, 1, 8, 8), torch.zeros(4).int(), "int64, got torch.float32 and torch.int32"),
        (torch.zeros(4, 1, 8, 8).byte(), torch.zeros(4).long(), "floating-point .* got torch.uint8"),
    ],
    ids=["too few labels", "no features", "short labels", "bytes"],
)
def test_images_and_labels_must_fit(images, labels, says):
    with pytest.raises(DataError, match=says):
        Split(images, labels)
