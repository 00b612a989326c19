"""Ways to get a posterior for any `nn.Module`, each a `torch.optim.Optimizer` or one pass over the data."""

from secateur.inference.calibrated import Calibrated
from secateur.inference.ivon import IVON

__all__ = ["IVON", "Calibrated"]
