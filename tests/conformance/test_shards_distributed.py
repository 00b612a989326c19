"""`fully_shard`: the same draws, steps and posterior in shards, and a state that more ranks can take."""

from pathlib import Path

import pytest
import torch

from support.ranks import run_ranks, tensors_of

TRAINING = """
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from secateur.errors import InvalidArgumentError
from secateur.curvature import RunningCurvature
from secateur.inference import IVON, Calibrated, FlatFF
from secateur.modules import hold, hold_zeros
from secateur.runs.checkpoint import load_nested, save_nested

NUM_DATA = 64

def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor

def network():
    generator = torch.Generator().manual_seed(1)
    layers = nn.Linear(12, 7), nn.Tanh(), nn.Linear(7, 9, bias=False), nn.Tanh(), nn.Linear(9, 3)
    model = nn.Sequential(*layers).double()
    masks = {}
    for name, each in model.named_parameters():
        each.data = torch.randn(each.shape, generator=generator, dtype=torch.float64) / 2
        masks[name] = torch.rand(each.shape, generator=generator) > 0.3
    if world > 1:
        mesh = init_device_mesh("cpu", (world,))
        for layer in (model[0], model[2], model):
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    return model, masks

def optimizer_of(method, model):
    options = {"num_data": NUM_DATA, "generator": torch.Generator().manual_seed(3), "exclude": ["4.bias"]}
    if method == "gaussian":
        return Calibrated(model.named_parameters(), lr=1e-2, hessian_rate=0.1, noise="gaussian", **options)
    if method == "ivon":
        return IVON(model.named_parameters(), noise="rademacher", **options)
    return Calibrated(model.named_parameters(), lr=1e-2, hessian_rate=0.1, **options)

def train(model, optimizer, steps):
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        inputs = torch.randn(16, 12, generator=generator, dtype=torch.float64)[rank::world]
        labels = torch.randint(3, (16,), generator=generator)[rank::world]
        with optimizer.sampled_parameters():
            loss = nn.functional.cross_entropy(model(inputs), labels)
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
        with torch.no_grad(), optimizer.sampled_parameters():
            outputs = model(torch.ones(1, 12, dtype=torch.float64))
    return outputs

def found_in(case, model, optimizer, outputs):
    posterior = optimizer.posterior()
    tensors = {f"{case} weight {name}": whole(each) for name, each in model.named_parameters()}
    tensors |= {f"{case} precision {name}": each for name, each in posterior.precision.items()}
    tensors |= {f"{case} keep {name}": each for name, each in posterior.keep.items()}
    return tensors | {f"{case} outputs": outputs}

METHODS = "rademacher", "gaussian", "ivon"
"""

BEGUN = (
    TRAINING
    + """
found = {}
for method in METHODS:
    model, masks = network()
    optimizer = optimizer_of(method, model)
    train(model, optimizer, range(3))
    hold(model, masks)
    train(model, optimizer, range(3, 5))
    state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
    if world > 1:
        dcp.save(state, checkpoint_id=str(out / f"{method}-of-{world}"))
    else:
        save_nested(out / f"{method}.safetensors", state)
    outputs = train(model, optimizer, range(5, 7))
    for name, each in model.named_parameters():
        assert not whole(each)[~masks[name]].any() and whole(each)[masks[name]].all(), name
    found |= found_in(method, model, optimizer, outputs)
finish(found)

if world > 1:
    model, _ = network()
    for what, build in (
        ("method", lambda: FlatFF(model.named_parameters(), num_data=NUM_DATA)),
        ("curvature", lambda: RunningCurvature(model)),
    ):
        try:
            build()
        except InvalidArgumentError as error:
            print(f"{what}: {error}")
    dist.destroy_process_group()
"""
)

RESUMED = (
    TRAINING
    + """
from torch.distributed.tensor import distribute_tensor
found = {}
for method in METHODS:
    for source in ("divided", "whole"):
        model, masks = network()
        optimizer = optimizer_of(method, model)
        if source == "divided":
            weights = model.state_dict()
            dcp.load({"model": weights}, checkpoint_id=str(out / f"{method}-of-2"))
        else:
            state = load_nested(out / f"{method}.safetensors")
            weights = {
                name: distribute_tensor(state["model"][name], each.device_mesh, each.placements)
                for name, each in model.state_dict().items()
            }
        model.load_state_dict(weights)
        zeros = hold_zeros(model)
        assert all(torch.equal(whole(zeros[name]), mask) for name, mask in masks.items())
        if source == "divided":
            state = {"optimizer": optimizer.state_dict()}
            dcp.load(state, checkpoint_id=str(out / f"{method}-of-2"))
        optimizer.load_state_dict(state["optimizer"])
        outputs = train(model, optimizer, range(5, 7))
        found |= found_in(f"{source} {method}", model, optimizer, outputs)
finish(found)
dist.destroy_process_group()
"""
)


@pytest.mark.filterwarnings("ignore")
def test_shards_train_as_a_whole_and_resume_on_more_ranks(tmp_path: Path) -> None:
    (alone,) = tensors_of(BEGUN, 1, tmp_path)
    for process in (finished := run_ranks(BEGUN, 2, tmp_path)):
        assert process.code == 0, "".join(each.errors for each in finished)
    lines = dict(line.split(": ", 1) for line in finished[0].output.splitlines())
    assert lines["method"].startswith("params: expected whole parameters for FlatFF, got some in shards")
    assert lines["curvature"].startswith("0.weight: expected a whole parameter, got one in shards")
    from safetensors.torch import load_file

    for rank in range(2):
        found = load_file(tmp_path / f"{rank}-of-2.safetensors")
        torch.testing.assert_close(found, alone, rtol=1e-9, atol=1e-12)
    for found in tensors_of(RESUMED, 4, tmp_path):
        for source in ("divided", "whole"):
            own = {
                name.removeprefix(f"{source} "): each
                for name, each in found.items()
                if name.startswith(source)
            }
            torch.testing.assert_close(own, alone, rtol=1e-9, atol=1e-12)
