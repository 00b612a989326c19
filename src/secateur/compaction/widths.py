"""Attributes in which modules keep their widths, corrected for readers.

`sizes` finds those that the network's code takes sizes from; here are those that are known by their names.
"""

from secateur.compaction.decide import Decision
from secateur.compaction.flow import Analysis, Flow, operator_name
from secateur.compaction.sizes import new_shape

__all__ = ["rename_widths"]

_HEADS = frozenset({"num_attention_heads", "num_heads", "n_heads", "n_head", "num_key_value_heads"})
_HEAD_WIDTHS = frozenset({"all_head_size", "inner_dim", "split_size"})
_HIDDEN_WIDTHS = frozenset({"intermediate_size", "hidden_dim", "d_ff"})


def rename_widths(analysis: Analysis, decision: Decision) -> dict[str, int]:
    """Return what attributes of known names become, by qualified name.

    Args:
        analysis: What is known of the network.
        decision: Which slots stay.
    """
    changes: dict[tuple[str, int], set[tuple[frozenset[str], int]]] = {}

    def note(module: str, names: frozenset[str], old: int, new: int) -> None:
        changes.setdefault((module, old), set()).add((names, new))

    for node in analysis.graph.nodes:
        flow = analysis.flows.get(node)
        if not isinstance(flow, Flow) or operator_name(analysis.root, node) not in {
            "view",
            "reshape",
            "unflatten",
        }:
            continue
        sizes = new_shape(flow, decision)
        for axis, (old, new) in enumerate(zip(flow.value.shape[:-1], sizes, strict=False)):
            if flow.axes[axis] is not None and new < old and axis == len(sizes) - 2:
                module = str(node.meta.get("module", ""))
                note(module, _HEADS, old, new)
                note(module, _HEAD_WIDTHS, old * sizes[-1], new * sizes[-1])
    for name, slots in analysis.layers.items():
        if slots.outputs is not None:
            note(
                name.rpartition(".")[0],
                _HIDDEN_WIDTHS,
                len(slots.outputs),
                int(decision.keeps(slots.outputs).sum()),
            )
    found: dict[str, int] = {}
    for (path, old), wanted in changes.items():
        for names, new in wanted:
            only = len({other for kind, other in wanted if kind == names}) == 1
            for attribute, value in vars(analysis.root.get_submodule(path)).items():
                if attribute in names and type(value) is int and value == old and only:
                    found[f"{path}.{attribute}" if path else attribute] = new
    return found
