"""The complete state of a posterior optimizer as nested tensors: gather, check, take over."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim import Optimizer

from secateur.errors import ArtifactError
from secateur.inference.block import ParameterBlock

__all__ = ["check_state", "gather_state", "restore_state"]


def gather_state(
    blocks: Sequence[ParameterBlock], points: Sequence[ParameterBlock], generator: torch.Generator
) -> dict[str, Any]:
    """Return copies of all that the next step depends on besides parameters and hyper-parameters.

    Args:
        blocks: Blocks with a posterior.
        points: Blocks trained as points.
        generator: Source of the noise.
    """
    return {
        "blocks": [block.saved() for block in blocks],
        "inner": [inner.state_dict() for inner in _inner_optimizers(blocks)],
        "points": [block.saved() for block in points],
        "generator": generator.get_state(),
    }


def check_state(
    saved: Mapping[str, Any],
    blocks: Sequence[ParameterBlock],
    points: Sequence[ParameterBlock],
    *,
    names: Sequence[Sequence[str]],
    saved_names: Sequence[Sequence[str]],
) -> None:
    """Raise unless a gathered state is of these parameters and this method.

    Args:
        saved: What `gather_state` returned.
        blocks: Blocks with a posterior.
        points: Blocks trained as points.
        names: Names of the parameters, by group.
        saved_names: The names that were saved.

    Raises:
        ArtifactError: If it is not.
    """
    if [list(group) for group in saved_names] != [list(group) for group in names]:
        raise ArtifactError(
            f"optimizer state: expected one of the parameters {_in_short(names)}, got one of "
            f"{_in_short(saved_names)}; it belongs to another network or other groups"
        )
    for kind, own in (("blocks", blocks), ("points", points)):
        if len(saved[kind]) != len(own):
            raise ArtifactError(
                f"optimizer state: expected {len(own)} {kind}, got {len(saved[kind])}; "
                "include or exclude differ"
            )
        for block, tensors in zip(own, saved[kind], strict=True):
            block.check(tensors)
    for inner, state in zip(_inner_optimizers(blocks), saved["inner"], strict=True):
        (fresh,), (found,) = inner.state_dict()["param_groups"], state["param_groups"]
        if missing := fresh.keys() - found.keys():  # one that has stepped may have more
            raise ArtifactError(
                "optimizer state: expected that of the same inner optimizer, got one without "
                f"{sorted(missing)[0]!r}"
            )


def restore_state(
    saved: Mapping[str, Any],
    blocks: Sequence[ParameterBlock],
    points: Sequence[ParameterBlock],
    generator: torch.Generator,
) -> None:
    """Take over a state that `check_state` passed.

    Args:
        saved: What `gather_state` returned.
        blocks: Blocks with a posterior.
        points: Blocks trained as points.
        generator: Source of the noise.
    """
    for kind, own in (("blocks", blocks), ("points", points)):
        for block, tensors in zip(own, saved[kind], strict=True):
            block.restore(tensors)
    for inner, state in zip(_inner_optimizers(blocks), saved["inner"], strict=True):
        inner.load_state_dict(state)
    generator.set_state(saved["generator"].cpu())


def _inner_optimizers(blocks: Sequence[ParameterBlock]) -> list[Optimizer]:
    return [block.inner for block in blocks if block.inner is not None]


def _in_short(names: Sequence[Sequence[str]]) -> str:
    flat = [name for group in names for name in group]
    more = ", ..." if len(flat) > 3 else ""
    return f"{', '.join(flat[:3])}{more} ({len(flat)} in {len(names)} groups)"
