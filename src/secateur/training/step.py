"""Loss of a training batch, and the seeds of its randomness."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur.distributed import num_ranks, rank
from secateur.likelihoods import Categorical, Likelihood

__all__ = ["StepOptions", "loss_function", "seeded"]


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """Options of a training step that are not in the recipe. Predictions are not affected.

    Attributes:
        augment: Whether each batch is cropped and mirrored at random.
        autocast: Whether the network runs in bfloat16; its parameters and the loss stay in float32.
        compile_network: Whether the network's forward and backward pass are compiled.
    """

    augment: bool = False
    autocast: bool = False
    compile_network: bool = False


def loss_function(model: nn.Module, options: StepOptions) -> Callable[..., Tensor]:
    """Return the function from a batch to its mean loss, in nats per datum.

    It takes images (n, c, h, w), labels (n), and a likelihood (`Categorical` when left out). Among ranks
    it takes the batch of all ranks and uses this rank's part, in a loss whose gradients average to those of
    the whole.

    Args:
        model: Network to train, which stays as it is: a compiled one shares its parameters and buffers.
        options: How the step goes; the caller augments the images.
    """
    # every batch has the same shape, so one graph does
    network: Callable[..., Tensor] = model
    if options.compile_network:
        network = torch.compile(model, dynamic=False)
    if num_ranks() > 1:
        network = nn.parallel.DistributedDataParallel(network)
    categorical = Categorical()

    def loss_of(images: Tensor, labels: Tensor, likelihood: Likelihood = categorical) -> Tensor:
        size, own = len(labels), slice(rank(), None, num_ranks())
        images, labels = images[own], labels[own]
        if not options.autocast:
            loss = likelihood.mean_loss(network(images), labels)
        else:
            with torch.autocast(images.device.type, dtype=torch.bfloat16):
                outputs = network(images)
            loss = likelihood.mean_loss(outputs.float(), labels)
        return loss if num_ranks() == 1 else loss * (len(labels) * num_ranks() / size)

    return loss_of


@contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators, which dropout draws from; the caller's states return on exit.

    Args:
        seed: For all of them.
        device: Where the network is.
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
