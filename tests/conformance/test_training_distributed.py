"""Data-parallel training: two and four processes have the posterior, masks and weights of one."""

from pathlib import Path

import pytest
import torch

from support.ranks import run_ranks, tensors_of

TRAINING = """
from torch import nn
from torch.nn.parallel import DistributedDataParallel
import secateur
from secateur.curvature import RunningCurvature
from secateur.inference import IVON, Calibrated

NUM_DATA = 64

def network(dtype):
    generator = torch.Generator().manual_seed(1)
    layers = nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4)
    model = nn.Sequential(*layers).to(dtype)
    for each in model.parameters():
        each.data = (torch.randn(each.shape, generator=generator, dtype=torch.float64) / 2).to(dtype)
    return model

def data(dtype):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(NUM_DATA, 12, generator=generator, dtype=torch.float64).to(dtype)
    with torch.no_grad():
        labels = network(dtype)(inputs).softmax(1).multinomial(1, generator=generator).squeeze(1)
    return inputs, labels

def train(method, dtype, optimizer=None, *, epochs=range(4), seeded=True):
    model = network(dtype)
    wrapped = DistributedDataParallel(model) if world > 1 else model
    names = wrapped.named_parameters()  # with DDP's prefix, which is taken off
    options = {"num_data": NUM_DATA, "lr": 1e-2}
    if seeded:
        options["generator"] = torch.Generator().manual_seed(3)
    if method == "joint":
        curvature = RunningCurvature(wrapped, every=2, rate=0.1)
        optimizer = Calibrated(names, curvature=curvature, **options)
    elif method == "ivon":
        optimizer = IVON(names, **options | {"lr": 0.1})
    else:
        optimizer = Calibrated(names, hessian_rate=0.05, hessian_init=0.1, **options)
    inputs, labels = data(dtype)
    inputs, labels = inputs[rank::world], labels[rank::world]

    def observed(model):
        return float(nn.functional.cross_entropy(model(inputs), labels))

    schedule = secateur.pruning.Schedule(first_epoch=2, last_epoch=4, max_fraction=0.3, max_loss_rise=0.3)
    target = 0.5 if method == "hessian" else None
    pruner = secateur.GradualPruner(wrapped, optimizer, schedule, observe=observed, sparsity=target)
    results = []
    for epoch in epochs:
        for part in torch.arange(len(inputs)).chunk(2):
            x, y = inputs[part], labels[part]
            with optimizer.sampled_parameters():
                loss = nn.functional.cross_entropy(wrapped(x), y)
                optimizer.zero_grad()
                loss.backward()
            optimizer.step()
            if optimizer.curvature is not None:
                optimizer.curvature.step((x, y))
        if pruner.due(epoch + 1):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", secateur.pruning.gradual.PruningWarning)
                results.append(pruner.step())
    return model, optimizer, results
"""

PROGRAM = (
    TRAINING
    + """
found = {}
for dtype in (torch.float64, torch.float32):
    for method in ("joint", "hessian", "ivon"):
        model, optimizer, results = train(method, dtype)
        assert sum(result.num_removed for result in results) > 100, (method, dtype)
        case = f"{method} {dtype}".replace("torch.", "")
        posterior = optimizer.posterior()
        assert list(posterior.mean) == list(model.state_dict())
        found |= {f"{case} weight {name}": each for name, each in model.state_dict().items()}
        found |= {f"{case} precision {name}": each for name, each in posterior.precision.items()}
        found |= {f"{case} mask {name}": each for name, each in secateur.masks_of(model).items()}
        rows = [[r.predicted_delta_f, r.observed_delta_f, r.loss_before, r.loss_after] for r in results]
        found[f"{case} results"] = torch.tensor(rows, dtype=dtype)
        found[f"{case} generator"] = optimizer.generator.get_state()
finish(found)
"""
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What one process finds."""
    (found,) = tensors_of(PROGRAM, 1, tmp_path_factory.mktemp("alone"))
    return found


@pytest.mark.parametrize("num_ranks", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_ranks_train_and_prune_as_one(num_ranks: int, alone: dict[str, torch.Tensor], tmp_path: Path) -> None:
    for found in tensors_of(PROGRAM, num_ranks, tmp_path):
        assert found.keys() == alone.keys()
        for name, each in found.items():
            tolerance = 1e-4 if "float32" in name else 1e-6
            torch.testing.assert_close(each, alone[name], rtol=tolerance, atol=tolerance, msg=name)


FAULTS = (
    TRAINING
    + """
warnings.simplefilter("ignore", secateur.pruning.gradual.PruningWarning)  # of the few steps

def tried(what, action):
    try:
        action()
    except secateur.errors.SecateurError as error:
        print(f"{what}: {type(error).__name__}: {error}")

def begin(model, **options):
    wrapped = DistributedDataParallel(model)
    options = {"num_data": NUM_DATA, "generator": torch.Generator().manual_seed(3)} | options
    optimizer = Calibrated(wrapped.named_parameters(), **options)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    with optimizer.sampled_parameters():
        pass
    optimizer.zero_grad()

tried("seeds", lambda: begin(network(torch.float64), generator=torch.Generator().manual_seed(rank)))
tried("data", lambda: begin(network(torch.float64), num_data=NUM_DATA + rank))
tried("settings", lambda: begin(network(torch.float64), lr=1e-3 * (1 + rank)))

# without a generator of its own every rank takes over rank 0's, whatever the global seeds
torch.manual_seed(rank)
model, optimizer, results = train("hessian", torch.float64, seeded=False)

# predictions on one rank draw from the noise of all, but not in a block of its own
if rank == 0:
    with secateur.distributed.alone(), torch.no_grad(), optimizer.sampled_parameters():
        model(data(torch.float64)[0])
schedule = secateur.pruning.Schedule(first_epoch=1, last_epoch=4)
pruner = secateur.GradualPruner(model, optimizer, schedule, observe=lambda model: 1.0)
pruner.step()
if rank == 0:
    with torch.no_grad(), optimizer.sampled_parameters():
        model(data(torch.float64)[0])
tried("noise", pruner.step)

def observed(model):
    if rank == 1:
        raise OSError("no data on this machine")
    return 1.0

def failing():
    try:
        secateur.GradualPruner(model, train("hessian", torch.float64)[1], schedule, observe=observed).step()
    except OSError as error:
        print(f"failure: OSError: {error}")

tried("failure", failing)
"""
)


def test_ranks_that_differ_are_refused_and_a_failure_ends_all(tmp_path: Path) -> None:
    finished = run_ranks(FAULTS, 2, tmp_path)
    assert [process.code for process in finished] == [0, 0], finished[0].errors + finished[1].errors
    first, second = (dict(line.split(": ", 1) for line in each.output.splitlines()) for each in finished)
    for what, said in {
        "seeds": "ranks: expected the same seed, or draws so far, of the generator on all, got",
        "data": "ranks: expected the same num_data on all, got 64 on rank 0 and 65 on rank 1; build model",
        "settings": "ranks: expected the same lr of group 0 on all, got 0.001 on rank 0 and 0.002 on rank 1",
        "noise": "ranks: expected the same seed, or draws so far, of the generator on all, got",
    }.items():
        assert first[what] == second[what]
        assert first[what].startswith(f"InvalidArgumentError: {said}")
    assert first["failure"] == "RankError: rank 1: OSError: no data on this machine"
    assert second["failure"] == "OSError: no data on this machine"
