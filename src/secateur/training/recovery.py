"""Recovery of a pruned network: it learns to answer as the network did before.

No labels are needed. What falls is the mean over data of

    KL( p(y | teacher's outputs) || p(y | outputs) )

between the two predictive distributions of the likelihood: for classes, knowledge distillation at temperature
one (Hinton et al. 2015, arXiv:1503.02531).
"""

import math
from collections.abc import Callable, Iterable, Sized
from typing import Any

import torch
from torch import Tensor, distributions, nn

from secateur.curvature.batches import answers, read_batch
from secateur.curvature.checks import require_finite_batch
from secateur.errors import InvalidArgumentError
from secateur.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, Poisson, resolve
from secateur.likelihoods.base import widened
from secateur.modules import evaluation_mode

__all__ = ["recover"]

Predictive = Callable[[Any, Tensor], distributions.Distribution]

PREDICTIVE: dict[type[Likelihood], Predictive] = {
    Categorical: lambda _, outputs: distributions.Categorical(logits=outputs, validate_args=False),
    Bernoulli: lambda _, outputs: distributions.Bernoulli(logits=outputs, validate_args=False),
    Poisson: lambda known, outputs: distributions.Poisson(known.mean(outputs), validate_args=False),
    Gaussian: lambda known, outputs: distributions.Normal(
        outputs, known.precision**-0.5, validate_args=False
    ),
}


def recover(
    model: nn.Module,
    teacher: nn.Module,
    loader: Iterable[Any],
    *,
    likelihood: str | Likelihood = "categorical",
    epochs: int = 1,
    learning_rate: float = 1e-4,
    progress: bool = True,
) -> tuple[float, ...]:
    """Fine-tune a pruned network in place by knowledge distillation from the network before pruning.

    Removed weights stay zero (`secateur.hold_zeros`, or any pruning of ours). Both networks are in evaluation
    mode, so that dropout is off and moments of batch norm stay. The step is Adam's, on a cosine to zero.

    Args:
        model: The pruned network.
        teacher: The network before; `copy.deepcopy(model)` ahead of the pruning.
        loader: Batches as for `secateur.prune_trained`; targets are not read, padding does not count.
        likelihood: Distribution of the targets; a name or a value of `secateur.likelihoods`.
        epochs: Passes over the loader.
        learning_rate: Of the first step.
        progress: Show a progress bar.

    Returns:
        For each epoch the mean divergence of the answers while it went on, in nats per datum (token).

    Raises:
        InvalidArgumentError: If an argument is out of range, the loader is empty, nothing takes a gradient,
            both networks are one, or the divergence is not finite; the weights are then as before.

    Example:
        >>> import copy, torch, secateur
        >>> net = torch.nn.Linear(4, 3)
        >>> dense = copy.deepcopy(net)
        >>> secateur.modules.hold(net, {"weight": net.weight.abs() > 0.2})
        >>> data = [(torch.randn(8, 4), None)]
        >>> losses = secateur.recover(net, dense, data, epochs=2, progress=False)
        >>> len(losses)
        2
    """
    if epochs < 1:
        raise InvalidArgumentError(f"epochs: expected at least 1, got {epochs}")
    if not 0 < learning_rate < math.inf:
        raise InvalidArgumentError(f"learning_rate: expected a positive number, got {learning_rate}")
    kind = resolve(likelihood)
    if type(kind) not in PREDICTIVE:
        names = ", ".join(sorted(each.name for each in PREDICTIVE))
        raise InvalidArgumentError(f"likelihood: expected one of {names}, got {kind.name}")
    parameters = [each for each in model.parameters() if each.requires_grad]
    if not parameters:
        raise InvalidArgumentError("model: expected a parameter that takes a gradient, got none")
    if model is teacher or {id(each) for each in parameters} & {id(each) for each in teacher.parameters()}:
        raise InvalidArgumentError(
            "teacher: expected another network, got one with the model's own weights; copy.deepcopy(model) "
            "before it is pruned"
        )
    if not isinstance(loader, Sized):
        loader = list(loader)
    if not len(loader):
        raise InvalidArgumentError("loader: expected at least one batch, got none")
    steps = epochs * len(loader)
    before = [each.detach().clone() for each in parameters]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    found: list[float] = []
    try:
        with evaluation_mode(model), evaluation_mode(teacher):
            for epoch in range(epochs):
                total, count = torch.zeros((), dtype=torch.float64), 0
                for batch in _shown(loader, progress, f"recovery, epoch {epoch + 1} of {epochs}"):
                    divergence, number = _divergence(model, teacher, batch, kind)
                    optimizer.zero_grad()
                    (divergence / max(number, 1)).backward()
                    optimizer.step()
                    schedule.step()
                    total, count = total.to(divergence.device) + divergence.detach(), count + number
                found.append(float(total) / max(count, 1))  # read once an epoch: a GPU waits for it
                if not math.isfinite(found[-1]):
                    raise InvalidArgumentError(
                        "learning_rate: expected one at which the answers stay finite, got "
                        f"{learning_rate:g} and a divergence of {found[-1]}"
                    )
    except Exception:
        with torch.no_grad():
            for parameter, value in zip(parameters, before, strict=True):
                parameter.copy_(value)
        raise
    finally:
        optimizer.zero_grad()
    return tuple(found)


def _divergence(
    model: nn.Module, teacher: nn.Module, batch: Any, likelihood: Likelihood
) -> tuple[Tensor, int]:
    """Return the summed divergence of the answers to a batch, and how many there are."""
    read = read_batch(batch, next(model.parameters()).device, model)
    require_finite_batch(read, "a batch")
    with torch.no_grad():
        wanted = widened(answers(teacher, read))
    outputs = widened(answers(model, read))
    predictive = PREDICTIVE[type(likelihood)]
    each = distributions.kl_divergence(predictive(likelihood, wanted), predictive(likelihood, outputs))
    if not isinstance(likelihood, Categorical) and each.dim() > 1:
        each = each.sum(-1)  # over the outputs of a datum
    if read.attended is not None and each.shape == read.attended.shape:
        each = each[read.attended]
    return each.sum(), each.numel()


def _shown(loader: Iterable[Any], progress: bool, description: str) -> Iterable[Any]:
    if not progress:
        return loader
    from rich.progress import track

    return track(loader, description=description, transient=True)
