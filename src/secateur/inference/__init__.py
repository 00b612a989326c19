"""Ways to get a posterior for any `nn.Module`: torch optimizers, and one pass over the data."""

from secateur.inference.base import PosteriorOptimizer
from secateur.inference.calibrated import Calibrated
from secateur.inference.ivon import IVON
from secateur.inference.laplace import laplace
from secateur.inference.map import FlatMAP
from secateur.inference.mean_field import FlatFF
from secateur.inference.tiered import HorseshoeFF

__all__ = ["IVON", "Calibrated", "FlatFF", "FlatMAP", "HorseshoeFF", "PosteriorOptimizer", "laplace"]
