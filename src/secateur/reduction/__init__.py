"""The evidence of any reduction, in closed form: tensors in, tensors out.

Sign, everywhere: delta_f = log p(D | reduced) - log p(D | full), in nats; > 0 favours the reduction.
"""

from secateur.reduction.gaussian import delta_f, reduced_posterior
from secateur.reduction.spike_and_slab import SpikeAndSlab, spike_and_slab

__all__ = ["SpikeAndSlab", "delta_f", "reduced_posterior", "spike_and_slab"]
