"""Evidence-based pruning for neural networks."""

from secateur import reduction
from secateur.version import __version__

__all__ = ["__version__", "reduction"]
