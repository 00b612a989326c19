"""Choose the fastest form of a network in eager PyTorch on this machine.

What is exact and always pays is done: dead units removed, batch normalisation folded, layers written out as
functions. What may pay is measured on an example of the size to be fast at: pools taken over phases of the
convolution before them, one by one, and the order that numbers lie in (channels first or last).
"""

import copy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import fx, nn

from secateur.compaction import compact
from secateur.export.inlined import inline
from secateur.export.phases import find_pooled, in_phases
from secateur.export.timing import alternating_medians
from secateur.modules import call, call_arguments

__all__ = ["Streamlining", "measure_streamlining", "streamlined"]

_MARGIN = 0.95  # another form has to save a twentieth
_SECONDS = 0.2  # spent on each comparison


@dataclass(frozen=True)
class Streamlining:
    """What was chosen for a network.

    Attributes:
        in_phases: Convolutions whose pool is taken over their phases, by the network's own names.
        channels_last: Whether the channels of one pixel lie together.
    """

    in_phases: tuple[str, ...] = ()
    channels_last: bool = False


def streamlined(model: nn.Module, example_input: Any, *, choice: Streamlining | None = None) -> nn.Module:
    """Return the network in the form that is fastest here, for running only.

    Args:
        model: Masked or compact network. It is not changed.
        example_input: A batch of the size to be fast at, or the tuple of positional arguments of a call.
        choice: What `measure_streamlining` returned, to use that. None measures now.

    Returns:
        A copy in evaluation mode, without submodules where torch has a function for the layer; equal to the
        network up to rounding. Where `model` cannot be traced, what `compact` returns, in evaluation mode.
    """
    small = compact(model, example_input, fold_batch_norm=True, as_graph=True).eval()
    if not isinstance(small, fx.GraphModule):
        return small
    return _built(small, _measured(small, call_arguments(example_input)) if choice is None else choice)


def measure_streamlining(model: nn.Module, example_input: Any) -> Streamlining:
    """Return which form of a network is fastest on this machine.

    Args:
        model: Masked or compact network.
        example_input: A batch of the size to be fast at, or the tuple of positional arguments of a call.
    """
    small = compact(model, example_input, fold_batch_norm=True, as_graph=True).eval()
    if not isinstance(small, fx.GraphModule):
        return Streamlining()
    return _measured(small, call_arguments(example_input))


@torch.inference_mode()
def _measured(network: fx.GraphModule, example: Any) -> Streamlining:
    if not any(isinstance(module, nn.Conv2d) for module in network.modules()):
        return Streamlining()
    last = Streamlining(channels_last=True)
    chosen = Streamlining()
    for pooled in find_pooled(network, network.graph):
        name = str(pooled.convolution.target)
        trial = Streamlining((*chosen.in_phases, name))
        if _saves(network, trial, chosen, example):
            chosen = trial
    return last if _saves(network, last, chosen, example) else chosen


def _saves(network: fx.GraphModule, trial: Streamlining, known: Streamlining, example: Any) -> bool:
    calls = [partial(call, _built(network, each)) for each in (trial, known)]
    new, old = alternating_medians(calls, (example,), seconds=_SECONDS)
    return new < _MARGIN * old


def _built(small: fx.GraphModule, choice: Streamlining) -> nn.Module:
    """Return a network in the chosen form; what it does not have of that is left out."""
    root = copy.deepcopy(small)
    graph = fx.Graph()  # of no module yet, so that its nodes may name what the result will have
    graph.output(graph.graph_copy(root.graph, {}))
    for pooled in find_pooled(root, graph):
        if pooled.convolution.target in choice.in_phases:
            in_phases(root, graph, pooled)
    result = inline(root, graph, type(small).__name__)
    layout = torch.channels_last if choice.channels_last else torch.contiguous_format
    return result.to(memory_format=layout).eval()  # type: ignore[call-overload]
