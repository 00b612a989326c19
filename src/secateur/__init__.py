"""Evidence-based pruning for neural networks: smaller, calibrated, and nobody chooses a sparsity.

Fit a posterior (`secateur.inference`, or `secateur.fit` for the whole loop), let the model evidence decide
what goes (`secateur.prune`), or take a trained network (`secateur.prune_trained`); `secateur.compact` and
`secateur.save` make it small for real. `secateur.reduction` is the mathematics alone; `secateur.regress` asks
it about regressors.

Names are imported when they are first used (PEP 562), so `import secateur` is quick and a part of the
library needs only the packages that this part uses.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from secateur.version import __version__

if TYPE_CHECKING:
    from secateur import (
        compaction,
        curvature,
        data,
        distributed,
        errors,
        export,
        inference,
        likelihoods,
        metrics,
        modules,
        networks,
        posterior,
        pruning,
        reduction,
        regression,
        training,
    )
    from secateur.compaction import compact
    from secateur.export import load, save
    from secateur.modules import hold_zeros, masks_of
    from secateur.posterior import Posterior
    from secateur.pruning import GradualPruner, PruneResult, prune_trained
    from secateur.pruning.prune import prune
    from secateur.regression.regress import regress
    from secateur.training import recover
    from secateur.training.fit import fit

__all__ = [
    "GradualPruner",
    "Posterior",
    "PruneResult",
    "__version__",
    "compact",
    "compaction",
    "curvature",
    "data",
    "distributed",
    "errors",
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
    "regress",
    "regression",
    "save",
    "training",
]

_PACKAGE_OF = {
    "GradualPruner": "pruning",
    "Posterior": "posterior",
    "PruneResult": "pruning",
    "compact": "compaction",
    "fit": "training",
    "hold_zeros": "modules",
    "load": "export",
    "masks_of": "modules",
    "prune": "pruning",
    "prune_trained": "pruning",
    "recover": "training",
    "regress": "regression",
    "save": "export",
}
"""Where each name that is not a package itself is defined."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name in _PACKAGE_OF:
        value = getattr(import_module(f"secateur.{_PACKAGE_OF[name]}"), name)
    elif not name.startswith("_") and find_spec(f"secateur.{name}") is not None:
        value = import_module(f"secateur.{name}")
    else:
        raise AttributeError(f"module 'secateur' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return sorted(__all__)
