"""The Laplace posterior that a curvature makes of a trained network, in blocks by layer."""

from collections.abc import Mapping

from torch import Tensor, nn

from secateur.curvature.evidence import evidence_priors
from secateur.curvature.value import Curvature
from secateur.errors import InvalidArgumentError
from secateur.modules.masks import held_masks
from secateur.modules.names import layer_of
from secateur.posterior import Block, Diagonal, Kronecker, Posterior, Rowwise

__all__ = ["laplace_posterior"]


def laplace_posterior(
    curvature: Curvature, model: nn.Module, *, prior_precision: float | Mapping[str, float] | None = None
) -> Posterior:
    """Return the Gaussian around a network's weights whose precision is the curvature plus that of the prior.

    Layers with A and G get `Kronecker` blocks, those with A alone `Rowwise` ones, all others `Diagonal` ones.
    Entries that the model holds at zero are out.

    Args:
        curvature: Curvature of the network.
        model: The network, at the weights where the curvature was taken.
        prior_precision: Inverse variance of each weight under the prior: one number, numbers by parameter
            name, or None for the maximum of the evidence, layer by layer.

    Raises:
        InvalidArgumentError: If the model has not the curvature's parameters, or a prior is missing.
    """
    parameters = dict(model.named_parameters())
    names = curvature.parameters()
    if missing := [name for name in names if name not in parameters]:
        raise InvalidArgumentError(
            f"model: expected the network of the curvature, got one without {missing[0]!r}"
        )
    weights = {name: parameters[name].detach().clone() for name in names}
    keep = {name: mask for name, mask in held_masks(model).items() if name in names}
    if prior_precision is None:
        prior_precision = evidence_priors(curvature, weights, keep)
    elif not isinstance(prior_precision, Mapping):
        prior_precision = dict.fromkeys(names, float(prior_precision))
    if missing := [name for name in names if name not in prior_precision]:
        raise InvalidArgumentError(
            f"prior_precision: expected a number for each parameter, got none for {missing[0]!r}"
        )
    priors = {name: weights[name].new_tensor(prior_precision[name]) for name in names}
    diagonals = {name: value * curvature.num_data for name, value in curvature.diagonal.items()}
    for found in curvature.layers.values():
        if found.A is None:
            diagonals |= found.matrix.unpack(found.expected_diagonal() * curvature.num_data)
    order = {name: place for place, name in enumerate(parameters)}
    by_block: dict[str, list[str]] = {}
    for name in sorted(names, key=order.__getitem__):
        by_block.setdefault(_block_name(name, names[name], curvature), []).append(name)

    def own(values: Mapping[str, Tensor], of: list[str]) -> dict[str, Tensor]:
        return {name: values[name] for name in of if name in values}

    blocks: list[Block] = []
    for layer, of in by_block.items():
        mean, prior, kept = own(weights, of), own(priors, of), own(keep, of)
        own_layer = curvature.layers.get(layer)
        if own_layer is None or own_layer.A is None:
            transposed = own_layer is not None and own_layer.matrix.transposed
            precision = {name: diagonals[name].to(weights[name].dtype) + prior[name] for name in of}
            blocks.append(Diagonal(layer, mean, precision, prior, kept, transposed))
        elif own_layer.G is None:
            scale = own_layer.row_scale * curvature.num_data
            blocks.append(
                Rowwise.factored(
                    layer, mean, scale, own_layer.A, prior, kept, transposed=own_layer.matrix.transposed
                )
            )
        else:
            rows = own_layer.output_factor * curvature.num_data
            blocks.append(Kronecker(layer, mean, rows, own_layer.A, prior, kept, own_layer.matrix.transposed))
    return Posterior.of(blocks)


def _block_name(name: str, layer: str | None, curvature: Curvature) -> str:
    """Return the name of a parameter's block: its layer's, its module's, or its own where that is taken."""
    if layer is not None:
        return layer
    module = layer_of(name)
    return name if module in curvature.layers else module
