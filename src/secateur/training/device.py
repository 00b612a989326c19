"""The device a name stands for on this machine."""

import torch

from secateur.errors import InvalidArgumentError

__all__ = ["resolve_device"]


def resolve_device(name: str) -> torch.device:
    """Return the device of that name; "auto" is CUDA where there is one.

    Args:
        name: "auto", or what `torch.device` takes.

    Raises:
        InvalidArgumentError: If there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise InvalidArgumentError(
            f"device: expected auto, cpu or a device of this machine, got {name!r} ({reason})"
        ) from error
    return device
