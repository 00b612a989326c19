"""A small classification of correlated inputs, and a network trained on it: weights can replace others."""

from copy import deepcopy
from functools import cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["correlated", "correlated_batches", "trained_on_correlated"]

INPUTS, CLASSES = 12, 3


def correlated(num_data: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return inputs that are mixtures of four sources, and classes that depend on the sources."""
    generator = torch.Generator().manual_seed(seed)
    sources = torch.randn(num_data, 4, generator=generator)
    mixture = torch.randn(4, INPUTS, generator=torch.Generator().manual_seed(7))
    inputs = sources @ mixture + 0.1 * torch.randn(num_data, INPUTS, generator=generator)
    first, second, third, fourth = sources.unbind(1)
    scores = torch.stack([first * second, third.abs() - 0.8, fourth], 1)
    return inputs, (scores + 0.3 * torch.randn(num_data, CLASSES, generator=generator)).argmax(1)


def correlated_batches(size: int = 100) -> list[tuple[Tensor, Tensor]]:
    """Return the training data in batches."""
    inputs, labels = correlated(600, 0)
    return list(zip(inputs.split(size), labels.split(size), strict=True))


def trained_on_correlated() -> nn.Sequential:
    """Return an MLP that has been trained on them."""
    return deepcopy(_trained())


@cache
def _trained() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(INPUTS, 24), nn.Tanh(), nn.Linear(24, 16), nn.Tanh(), nn.Linear(16, CLASSES)
        )
    inputs, labels = correlated(600, 0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, weight_decay=1e-4)
    for _ in range(200):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
    model.zero_grad()
    return model
