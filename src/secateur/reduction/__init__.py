"""The evidence of any reduction, in closed form: tensors in, tensors out.

Sign, everywhere: delta_f = log p(D | reduced) - log p(D | full), in nats; > 0 favours the reduction.
"""

from secateur.reduction.dense import dense_delta_f, dense_reduced_posterior
from secateur.reduction.gaussian import delta_f, reduced_posterior
from secateur.reduction.matrix_normal import (
    DiagonalisedPrecision,
    matrix_normal_delta_f,
    matrix_normal_reduced_posterior,
)
from secateur.reduction.rowwise import rowwise_delta_f, rowwise_reduced_posterior
from secateur.reduction.spike_and_slab import SpikeAndSlab, spike_and_slab

__all__ = [
    "DiagonalisedPrecision",
    "SpikeAndSlab",
    "delta_f",
    "dense_delta_f",
    "dense_reduced_posterior",
    "matrix_normal_delta_f",
    "matrix_normal_reduced_posterior",
    "reduced_posterior",
    "rowwise_delta_f",
    "rowwise_reduced_posterior",
    "spike_and_slab",
]
