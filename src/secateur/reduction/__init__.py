"""The evidence of any reduction, in closed form: tensors in, tensors out.

Sign, everywhere: delta_f = log p(D | reduced) - log p(D | full), in nats; > 0 favours the reduction.
"""

from secateur.reduction.averaging import ModelAverage, average_models
from secateur.reduction.conjugate import (
    beta_delta_f,
    dirichlet_delta_f,
    dirichlet_reduced_posterior,
    gamma_delta_f,
)
from secateur.reduction.dense import dense_delta_f, dense_reduced_posterior
from secateur.reduction.draws import DrawnGaussian, from_draws
from secateur.reduction.gaussian import delta_f, reduced_posterior
from secateur.reduction.groups import (
    PatternChoice,
    group_delta_f,
    joint_group_delta_f,
    kronecker_covariance,
    kronecker_row_delta_f,
    n_of_m,
)
from secateur.reduction.horseshoe import HorseshoeReduction, horseshoe
from secateur.reduction.kronecker_basis import DiagonalisedPrecision
from secateur.reduction.log_uniform import log_normal_gate_delta_f, log_uniform_gate_delta_f
from secateur.reduction.matrix_normal import (
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
from secateur.reduction.observed import (
    PredictedAgainstObserved,
    evidence_lower_bound,
    gaussian_divergence,
    predicted_against_observed,
)
from secateur.reduction.partition import Partition, blocks, channels, columns, heads, rows, runs
from secateur.reduction.rowwise import rowwise_delta_f, rowwise_reduced_posterior
from secateur.reduction.search import SubsetSearch, conditional_prior, search_subsets, single_delta_f
from secateur.reduction.selection import select_largest
from secateur.reduction.spike_and_slab import SpikeAndSlab, spike_and_slab, spike_and_slab_log_odds

__all__ = [
    "DiagonalisedPrecision",
    "DrawnGaussian",
    "HorseshoeReduction",
    "ModelAverage",
    "NormalGamma",
    "Partition",
    "PatternChoice",
    "PredictedAgainstObserved",
    "SpikeAndSlab",
    "SubsetSearch",
    "average_models",
    "beta_delta_f",
    "blocks",
    "channels",
    "columns",
    "conditional_prior",
    "delta_f",
    "dense_delta_f",
    "dense_reduced_posterior",
    "dirichlet_delta_f",
    "dirichlet_reduced_posterior",
    "evidence_lower_bound",
    "from_draws",
    "gamma_delta_f",
    "gaussian_divergence",
    "group_delta_f",
    "heads",
    "horseshoe",
    "joint_group_delta_f",
    "kronecker_covariance",
    "kronecker_row_delta_f",
    "log_normal_gate_delta_f",
    "log_uniform_gate_delta_f",
    "matrix_normal_delta_f",
    "matrix_normal_reduced_posterior",
    "n_of_m",
    "normal_gamma_delta_f",
    "normal_gamma_reduced_posterior",
    "predicted_against_observed",
    "reduced_posterior",
    "regression_log_evidence",
    "regression_posterior",
    "rows",
    "rowwise_delta_f",
    "rowwise_reduced_posterior",
    "runs",
    "search_subsets",
    "select_largest",
    "single_delta_f",
    "spike_and_slab",
    "spike_and_slab_log_odds",
]
