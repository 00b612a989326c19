"""The parameters of a network by layer and by name pattern, and the layer that makes its outputs."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from glob import escape

from torch import nn

from secateur.errors import InvalidArgumentError

__all__ = [
    "by_layer",
    "check_patterns",
    "chosen",
    "layer_of",
    "matching",
    "output_layer",
    "output_parameters",
    "prunable_exclude",
    "unwrapped",
]


def chosen(name: str, include: Sequence[str] | None, exclude: Sequence[str] | None) -> bool:
    """Return whether a name matches a pattern of `include` (any name when None) and none of `exclude`.

    Args:
        name: Qualified parameter name.
        include: `fnmatch` patterns.
        exclude: `fnmatch` patterns; they win over `include`.

    Raises:
        InvalidArgumentError: If one string is given where a list of patterns is meant.

    >>> chosen("head.bias", ["head.*"], ["*.bias"]), chosen("head.weight", None, ["*.bias"])
    (False, True)
    """
    check_patterns(include, exclude)
    included = include is None or any(fnmatchcase(name, pattern) for pattern in include)
    return included and not any(fnmatchcase(name, pattern) for pattern in exclude or ())


def check_patterns(include: Sequence[str] | None, exclude: Sequence[str] | None) -> None:
    """Raise if one string is given where a list of patterns is meant; each letter would be a pattern.

    Args:
        include: Patterns or None.
        exclude: Patterns or None.

    Raises:
        InvalidArgumentError: Naming the argument.
    """
    for argument, patterns in (("include", include), ("exclude", exclude)):
        if isinstance(patterns, str):
            raise InvalidArgumentError(f"{argument}: expected a list of patterns, got {patterns!r}")


def matching(names: Iterable[str], include: Sequence[str] | None, exclude: Sequence[str] | None) -> list[str]:
    """Return the names that `include` and `exclude` choose, in their order.

    Args:
        names: Qualified parameter names.
        include: `fnmatch` patterns of names to choose; None chooses all.
        exclude: `fnmatch` patterns of names to leave out; they win over `include`.

    Raises:
        InvalidArgumentError: If a pattern matches no name, or one string is given for a list of patterns.

    >>> matching(["0.weight", "0.bias", "2.weight"], ["0.*"], ["*.bias"])
    ['0.weight']
    """
    names = list(names)
    check_patterns(include, exclude)
    for argument, patterns in (("include", include), ("exclude", exclude)):
        for pattern in patterns or ():
            if not any(fnmatchcase(name, pattern) for name in names):
                raise InvalidArgumentError(
                    f"{argument}: expected patterns of parameter names, got {pattern!r}, which matches none "
                    f"of {_listed(names)}"
                )
    return [name for name in names if chosen(name, include, exclude)]


def layer_of(name: str) -> str:
    """Return the name of the module that a parameter belongs to, "" for the model itself.

    Args:
        name: Qualified parameter name.
    """
    return name.rpartition(".")[0]


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the network inside a `DistributedDataParallel`, whose parameters have no prefix; others as is.

    Args:
        model: Any module.
    """
    if not isinstance(model, nn.parallel.DistributedDataParallel):
        return model
    inner: nn.Module = model.module
    return inner


def by_layer(names: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return the parameters of each module, keyed by the module's name, in the order given.

    Args:
        names: Qualified parameter names.

    >>> by_layer(["conv.weight", "conv.bias", "gain"])
    {'conv': ('conv.weight', 'conv.bias'), '': ('gain',)}
    """
    layers: dict[str, list[str]] = {}
    for name in names:
        layers.setdefault(layer_of(name), []).append(name)
    return {layer: tuple(own) for layer, own in layers.items()}


def output_layer(model: nn.Module) -> str | None:
    """Return the qualified name of the layer that makes a network's outputs, None where there is no matrix.

    That is the module registered last among those with a weight of two or more dimensions. Where it belongs
    to a network of the Transformers library, that network's `get_output_embeddings()` decides, if it gives a
    module.

    Args:
        model: Modules registered in the order of the forward pass, as is usual.
    """
    names = {module: name for name, module in model.named_modules()}
    last = None
    for module, name in names.items():
        if any(parameter.dim() > 1 for parameter in module.parameters(recurse=False)):
            last = name
    if last is None:
        return None
    for module, name in names.items():  # outermost first
        ask = getattr(module, "get_output_embeddings", None)
        if callable(ask) and (name in {"", last} or last.startswith(f"{name}.")):
            head = ask()
            if isinstance(head, nn.Module) and head in names:
                return names[head]
    return last


def output_parameters(model: nn.Module) -> list[str]:
    """Return the names of the output layer's parameters, tied ones under every name.

    Args:
        model: As for `output_layer`.
    """
    last = output_layer(model)
    if last is None:
        return []
    own = {id(parameter) for parameter in model.get_submodule(last).parameters(recurse=False)}
    return [
        name for name, parameter in model.named_parameters(remove_duplicate=False) if id(parameter) in own
    ]


def prunable_exclude(
    model: nn.Module,
    names: Iterable[str],
    include: Sequence[str] | None,
    exclude: Sequence[str] | None,
) -> list[str] | None:
    """Return the patterns of parameters that stay: the caller's, embeddings' and the output layer's names.

    Neither is added if the caller includes parameters by name. The output layer is not added if no other
    parameter of `names` is a matrix, and embeddings are not if there are no others at all. The rows of an
    embedding are tokens, not units, and data that lack a token say nothing of its row.

    Args:
        model: The network.
        names: Parameters that may be pruned.
        include: The caller's patterns of parameters that may go.
        exclude: The caller's patterns of parameters that stay; not changed.

    Raises:
        InvalidArgumentError: If one string is given where a list of patterns is meant.
    """
    check_patterns(include, exclude)
    given = None if exclude is None else list(exclude)
    if include is not None:
        return given
    parameters = dict(model.named_parameters(remove_duplicate=False))
    listed = list(dict.fromkeys(names))
    stay: list[str] = []
    for group in (_embedded(model), output_parameters(model)):
        others = set(listed) - {*stay, *group}
        if any(name in parameters and parameters[name].dim() > 1 for name in others):
            stay += [name for name in group if name in listed]
    return given if given is None and not stay else [*(given or ()), *map(escape, stay)]


def _embedded(model: nn.Module) -> list[str]:
    """Return the names of embeddings' tables, tied ones under every name."""
    tables = {
        id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding | nn.EmbeddingBag)
    }
    return [name for name, each in model.named_parameters(remove_duplicate=False) if id(each) in tables]


def _listed(names: Sequence[str], most: int = 8) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown}, ... ({len(names)} names)"
