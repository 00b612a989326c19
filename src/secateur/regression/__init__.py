"""Bayesian regression in one call: coefficients, evidence of dropping each regressor, best subsets.

Sign, everywhere: delta_f = log p(D | reduced) - log p(D | full), in nats; > 0 favours dropping.
"""

from secateur.regression.regress import regress
from secateur.regression.result import Regression, Subset

__all__ = ["Regression", "Subset", "regress"]
