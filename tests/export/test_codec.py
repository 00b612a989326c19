"""Masks come back as they were, and cost little more than their entropy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from secateur.export.codec import CodedMask, decode_mask, encode_mask, entropy_bits


@given(arrays.arrays(bool, st.integers(0, 300)))
def test_a_decoded_mask_is_the_mask(mask: np.ndarray) -> None:
    assert np.array_equal(decode_mask(encode_mask(mask)), mask)


@pytest.mark.parametrize("density", [0.001, 0.02, 0.1, 0.3, 0.5])
def test_a_random_mask_costs_its_entropy(density: float) -> None:
    mask = np.random.default_rng(1).random(200_000) < density
    code = encode_mask(mask)
    assert 8 * code.num_bytes <= 1.05 * entropy_bits(len(mask), int(mask.sum())) + 16
    assert np.array_equal(decode_mask(code), mask)


def test_entropy_of_a_known_mask() -> None:
    # H(1/4) = 2 - (3/4) log2 3
    assert entropy_bits(400, 100) == pytest.approx(400 * (2 - 0.75 * np.log2(3)))


@pytest.mark.parametrize("damage", ["quotients", "remainders", "length"])
def test_damage_is_noticed(damage: str) -> None:
    code = encode_mask(np.random.default_rng(2).random(1000) < 0.05)
    fields = {**vars(code)}
    if damage == "length":
        fields["num_weights"] = 500
    else:
        fields[damage] = fields[damage][:5]
    with pytest.raises(ValueError, match="expected"):
        decode_mask(CodedMask(**fields))
