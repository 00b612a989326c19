"""Noise for training: moments of both kinds, 64 independent signs per word."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur.inference.noise import NOISES, draw_noise, signs_from_bits

NUM_DRAWS = 1 << 20


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", NOISES)
def test_zero_mean_and_unit_variance(kind, dtype, generator):
    noise = draw_noise(kind, torch.empty(NUM_DRAWS, dtype=dtype), generator=generator)
    assert noise.dtype == dtype
    assert noise.shape == (NUM_DRAWS,)
    assert noise.mean().abs() < 4.5 / math.sqrt(NUM_DRAWS)
    spread_of_squares = math.sqrt(2.0) if kind == "gaussian" else 1e-6
    assert (noise.square().mean() - 1).abs() < 4.5 * spread_of_squares / math.sqrt(NUM_DRAWS)


def test_signs_are_signs(generator):
    noise = draw_noise("rademacher", torch.empty(1000), generator=generator)
    assert set(noise.tolist()) == {-1.0, 1.0}


def test_the_64_signs_of_a_word_are_fair_and_independent(generator):
    num_words = 1 << 14
    signs = draw_noise("rademacher", torch.empty(64 * num_words), generator=generator).view(num_words, 64)
    bound = 5 / math.sqrt(num_words)  # 2080 comparisons: 5 standard errors
    assert (signs.mean(0).abs() < bound).all()  # the sign bit too, which random_() without bounds leaves 0
    correlation = signs.T @ signs / num_words - torch.eye(64)
    assert (correlation.abs() < bound).all()
    neighbours = (signs[1:] * signs[:-1]).mean(0)
    assert (neighbours.abs() < bound).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1))
def test_signs_spell_the_bits_of_a_word(word):
    signs = signs_from_bits(torch.tensor([word]), torch.empty(64))
    bits = [(word >> position) & 1 for position in range(64)]
    assert signs.tolist() == [2.0 * bit - 1 for bit in bits]


@pytest.mark.parametrize("size", [1, 63, 64, 65, 200])
@pytest.mark.parametrize("kind", NOISES)
def test_any_number_of_weights_and_the_seed_decides(kind, size):
    first, second = (
        draw_noise(kind, torch.empty(size), generator=torch.Generator().manual_seed(1)) for _ in range(2)
    )
    assert first.shape == (size,)
    assert torch.equal(first, second)
