"""A posterior optimizer in a process group: the same names, weights, settings and noise on every rank."""

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from secateur import distributed
from secateur.inference.block import ParameterBlock

__all__ = ["require_alike", "without_prefix"]

DDP_PREFIX = "module."


def without_prefix(names: Sequence[str]) -> list[str]:
    """Return parameter names as the network inside a `DistributedDataParallel` has them.

    A module that has all its parameters in a submodule of this name loses the prefix too where there is a
    process group: give its own names without it to what is pruned.

    Args:
        names: Of all parameters of a group.
    """
    if distributed.is_initialized() and all(name.startswith(DDP_PREFIX) for name in names):
        return [name.removeprefix(DDP_PREFIX) for name in names]
    return list(names)


@torch.no_grad()
def require_alike(
    groups: Sequence[dict[str, Any]],
    blocks: Sequence[ParameterBlock],
    num_data: int,
    generator: torch.Generator,
    *,
    adopt: bool,
) -> None:
    """Refuse ranks that would not take the same step; nothing is changed then.

    Args:
        groups: Parameter groups with their settings.
        blocks: All blocks, with their states.
        num_data: Number of training data.
        generator: Source of the noise.
        adopt: Take over rank 0's generator.

    Raises:
        InvalidArgumentError: On every rank, naming what differs first.
    """
    if distributed.num_ranks() == 1:
        return
    state = generator.get_state()
    if adopt:
        distributed.from_first([state])
    parameters = [
        each for group in groups for each in zip(group["param_names"], group["params"], strict=True)
    ]
    facts = distributed.facts_of(dict(parameters)) | {"num_data": num_data}
    facts["seed, or draws so far, of the generator"] = hashlib.sha256(bytes(state.tolist())).hexdigest()[:8]
    for number, group in enumerate(groups):
        for key in group.keys() - {"params", "param_names"}:
            value = group[key]
            facts[f"{key} of group {number}"] = value if isinstance(value, str | int | float) else str(value)
    for number, block in enumerate(blocks):
        for key, tensor in block.state.items() if block.shards is None else ():
            facts[f"{key} of block {number}"] = float(tensor.double().square().sum())
    distributed.require_same(
        facts,
        advice="build model and optimizer alike on every rank, or train in secateur.distributed.alone()",
    )
    generator.set_state(state)
