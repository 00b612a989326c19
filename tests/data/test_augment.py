"""Crops and flips: every one of the 162 outcomes is a right one, and all of them come up."""

import pytest
import torch
from torch.nn.functional import pad

from secateur.data import crop_and_flip


def outcomes(image, padding):
    framed = pad(image, (padding,) * 4)
    height, width = image.shape[1:]
    for top in range(2 * padding + 1):
        for left in range(2 * padding + 1):
            crop = framed[:, top : top + height, left : left + width]
            yield from (crop, crop.flip(2))


def test_every_result_is_a_crop_or_its_mirror_and_all_come_up_equally(generator):
    image = torch.randn(2, 5, 6, generator=generator)
    num_draws = 9000
    drawn = crop_and_flip(image.expand(num_draws, -1, -1, -1), padding=1, generator=generator).flatten(1)
    possible = torch.stack([outcome.flatten() for outcome in outcomes(image, 1)])
    matches = (drawn[:, None] == possible).all(2)
    assert (matches.sum(1) == 1).all()
    # Each of 18 has 500 expected, standard deviation 21.7.
    assert (matches.sum(0) - 500).abs().max() < 5 * 21.7


def test_images_of_a_batch_are_drawn_apart(generator):
    images = torch.randn(64, 3, 8, 8, generator=generator)
    drawn = crop_and_flip(images, generator=generator)
    for before, after in zip(images, drawn, strict=True):
        assert any(torch.equal(after, outcome) for outcome in outcomes(before, 4))


def test_the_generator_decides():
    images = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    first, second, third = (
        crop_and_flip(images, generator=torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_with_either_generator():
    images = torch.randn(8, 1, 8, 8, device="cuda")
    for device in ("cpu", "cuda"):
        drawn = crop_and_flip(images, generator=torch.Generator(device).manual_seed(0))
        assert drawn.device == images.device
