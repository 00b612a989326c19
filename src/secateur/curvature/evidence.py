"""Prior precision of each layer that maximises the Laplace evidence, given the curvature.

The evidence of a layer whose curvature has the eigenvalues h_k is largest where the prior precision is

    prior = gamma / |w|^2,     gamma = sum_k h_k / (h_k + prior),

the number of directions that the data determine (MacKay 1992, doi:10.1162/neco.1992.4.3.415). Of G (x) A the
eigenvalues are products of those of G and A. A diagonal in their place counts correlated directions again and
again, and so makes gamma, the prior precision, and the penalty of what stays, several times too large.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from secateur.curvature.value import Curvature, LayerCurvature
from secateur.modules.names import layer_of

__all__ = ["evidence_priors"]

LARGEST = 1e30  # of weights that are all zero, where the evidence has no maximum; finite in float32
SMALLEST_GAMMA = 1e-6


@torch.no_grad()
def evidence_priors(
    curvature: Curvature, weights: Mapping[str, Tensor], keep: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return one prior precision for each parameter, the same for all parameters of a module.

    Args:
        curvature: Curvature of the network at these weights.
        weights: By parameter name; all that the curvature has.
        keep: False where an entry is out, by parameter name. Entries that are out do not count; in a joint
            spectrum they take directions with them in proportion.
    """
    spectra: dict[str, list[tuple[Tensor, float]]] = {}
    power: dict[str, float] = {}
    names = [tuple(layer.matrix.shapes) for layer in curvature.layers.values()]
    pieces = [_spectrum(layer, curvature.num_data) for layer in curvature.layers.values()]
    names += [(name,) for name in curvature.diagonal]
    pieces += [value.flatten().double() * curvature.num_data for value in curvature.diagonal.values()]
    for own, piece in zip(names, pieces, strict=True):
        module = layer_of(own[0])
        total = sum(weights[name].numel() for name in own)
        stays = sum(int(keep[name].sum()) if name in keep else weights[name].numel() for name in own)
        spectra.setdefault(module, []).append((piece, stays / max(total, 1)))
        for name in own:
            value = weights[name].double()
            value = value if name not in keep else value * keep[name]
            power[module] = power.get(module, 0.0) + float(value.square().sum())
    priors = {module: _maximum(each, power[module]) for module, each in spectra.items()}
    return {name: priors[layer_of(name)] for own in names for name in own}


def _spectrum(layer: LayerCurvature, num_data: int) -> Tensor:
    """Return the eigenvalues of a layer's curvature, or its diagonal where there are no factors."""
    if layer.A is None:
        assert layer.diagonal is not None
        return layer.diagonal.flatten().double() * num_data
    rows = layer.row_scale.double()
    if layer.G is not None:
        rows = torch.linalg.eigvalsh(layer.output_factor.double()).clamp_min(0)
    columns = torch.linalg.eigvalsh(layer.A.double()).clamp_min(0)
    return num_data * torch.outer(rows, columns).flatten()


def _maximum(spectra: list[tuple[Tensor, float]], power: float, *, num_iterations: int = 100) -> float:
    """Return the fixed point of gamma / power."""
    power = max(power, torch.finfo(torch.float32).tiny)
    prior = sum(len(values) * share for values, share in spectra) / power
    for _ in range(num_iterations):
        gamma = sum(share * float((values / (values + prior)).sum()) for values, share in spectra)
        before, prior = prior, max(gamma, SMALLEST_GAMMA) / power
        if abs(prior - before) <= 1e-9 * prior:
            break
    return min(prior, LARGEST)
