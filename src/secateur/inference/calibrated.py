"""Calibrated precision: any first-order step for the mean, the true curvature for the precision.

With w = m + std * noise, g the gradient of the batch-mean loss at w, delta the prior precision per datum,
T the temperature and N the number of data:

    std       = sqrt(T / (N (h + delta)))
    m        <- m - lr * Adam(g + delta m)

The precision N (h + delta) has no part in the step (in IVON the Hessian is both). Two ways to get h:

    with a running curvature      h is the debiased average of squares at sampled targets
                                  (`secateur.curvature.RunningCurvature`): the diagonal of the generalised
                                  Gauss-Newton matrix, unbiased at the means of the last 1 / rate looks
    without, for any loss         h <- (1 - r) h + r h' + r^2 (h - h')^2 / (2 (h + delta)), where
                                  h' = g * noise / std

E[h'] is the Hessian diagonal, and the last term keeps h + delta positive for any h' (the geodesic correction
of arXiv:2402.17641, eq. 6). But that term has a mean: the fixed point is h = H + (r N / 2T) E[g^2], where
batches of B data make E[g^2] at least F / B, with F the mean square of the gradient of one datum. So h is too
large by c F, c = r N / (2 T B): 3.4 times the truth with the first version's numbers. `batch_size` bounds r
such that c is at most 1 %.

Two temperatures. Sampling noise at T = 1 underfits, so training is colder. The evidence is judged at T = 1,
precision N (h + delta) against prior N delta.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from secateur.curvature import RunningCurvature
from secateur.errors import ArtifactError, InvalidArgumentError
from secateur.inference.arguments import check_positive
from secateur.inference.block import Moments, ParameterBlock, Part, adam_direction
from secateur.inference.hessian import HessianOptimizer, track_hessian

__all__ = ["PRIOR_PRECISION", "Calibrated"]

ENOUGH_LOOKS = 20
LARGEST_BIAS = 0.01  # of a running Hessian, over F, where the size of a batch is known
# Prior precision of a weight and training temperature, with a running curvature and without. The prior is a
# statement about weights, so it does not grow with the data. Both bound the noise of weights that the data
# say nothing of: a thirtieth of a unit Gaussian is small beside the weights of transformers too.
PRIOR_PRECISION, TEMPERATURE = 1.0, 1e-3
HESSIAN_PRIOR_PRECISION, HESSIAN_TEMPERATURE = 12.0, 0.1


def _adam_update(
    mean: Tensor,
    hessian: Tensor,
    first: Tensor,
    second: Tensor,
    gradient: Tensor,
    noise: Tensor,
    keep: Tensor | None,
    step: Tensor,
    lr: Tensor,
    num_data: Tensor,
    delta: float,
    rate: float | None,
    betas: tuple[float, float],
    eps: float,
) -> Tensor:
    if keep is not None:
        gradient = gradient * keep
    if rate is not None:
        track_hessian(hessian, gradient, noise, delta, num_data, rate)
    direction = adam_direction(gradient + delta * mean, first, second, step, betas, eps)
    moved = mean - lr * direction
    return moved if keep is None else moved * keep


class Calibrated(HessianOptimizer):
    """Fit a Gaussian posterior whose precision is right, whatever optimiser moves its mean.

    Args:
        params: `model.named_parameters()`, or groups of them.
        lr: Step size of the mean.
        num_data: Number of training data N; the loss is a mean over a batch of them.
        weight_decay: Prior precision per datum delta; the prior precision of a weight is N * delta. When
            None, that is 1 with a running curvature and 12 without, whatever the number of data.
        temperature: Training temperature T; below 1 the sampling noise is smaller. When None, .001 with a
            running curvature and .1 without.
        evidence_temperature: Temperature of `posterior()`, so of the evidence; 1 is the data as they are.
        hessian_rate: Rate r of the running Hessian, where no curvature is followed.
        hessian_init: Initial value of h, per datum.
        batch_size: Data in a batch; bounds the rate of the running Hessian by .02 T B / N. The initial value
            is then forgotten slowly.
        betas: Decay rates of Adam's moments.
        eps: Adam's denominator offset.
        noise: "rademacher" (cheap) or "gaussian", for training only.
        inner: Builds another optimiser for the mean from a list with one flat parameter; its gradient
            includes the prior's. The group's `lr` is passed on at each step. Adam when None.
        include: Name patterns of the parameters that get a posterior; all when None.
        exclude: Name patterns of parameters that are trained as points.
        generator: Source of the noise.
        compile: Compile the update into one fused pass.
        curvature: Gives the precision in place of the gradients at draws; call its `step` with each batch.
            Its state is part of `state_dict`.

    Raises:
        InvalidArgumentError: If a hyper-parameter is out of range.
    """

    positive = (
        "lr",
        "weight_decay",
        "temperature",
        "evidence_temperature",
        "hessian_rate",
        "hessian_init",
        "eps",
    )

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 2e-3,
        *,
        num_data: int,
        weight_decay: float | None = None,
        temperature: float | None = None,
        evidence_temperature: float = 1.0,
        hessian_rate: float = 1e-3,
        hessian_init: float = 1e-2,
        batch_size: int | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        noise: str = "rademacher",
        inner: Callable[[list[Tensor]], Optimizer] | None = None,
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        compile: bool = False,
        curvature: RunningCurvature | None = None,
    ) -> None:
        prior, usual = HESSIAN_PRIOR_PRECISION, HESSIAN_TEMPERATURE
        if curvature is not None:
            prior, usual = PRIOR_PRECISION, TEMPERATURE
        temperature = usual if temperature is None else temperature
        if batch_size is not None:
            check_positive(batch_size=batch_size, num_data=num_data)
            hessian_rate = min(hessian_rate, 2 * LARGEST_BIAS * temperature * batch_size / num_data)
        defaults = {
            "lr": lr,
            "weight_decay": prior / max(num_data, 1) if weight_decay is None else weight_decay,
            "temperature": temperature,
            "evidence_temperature": evidence_temperature,
            "hessian_rate": hessian_rate,
            "hessian_init": hessian_init,
            "betas": betas,
            "eps": eps,
        }
        self._curvature = curvature
        self._looks_followed = 0
        self._has_inner = inner is not None
        self.takes_shards = inner is None and curvature is None
        self.divides_blocks = inner is None  # another optimiser sees its parameter whole
        super().__init__(
            params,
            defaults,
            noise=noise,
            num_data=num_data,
            include=include,
            exclude=exclude,
            generator=generator,
            compile=compile,
        )
        if inner is not None:
            for block in self._blocks:
                block.inner = inner([block.mean.clone().requires_grad_()])
        self._update_kernel = self._kernel(_adam_update)
        self._hessian_kernel = self._kernel(track_hessian)

    def _new_state(self, block: ParameterBlock, group: dict[str, Any]) -> dict[str, Tensor]:
        moments = {} if self._has_inner else Moments(block)
        return {"hessian": block.full(group["hessian_init"]), **moments}

    def _moved(
        self,
        block: ParameterBlock,
        group: dict[str, Any],
        part: Part,
        gradient: Tensor,
        noise: Tensor,
        num_data: Tensor,
    ) -> Tensor:
        state, delta = block.state, group["weight_decay"]
        rate = group["hessian_rate"] if self.curvature is None else None
        mean, hessian, keep = block.mean_of(part), state["hessian"][part.span], block.kept(part)
        if block.inner is None:
            return self._update_kernel(
                mean,
                hessian,
                state["first_moment"][part.span],
                state["second_moment"][part.span],
                gradient,
                noise,
                keep,
                state["step"],
                self._scalar(block, group["lr"]),
                num_data,
                delta,
                rate,
                group["betas"],
                group["eps"],
            )
        if keep is not None:
            gradient = gradient * keep
        if rate is not None:
            self._hessian_kernel(hessian, gradient, noise, delta, num_data, rate)
        (inner_group,) = block.inner.param_groups
        inner_group["lr"] = group["lr"]
        (point,) = inner_group["params"]
        point.data.copy_(mean)
        point.grad = gradient + delta * mean
        block.inner.step()
        return point.detach() if keep is None else point.detach() * keep

    @property
    def curvature(self) -> RunningCurvature | None:
        """Running curvature that gives the precision, None where gradients at draws do."""
        return self._curvature

    @property
    def curvature_has_settled(self) -> bool:
        """Whether the precision says something of the data.

        That of a running curvature does after `ENOUGH_LOOKS` looks, a running Hessian once it has forgotten
        its initial value: after 1 / rate steps.
        """
        if self.curvature is not None:
            return self.curvature.num_looks >= ENOUGH_LOOKS
        groups = self.param_groups
        return all(
            float(block.state["step"]) * groups[block.group_index]["hessian_rate"] >= 1
            for block in self._blocks
            if "step" in block.state  # an inner optimiser counts for itself
        )

    def _follow_curvature(self) -> None:
        """Take over the diagonal of the running curvature, if it has looked since."""
        if self.curvature is None or self.curvature.num_looks == self._looks_followed:
            return
        diagonals = self.curvature.value(1).diagonals()
        for block in self._blocks:
            if missing := [name for name in block.names if name not in diagonals]:
                raise InvalidArgumentError(
                    f"curvature: expected that of every parameter with a posterior, got none for {missing[0]}"
                )
            torch.cat([diagonals[name].reshape(-1) for name in block.names], out=block.state["hessian"])
        self._looks_followed = self.curvature.num_looks

    def _put_draw(self, block: ParameterBlock, group: dict[str, Any], *, training: bool) -> None:
        self._follow_curvature()
        super()._put_draw(block, group, training=training)

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next step depends on besides the parameters, running curvature included."""
        own = {} if self.curvature is None else {"curvature": self.curvature.state_dict()}
        return {**super().state_dict(), **own}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue exactly where the optimizer that gave `state_dict` stood.

        Args:
            state_dict: What `state_dict()` returned for the same parameters.

        Raises:
            ArtifactError: If it belongs to other parameters or another method; nothing is then changed.
        """
        if (self.curvature is None) != ("curvature" not in state_dict):
            expected, got = ("none", "one") if self.curvature is None else ("one", "none")
            raise ArtifactError(f"optimizer state: expected {expected} with a running curvature, got {got}")
        own = {key: value for key, value in state_dict.items() if key != "curvature"}
        if self.curvature is None:
            super().load_state_dict(own)
            return
        before = self.curvature.state_dict()
        self.curvature.load_state_dict(state_dict["curvature"])
        try:
            super().load_state_dict(own)
        except BaseException:
            self.curvature.load_state_dict(before)
            raise
        self._looks_followed = 0

    def _moments(
        self, block: ParameterBlock, group: dict[str, Any], temperature: float | None = None
    ) -> tuple[Tensor, Tensor | float, dict[str, Tensor]]:
        temperature = group["evidence_temperature"] if temperature is None else temperature
        check_positive(temperature=temperature)
        self._follow_curvature()
        return self._hessian_moments(block, group, num_data=self.num_data / temperature)
