"""Where the non-centred methods of the paper start."""

import torch

from secateur.inference.block import Block
from secateur.modules import layer_of

__all__ = ["spread_start"]


def spread_start(block: Block, init_range: float, *, generator: torch.Generator) -> None:
    """Start z of a block's weight matrices and their biases uniform in (-init_range, init_range).

    A network's usual initial weights lie far inside this prior, and a deep network that starts there may
    collapse onto the prior before it has learned. The authors' public code starts all z uniform in (-2, 2).
    Modules without a matrix, such as normalisation layers, keep their own start.

    Args:
        block: Its state holds z as `loc`.
        init_range: Bound of the uniform distribution.
        generator: Source of the draws.
    """
    matrices = {
        layer_of(name)
        for name, parameter in zip(block.flat.names, block.flat.parameters, strict=True)
        if parameter.dim() > 1
    }
    for name, z in block.flat.named(block.state["loc"]).items():
        if layer_of(name) in matrices:
            z.uniform_(-init_range, init_range, generator=generator)
