"""Masks hold where training is spread over processes: replicated (DDP) and in shards (FSDP2)."""

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from secateur.modules import held_masks, hold

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)


def build():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4))
    return model, {name: torch.rand(each.shape) > 0.5 for name, each in model.named_parameters()}


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def train(wrapped, model, masks):
    optimizer = torch.optim.AdamW(wrapped.parameters(), lr=0.1)
    before = {name: whole(each).clone() for name, each in model.named_parameters()}
    for _ in range(3):
        optimizer.zero_grad()
        wrapped(torch.randn(4, 5) + rank).square().sum().backward()
        optimizer.step()
        for name, each in model.named_parameters():
            assert not whole(each)[~masks[name]].any(), name
            assert (whole(each) != before[name])[masks[name]].all(), name
    held = held_masks(model)
    assert held.keys() == masks.keys()
    assert all(torch.equal(whole(held[name]), mask) for name, mask in masks.items())


model, masks = build()
hold(model, masks)
train(nn.parallel.DistributedDataParallel(model), model, masks)

for held_first in (True, False):
    model, masks = build()
    if held_first:
        hold(model, masks)
    mesh = init_device_mesh("cpu", (2,))
    for layer in (model[0], model[2], model[4], model):
        fully_shard(layer, mesh=mesh)
    if held_first:
        held_masks(model)  # its parameters were replaced
    else:
        hold(model, masks)
    train(model, model, masks)
dist.destroy_process_group()
print("held")
"""


def test_masks_hold_in_two_processes(tmp_path: Path) -> None:
    commands = [[sys.executable, "-c", SCRIPT, str(rank), str(tmp_path / "store")] for rank in range(2)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for command in commands
    ]
    for process in processes:
        output, errors = process.communicate(timeout=300)
        assert output.strip() == "held", errors
