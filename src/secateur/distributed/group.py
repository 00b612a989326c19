"""Which processes work together."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

__all__ = ["alone", "is_alone", "is_initialized", "launched", "num_ranks", "rank"]

_alone = 0  # depth of `alone` blocks


def is_initialized() -> bool:
    """Return whether this process belongs to a process group, be it the only one in it."""
    return dist.is_available() and dist.is_initialized()


def num_ranks() -> int:
    """Return the number of processes that work together, 1 where there is no process group."""
    return 1 if _alone or not is_initialized() else dist.get_world_size()


def is_alone() -> bool:
    """Return whether this process works by itself inside a process group: in an `alone` block."""
    return bool(_alone) and is_initialized()


def rank() -> int:
    """Return the number of this process among those that work together."""
    return 0 if num_ranks() == 1 else dist.get_rank()


@contextmanager
def alone() -> Iterator[None]:
    """Work without the other ranks inside the block, for what one rank does by itself.

    if torch.distributed.get_rank() == 0:
        with secateur.distributed.alone():
            posterior = secateur.inference.laplace(model, loader)
    """
    global _alone
    _alone += 1
    try:
        yield
    finally:
        _alone -= 1


@contextmanager
def launched() -> Iterator[None]:
    """Join the process group that `torchrun` started this process in, if it did; leave it on exit."""
    if not (dist.is_available() and dist.is_torchelastic_launched()) or is_initialized():
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
