"""Give a network built by its own class the sizes and weights of a smaller one, and say which class that is.

The whole numbers that a network's modules hold (`in_features`, `num_heads`) and the shapes of its weights say
what `compact` did to it. A network of `secateur.networks` is known by its name there, so that a file of it
needs no more than that. Numbers from a file are bounded by the tensors that it holds.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from secateur import networks
from secateur.compaction import resize_like
from secateur.errors import ArtifactError, InvalidArgumentError

__all__ = ["build_named", "fit", "numbers_of", "registered_name"]

_IMAGES, _CLASSES = 28, 10  # any will do: the sizes of a file replace them


def numbers_of(network: nn.Module) -> dict[str, int]:
    """Return the whole numbers that modules hold, by qualified name.

    Args:
        network: Any network.
    """
    return {
        f"{path}.{name}" if path else name: value
        for path, module in network.named_modules()
        for name, value in vars(module).items()
        if type(value) is int and not name.startswith("_")
    }


def fit(network: nn.Module, state: Mapping[str, Tensor], numbers: Mapping[str, int] | None) -> nn.Module:
    """Give a network the sizes and weights of another of its class, in place, and return it.

    Args:
        network: Freshly built.
        state: The other's weights and buffers.
        numbers: Of `numbers_of` for the other; None for a graph, which has no class.

    Raises:
        ArtifactError: If the other is no network of this class, or its numbers are beyond its weights.
    """
    if numbers is None:
        raise ArtifactError("model: expected none for a network that was saved as a graph; load it without")
    now = numbers_of(network)
    largest = max((size for tensor in state.values() for size in tensor.shape), default=0)
    widths = {name: value for name, value in numbers.items() if name in now and value != now[name]}
    for name, value in widths.items():
        if type(value) is not int or not 0 <= value <= max(largest, now[name]):
            raise ArtifactError(f"expected {name} of at most {max(largest, now[name])}, got {value!r:.60}")
    try:
        resize_like(network, {name: tuple(tensor.shape) for name, tensor in state.items()}, widths)
        for name, tensor in network.state_dict(keep_vars=True).items():
            if name in state:
                tensor.data = tensor.data.to(state[name].dtype)
        network.load_state_dict(state)
    except (InvalidArgumentError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(f"model: expected the network of this file, got another: {reason}") from error
    return network.eval()


def build_named(name: str) -> nn.Module:
    """Return a network of `secateur.networks` of some size, to be fitted.

    Args:
        name: One of `networks.names()`.

    Raises:
        UsageError: If there is no such network.
    """
    size = networks.image_size(name) or _IMAGES
    return networks.build(name, image_shape=(1, size, size), num_classes=_CLASSES, seed=0)


def registered_name(network: nn.Module) -> str | None:
    """Return the name in `secateur.networks` that a network can be built by again; None where there is none.

    Args:
        network: Without masks.
    """
    for name in networks.names() if type(network).__module__.startswith(networks.__name__) else ():
        fresh = build_named(name)
        if [type(module) for module in fresh.modules()] != [type(module) for module in network.modules()]:
            continue
        try:
            fit(fresh, network.state_dict(), numbers_of(network))
        except ArtifactError:
            continue
        if [_settings(module) for module in fresh.modules()] == [_settings(m) for m in network.modules()]:
            return name
    return None


def _settings(module: nn.Module) -> dict[str, Any]:
    plain = (bool, int, float, str, tuple, type(None))
    return {name: value for name, value in vars(module).items() if isinstance(value, plain)}
