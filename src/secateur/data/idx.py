"""The IDX format of the MNIST family: a magic number, the sizes of the axes, then the bytes.

Source: LeCun, Cortes & Burges, "The MNIST database of handwritten digits"; big-endian throughout. The magic
number is 0, 0, 8 for unsigned bytes, then the number of axes.
"""

import struct

import torch
from jaxtyping import UInt8
from torch import Tensor

from secateur.errors import DataError

__all__ = ["parse_idx"]


def parse_idx(content: bytes, *, name: str) -> UInt8[Tensor, "..."]:
    """Parse an IDX file of unsigned bytes into an array.

    Args:
        content: The whole file, decompressed.
        name: What the message calls it.

    Raises:
        DataError: If it is not an IDX file of unsigned bytes, or is shorter or longer than it says.

    >>> parse_idx(bytes([0, 0, 8, 1, 0, 0, 0, 2, 7, 9]), name="two.idx")
    tensor([7, 9], dtype=torch.uint8)
    """
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise DataError(
            f"{name}: expected an IDX file of unsigned bytes, got one starting {content[:4].hex()}"
        )
    header = 4 + 4 * content[3]
    if len(content) < header:
        raise DataError(f"{name}: expected a header of {header} bytes, got {len(content)} bytes in all")
    shape = struct.unpack(f">{content[3]}I", content[4:header])
    values = torch.frombuffer(bytearray(content), dtype=torch.uint8)[header:]
    expected = torch.Size(shape).numel()
    if len(values) != expected:
        raise DataError(f"{name}: expected {expected} bytes for shape {shape}, got {len(values)}")
    return values.reshape(shape)
