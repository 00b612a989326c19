"""Every optimiser in every mode that changes its state, and networks to put them on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur.inference import IVON, Calibrated, FlatFF, FlatMAP, HorseshoeFF, PosteriorOptimizer

OPTIMIZERS: dict[str, tuple[type[PosteriorOptimizer], dict[str, Any]]] = {
    "calibrated": (Calibrated, {"lr": 1e-2}),
    "calibrated-gaussian": (Calibrated, {"lr": 1e-2, "noise": "gaussian", "temperature": 1.0}),
    "calibrated-sgd": (
        Calibrated,
        {"lr": 5e-2, "inner": lambda params: torch.optim.SGD(params, lr=1.0, momentum=0.9)},
    ),
    "ivon": (IVON, {"lr": 0.1, "hessian_init": 0.5}),
    "ivon-rademacher": (IVON, {"lr": 0.1, "noise": "rademacher"}),
    "flat-ff": (FlatFF, {"lr": 1e-2}),
    "flat-ff-adaptive": (FlatFF, {"lr": 1e-2, "adaptive": True, "init_range": 0.5}),
    "tiered-ff": (HorseshoeFF, {"lr": 1e-2, "global_scale": 0.1}),
    "horseshoe-ff": (HorseshoeFF, {"lr": 1e-2, "global_scale": 0.1, "scales": "full"}),
    "flat-map": (FlatMAP, {"lr": 1e-2}),
}


@dataclass(frozen=True)
class Build:
    """Makes one kind of optimiser."""

    name: str

    @property
    def is_point(self) -> bool:
        return self.name == "flat-map"

    def __call__(
        self, parameters: Any, *, num_data: int = 64, seed: int = 0, **options: Any
    ) -> PosteriorOptimizer:
        kind, defaults = OPTIMIZERS[self.name]
        generator = torch.Generator().manual_seed(seed)
        return kind(parameters, num_data=num_data, generator=generator, **(defaults | options))


@pytest.fixture(params=OPTIMIZERS)
def build(request) -> Build:
    return Build(request.param)


class Classifier(nn.Module):
    """Embedding, attention block and head, as in a transformer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 8)
        self.block = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.block(self.embed(tokens)).mean(1))


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 8), nn.Tanh(), nn.Linear(8, 3))


def conv_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 5, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20, 3),
    )


@dataclass(frozen=True)
class Task:
    """A network and data it can learn."""

    model: nn.Module
    inputs: Tensor
    labels: Tensor

    def loss(self) -> Tensor:
        return nn.functional.cross_entropy(self.model(self.inputs), self.labels)

    def step(self, optimizer: PosteriorOptimizer) -> float:
        with optimizer.sampled_parameters():
            loss = self.loss()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        return loss.item()


def task(name: str) -> Task:
    torch.manual_seed(5)
    if name == "mlp":
        model, inputs = mlp(), torch.randn(64, 6)
        labels = inputs[:, :3].argmax(1)
    elif name == "conv-net":
        model, inputs = conv_net(), torch.randn(64, 1, 6, 6)
        labels = inputs.mean((1, 3)).view(64, 3, 2).sum(2).argmax(1)
    else:
        model, inputs = Classifier(), torch.randint(9, (64, 5))
        labels = inputs[:, 0] % 3
    return Task(model, inputs, labels)


@pytest.fixture(params=["mlp", "conv-net", "transformer"])
def any_task(request) -> Task:
    return task(request.param)


@pytest.fixture
def make_task() -> Callable[[str], Task]:
    return task
