"""Sparse regression by model reduction, beside NUTS with a horseshoe prior: pictures, decisions and times.

Four simulated problems with correlated regressors, of which few matter: linear, logistic, Poisson and
multinomial. Each is fitted once under a wide Gaussian prior (exactly, or by Newton's method and Laplace's
approximation), and reduced with the posterior taken as mean-field, row-wise (one covariance per output) or
full. `secateur.regress` does all of it in one call, with an intercept and in the data's own units. NUTS
samples the same data under a regularised horseshoe. A last picture repeats the linear problem over
correlations.

    python examples/reduction_gallery.py --out docs/reduction

Needs numpyro for the comparison; `--no-mcmc` leaves it out.
"""

import argparse
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from torch import Tensor

import secateur
from secateur.reduction import (
    conditional_prior,
    delta_f,
    dense_reduced_posterior,
    reduced_posterior,
    search_subsets,
    spike_and_slab,
)

matplotlib.use("Agg")
import matplotlib.pyplot as plt

PRIOR_PRECISION = 1.0
RIGHT, WRONG = "#1b6f5c", "#c8442f"


@dataclass(frozen=True)
class Problem:
    """Data and the weights (outputs, inputs) that made them."""

    name: str
    inputs: Tensor
    targets: Tensor
    weights: Tensor


@dataclass(frozen=True)
class Recovery:
    """What one method made of a problem."""

    method: str
    weights: Tensor
    keep: Tensor
    seconds: float


def correlated(num_data: int, size: int, correlation: float, generator: torch.Generator) -> Tensor:
    """Standard normal regressors, neighbours correlated, the correlation falling off with distance."""
    lag = (torch.arange(size)[:, None] - torch.arange(size)).abs()
    factor = torch.linalg.cholesky(correlation ** lag.double())
    return torch.randn(num_data, size, dtype=torch.float64, generator=generator) @ factor.mT


def sparse_weights(outputs: int, size: int, num_nonzero: int, generator: torch.Generator) -> Tensor:
    """A few weights of size 0.5 to 1.5 and either sign, the others zero."""
    weights = torch.zeros(outputs, size, dtype=torch.float64)
    for row in weights:
        chosen = torch.randperm(size, generator=generator)[:num_nonzero]
        size_of = 0.5 + torch.rand(num_nonzero, dtype=torch.float64, generator=generator)
        sign = 2.0 * torch.randint(2, (num_nonzero,), generator=generator) - 1
        row[chosen] = size_of * sign
    return weights


def simulate(kind: str, seed: int = 0, correlation: float = 0.9) -> Problem:
    """Draw regressors, sparse weights and targets; all from the seed."""
    generator = torch.Generator().manual_seed(seed)
    num_data, outputs, size, num_nonzero = {
        "linear": (150, 1, 40, 8),
        "logistic": (800, 1, 40, 8),
        "poisson": (400, 1, 40, 8),
        "multinomial": (1500, 3, 16, 4),
    }[kind]
    inputs = correlated(num_data, size, correlation, generator)
    weights = sparse_weights(outputs, size, num_nonzero, generator)
    if kind == "poisson":
        weights *= 0.25  # counts in the tens at most
    scores = inputs @ weights.mT
    if kind == "linear":
        targets = scores[:, 0] + torch.randn(num_data, dtype=torch.float64, generator=generator)
    elif kind == "logistic":
        targets = torch.bernoulli(torch.sigmoid(scores[:, 0]), generator=generator)
    elif kind == "poisson":
        targets = torch.poisson(scores[:, 0].exp(), generator=generator)
    else:  # a further class, the reference, has score zero
        probability = torch.softmax(torch.nn.functional.pad(scores, (0, 1)), -1)
        targets = torch.multinomial(probability, 1, generator=generator)[:, 0]
    return Problem(kind, inputs, targets, weights)


def loss(problem: Problem, flat: Tensor) -> Tensor:
    """Negative log likelihood of the flattened weights, without constants."""
    scores = problem.inputs @ flat.reshape(problem.weights.shape).mT
    if problem.name == "linear":
        return 0.5 * (problem.targets - scores[:, 0]).square().sum()
    if problem.name == "logistic":
        return (torch.nn.functional.softplus(scores[:, 0]) - problem.targets * scores[:, 0]).sum()
    if problem.name == "poisson":
        return (scores[:, 0].exp() - problem.targets * scores[:, 0]).sum()
    return torch.nn.functional.cross_entropy(
        torch.nn.functional.pad(scores, (0, 1)), problem.targets, reduction="sum"
    )


def fit(problem: Problem) -> tuple[Tensor, Tensor]:
    """Posterior mean and precision under the wide prior; exact for the linear model, else Laplace's."""

    def energy(flat: Tensor) -> Tensor:
        return loss(problem, flat) + 0.5 * PRIOR_PRECISION * flat.square().sum()

    mean = torch.zeros(problem.weights.numel(), dtype=torch.float64)
    for _ in range(30):
        gradient = torch.func.grad(energy)(mean)
        precision = torch.func.hessian(energy)(mean)
        step = torch.linalg.solve(precision, gradient)
        mean = mean - step
        if step.abs().max() < 1e-10:
            break
    return mean, precision.detach()


