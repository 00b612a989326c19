"""The evidence of any reduction, in closed form: tensors in, tensors out.

Sign, everywhere: delta_f = log p(D | reduced) - log p(D | full), in nats; > 0 favours the reduction.
"""

from secateur.reduction.conjugate import (
    beta_delta_f,
    dirichlet_delta_f,
    dirichlet_reduced_posterior,
    gamma_delta_f,
)
from secateur.reduction.dense import dense_delta_f, dense_reduced_posterior
from secateur.reduction.gaussian import delta_f, reduced_posterior
from secateur.reduction.log_uniform import log_normal_gate_delta_f, log_uniform_gate_delta_f
from secateur.reduction.matrix_normal import (
    DiagonalisedPrecision,
    matrix_normal_delta_f,
    matrix_normal_reduced_posterior,
)
from secateur.reduction.normal_gamma import (
    NormalGamma,
    normal_gamma_delta_f,
    normal_gamma_reduced_posterior,
    regression_log_evidence,
    regression_posterior,
)
from secateur.reduction.rowwise import rowwise_delta_f, rowwise_reduced_posterior
from secateur.reduction.spike_and_slab import SpikeAndSlab, spike_and_slab

__all__ = [
    "DiagonalisedPrecision",
    "NormalGamma",
    "SpikeAndSlab",
    "beta_delta_f",
    "delta_f",
    "dense_delta_f",
    "dense_reduced_posterior",
    "dirichlet_delta_f",
    "dirichlet_reduced_posterior",
    "gamma_delta_f",
    "log_normal_gate_delta_f",
    "log_uniform_gate_delta_f",
    "matrix_normal_delta_f",
    "matrix_normal_reduced_posterior",
    "normal_gamma_delta_f",
    "normal_gamma_reduced_posterior",
    "reduced_posterior",
    "regression_log_evidence",
    "regression_posterior",
    "rowwise_delta_f",
    "rowwise_reduced_posterior",
    "spike_and_slab",
]
