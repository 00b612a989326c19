"""Physically remove what a network's masks have made dead."""

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from secateur.compaction.decide import Decision, decide
from secateur.compaction.flow import Analysis, analyse, weight_of
from secateur.compaction.fold import fold_batch_norms
from secateur.compaction.gather import drop_embedding_rows, pick_inputs
from secateur.compaction.graphs import trace, with_one_more, write_out_attributes
from secateur.compaction.plain import plain_copy
from secateur.compaction.rewrite import drop_constant_operands, rewrite
from secateur.compaction.rules import RULES
from secateur.compaction.sizes import correct_sizes, fit_code
from secateur.compaction.tracing import Trace, UntraceableError
from secateur.compaction.widths import rename_widths
from secateur.errors import InvalidArgumentError
from secateur.modules.differences import in_double, largest_relative_difference
from secateur.modules.inputs import call, map_tensors

__all__ = ["CompactionWarning", "compact"]

_CHOICES = 3  # axes tried for the slots where a reshape leaves several possible
_ROUNDS = 8


class CompactionWarning(UserWarning):
    """Some or all of a network could not be made smaller; the message names the module and the reason."""


def compact(
    model: nn.Module,
    example_input: Any,
    *,
    multiple_of: int = 1,
    fold_batch_norm: bool = False,
    as_graph: bool | None = None,
) -> nn.Module:
    """Return a physically smaller network with the outputs of the masked one.

    Removed are neurons, channels, attention heads, residual branches and embedding columns that are constant
    or that nothing reads any more, and embedding rows of zeros; constants go into the next bias. Units whose
    absence could be noticed stay: those under a LayerNorm or softmax, in the network's output, or before an
    unknown operator.

    Args:
        model: Masked network, or one with zeros in its weights. It is not changed.
        example_input: Arguments of a call: a tensor, a tuple, a dict of keyword arguments, or a pair
            `(inputs, kwargs)`. Only shapes, types and device matter.
        multiple_of: Units that a layer keeps are rounded up to a multiple of this, for kernels that like it.
            Those added are zeros: training leaves them so, and compacting again removes them.
        fold_batch_norm: Write each batch normalisation into the convolution before it: faster, but the
            result is for running only, not for further training.
        as_graph: True returns a `torch.fx.GraphModule` wherever the network's code can be one, False never.
            None returns one only where it has fewer weights than the network's own class could have: where
            sizes are written out in the code, or where a layer should pick the inputs that it reads.

    Returns:
        A network of the class of `model`, or a graph with the same submodule names; in the same mode, without
        masks. It was compared with the masked network in evaluation mode (1e-5 relative; 1e-10 in float64).
        Where nothing can be removed, a plain copy, after a `CompactionWarning` that says why.

    Raises:
        InvalidArgumentError: If the masked network does not run on `example_input` or has no values (on
            `meta`), or `multiple_of` < 1.

    >>> network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> with torch.no_grad():
    ...     _ = network[0].weight[2:].zero_()  # six neurons left with their bias alone
    >>> compact(network, torch.zeros(1, 4))[0]
    Linear(in_features=4, out_features=2, bias=True)
    """
    if multiple_of < 1:
        raise InvalidArgumentError(f"multiple_of: expected 1 or more, got {multiple_of}")
    plain = plain_copy(model)
    example = _checked(plain, example_input)
    precise, precise_example = in_double(plain, example)
    name = type(model).__name__
    try:
        traced = trace(precise, precise_example)
    except UntraceableError as error:
        _warn(f"{name} cannot be traced and keeps its size: {error}")
        return plain
    for path, why in traced.opaque.items():
        kind = type(plain.get_submodule(path)).__name__
        _warn(f"{path} ({kind}) cannot be traced and keeps its size: {why}")
    as_graph = True if isinstance(model, fx.GraphModule) else as_graph
    in_class = as_graph is not True or traced.only_analysis is not None
    built = [_built(plain, traced, multiple_of, in_class=True)] if in_class else []
    if as_graph is not False and traced.only_analysis is None:
        built.append(_built(plain, traced, multiple_of, in_class=False))
    candidates = [_finished(small, plain, name, fold_batch_norm) for small in built]
    for small, candidate in sorted(zip(built, candidates, strict=True), key=lambda pair: _size(pair[1])):
        difference = _difference(precise, candidate, precise_example, in_double=traced.in_double)
        if difference <= _tolerance(plain, example):
            if _size(candidate) == _size(plain) and as_graph is not True and not fold_batch_norm:
                _warn(f"{name} cannot be made smaller: {small.why_not()}")
            return candidate
    _warn(
        f"{name} keeps its size: its output would differ by {difference:.1e} (relative); please report this "
        "network"
    )
    return plain


