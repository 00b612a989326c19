"""Choose device and memory format for training."""

import torch

from secateur.data import Split
from secateur.errors import InvalidArgumentError

__all__ = ["compiles_network", "layout", "placed", "resolve_device"]


def resolve_device(name: str) -> torch.device:
    """Resolve the name of a device; "auto" is CUDA where available.

    Args:
        name: "auto", or what `torch.device` takes.

    Raises:
        InvalidArgumentError: If there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()  # a device that holds no data, as "meta", fails at the copy
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InvalidArgumentError(
            f"device: expected auto, cpu or a device of this machine, got {name!r} ({reason})"
        ) from error
    return device


def layout(device: torch.device, *, named: bool) -> torch.memory_format:
    """Choose the memory format of images and convolutions.

    Channels last halves the time of a convolution on CPU. Networks of our own take either; a network of
    somebody else's may read its tensors with `view`, which fails on channels last.

    Args:
        device: Where they lie.
        named: Whether the network is one of `secateur.networks`.
    """
    return torch.channels_last if named and device.type == "cpu" else torch.contiguous_format


def compiles_network(device: torch.device) -> bool:
    """Return whether a compiled run compiles the network too, and not only the optimiser's update.

    On a GPU small networks wait for the launch of one kernel after another, which compiling fuses. On CPU
    the uncompiled convolution in channels-last format is faster than the compiled one (`docs/lab.md`).

    Args:
        device: Where the run is.
    """
    return device.type == "cuda"


def placed(split: Split, device: torch.device, memory_format: torch.memory_format) -> Split:
    """Move data to a device, images in a memory format."""
    if split.images.ndim != 4:
        return Split(split.images.to(device), split.labels.to(device))
    return Split(split.images.to(device, memory_format=memory_format), split.labels.to(device))
