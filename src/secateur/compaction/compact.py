"""Physically remove what a network's masks have made dead."""

import copy
import warnings
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from secateur.compaction.decide import Decision, decide
from secateur.compaction.flow import Analysis, analyse
from secateur.compaction.fold import fold_batch_norms
from secateur.compaction.gather import drop_embedding_rows, pick_inputs
from secateur.compaction.permanent import permanent
from secateur.compaction.rewrite import drop_constant_operands, rewrite
from secateur.compaction.rules import RULES
from secateur.compaction.tracing import UntraceableError, trace, with_one_more
from secateur.errors import InvalidArgumentError

__all__ = ["CompactionWarning", "compact", "in_double"]

_CHOICES = 3  # axes tried for the slots where a reshape leaves several possible
_ROUNDS = 8


class CompactionWarning(UserWarning):
    """Some or all of a network could not be made smaller; the message names the module and the reason."""


def compact(
    model: nn.Module, example_input: Any, *, multiple_of: int = 1, fold_batch_norm: bool = False
) -> nn.Module:
    """Return a physically smaller module with the outputs of the masked one.

    Removed are neurons, channels, attention heads, residual branches and embedding columns that are constant
    or that nothing reads any more, and embedding rows of zeros; constants go into the next bias. Units whose
    absence could be noticed stay: those under a LayerNorm or softmax, in the network's output, or before an
    unknown operator.

    Args:
        model: Masked network (`torch.nn.utils.prune`), or one with zeros in its weights. It is not changed.
        example_input: A batch, or the tuple of positional arguments of a call. Only its shape, type and
            device matter.
        multiple_of: Units that a layer keeps are rounded up to a multiple of this, for kernels that like it.
            Those added are zeros: training leaves them so, and compacting again removes them.
        fold_batch_norm: Write each batch normalisation into the convolution before it: faster, but the
            result is for running only, not for further training.

    Returns:
        A `torch.fx.GraphModule` with the same submodule names, in the same mode, without masks; it was
        compared with the masked network in evaluation mode (1e-5 relative; 1e-10 in float64). Where
        `model` cannot be traced, a copy with its masks made permanent, after a `CompactionWarning`.

    Raises:
        InvalidArgumentError: If the masked network does not run on `example_input`, or `multiple_of` < 1.

    >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> with torch.no_grad():
    ...     _ = network[0].weight[2:].zero_()  # six neurons left with their bias alone
    >>> compact(network, torch.zeros(1, 4)).get_submodule("0")
    Linear(in_features=4, out_features=2, bias=True)
    """
    if multiple_of < 1:
        raise InvalidArgumentError(f"multiple_of: expected 1 or more, got {multiple_of}")
    inputs = example_input if isinstance(example_input, tuple) else (example_input,)
    fallback = permanent(model)
    working = copy.deepcopy(fallback).eval()
    try:
        with torch.no_grad():
            expected = working(*inputs)
    except Exception as error:
        raise InvalidArgumentError(
            f"example_input: expected a batch that {type(model).__name__} takes, got {error}"
        ) from error
    try:
        traced = trace(working, inputs)
    except UntraceableError as error:
        _warn(f"{type(model).__name__} cannot be traced and keeps its size, masks made permanent: {error}")
        return fallback
    inputs = _at_least_two(working, inputs)
    for name, reason in traced.opaque.items():
        kind = type(working.get_submodule(name)).__name__
        _warn(f"{name} ({kind}) cannot be traced and keeps its size: {reason}")
    for node in traced.graph.nodes:
        node.type = None
    graph = traced.graph
    precise_inputs = in_double(working, inputs)[1]
    for _ in range(_ROUNDS):
        working, graph, changed = _one_round(working, graph, inputs, precise_inputs, multiple_of)
        if not changed:
            break
    if fold_batch_norm:
        fold_batch_norms(working, graph)
    pick_inputs(working, graph)
    drop_embedding_rows(working, graph)
    result = fx.GraphModule(working, graph, class_name=type(model).__name__)
    difference = _largest_difference(fallback, result, inputs)
    if difference > _tolerance(expected):
        _warn(
            f"{type(model).__name__} keeps its size, masks made permanent: its output would differ by "
            f"{difference:.1e} (relative); please report this network"
        )
        return fallback
    modes = {name: module.training for name, module in fallback.named_modules()}
    for name, module in result.named_modules():
        module.training = modes.get(name, fallback.training)
    return result


