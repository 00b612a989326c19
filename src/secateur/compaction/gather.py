"""Inputs that nobody reads, where the tensor itself must keep its size.

A network's input, or a residual stream under a LayerNorm, cannot shrink; a layer that reads only some of it
can still be small, if it first picks what it reads. Picking costs a copy, which pays from about a quarter of
unread inputs on (measured, one core, batches of 1 to 256). Likewise an embedding whose rows are mostly zero
keeps one zero row and a table from old row numbers to new ones.
"""

import operator

import torch
from torch import fx, nn

__all__ = ["drop_embedding_rows", "pick_inputs"]

_LEAST_UNREAD = 0.25
_LEAST_INPUTS = 32


def pick_inputs(root: nn.Module, graph: fx.Graph) -> None:
    """Let each Linear layer with many unread inputs pick the others first.

    Args:
        root: Owner of the modules; it gets the index buffers.
        graph: Changed in place.
    """
    for node in _only_calls(root, graph, nn.Linear):
        layer = root.get_submodule(str(node.target))
        assert isinstance(layer, nn.Linear)
        read = (layer.weight != 0).any(0)
        if layer.in_features < _LEAST_INPUTS or (~read).double().mean() < _LEAST_UNREAD or not read.any():
            continue
        index = read.nonzero().flatten()
        layer.weight = nn.Parameter(
            layer.weight.detach().index_select(1, index), requires_grad=layer.weight.requires_grad
        )
        layer.in_features = len(index)
        source = node.all_input_nodes[0]
        with graph.inserting_before(node):
            buffer = graph.get_attr(_register(root, f"{node.target}_inputs", index))
            picked = graph.call_function(torch.index_select, (source, -1, buffer))
        node.replace_input_with(source, picked)


def drop_embedding_rows(root: nn.Module, graph: fx.Graph) -> None:
    """Let each embedding with enough zero rows keep one of them.

    Args:
        root: Owner of the modules; it gets the tables.
        graph: Changed in place.
    """
    for node in _only_calls(root, graph, nn.Embedding):
        layer = root.get_submodule(str(node.target))
        assert isinstance(layer, nn.Embedding)
        used = (layer.weight != 0).any(1)
        rows, width = layer.weight.shape
        gone = int((~used).sum()) - 1
        if layer.padding_idx is not None or layer.max_norm is not None:
            continue
        if gone < 1 or gone * width * layer.weight.element_size() <= rows * 8:
            continue
        kept = torch.cat([used.nonzero().flatten(), (~used).nonzero().flatten()[:1]])
        table = torch.full((rows,), len(kept) - 1, device=layer.weight.device)
        table[kept] = torch.arange(len(kept), device=layer.weight.device)
        layer.weight = nn.Parameter(layer.weight.detach()[kept], requires_grad=layer.weight.requires_grad)
        layer.num_embeddings = len(kept)
        source = node.all_input_nodes[0]
        with graph.inserting_before(node):
            buffer = graph.get_attr(_register(root, f"{node.target}_rows", table))
            renumbered = graph.call_function(operator.getitem, (buffer, source))
        node.replace_input_with(source, renumbered)


def _only_calls(root: nn.Module, graph: fx.Graph, kind: type[nn.Module]) -> list[fx.Node]:
    """Return the calls of modules of exactly this type that are called once."""
    calls = [node for node in graph.nodes if node.op == "call_module"]
    names = [str(node.target) for node in calls]
    return [
        n
        for n in calls
        if type(root.get_submodule(str(n.target))) is kind and names.count(str(n.target)) == 1
    ]


def _register(root: nn.Module, name: str, value: torch.Tensor) -> str:
    name = name.replace(".", "_")
    while hasattr(root, name):
        name += "_"
    root.register_buffer(name, value)
    return name
