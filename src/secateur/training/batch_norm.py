"""How many training images batch normalisation is calibrated on for each draw of weights, and why.

In training each batch is normalised by its own moments, under the weights drawn for that batch. The running
moments are therefore an average over batches *and* draws. They suit no network that is evaluated: neither
the posterior mean, whose activations lack the noise, nor a single draw, whose activations carry noise of its
own in every layer. `docs/batch-norm.md` has figures. So

* the posterior-mean network gets the moments of a pass over training images (`modules.reestimate`) after
  every epoch and every reduction; `model.safetensors` holds these moments;
* every draw gets moments of its own, from `NUM_CALIBRATION` training images. A run of a network with batch
  normalisation stores these images, so that it predicts without its data set.

Scales and shifts have a posterior like any weight, and are never pruned (`pruning.ranking.candidates`).
"""

__all__ = ["NUM_CALIBRATION"]

NUM_CALIBRATION = 256  # images; the moments of each draw are estimated on them
