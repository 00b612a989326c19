"""Work with any `nn.Module`: names, modes, example inputs, and masks that keep parameter names."""

from secateur.modules.batch_norm import carried, has_batch_norm, moments, reestimate, spread
from secateur.modules.differences import in_double, largest_relative_difference
from secateur.modules.inputs import batch_size, call, call_arguments, map_tensors, to_device
from secateur.modules.masks import (
    held_masks,
    hold,
    hold_zeros,
    mask_of,
    masked,
    masks_of,
    release,
    version,
)
from secateur.modules.matrix import LayerMatrix
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
    unwrapped,
)
from secateur.modules.shards import is_sharded, require_whole
from secateur.modules.torch_prune import from_torch_prune, to_torch_prune
from secateur.modules.weights import with_weights

__all__ = [
    "LayerMatrix",
    "batch_size",
    "by_layer",
    "call",
    "call_arguments",
    "carried",
    "check_patterns",
    "chosen",
    "evaluation_mode",
    "from_torch_prune",
    "has_batch_norm",
    "held_masks",
    "hold",
    "hold_zeros",
    "in_double",
    "is_sharded",
    "largest_relative_difference",
    "layer_of",
    "map_tensors",
    "mask_of",
    "masked",
    "masks_of",
    "matching",
    "moments",
    "output_layer",
    "output_parameters",
    "prunable_exclude",
    "reestimate",
    "release",
    "require_whole",
    "spread",
    "to_device",
    "to_torch_prune",
    "unwrapped",
    "version",
    "with_weights",
]
