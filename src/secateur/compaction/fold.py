"""Batch normalisation written into the convolution before it, for networks that are only to be run."""

from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

__all__ = ["fold_batch_norms"]

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def fold_batch_norms(root: nn.Module, graph: fx.Graph) -> None:
    """Merge each batch normalisation into the layer that alone feeds it.

        gamma (W x + b - mean) / std + beta = (gamma / std) W x + gamma (b - mean) / std + beta

    Args:
        root: Owner of the modules, in evaluation mode; changed in place: an identity takes the place of
            each normalisation.
        graph: Changed in place.
    """
    calls = [str(node.target) for node in graph.nodes if node.op == "call_module"]
    for node in list(graph.nodes):
        norm = root.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(norm, _NORMS) or norm.running_mean is None:
            continue
        source = node.args[0] if node.args else None
        if not isinstance(source, fx.Node) or source.op != "call_module" or len(source.users) != 1:
            continue
        if calls.count(str(source.target)) != 1 or calls.count(str(node.target)) != 1:
            continue
        layer = root.get_submodule(str(source.target))
        if isinstance(layer, _CONVOLUTIONS):
            merged: nn.Module = fuse_conv_bn_eval(layer, norm)
        elif isinstance(layer, nn.Linear):
            merged = fuse_linear_bn_eval(layer, norm)
        else:
            continue
        root.set_submodule(str(source.target), merged)
        root.set_submodule(str(node.target), nn.Identity())
        node.replace_all_uses_with(source)
        graph.erase_node(node)
