"""Curvature of data in parts: that of one process on all of them, whichever rank has which."""

from pathlib import Path

import pytest
import torch

from support.ranks import tensors_of

PROGRAM = """
from torch import nn
from secateur.curvature import RunningCurvature, estimate
from secateur.likelihoods import Gaussian

def network(outputs):
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(
        nn.Conv1d(1, 3, 3), nn.Flatten(), nn.LayerNorm(24), nn.Linear(24, 6), nn.Tanh(), nn.Linear(6, outputs)
    ).double()
    for each in model.parameters():
        each.data = torch.randn(each.shape, generator=generator, dtype=torch.float64) / 2
    return model

generator = torch.Generator().manual_seed(0)
inputs = torch.randn(53, 1, 10, generator=generator, dtype=torch.float64)
labels = torch.randint(4, (53,), generator=generator)
values = torch.randn(53, 2, generator=generator, dtype=torch.float64)
labels[::7] = -100
whole = [slice(0, 16), slice(16, 32), slice(32, 48), slice(48, 53)]

def parts(targets):
    "Batches of all ranks, dealt; the last of five leaves some of four with none or one."
    dealt = [(inputs[part][rank::world], targets[part][rank::world]) for part in whole]
    return [pair for pair in dealt if len(pair[0])]

def flat(curvature, name):
    tensors = {f"{name} diagonal {key}": each for key, each in curvature.diagonals().items()}
    for key, layer in curvature.layers.items():
        for field in ("A", "G", "row_sums"):
            if getattr(layer, field) is not None:
                tensors[f"{name} {field} {key}"] = getattr(layer, field)
    numbers = [curvature.num_data, curvature.num_seen, curvature.loss, *(
        layer.num_positions for layer in curvature.layers.values()
    )]
    return tensors | {f"{name} numbers": torch.tensor(numbers, dtype=torch.float64)}

found = {}
for outputs in ("exact", "sampled"):
    for structure in ("kronecker", "row", "diagonal"):
        value = estimate(network(4), parts(labels), outputs=outputs, structure=structure)
        found |= flat(value, f"{outputs} {structure}")
found |= flat(estimate(network(2), parts(values), likelihood=Gaussian(noise="learned")), "gaussian")
found |= flat(estimate(network(4), parts(labels), tolerance=0.9), "tolerance")

model = network(4)
for limit in (3, 20, None):
    running = RunningCurvature(model, every=2, max_data=limit, rate=0.1)
    for batch in parts(labels) * 2:
        running.step(batch)
    found |= flat(running.value(53), f"running {limit}")
finish(found)
"""


@pytest.mark.parametrize("num_ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_have_the_curvature_of_one(num_ranks: int, tmp_path: Path) -> None:
    (alone,) = tensors_of(PROGRAM, 1, tmp_path)
    for found in tensors_of(PROGRAM, num_ranks, tmp_path):
        torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-12)
