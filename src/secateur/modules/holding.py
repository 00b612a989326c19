"""Hooks that keep removed entries of parameters zero; `secateur.modules.masks` is how to use them."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import Optimizer, register_optimizer_step_post_hook
from torch.utils.hooks import RemovableHandle
from torch.utils.weak import WeakIdKeyDictionary, WeakIdRef

from secateur.modules.shards import is_sharded, placed_like

__all__ = [
    "HELD",
    "HeldParameters",
    "Mask",
    "ModuleMasks",
]

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes of an entry
_PIECE = 2**16


class Mask:
    """Which entries of a parameter stay.

    Args:
        kept: True where an entry stays. The tensor is never changed.
    """

    def __init__(self, kept: Tensor) -> None:
        self.kept = kept

    def __deepcopy__(self, memo: dict[int, Any]) -> "Mask":
        return Mask(self.kept)  # a copy may be moved to another device

    def on(self, parameter: Tensor) -> Tensor:
        """Return `kept` on a parameter's device and sharded as it is, where the mask stays from now on.

        Args:
            parameter: The parameter that the mask is of.
        """
        self.kept = placed_like(parameter, self.kept)
        return self.kept

    @torch.no_grad()
    def clear(self, tensor: Tensor) -> None:
        """Set removed entries to +0.0, whatever they were, nan included.

        A product of bits does so at the speed of memory; `masked_fill_` takes a branch for each entry, which
        costs a CPU several times as long.

        Args:
            tensor: The parameter or its gradient.
        """
        kept = self.on(tensor)
        if is_sharded(tensor):
            tensor, kept = tensor.to_local(), kept.to_local()  # type: ignore[attr-defined]
        if tensor.element_size() not in _INTEGERS:
            tensor.masked_fill_(~kept, 0)
            return
        bits = tensor.view(_INTEGERS[tensor.element_size()])
        if bits.is_cpu and bits.is_contiguous() and kept.is_contiguous():
            # in pieces, since booleans are copied as integers first
            pieces = zip(bits.view(-1).split(_PIECE), kept.view(-1).split(_PIECE), strict=True)
        else:
            pieces = zip([bits], [kept], strict=True)
        for own, stays in pieces:
            own.mul_(stays)


class HeldParameters:
    """The held parameters of the process and their masks."""

    def __init__(self) -> None:
        self.version = 0
        self._masks = WeakIdKeyDictionary()  # parameter: its mask, and the hook of its gradient
        self._step_hook: RemovableHandle | None = None

    def get(self, parameter: Tensor) -> Mask | None:
        """Return a parameter's mask, None if it is not held.

        Args:
            parameter: Of any model.
        """
        found: tuple[Mask, RemovableHandle] | None = self._masks.get(parameter)
        return None if found is None else found[0]

    def attach(self, parameter: Tensor, mask: Mask) -> None:
        """Zero a parameter's removed entries and keep them zero, by this mask in place of any other.

        Args:
            parameter: A leaf.
            mask: Of the parameter's shape.
        """
        if self._step_hook is None:
            self._step_hook = register_optimizer_step_post_hook(_after_step)
        if parameter in self._masks:
            _, hook = self._masks[parameter]
        else:
            trained = parameter.requires_grad
            parameter.requires_grad_(True)  # without, no hook of the gradient may be registered
            hook = parameter.register_post_accumulate_grad_hook(zero_gradient)
            parameter.requires_grad_(trained)
        self._masks[parameter] = (mask, hook)
        self.version += 1
        self.zero(parameter)
        zero_gradient(parameter)

    def detach(self, parameter: Tensor) -> None:
        """Let a parameter's removed entries move again, if it is held.

        Args:
            parameter: Of any model.
        """
        if parameter in self._masks:
            _, hook = self._masks.pop(parameter)
            hook.remove()
            self.version += 1

    def zero(self, parameter: Tensor) -> None:
        """Zero a parameter's removed entries, if it is held.

        Args:
            parameter: Of any model.
        """
        mask = self.get(parameter)
        if mask is not None:
            mask.clear(parameter)

    def __len__(self) -> int:
        return len(self._masks)


HELD = HeldParameters()


def zero_gradient(parameter: Tensor) -> None:
    """Zero the gradient of a held parameter's removed entries: a hook for when it has been accumulated.

    Args:
        parameter: Its sparse gradient stays; the removed entries are zeroed after the step.
    """
    mask, gradient = HELD.get(parameter), parameter.grad
    if mask is not None and gradient is not None and gradient.layout == torch.strided:
        mask.clear(gradient)


def _after_step(optimizer: Optimizer, _args: Any, _kwargs: Any) -> None:
    if len(HELD) and not getattr(type(optimizer), "holds_masks", False):
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                HELD.zero(parameter)


class ModuleMasks:
    """The masks of one module's own parameters, which copies and pickles of the module have too.

    It is a hook of the module's `load_state_dict`, where torch keeps, copies and pickles it with the module.
    """

    def __init__(self) -> None:
        self._masks: dict[str, Mask] = {}
        self._parameters: dict[str, WeakIdRef] = {}
        self._hook_id = -1

    @classmethod
    def of(cls, module: nn.Module) -> "ModuleMasks | None":
        """Return a module's masks, None if it has none.

        Args:
            module: Any module.
        """
        hooks = module._load_state_dict_post_hooks.values()
        return next((hook for hook in hooks if isinstance(hook, cls)), None)

    @classmethod
    def made_for(cls, module: nn.Module) -> "ModuleMasks":
        """Return a module's masks, with none in it as yet if it had none.

        Args:
            module: Any module.
        """
        own = cls.of(module)
        if own is None:
            own = cls()
            own._hook_id = module.register_load_state_dict_post_hook(own).id
        return own

    @classmethod
    def remove_from(cls, module: nn.Module) -> None:
        """Take a module's masks off it.

        Args:
            module: Any module.
        """
        hooks = module._load_state_dict_post_hooks
        for key in [key for key, hook in hooks.items() if isinstance(hook, cls)]:
            del hooks[key]

    def hold(self, name: str, parameter: Tensor) -> None:
        """Hold a parameter of the module: by the mask it is held by, or else by the one known here.

        Args:
            name: In the module.
            parameter: The parameter.
        """
        mask = HELD.get(parameter)
        if mask is None:
            mask = self._masks[name]
            HELD.attach(parameter, mask)
        self._masks[name] = mask
        self._parameters[name] = WeakIdRef(parameter)

    def hold_replaced(self, module: nn.Module) -> None:
        """Hold the parameters that took the place of held ones; those of another shape are free.

        Args:
            module: The module that the masks are of.
        """
        for name, mask in list(self._masks.items()):
            parameter = module._parameters.get(name)
            if parameter is None or parameter.is_meta:
                continue
            if parameter.shape == mask.kept.shape:
                self.hold(name, parameter)
            else:
                del self._masks[name], self._parameters[name]

    def __call__(self, module: nn.Module, _incompatible_keys: object) -> None:
        """Zero removed entries after weights have been loaded into the module."""
        self.hold_replaced(module)
        for name in self._masks:
            parameter = module._parameters.get(name)
            if parameter is not None:
                HELD.zero(parameter)

    def __deepcopy__(self, memo: dict[int, Any]) -> "ModuleMasks":
        twin = ModuleMasks()
        twin._hook_id = self._hook_id
        for name, mask, parameter in self._entries():
            twin._masks[name] = copy.deepcopy(mask, memo)
            if parameter is not None:
                twin.hold(name, copy.deepcopy(parameter, memo))
        return twin

    def __getstate__(self) -> tuple[int, list[tuple[str, Mask, Tensor | None]]]:
        return self._hook_id, self._entries()

    def __setstate__(self, state: tuple[int, list[tuple[str, Mask, Tensor | None]]]) -> None:
        self._masks, self._parameters = {}, {}
        self._hook_id, entries = state
        # another process may count hooks from 0 and would give this one's number to its next hook
        RemovableHandle.next_id = max(RemovableHandle.next_id, self._hook_id + 1)
        for name, mask, parameter in entries:
            self._masks[name] = mask
            if parameter is not None:
                self.hold(name, parameter)

    def _entries(self) -> list[tuple[str, Mask, Tensor | None]]:
        entries = []
        for name, mask in self._masks.items():
            reference = self._parameters.get(name)
            entries.append((name, mask, None if reference is None else reference()))
        return entries