def _at_least_two(network: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a batch of two for a batch of one, so that what is constant is told from what has no batch."""
    longer = with_one_more(inputs)
    if longer is None or longer[2] > 1:
        return inputs
    try:
        with torch.no_grad():
            network(*longer[0])
    except (RuntimeError, ValueError, IndexError):
        return inputs
    return longer[0]


def _warn(message: str) -> None:
    warnings.warn(message, CompactionWarning, stacklevel=3)


def _one_round(
    root: nn.Module,
    graph: fx.Graph,
    inputs: tuple[Any, ...],
    precise_inputs: tuple[Any, ...],
    multiple_of: int,
) -> tuple[nn.Module, fx.Graph, bool]:
    """Remove what can be seen to be removable now; return the new root, its graph, whether it changed."""
    small, smaller_graph = copy.deepcopy(root), _copied(graph)
    # From the second round on the root's own forward no longer suits its weights, so it cannot be asked.
    precise = (
        copy.deepcopy(small).eval() if precise_inputs is inputs else copy.deepcopy(small).eval().double()
    )
    analysis = analyse(precise, graph, precise_inputs, RULES)
    if drop_constant_operands(analysis, small, smaller_graph):
        return small, smaller_graph, True
    best = (analysis, decide(analysis, multiple_of=multiple_of))
    if analysis.ambiguous:
        for choice in range(1, _CHOICES):
            other = analyse(precise, graph, precise_inputs, RULES, choice=choice)
            candidate = (other, decide(other, multiple_of=multiple_of))
            if _num_kept(*candidate) < _num_kept(*best):
                best = candidate
    before = sum(parameter.numel() for parameter in small.parameters())
    rewrite(*best, small, smaller_graph, inputs)
    return small, smaller_graph, sum(parameter.numel() for parameter in small.parameters()) < before


def _copied(graph: fx.Graph) -> fx.Graph:
    """Return a copy with the same nodes in the same order."""
    duplicate = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        copies[node] = duplicate.node_copy(node, lambda n: copies[n])
    return duplicate


def _num_kept(analysis: Analysis, decision: Decision) -> int:
    """Return how many weights the layers would keep."""
    total = 0
    for name, slots in analysis.layers.items():
        weight = getattr(analysis.root.get_submodule(name), "weight", None)
        share = 1.0
        for ids in {id(axis): axis for axis in (slots.inputs, slots.outputs) if axis is not None}.values():
            share *= float(decision.keeps(ids).double().mean())
        total += 0 if weight is None else round(weight.numel() * share)
    return total


def in_double(network: nn.Module, inputs: tuple[Any, ...]) -> tuple[nn.Module, tuple[Any, ...]]:
    """Return network and inputs in float64, or as they are where the network insists on its own precision."""
    precise = copy.deepcopy(network).eval().double()
    doubled = pytree.tree_map(
        lambda x: x.double() if isinstance(x, Tensor) and x.is_floating_point() else x, inputs
    )
    try:
        with torch.no_grad():
            precise(*doubled)
    except (RuntimeError, TypeError, ValueError):
        return copy.deepcopy(network).eval(), inputs
    return precise, doubled


def _tolerance(outputs: Any) -> float:
    """Return how far outputs may be apart: relative, by the coarsest precision among them."""
    types = {leaf.dtype for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)}
    if types & {torch.float16, torch.bfloat16}:
        return 3e-2
    return 1e-10 if types <= {torch.float64} else 1e-5


def _largest_difference(masked: nn.Module, compacted: nn.Module, inputs: tuple[Any, ...]) -> float:
    """Return the largest difference of outputs, relative to the largest output.

    Compared are the example, other values of its shape, and a batch of twice its size (where the masked
    network takes one), in float64, so that what is found is an error and not rounding.
    """
    reference, precise = in_double(masked, inputs)
    candidate = copy.deepcopy(compacted).eval()
    if any(x.dtype == torch.float64 for x in pytree.tree_leaves(precise) if isinstance(x, Tensor)):
        candidate = candidate.double()
    twice = pytree.tree_map(lambda x: torch.cat([x, x]) if isinstance(x, Tensor) and x.dim() else x, precise)
    worst = 0.0
    for number, batch in enumerate((precise, _other_values(precise), _other_values(twice))):
        with torch.no_grad():
            try:
                expected = reference(*batch)
            except (RuntimeError, ValueError, IndexError):
                if number == 0:
                    raise
                continue
            found = candidate(*batch)
        for a, b in zip(pytree.tree_leaves(expected), pytree.tree_leaves(found), strict=True):
            if isinstance(a, Tensor) and a.numel():
                if a.shape != b.shape:
                    return float("inf")
                scale = float(a.abs().max()) if a.is_floating_point() else 1.0
                worst = max(worst, float((a.double() - b.double()).abs().max()) / max(scale, 1e-30))
    return worst


def _other_values(inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    generator = torch.Generator().manual_seed(1)

    def other(x: Any) -> Any:
        if not isinstance(x, Tensor) or x.dtype == torch.bool:
            return x
        if x.is_floating_point():
            return x + torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
        return x.flatten()[torch.randperm(x.numel(), generator=generator)].reshape(x.shape)

    result: tuple[Any, ...] = pytree.tree_map(other, inputs)
    return result