@dataclass
class _Small:
    """A network on its way to be smaller.

    Attributes:
        root: The network, its modules sliced.
        graph: Its graph.
        in_class: Whether its own code runs it, and not the graph.
        analysis: What was known of it last.
    """

    root: nn.Module
    graph: fx.Graph
    in_class: bool
    analysis: Analysis

    def why_not(self) -> str:
        """Return why no more was removed."""
        frozen = self.analysis.slots.frozen()
        for name, slots in self.analysis.layers.items():
            weight = weight_of(self.root.get_submodule(name))
            for axis, ids in ((0, slots.outputs), (1, slots.inputs)):
                if ids is None or weight is None or weight.dim() < 2 or weight.shape[axis] != len(ids):
                    continue
                dead = (weight == 0).movedim(axis, 0).flatten(1).all(1).cpu()
                kept = ids[dead & frozen[ids]]
                if len(kept):
                    why = self.analysis.slots.reason(int(kept[0]))
                    return f"{len(kept)} dead units at {name} have to stay for {why}"
        return "no neuron, channel or head has only zeros; remove whole ones first, by granularity"


def _warn(message: str) -> None:
    warnings.warn(message, CompactionWarning, stacklevel=3)


def _size(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _checked(plain: nn.Module, example: Any) -> Any:
    """Return an example with a batch of two at least, so that constants are told from what has no batch."""
    if any(tensor.is_meta for tensor in [*plain.parameters(), *plain.buffers()]):
        raise InvalidArgumentError(
            f"model: expected weights with values, got {type(plain).__name__} on meta: load its weights first"
        )
    network = copy.deepcopy(plain).eval()
    try:
        with torch.no_grad():
            call(network, example)
    except Exception as error:
        kind = f"{type(error).__name__}: {error}".split("\n")[0]
        raise InvalidArgumentError(
            f"example_input: expected a batch that {type(plain).__name__} takes, got {kind}"
        ) from error
    longer = with_one_more(example)
    if longer is None or len(pytree.tree_leaves(map_tensors(len, longer))) == 0:
        return example
    try:
        with torch.no_grad():
            call(network, longer)
    except (RuntimeError, ValueError, IndexError):
        return example
    return longer


def _built(plain: nn.Module, traced: Trace, multiple_of: int, *, in_class: bool) -> _Small:
    """Remove all that can be seen to be removable, round by round."""
    root, graph = copy.deepcopy(plain).eval(), _copied(traced.graph)
    if not in_class:
        write_out_attributes(root, graph)
    small = _Small(root, graph, in_class, Analysis(root, graph))
    for _ in range(_ROUNDS):
        if not _one_round(small, traced, multiple_of):
            break
    return small


def _one_round(small: _Small, traced: Trace, multiple_of: int) -> bool:
    """Remove what can be seen to be removable now; return whether that is anything."""
    root, graph = small.root, small.graph
    precise = copy.deepcopy(root).double() if traced.in_double else copy.deepcopy(root)
    original, inputs = _copied(graph), traced.inputs
    small.analysis = analyse(precise, original, inputs, RULES)
    if not small.in_class and drop_constant_operands(small.analysis, root, graph):
        return True
    best = (small.analysis, *_decided(small.analysis, multiple_of, small.in_class))
    if small.analysis.ambiguous:
        for choice in range(1, _CHOICES):
            other = analyse(precise, original, inputs, RULES, choice=choice)
            candidate = (other, *_decided(other, multiple_of, small.in_class))
            if _num_kept(*candidate[:2]) < _num_kept(*best[:2]):
                best = candidate
    analysis, decision, attributes = best
    before = _size(root)
    rewrite(analysis, decision, root)
    if small.in_class:
        for name, value in (attributes | rename_widths(analysis, decision)).items():
            owner, _, leaf = name.rpartition(".")
            setattr(root.get_submodule(owner), leaf, value)
    else:
        correct_sizes(analysis, decision, graph)
    return _size(root) < before


def _decided(analysis: Analysis, multiple_of: int, in_class: bool) -> tuple[Decision, dict[str, int]]:
    """Return what stays, and what has to be written into modules' attributes for it."""
    while True:
        decision, frozen = decide(analysis, multiple_of=multiple_of), analysis.slots.num_frozen
        attributes = fit_code(analysis, decision) if in_class else {}
        if attributes is not None or analysis.slots.num_frozen == frozen:
            return decision, attributes or {}  # what still does not fit is found when outputs are compared


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
        weight = weight_of(analysis.root.get_submodule(name))
        share = 1.0
        for ids in {id(axis): axis for axis in (slots.inputs, slots.outputs) if axis is not None}.values():
            share *= float(decision.keeps(ids).double().mean())
        total += 0 if weight is None else round(weight.numel() * share)
    return total


def _finished(small: _Small, plain: nn.Module, name: str, fold_batch_norm: bool) -> nn.Module:
    """Return the network that is to be handed back."""
    result = small.root
    if fold_batch_norm:
        fold_batch_norms(result, small.graph)
    if not small.in_class:
        pick_inputs(result, small.graph)
        drop_embedding_rows(result, small.graph)
        result = fx.GraphModule(result, small.graph, class_name=name)
    modes = {path: module.training for path, module in plain.named_modules()}
    for path, module in result.named_modules():
        module.training = modes.get(path, plain.training)
    return result


def _tolerance(network: nn.Module, example: Any) -> float:
    """Return how far outputs may be apart: relative, by the coarsest precision among them."""
    with torch.no_grad():
        outputs = call(copy.deepcopy(network).eval(), example)
    types = {leaf.dtype for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)}
    if types & {torch.float16, torch.bfloat16}:
        return 3e-2
    return 1e-10 if types <= {torch.float64} else 1e-5


