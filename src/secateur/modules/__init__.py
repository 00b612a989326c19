"""Work with any `nn.Module`: names, modes, example inputs, and masks that keep parameter names."""

from secateur.modules.differences import in_double, largest_relative_difference
from secateur.modules.inputs import batch_size, call, call_arguments, map_tensors, to_device
from secateur.modules.modes import evaluation_mode
from secateur.modules.names import (
    by_layer,
    check_patterns,
    chosen,
    layer_of,
    matching,
    output_layer,
    output_parameters,
    prunable_exclude,
)

__all__ = [
    "batch_size",
    "by_layer",
    "call",
    "call_arguments",
    "check_patterns",
    "chosen",
    "evaluation_mode",
    "in_double",
    "largest_relative_difference",
    "layer_of",
    "map_tensors",
    "matching",
    "output_layer",
    "output_parameters",
    "prunable_exclude",
    "to_device",
]