def reduce_mean_field(problem: Problem) -> tuple[Tensor, Tensor]:
    """The mean-field posterior nearest to the fit has its mean and the diagonal of its precision."""
    mean, precision = fit(problem)
    diagonal = precision.diagonal()
    decision = spike_and_slab(delta_f(mean, diagonal, prior_precision=PRIOR_PRECISION))
    reduced = torch.where(decision.keep, PRIOR_PRECISION, math.inf)
    after, _ = reduced_posterior(mean, diagonal, prior_precision=PRIOR_PRECISION, reduced_precision=reduced)
    return after, decision.keep


def reduce_jointly(mean: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Greedy search under a covariance, and the reduced posterior mean of the best model found."""
    prior = PRIOR_PRECISION * torch.eye(len(mean), dtype=torch.float64)
    removed = search_subsets(mean, precision, prior_precision=prior, method="greedy").best_removed
    kept_mean, kept_precision = conditional_prior(removed, prior_precision=prior)
    after, _ = dense_reduced_posterior(
        mean, precision, prior_precision=prior, reduced_mean=kept_mean, reduced_precision=kept_precision
    )
    return after, ~removed


def reduce_rowwise(problem: Problem) -> tuple[Tensor, Tensor]:
    """Each output with its own block of the precision, as if outputs were independent."""
    mean, precision = fit(problem)
    outputs, size = problem.weights.shape
    blocks = [slice(size * i, size * (i + 1)) for i in range(outputs)]
    parts = [reduce_jointly(mean[block], precision[block, block]) for block in blocks]
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])


def reduce_full(problem: Problem) -> tuple[Tensor, Tensor]:
    """All weights under one covariance."""
    return reduce_jointly(*fit(problem))


def regress(problem: Problem) -> tuple[Tensor, Tensor]:
    """Standardised, with an intercept, linear with noise of unknown size; drops whole regressors."""
    likelihood = {"linear": "gaussian", "logistic": "bernoulli"}.get(problem.name, problem.name)
    after = secateur.regress(
        problem.inputs, problem.targets, likelihood=likelihood
    ).best_coefficients.flatten()
    return after, after != 0


def sample_horseshoe(problem: Problem) -> tuple[Tensor, Tensor]:
    """NUTS under a regularised horseshoe; a weight stays if its central 95 % interval excludes zero."""
    import jax
    import jax.numpy as jnp
    import numpyro
    import numpyro.distributions as dist

    jax.config.update("jax_enable_x64", True)
    inputs, targets = problem.inputs.numpy(), problem.targets.numpy()
    outputs, size = problem.weights.shape

    def model() -> None:
        tau = numpyro.sample("tau", dist.HalfCauchy(0.1))
        lam = numpyro.sample("lambda", dist.HalfCauchy(1.0).expand((outputs, size)).to_event(2))
        slab = numpyro.sample("slab", dist.InverseGamma(2.0, 2.0))
        z = numpyro.sample("z", dist.Normal(0.0, 1.0).expand((outputs, size)).to_event(2))
        scale = jnp.sqrt(slab * lam**2 / (slab + tau**2 * lam**2)) * tau
        w = numpyro.deterministic("w", z * scale)
        scores = inputs @ w.T
        likelihood: Any
        if problem.name == "linear":
            likelihood = dist.Normal(scores[:, 0], 1.0)
        elif problem.name == "logistic":
            likelihood = dist.BernoulliLogits(scores[:, 0])
        elif problem.name == "poisson":
            likelihood = dist.Poisson(jnp.exp(scores[:, 0]))
        else:
            likelihood = dist.CategoricalLogits(jnp.pad(scores, ((0, 0), (0, 1))))
        numpyro.sample("y", likelihood, obs=targets)

    kernel = numpyro.infer.NUTS(model, target_accept_prob=0.95)
    sampler = numpyro.infer.MCMC(kernel, num_warmup=1000, num_samples=1000, progress_bar=False)
    sampler.run(jax.random.PRNGKey(0))
    draws = np.asarray(sampler.get_samples()["w"]).reshape(1000, -1)
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return torch.from_numpy(draws.mean(0)), torch.from_numpy((low > 0) | (high < 0))


METHODS: dict[str, Callable[[Problem], tuple[Tensor, Tensor]]] = {
    "BMR, mean-field": reduce_mean_field,
    "BMR, row-wise": reduce_rowwise,
    "BMR, full covariance": reduce_full,
    "secateur.regress": regress,
    "NUTS, horseshoe": sample_horseshoe,
}


def recover(problem: Problem, methods: list[str]) -> list[Recovery]:
    """Apply the methods in turn: row-wise where there are several outputs, by regressors where one."""
    single = len(problem.weights) == 1
    found = []
    for method in methods:
        if method == ("BMR, row-wise" if single else "secateur.regress"):
            continue
        start = time.perf_counter()
        weights, keep = METHODS[method](problem)
        seconds = time.perf_counter() - start
        found.append(Recovery(method, weights, keep, seconds))
    return found


def row(problem: Problem, recovery: Recovery) -> str:
    """One line of the table."""
    truth = problem.weights.flatten()
    nonzero = truth != 0
    hits, false = int((recovery.keep & nonzero).sum()), int((recovery.keep & ~nonzero).sum())
    error = (recovery.weights - truth).square().mean().sqrt().item()
    seconds = f"{recovery.seconds:.3f}" if recovery.seconds < 1 else f"{recovery.seconds:.1f}"
    return (
        f"| {problem.name} | {recovery.method} | {hits} of {int(nonzero.sum())} "
        f"| {false} of {int((~nonzero).sum())} | {error:.3f} | {seconds} |"
    )


def draw_recovery(problem: Problem, recoveries: list[Recovery], path: Path) -> None:
    """One panel per method: its weights, its decisions, and the truth."""
    truth = problem.weights.flatten()
    positions = np.arange(len(truth))
    figure, axes = plt.subplots(
        len(recoveries), 1, figsize=(7.2, 1.5 * len(recoveries) + 0.7), sharex=True, sharey=True
    )
    for axis, recovery in zip(axes, recoveries, strict=True):
        right = (recovery.keep == (truth != 0)).numpy()
        colours = np.where(right, RIGHT, WRONG)
        values = recovery.weights.numpy()
        axis.axhline(0, color="0.8", linewidth=0.8)
        axis.vlines(positions, 0, values, colors=colours, linewidth=1.6)
        kept = recovery.keep.numpy()
        axis.scatter(positions[kept], values[kept], s=16, color=colours[kept], zorder=3)
        axis.scatter(
            positions[~kept], values[~kept], s=12, facecolors="white", edgecolors=colours[~kept], zorder=3
        )
        axis.scatter(positions, truth.numpy(), s=26, marker="_", color="black", linewidth=1.2, zorder=4)
        axis.set_title(f"{recovery.method}: {int((~right).sum())} wrong", fontsize=9, loc="left")
        axis.tick_params(labelsize=8)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
        for edge in range(problem.weights.shape[1], len(truth), problem.weights.shape[1]):
            axis.axvline(edge - 0.5, color="0.85", linewidth=0.8, linestyle=":")
    axes[-1].set_xlabel(
        "weight   (dash: truth; filled: kept; open: removed; green: right decision; red: wrong)", fontsize=8
    )
    figure.suptitle(
        f"{problem.name.capitalize()} regression, neighbouring regressors correlated 0.9", fontsize=10
    )
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def draw_correlations(path: Path, repeats: int) -> None:
    """Wrong decisions and weight error of the linear problem as correlation grows."""
    correlations = [0.0, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95]
    names = ["BMR, mean-field", "BMR, full covariance"]
    measures = np.zeros((len(names), 3, len(correlations), repeats))
    for j, correlation in enumerate(correlations):
        for seed in range(repeats):
            problem = simulate("linear", 100 + seed, correlation)
            truth = problem.weights.flatten()
            for i, recovery in enumerate(recover(problem, names)):
                missed = (~recovery.keep & (truth != 0)).sum().item()
                spurious = (recovery.keep & (truth == 0)).sum().item()
                error = (recovery.weights - truth).square().mean().sqrt().item()
                measures[i, :, j, seed] = missed, spurious, error
    figure, axes = plt.subplots(1, 3, figsize=(7.6, 2.6))
    titles = ["true weights missed (of 8)", "idle weights kept (of 32)", "error of the weights (RMS)"]
    for axis, title, k in zip(axes, titles, range(3), strict=True):
        for name, colour, values in zip(names, (WRONG, RIGHT), measures[:, k], strict=True):
            mean, error = values.mean(-1), values.std(-1) / math.sqrt(repeats)
            axis.errorbar(
                correlations, mean, error, color=colour, marker="o", markersize=3.5, label=name, capsize=2
            )
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("correlation of neighbours", fontsize=8)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=8)
        for side in ("top", "right"):
            axis.spines[side].set_visible(False)
    axes[0].legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    """Print the table and write the pictures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/reduction"))
    parser.add_argument("--no-mcmc", action="store_true", help="leave NUTS out")
    parser.add_argument("--repeats", type=int, default=30, help="data sets per correlation")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    methods = [name for name in METHODS if not (arguments.no_mcmc and name.startswith("NUTS"))]

    for first in (fit, regress):  # the first call pays for imports
        first(simulate("linear"))
    print("| regression | method | true weights kept | idle weights kept | RMS error | seconds |")
    print("|---|---|---:|---:|---:|---:|")
    for kind in ("linear", "logistic", "poisson", "multinomial"):
        problem = simulate(kind)
        recoveries = recover(problem, methods)
        for recovery in recoveries:
            print(row(problem, recovery), flush=True)
        draw_recovery(problem, recoveries, arguments.out / f"recovery-{kind}.png")
    draw_correlations(arguments.out / "correlation.png", arguments.repeats)


if __name__ == "__main__":
    main()
