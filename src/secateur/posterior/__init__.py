"""Gaussian posteriors of a network's weights, with structure: one block for each layer."""

from secateur.posterior.block import Block
from secateur.posterior.diagonal import Diagonal
from secateur.posterior.posterior import Posterior

__all__ = ["Block", "Diagonal", "Posterior"]
