"""Known methods of pruning a trained network without training, under one protocol.

    from neighbours import METHODS

    masks = METHODS["sparsegpt"](model, batches, sparsity=0.5, weights=[...])

Every method sets weights of the model to zero, changes others where it compensates, and returns masks. The
arguments are those of `neighbours.task.prune`. Options of a method's own, such as `shots` of LLM Surgeon, are
keyword arguments too. Whole units go by `prune_units`, for the names in `UNIT_METHODS`.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from .diagonal import optimal_brain_damage, signal_to_noise
from .llm_surgeon import llm_surgeon
from .magnitude import magnitude, magnitude_per_layer
from .optimal_brain_compression import optimal_brain_compression
from .sparsegpt import sparsegpt
from .task import prune
from .units import UNIT_METHODS, prune_units
from .wanda import wanda

__all__ = ["METHODS", "UNIT_METHODS", "prune_units"]

METHODS: dict[str, Callable[..., dict[str, Tensor]]] = {
    name: partial(prune, method)
    for name, method in {
        "magnitude": magnitude,
        "magnitude-layer": magnitude_per_layer,
        "obd": optimal_brain_damage,
        "signal-to-noise": signal_to_noise,
        "wanda": wanda,
        "sparsegpt": sparsegpt,
        "obc": optimal_brain_compression,
        "llm-surgeon": llm_surgeon,
    }.items()
}
