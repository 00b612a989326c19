"""Compress masks by Rice codes of the gaps between kept weights.

A mask that keeps each of n weights with probability p has n H(p) bits of information,
H(p) = -p log2 p - (1-p) log2 (1-p). The gaps between kept weights are then geometric, for which Rice's code
is within a few per cent of the entropy: a gap g becomes its quotient g >> k in unary and its remainder in k
bits, and k is chosen per tensor. At k = 0 this is a bitmask.

Source: Rice & Plaunt 1971, doi:10.1109/TCOM.1971.1090789; Golomb 1966, doi:10.1109/TIT.1966.1053907.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, UInt8

__all__ = ["CodedMask", "decode_mask", "encode_mask", "entropy_bits"]

_LARGEST_K = 24


@dataclass(frozen=True)
class CodedMask:
    """A mask as two streams of bits, each padded to whole bytes.

    Attributes:
        num_weights: Length of the mask.
        num_kept: How many of its entries are True.
        k: Bits of each remainder.
        quotients: For each kept weight, its quotient in zeros and then a one.
        remainders: For each kept weight, k bits, the highest first.
    """

    num_weights: int
    num_kept: int
    k: int
    quotients: UInt8[np.ndarray, " quotient_bytes"]
    remainders: UInt8[np.ndarray, " remainder_bytes"]

    @property
    def num_bytes(self) -> int:
        """Bytes of both streams."""
        return len(self.quotients) + len(self.remainders)


def entropy_bits(num_weights: int, num_kept: int) -> float:
    """Return the entropy n H(kept / n) of a random mask, in bits.

    >>> entropy_bits(1000, 500), entropy_bits(1000, 1000)
    (1000.0, 0.0)
    """
    if num_kept in {0, num_weights}:
        return 0.0
    p = num_kept / num_weights
    return -num_weights * (p * math.log2(p) + (1 - p) * math.log2(1 - p))


def encode_mask(mask: Bool[np.ndarray, " n"]) -> CodedMask:
    """Encode a mask by its shortest Rice code.

    Args:
        mask: True where a weight is kept.
    """
    kept = np.flatnonzero(mask)
    gaps = np.diff(kept, prepend=-1) - 1
    k = min(range(_LARGEST_K + 1), key=lambda k: int((gaps >> k).sum()) + len(gaps) * (k + 1))
    quotients = gaps >> k
    unary = np.zeros(int(quotients.sum()) + len(gaps), dtype=bool)
    unary[np.cumsum(quotients + 1) - 1] = True
    shifts = np.arange(k - 1, -1, -1)
    remainders = ((gaps[:, None] >> shifts) & 1).astype(bool)
    return CodedMask(len(mask), len(kept), k, np.packbits(unary), np.packbits(remainders))


def decode_mask(code: CodedMask) -> Bool[np.ndarray, " n"]:
    """Decode a mask.

    Args:
        code: What `encode_mask` returned, or as much of it as a damaged file has left.

    Raises:
        ValueError: If the streams do not hold a mask of that length.
    """
    mask = np.zeros(code.num_weights, dtype=bool)
    if code.num_kept == 0:
        return mask
    if not 0 <= code.k <= _LARGEST_K:
        raise ValueError(f"expected remainders of at most {_LARGEST_K} bits, got {code.k}")
    ends = np.flatnonzero(np.unpackbits(code.quotients))[: code.num_kept]
    bits = np.unpackbits(code.remainders)[: code.num_kept * code.k]
    if len(ends) != code.num_kept or len(bits) != code.num_kept * code.k:
        raise ValueError(
            f"expected {code.num_kept} coded gaps, got {len(ends)} quotients and {len(bits)} bits"
        )
    quotients = np.diff(ends, prepend=-1) - 1
    powers = 1 << np.arange(code.k - 1, -1, -1, dtype=np.int64)
    gaps = (quotients << code.k) + bits.reshape(code.num_kept, code.k).astype(np.int64) @ powers
    positions = np.cumsum(gaps + 1) - 1
    if positions[-1] >= code.num_weights:
        raise ValueError(
            f"expected gaps within {code.num_weights} weights, got a position of {positions[-1]}"
        )
    mask[positions] = True
    return mask
