"""What flows through a masked network: constants, slots, and the sums that consume them.

The graph is run once in float64. Beside each tensor's value travels which of its entries vary with the
input at all (the others are constants that the masks made) and which slot each position of each axis
belongs to. Where a layer sums over an axis (a *sink*), it is decided later which of its inputs it needs.

Anything without a rule is opaque: it keeps every slot that reaches it, so an unknown operator costs size,
never correctness.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.utils import _pytree as pytree

from secateur.compaction.slots import Axes, Slots

__all__ = [
    "Analysis",
    "Flow",
    "LayerSlots",
    "Rule",
    "Sink",
    "analyse",
    "argument",
    "is_transposed",
    "operator_name",
    "weight_of",
]


@dataclass
class Flow:
    """One tensor: its value on the example, which entries vary with the input, its axes' slots.

    `sums_to_one` marks attention weights: nonnegative, and of sum one along the last axis.
    """

    value: Tensor
    varying: Tensor
    axes: Axes
    sums_to_one: bool = False


@dataclass(frozen=True)
class Sink:
    """A layer that sums over the slots of its input axis.

    Attributes:
        module: Qualified name of the layer.
        inputs: Slot of each input position, shape (in).
        outputs: Slot of each output position, shape (out).
        reads: Whether output o has a weight that is not zero for input i, shape (out, in).
        constant: Value of inputs that are one constant everywhere; nan for the others, shape (in).
        foldable: Whether that constant's contribution is a plain bias (zero padding makes it more), (in).
    """

    module: str
    inputs: Tensor
    outputs: Tensor
    reads: Tensor
    constant: Tensor
    foldable: Tensor


@dataclass(frozen=True)
class LayerSlots:
    """The slots along a layer's parameters; None where that axis keeps its size.

    Attributes:
        inputs: Slots of the input axis.
        outputs: Slots of the output axis.
    """

    inputs: Tensor | None
    outputs: Tensor | None


@dataclass
class Analysis:
    """All that compaction needs to know of a graph.

    Attributes:
        flows: What is known of each node: a Flow, a tuple of them, or a plain value.
        slots: The union-find over slots.
        layers: Slots of each layer that can shrink, by qualified name.
        tensors: Axes of each parameter or buffer that the graph reads directly.
        sinks: Sums over slots.
        choice: Which axis carries the slots where a reshape leaves several possible.
        ambiguous: Whether that choice ever mattered.
    """

    root: nn.Module
    graph: fx.Graph
    choice: int = 0
    flows: dict[fx.Node, Any] = field(default_factory=dict)
    slots: Slots = field(default_factory=Slots)
    layers: dict[str, LayerSlots] = field(default_factory=dict)
    tensors: dict[str, Axes] = field(default_factory=dict)
    sinks: list[Sink] = field(default_factory=list)
    ambiguous: bool = False
    shared: frozenset[str] = frozenset()

    def rerun(self, node: fx.Node, first: Any) -> Any:
        """Run `node` once more with its first argument replaced."""
        args = map_arg(node.args[1:], self._value)
        kwargs = map_arg(node.kwargs, self._value)
        if not node.args:  # the input came as a keyword
            kwargs.pop("input", None)
        return self._execute(node, (first, *args), kwargs)

    def _value(self, node: fx.Node) -> Any:
        return _strip(self.flows[node])

    def _execute(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        target: Any = node.target
        if node.op == "call_module":
            return self.root.get_submodule(target)(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        return target(*args, **kwargs)


def _strip(known: Any) -> Any:
    """Return the plain value of what is known of a node."""
    if isinstance(known, Flow):
        return known.value
    if isinstance(known, tuple):
        return tuple(_strip(item) for item in known)
    if isinstance(known, dict):
        return {key: _strip(item) for key, item in known.items()}
    return known


def _flows(known: Any) -> list[Flow]:
    """Return the flows in what is known of a node."""
    if isinstance(known, (tuple, dict)):
        parts = known.values() if isinstance(known, dict) else known
        return [flow for part in parts for flow in _flows(part)]
    return [known] if isinstance(known, Flow) else []


def argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    """Return a node's argument, given by position or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def is_transposed(layer: nn.Module) -> bool:
    """Return whether a layer is Transformers' Conv1D: a Linear layer that holds its weight transposed."""
    return type(layer).__name__ == "Conv1D" and {"nf", "nx"} <= vars(layer).keys()


def weight_of(layer: nn.Module) -> Tensor | None:
    """Return a layer's weight, outputs first; of an LSTM the one of its inputs; None where it has none."""
    weight = getattr(layer, "weight", getattr(layer, "weight_ih_l0", None))
    return weight.T if weight is not None and is_transposed(layer) else weight


def operator_name(root: nn.Module, node: fx.Node) -> str:
    """Return one name for all spellings of an operator: `F.relu`, `x.relu_()`, `nn.ReLU` are `relu`."""
    target: Any = node.target
    if node.op == "call_module":
        module = root.get_submodule(target)
        kind = type(module)
        if is_transposed(module):
            return "linear"
        return kind.__name__.lower() if kind.__module__.startswith("torch.nn.modules") else ""
    if node.op == "call_function":
        name = "getattr" if target is getattr else getattr(target, "__name__", str(target))
        return {"iadd": "add", "isub": "sub", "imul": "mul", "truediv": "div"}.get(
            name.strip("_"), name.strip("_")
        )
    return str(target).strip("_") if node.op == "call_method" else ""


