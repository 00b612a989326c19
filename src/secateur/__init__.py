"""Evidence-based pruning for neural networks: smaller, calibrated, and nobody chooses a sparsity.

Fit a posterior (`secateur.inference`, or `secateur.fit` for the whole loop), let the model evidence decide
what goes (`secateur.prune`). `secateur.reduction` is the mathematics alone.
"""

from secateur import data, export, inference, metrics, networks, posterior, pruning, reduction, training
from secateur.posterior import Posterior
from secateur.pruning import compact, prune
from secateur.training import fit
from secateur.version import __version__

__all__ = [
    "Posterior",
    "__version__",
    "compact",
    "data",
    "export",
    "fit",
    "inference",
    "metrics",
    "networks",
    "posterior",
    "prune",
    "pruning",
    "reduction",
    "training",
]
