"""Sizes and standardisation, against values worked by hand and against plain float64 arithmetic."""

import pytest
import torch

from secateur.data.images import RawImages, fit_to, prepare
from secateur.errors import DataError


def random_images(generator, *shape: int):
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def raw(train, test) -> RawImages:
    return RawImages(
        name="random",
        train_images=train,
        train_labels=torch.zeros(len(train), dtype=torch.long),
        test_images=test,
        test_labels=torch.zeros(len(test), dtype=torch.long),
        class_names=("only",),
    )


def test_28_gets_a_black_frame_of_two(generator):
    images = random_images(generator, 3, 1, 28, 28)
    framed = fit_to(images, 32)
    assert framed.shape == (3, 1, 32, 32)
    assert torch.equal(framed[:, :, 2:30, 2:30], images)
    assert framed.sum() == images.sum()


def test_8_is_enlarged_fourfold():
    images = torch.arange(64, dtype=torch.uint8).reshape(1, 1, 8, 8)
    large = fit_to(images, 32)
    assert large.shape == (1, 1, 32, 32)
    for row, column in [(0, 0), (3, 3), (4, 3), (31, 31), (17, 9)]:
        assert large[0, 0, row, column] == images[0, 0, row // 4, column // 4]


def test_the_right_size_stays(generator):
    images = random_images(generator, 2, 3, 32, 32)
    assert torch.equal(fit_to(images, 32), images)


def test_odd_frames_put_the_spare_line_last():
    framed = fit_to(torch.ones(1, 1, 3, 3, dtype=torch.uint8), 4)
    assert framed[0, 0].tolist() == [[1, 1, 1, 0]] * 3 + [[0] * 4]


def test_too_large_is_refused():
    with pytest.raises(DataError, match="at most 28 x 28, got 32 x 32"):
        fit_to(torch.zeros(1, 1, 32, 32, dtype=torch.uint8), 28)


def test_each_channel_is_standardised_with_the_training_moments(generator):
    train, test = random_images(generator, 50, 3, 8, 8), random_images(generator, 20, 3, 8, 8)
    train[:, 1] //= 4  # channels of different mean and spread
    data = prepare(raw(train, test))
    reference = train.double()
    mean, std = reference.mean((0, 2, 3), keepdim=True), reference.std((0, 2, 3), keepdim=True, correction=0)
    torch.testing.assert_close(data.train.images.double(), (reference - mean) / std, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(data.test.images.double(), (test.double() - mean) / std, atol=1e-5, rtol=1e-5)


def test_the_moments_are_those_of_pixels_between_0_and_1(generator):
    images = random_images(generator, 9, 2, 8, 8)
    data = prepare(raw(images, images))
    mean, std = (torch.tensor(v).view(2, 1, 1) for v in (data.pixel_mean, data.pixel_std))
    torch.testing.assert_close((images / 255 - mean) / std, data.train.images)


def test_standardised_like_another(generator):
    images, others = random_images(generator, 9, 3, 8, 8), random_images(generator, 7, 3, 8, 8) // 3
    data = prepare(raw(images, images))
    foreign = prepare(raw(others, images), like=data)
    torch.testing.assert_close(foreign.test.images, data.test.images)
    torch.testing.assert_close(torch.tensor(foreign.pixel_std), torch.tensor(data.pixel_std))
    grey = random_images(generator, 2, 1, 8, 8)
    with pytest.raises(DataError, match=r"1 channel\(s\) .* got random with 3"):
        prepare(raw(grey, grey), like=data)


def test_the_frame_is_black_and_counts_in_the_moments(generator):
    data = prepare(
        raw(random_images(generator, 5, 1, 28, 28), random_images(generator, 2, 1, 28, 28)), image_size=32
    )
    assert data.train.images.mean().abs() < 1e-6
    assert data.train.images.std(correction=0) == pytest.approx(1.0, abs=1e-6)
    assert data.test.images[0, 0, 0, 0] == data.train.images.min()  # black stays the darkest


def test_a_constant_channel_does_not_divide_by_zero():
    constant = torch.full((3, 1, 8, 8), 7, dtype=torch.uint8)
    assert prepare(raw(constant, constant)).train.images.abs().max() == 0
