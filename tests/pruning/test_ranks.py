"""A trained network pruned by several processes, each with its part of the data, is that of one with all."""

from pathlib import Path

import pytest
import torch

from support.ranks import run_ranks, tensors_of

NETWORK = """
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
import secateur
from secateur.inference import laplace
from support.networks import NETWORKS

def network():
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(12, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(),
                          nn.Linear(8, 4)).double()
    for each in model.parameters():
        each.data = torch.randn(each.shape, generator=generator, dtype=torch.float64) / 2
    return model.eval()

generator = torch.Generator().manual_seed(0)
inputs = torch.randn(205, 12, generator=generator, dtype=torch.float64)
with torch.no_grad():
    labels = network()(inputs).softmax(1).multinomial(1, generator=generator).squeeze(1)
"""

PROGRAM = (
    NETWORK
    + """
def dealt(size):
    parts = [(x[rank::world], y[rank::world]) for x, y in zip(inputs.split(size), labels.split(size))]
    return [pair for pair in parts if len(pair[0])]

def indexed(size):
    return DataLoader(TensorDataset(inputs[rank::world], labels[rank::world]), batch_size=size // world)

found = {}
for name, loader, options in (
    ("batches", dealt(16), {"sparsity": 0.5, "rounds": 3}),
    ("unsplit", dealt(17), {"rounds": 4}),
    ("indexed", indexed(16), {"sparsity": 0.6, "rounds": 3, "max_batches": 4}),
    ("held out", indexed(16), {"held_out": indexed(32), "rounds": [0.2, 0.4], "num_data": 1000}),
    ("units", dealt(16), {"granularity": "neuron", "sparsity": 0.3, "rounds": 2}),
):
    model = network()
    result = secateur.prune_trained(model, loader, progress=False, **options)
    assert 0 < result.sparsity < 1, name
    found |= {f"{name} {key}": each for key, each in model.state_dict().items()}
    found |= {f"{name} mask {key}": each for key, each in result.masks.items()}
    rows = [[row.sparsity, row.predicted_delta_f, row.observed_delta_f, row.loss, row.held_out_loss,
             row.held_out_error] for row in result.trace]
    found[f"{name} trace"] = torch.tensor(rows, dtype=torch.float64)
    found[f"{name} data"] = torch.tensor(result.num_data)

tiny = NETWORKS["gpt2"]
model, batches = tiny.build().double().eval(), []
for seed in range(4):
    tokens = tiny.example(seed)
    tokens["attention_mask"][0, 4:] = 0  # padding of rank 0 alone
    whole = {**tokens, "labels": tokens["input_ids"]}
    batches.append({key: value[rank::world] for key, value in whole.items()})
secateur.prune_trained(model, batches, sparsity=0.4, rounds=2, progress=False)
found |= {f"gpt2 {key}": each for key, each in model.state_dict().items()}

for structure in ("diagonal", "row", "kronecker"):
    for outputs in ("exact", "sampled"):
        posterior = laplace(network(), dealt(16), structure=structure, outputs=outputs)
        found |= {f"{structure} {outputs} {key}": each for key, each in posterior.std.items()}
finish(found)
"""
)


@pytest.mark.parametrize("num_ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_prune_as_one(num_ranks: int, tmp_path: Path) -> None:
    (alone,) = tensors_of(PROGRAM, 1, tmp_path)
    for found in tensors_of(PROGRAM, num_ranks, tmp_path):
        torch.testing.assert_close(found, alone, rtol=1e-6, atol=1e-8)


REFUSED = (
    NETWORK
    + """
def tried(what, model, loader, **options):
    before = {name: each.clone() for name, each in model.state_dict().items()}
    try:
        secateur.prune_trained(model, loader, progress=False, **{"sparsity": 0.5} | options)
    except secateur.errors.SecateurError as error:
        print(f"{what}: {type(error).__name__}: {error}")
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())
    assert not secateur.masks_of(model)

part = list(zip(inputs[rank::world].split(16), labels[rank::world].split(16)))
other = network()
with torch.no_grad():
    other[3].weight[0, 0] += rank
tried("weights", other, part)
wide = nn.Sequential(nn.Linear(12, 16 + rank), nn.Linear(16 + rank, 4)).double()
tried("shapes", wide, part)
tried("seeds", network(), part, seed=rank)
tried("data", network(), part, num_data=1000 + rank)
tried("empty", network(), part if rank == 0 else [])

bad = [*part]
if rank == 1:
    bad[2] = bad[2][0] * float("nan"), bad[2][1]
tried("nan", network(), bad)

class Broken:
    def __iter__(self):
        yield from part[:2]
        if rank == 1:
            raise OSError("the disk is gone")
        yield from part[2:]

tried("loader", network(), Broken())
"""
)


def test_ranks_that_differ_or_fail_end_all_with_one_line(tmp_path: Path) -> None:
    first, second = run_ranks(REFUSED, 2, tmp_path)
    assert (first.code, second.code) == (0, 1), first.errors  # the loader's own error is not one of ours
    assert "RankError: rank 1: OSError: the disk is gone" in first.output
    assert second.errors.strip().endswith("OSError: the disk is gone")
    lines = [dict(line.split(": ", 1) for line in each.output.splitlines()) for each in (first, second)]
    for what, said in {
        "weights": "ranks: expected the same sum of squares of 3.weight on all, got",
        "shapes": "ranks: expected the same shape of 0.weight on all, got [16, 12] on rank 0 and [17, 12] on",
        "seeds": "ranks: expected the same seed on all, got 0 on rank 0 and 1 on rank 1; load the same model",
        "data": "ranks: expected the same num_data on all, got 1000 on rank 0 and 1001 on rank 1",
    }.items():
        assert lines[0][what] == lines[1][what]
        assert lines[0][what].startswith(f"InvalidArgumentError: {said}")
    for what, said in {
        "empty": "loader: expected at least one batch on every rank, got none on this",
        "nan": "loader: expected finite inputs, got nan in batch",
    }.items():
        assert lines[0][what].startswith(f"RankError: rank 1: {said}")
        assert lines[1][what].startswith(f"InvalidArgumentError: {said}")
