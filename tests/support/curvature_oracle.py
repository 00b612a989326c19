"""Curvature by definition: whole Jacobians of every datum, one output after another, by autograd alone."""

import torch
from torch import Tensor, nn

from secateur.likelihoods import Likelihood, resolve

__all__ = ["split", "whole_ggn"]


def jacobian(model: nn.Module, example: Tensor) -> tuple[Tensor, Tensor]:
    """Derivatives (outputs, all parameters laid end to end) of one datum, and its outputs."""
    parameters = list(model.parameters())
    outputs = model(example[None])[0]
    rows = []
    for value in outputs.flatten():
        gradients = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
        filled = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)]
        rows.append(torch.cat([each.flatten() for each in filled]))
    return torch.stack(rows).unflatten(0, outputs.shape), outputs.detach()


def whole_ggn(model: nn.Module, inputs: Tensor, likelihood: str | Likelihood = "categorical") -> Tensor:
    """Mean over data of J^T H J over all parameters laid end to end, in the order of `named_parameters`."""
    likelihood = resolve(likelihood)
    training = model.training
    model.eval()
    total = torch.zeros(())
    for example in inputs:
        rows, outputs = jacobian(model, example)
        directions = (likelihood.root(outputs).mT @ rows).flatten(0, -2)
        total = total + directions.mT @ directions / len(inputs)
    model.train(training)
    return total


def split(model: nn.Module, values: Tensor) -> dict[str, Tensor]:
    """The entries of a vector over all parameters, by name."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    parts = values.split([shape.numel() for shape in shapes.values()])
    return {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