def _difference(reference: nn.Module, network: nn.Module, example: Any, *, in_double: bool) -> float:
    """Return the largest relative difference of outputs.

    Compared are the example, other values of its shape, and a batch of twice its size (where the masked
    network takes one), in float64, so that what is found is an error and not rounding.
    """
    candidate = copy.deepcopy(network).eval()
    if in_double:
        candidate = candidate.double()
    twice = map_tensors(lambda x: torch.cat([x, x]) if x.dim() else x, example)
    worst = 0.0
    for number, batch in enumerate((example, _other_values(example), _other_values(twice))):
        with torch.no_grad():
            try:
                expected = call(reference, batch)
            except (RuntimeError, ValueError, IndexError):
                if number == 0:
                    raise
                continue
            try:
                found = call(candidate, batch)
            except Exception:  # whatever the network's own code raises where its sizes do not fit
                return float("inf")
        worst = max(worst, largest_relative_difference(expected, found))
    return worst


def _other_values(example: Any) -> Any:
    generator = torch.Generator().manual_seed(1)

    def other(x: Tensor) -> Tensor:
        if x.dtype == torch.bool:
            return x
        if x.is_floating_point():
            return x + torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x)
        order = torch.randperm(x.numel(), generator=generator).to(x.device)
        return x.flatten()[order].reshape(x.shape)

    return map_tensors(other, example)
