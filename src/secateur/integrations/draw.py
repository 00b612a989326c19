"""A draw that stays in a network between the callbacks of a trainer that somebody else wrote.

Such a trainer runs forward and backward passes itself, so no `with` block of ours can enclose them. A draw is
opened before the first batch of an optimizer step and closed before the step. Whatever else would see the
network in between gets the means: a pass in evaluation mode without gradients, a `state_dict`, and one that
is loaded. So an interrupted step does not leave noise in the weights that are saved or evaluated next.
"""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from secateur.errors import InvalidArgumentError
from secateur.inference import PosteriorOptimizer
from secateur.modules import hold, release

__all__ = ["StepDraw", "check_optimizer", "hold_what_is_loaded"]

NOT_FOR_THE_NETWORK = ("num_items_in_batch",)  # Transformers' Trainer tells the loss, not the network


class StepDraw:
    """Keep one draw in a network for all batches of an optimizer step, and know what the network was given.

    Args:
        model: The network in training.
        optimizer: Its posterior optimizer.
    """

    def __init__(self, model: nn.Module, optimizer: PosteriorOptimizer) -> None:
        self._model, self._optimizer = model, optimizer
        self._stack = ExitStack()
        self._inputs: Any = None
        self._handles: list[RemovableHandle] = []

    def attach(self) -> None:
        """Begin to watch the network."""
        self.detach()

        def before_forward(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            if module is not self._model:  # a copy
                return
            if torch.is_grad_enabled():
                named = {key: value for key, value in named.items() if key not in NOT_FOR_THE_NETWORK}
                self._inputs = (arguments, named)
            elif not module.training:
                self.close()

        def before_state_dict(module: nn.Module, *_: Any) -> None:
            if module is self._model:
                self.close()

        # functions, not methods: a copy of the network shares them, and copies no optimizer along
        self._handles = [
            self._model.register_forward_pre_hook(before_forward, with_kwargs=True),
            self._model.register_state_dict_pre_hook(before_state_dict),
            self._model.register_load_state_dict_pre_hook(before_state_dict),
        ]

    def detach(self) -> None:
        """End the draw, if one is open, and watch the network no longer."""
        self.close()
        self._inputs = None
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def open(self) -> None:
        """Put a draw into the network; gradients of an earlier one count no more."""
        self.close()
        self._optimizer.zero_grad()
        with torch.enable_grad():
            self._stack.enter_context(self._optimizer.sampled_parameters())

    def close(self) -> None:
        """Put the means back, if a draw is open."""
        self._stack.close()

    def follow_curvature(self) -> None:
        """Give the optimizer's running curvature, if it follows one, the last inputs of the network.

        Raises:
            InvalidArgumentError: If the network was not called.
        """
        curvature, inputs, self._inputs = self._optimizer.curvature, self._inputs, None
        if curvature is None:
            return
        if inputs is None:
            raise InvalidArgumentError(
                "PruningCallback: expected the pruner's model to be called in each training step, got no "
                "call; give GradualPruner and RunningCurvature the module whose forward the step calls"
            )
        curvature.step(inputs)


def check_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, place: str) -> None:
    """Refuse an optimizer that does not train a network's parameters.

    Args:
        optimizer: Of the trainer.
        model: The network.
        place: Where to mend it, for the message.

    Raises:
        InvalidArgumentError: If a parameter that takes a gradient is not among the optimizer's, or the
            noise of a posterior optimizer is on another device.
    """
    own = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    trained = [(name, each) for name, each in model.named_parameters() if each.requires_grad]
    if missing := [name for name, parameter in trained if id(parameter) not in own]:
        raise InvalidArgumentError(
            f"{place}: expected an optimizer of the model's parameters, got one without {missing[0]}; build "
            "it after the model was loaded, compacted or replaced"
        )
    device = trained[0][1].device
    if isinstance(optimizer, PosteriorOptimizer) and optimizer.generator.device != device:
        raise InvalidArgumentError(
            f"{place}: expected an optimizer built on the model's device {device}, got one built on "
            f"{optimizer.generator.device}; move the model there first"
        )


def hold_what_is_loaded(model: nn.Module) -> None:
    """Hold, whenever weights are loaded into a network, only such of its zeros as the loaded weights have.

    A trainer goes back to an earlier checkpoint, or to the best, in which less was removed. Masks of the
    network as it is now would cut it.

    Args:
        model: The network.
    """
    released: dict[int, dict[str, Tensor]] = {}

    def before(module: nn.Module, *_: Any) -> None:
        released[id(module)] = release(module)

    def after(module: nn.Module, _: Any) -> None:
        parameters = dict(module.named_parameters(remove_duplicate=False))
        masks = released.pop(id(module))
        hold(module, {name: mask | (parameters[name] != 0) for name, mask in masks.items()})

    model.register_load_state_dict_pre_hook(before)
    model.register_load_state_dict_post_hook(after)
