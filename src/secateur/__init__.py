"""Evidence-based pruning for neural networks: smaller, calibrated, and nobody chooses a sparsity.

Fit a posterior (`secateur.inference`, or `secateur.fit` for the whole loop), let the model evidence decide
what goes (`secateur.prune`), or take a trained network (`secateur.prune_trained`); `secateur.compact` and
`secateur.save` make it small for real. `secateur.reduction` is the mathematics alone.
"""

from secateur import (
    data,
    distributed,
    export,
    inference,
    likelihoods,
    metrics,
    modules,
    networks,
    posterior,
    pruning,
    reduction,
    training,
)
from secateur.export import load, save
from secateur.modules import hold_zeros, masks_of
from secateur.posterior import Posterior
from secateur.pruning import GradualPruner, PruneResult, compact, prune, prune_trained
from secateur.training import fit, recover
from secateur.version import __version__

__all__ = [
    "GradualPruner",
    "Posterior",
    "PruneResult",
    "__version__",
    "compact",
    "data",
    "distributed",
    "export",
    "fit",
    "hold_zeros",
    "inference",
    "likelihoods",
    "load",
    "masks_of",
    "metrics",
    "modules",
    "networks",
    "posterior",
    "prune",
    "prune_trained",
    "pruning",
    "recover",
    "reduction",
    "save",
    "training",
]