_UNKNOWN = ("rand", "bernoulli", "multinomial", "normal", "captured", "mutated")  # not constant
Rule = Callable[[Analysis, fx.Node, list[Flow], Any], Flow | tuple[Flow, ...] | None]


def analyse(
    root: nn.Module, graph: fx.Graph, inputs: tuple[Any, ...], rules: Mapping[str, Rule], *, choice: int = 0
) -> Analysis:
    """Follow constants and slots through a graph.

    Args:
        root: Owner of the graph's modules, in evaluation mode; float64 where the network allows it.
        graph: A traced graph.
        inputs: Arguments of an example call, in the same precision.
        rules: What is known of each operator, by `operator_name`.
        choice: See `reshaped_axes`.

    Returns:
        The analysis; nothing is changed.
    """
    analysis = Analysis(root, graph, choice, shared=_shared_modules(root, graph))
    remaining = iter(inputs)
    with torch.no_grad():
        for node in graph.nodes:
            if node.op == "placeholder":
                value = next(remaining, *node.args)
                analysis.flows[node] = _opaque(value, True)
            elif node.op == "get_attr":
                analysis.flows[node] = _parameter(analysis, str(node.target))
            elif node.op == "output":
                analysis.slots.cause = "the network's output"
                for source in node.all_input_nodes:
                    _freeze(analysis, analysis.flows[source])
            else:
                _call(analysis, node, rules)
    return analysis


def _parameter(analysis: Analysis, target: str) -> Any:
    value: Any = analysis.root
    for part in target.split("."):
        value = getattr(value, part)
    if not isinstance(value, Tensor):
        return value
    if target not in analysis.tensors:
        analysis.tensors[target] = [analysis.slots.new(size) if size > 1 else None for size in value.shape]
    return Flow(value.detach(), torch.zeros_like(value, dtype=torch.bool), [*analysis.tensors[target]])


def _call(analysis: Analysis, node: fx.Node, rules: Mapping[str, Rule]) -> None:
    known = [analysis.flows[source] for source in node.all_input_nodes]
    args = map_arg(node.args, analysis._value)
    kwargs = map_arg(node.kwargs, analysis._value)
    value = analysis._execute(node, args, kwargs)
    if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(value)):
        analysis.flows[node] = tuple(value) if isinstance(value, (tuple, list)) else value
        return
    flows = [flow for flow in known if isinstance(flow, Flow)]
    name = operator_name(analysis.root, node)
    analysis.slots.cause = _description(analysis, node)
    rule = rules.get(name)
    ruled = node.target not in analysis.shared and all(
        isinstance(item, Flow) or not _flows(item) for item in known
    )
    if (
        name == "getitem"
        and known
        and isinstance(known[0], (tuple, dict))
        and not isinstance(node.args[1], slice)
    ):
        key: Any = node.args[1]
        analysis.flows[node] = known[0][key]
        return
    result = rule(analysis, node, flows, value) if rule is not None and ruled else None
    if result is None:
        _freeze(analysis, tuple(known))
        random = any(word in name for word in _UNKNOWN)
        unknown_module = node.op == "call_module" and not name
        varying = random or unknown_module or any(flow.varying.any() for flow in _flows(tuple(known)))
        result = _opaque(value, varying)
    analysis.flows[node] = result


def _description(analysis: Analysis, node: fx.Node) -> str:
    if node.op == "call_module":
        return f"{node.target} ({type(analysis.root.get_submodule(str(node.target))).__name__})"
    where = node.meta.get("module") or type(analysis.root).__name__
    return f"{operator_name(analysis.root, node)} in {where}"


def _opaque(value: Any, varying: bool) -> Any:
    if isinstance(value, Tensor):
        return Flow(value, torch.full_like(value, varying, dtype=torch.bool), [None] * value.dim())
    if isinstance(value, (tuple, list)):
        return tuple(_opaque(item, varying) for item in value)
    if isinstance(value, dict):
        return {key: _opaque(item, varying) for key, item in value.items()}
    return value


def _freeze(analysis: Analysis, known: Any) -> None:
    for flow in _flows(known):
        analysis.slots.freeze_all(flow.axes)


def _shared_modules(root: nn.Module, graph: fx.Graph) -> frozenset[str]:
    """Return the modules whose parameters are used more than once, by themselves or by others."""
    calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    uses: Counter[int] = Counter()
    for name in calls:
        uses.update({id(parameter) for parameter in root.get_submodule(name).parameters()})
    for name in {str(node.target) for node in graph.nodes if node.op == "get_attr"}:
        owner, _, leaf = name.rpartition(".")
        uses[id(getattr(root.get_submodule(owner), leaf))] += 1
    return frozenset(
        name for name in calls if any(uses[id(p)] > 1 for p in root.get_submodule(name).parameters())
    )
