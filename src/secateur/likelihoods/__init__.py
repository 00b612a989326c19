"""Distributions of targets given a network's outputs: loss, Hessian root, random targets, scores."""

from secateur.likelihoods.base import Likelihood
from secateur.likelihoods.bernoulli import Bernoulli
from secateur.likelihoods.categorical import Categorical
from secateur.likelihoods.gaussian import Gaussian
from secateur.likelihoods.poisson import Poisson
from secateur.likelihoods.resolve import ALIASES, LINKS, resolve

__all__ = ["ALIASES", "LINKS", "Bernoulli", "Categorical", "Gaussian", "Likelihood", "Poisson", "resolve"]
