"""Gaussian posteriors of a network's weights, with structure: one block for each layer."""

from secateur.posterior.block import Block, Groups
from secateur.posterior.dense import Dense
from secateur.posterior.diagonal import Diagonal
from secateur.posterior.kronecker import Kronecker
from secateur.posterior.posterior import Posterior
from secateur.posterior.rowwise import Rowwise

__all__ = ["Block", "Dense", "Diagonal", "Groups", "Kronecker", "Posterior", "Rowwise"]
