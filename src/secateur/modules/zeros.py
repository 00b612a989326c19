"""Removed entries read off a network's weights: where exact zeros stand in its matrices and biases."""

import sys

import torch
from torch import Tensor, nn

__all__ = ["exact_zeros", "is_transposed"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def is_transposed(module: nn.Module) -> bool:
    """Return whether the first axis of a module's weight is its input and the second its output.

    So it is in transposed convolutions, and in the `Conv1D` of the Transformers library.

    Args:
        module: Any module.
    """
    conv1d = getattr(sys.modules.get("transformers.pytorch_utils"), "Conv1D", None)
    return isinstance(module, _TRANSPOSED) or (conv1d is not None and isinstance(module, conv1d))


@torch.no_grad()
def exact_zeros(model: nn.Module) -> dict[str, Tensor]:
    """Return where the weights of a network are exactly zero, as after pruning, keyed by parameter name.

    Weights of two or more dimensions are read but for an embedding's padding row; of a bias beside them, the
    entries of units whose weights are all zero, or all zeros of a bias that has other values too.

    Args:
        model: Any module with its weights in memory; tied parameters appear under every name.

    Returns:
        True where an entry is zero; only parameters that have one.
    """
    padding: dict[int, list[int]] = {}
    for module in model.modules():
        row = getattr(module, "padding_idx", None)
        if isinstance(row, int):
            for parameter in module.parameters(recurse=False):
                padding.setdefault(id(parameter), []).append(row)
    found: dict[int, Tensor] = {}
    for module in model.modules():
        own = [p for p in module.parameters(recurse=False) if p.is_floating_point() or p.is_complex()]
        matrices = [parameter for parameter in own if parameter.dim() > 1]
        for parameter in matrices:
            zero = parameter == 0
            zero[padding.get(id(parameter), [])] = False
            found[id(parameter)] = zero
        for bias in own:
            if matrices and bias.dim() == 1:
                zero = bias == 0
                if zero.all():
                    zero = _units_without_weights(module, matrices, len(bias)).to(zero.device)
                found[id(bias)] = zero
    named = model.named_parameters(remove_duplicate=False)
    return {name: found[id(each)] for name, each in named if id(each) in found and found[id(each)].any()}


def _units_without_weights(module: nn.Module, matrices: list[Tensor], num_units: int) -> Tensor:
    """Return True for each unit whose weights are all zero, in every matrix that has a row for it."""
    axis = 1 if is_transposed(module) else 0
    rows = [matrix.transpose(0, axis) for matrix in matrices]
    counted = [(each != 0).flatten(1).any(1) for each in rows if len(each) == num_units]
    if not counted:
        return torch.zeros(num_units, dtype=torch.bool)
    return ~torch.stack(counted).any(0)
