"""Bayesian linear regression, where every answer is known: each optimiser reaches it.

Replicates share the data and differ in their noise, so that one run gives estimates and their standard error.
"""

import math

import pytest
import torch
from torch import Tensor, nn

from secateur.inference import IVON, Calibrated, FlatFF, FlatMAP
from secateur.inference.block import ParameterBlock
from secateur.inference.layer_scale import LayerSizes
from secateur.inference.mean_field import _build, _gradients

NUM_DATA, NUM_INPUTS, NUM_REPLICATES = 200, 3, 64
DELTA = 0.02


def data() -> tuple[Tensor, Tensor]:
    """Correlated inputs, so that mean field and exact posterior differ in their precisions."""
    generator = torch.Generator().manual_seed(7)
    mixing = torch.tensor([[1, 0.5, 0], [0, 1, 0.3], [0, 0, 1]], dtype=torch.float64)
    inputs = torch.randn(NUM_DATA, NUM_INPUTS, dtype=torch.float64, generator=generator) @ mixing
    noise = torch.randn(NUM_DATA, dtype=torch.float64, generator=generator)
    return inputs, inputs @ torch.tensor([1.0, -0.5, 0.05], dtype=torch.float64) + noise


INPUTS, TARGETS = data()
GRAM, CROSS = INPUTS.T @ INPUTS, INPUTS.T @ TARGETS
PRIOR = NUM_DATA * DELTA
EXACT_MEAN = torch.linalg.solve(GRAM + PRIOR * torch.eye(NUM_INPUTS, dtype=torch.float64), CROSS)
# of all independent Gaussians, the nearest has the exact mean and the diagonal of the exact precision
MEAN_FIELD_PRECISION = GRAM.diagonal() + PRIOR


def regress(model: nn.Module) -> Tensor:
    """Sum over replicates of half the mean squared error."""
    return 0.5 * (model(INPUTS) - TARGETS[:, None]).square().mean(0).sum()


def assert_agrees(replicates: Tensor, expected: Tensor, *, precise_to: Tensor | float) -> None:
    """Within 4.5 standard errors, which are themselves small enough for that to say something."""
    error = replicates.std(0) / math.sqrt(len(replicates))
    assert (error < precise_to).all(), f"standard errors {error} are too large to judge by"
    distance = (replicates.mean(0) - expected).abs()
    assert (distance < 4.5 * error + 1e-3 * expected.abs()).all(), (
        f"got {replicates.mean(0)} +- {error}, expected {expected}"
    )


def sgd(params: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=1.0)


@pytest.mark.parametrize(
    ("kind", "lr", "options"),
    [
        (Calibrated, 3e-2, {"noise": "gaussian", "temperature": 1.0}),
        (Calibrated, 3e-2, {"noise": "rademacher", "temperature": 1.0}),
        (Calibrated, 3e-2, {"noise": "gaussian", "temperature": 0.1}),
        (Calibrated, 0.3, {"inner": sgd, "temperature": 1.0}),
        (IVON, 0.2, {"noise": "gaussian", "hessian_init": 1.0}),
        (IVON, 0.2, {"noise": "rademacher", "hessian_init": 1.0}),
    ],
    ids=[
        "calibrated-gaussian",
        "calibrated-rademacher",
        "calibrated-cold",
        "calibrated-sgd",
        "ivon",
        "ivon-rademacher",
    ],
)
def test_variational_optimum_of_linear_regression(kind, lr, options):
    torch.manual_seed(0)
    model = nn.Linear(NUM_INPUTS, NUM_REPLICATES, bias=False, dtype=torch.float64)
    optimizer = kind(
        model.named_parameters(),
        num_data=NUM_DATA,
        weight_decay=DELTA,
        generator=torch.Generator().manual_seed(1),
        **options,
    )
    (group,) = optimizer.param_groups
    num_steps = 800
    for step in range(num_steps):
        group["lr"] = lr * (1 - step / num_steps) ** 2
        rate = 3 / (step + 30)  # ends as an average, so that no error of the order of the rate is left
        if kind is IVON:
            group["betas"] = (0.9, 1 - rate)
        else:
            group["hessian_rate"] = rate
        with optimizer.sampled_parameters():
            optimizer.zero_grad()
            regress(model).backward()
        optimizer.step()

    posterior = optimizer.posterior()
    std = MEAN_FIELD_PRECISION.rsqrt()
    assert_agrees(posterior.mean["weight"], EXACT_MEAN, precise_to=0.05 * std)
    assert_agrees(posterior.precision["weight"], MEAN_FIELD_PRECISION, precise_to=0.05 * MEAN_FIELD_PRECISION)
    torch.testing.assert_close(posterior.prior_precision["weight"].item(), PRIOR)


def test_evidence_temperature_leaves_the_running_hessian_alone():
    model = nn.Linear(2, 1, bias=False)
    options = {"num_data": 50, "weight_decay": 0.1, "hessian_init": 0.3}
    warm = Calibrated(model.named_parameters(), evidence_temperature=0.5, **options).posterior()
    cold = Calibrated(model.named_parameters(), **options).posterior(temperature=0.5)
    assert warm.precision["weight"].flatten().tolist() == pytest.approx([50 * 0.4 / 0.5] * 2)
    assert cold.precision["weight"].tolist() == warm.precision["weight"].tolist()
    assert cold.prior_precision["weight"].item() == pytest.approx(50 * 0.1 / 0.5)


def minimise(objective, start: Tensor) -> Tensor:
    """L-BFGS in float64 to a vanishing gradient."""
    point = start.clone().requires_grad_()
    solver = torch.optim.LBFGS(
        [point], max_iter=2000, tolerance_grad=1e-12, tolerance_change=1e-16, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        value = objective(point)
        value.backward()
        return value

    solver.step(closure)
    closure()
    assert point.grad.abs().max() < 1e-7
    return point.detach()


FACTOR = 0.7


def flat_ff_objective(latents: Tensor) -> Tensor:
    """Negative evidence bound per datum: every expectation is known where the model is linear.

    Latents: three loc, three log_std, and mean and log std of the normal log t.
    """
    loc, log_std, (m, log_v) = latents[:3], latents[3:6], latents[6:]
    variance, v2 = (2 * log_std).exp(), (2 * log_v).exp()
    scale = FACTOR * (-m / 2 + v2 / 8).exp()  # E[t^-1/2] of a log-normal t
    scale_squared = FACTOR**2 * (-m + v2 / 2).exp()
    power = loc @ GRAM @ loc + (GRAM.diagonal() * variance).sum()
    misfit = 0.5 * (TARGETS.square().sum() - 2 * scale * CROSS @ loc + scale_squared * power) / NUM_DATA
    kl_z = (0.5 * (variance + loc.square() - 1) - log_std).sum()
    kl_t = 2 * (m + v2 / 2).exp() - 2 * m - log_v
    return misfit + (kl_z + kl_t) / NUM_DATA


def test_flat_ff_gradient_is_that_of_its_objective_on_average(generator):
    latents = torch.tensor([0.9, -0.4, 0.1, -1.5, -2, -1, 0.3, -0.7], dtype=torch.float64).requires_grad_()
    flat_ff_objective(latents).backward()
    point = latents.detach()
    loc, log_std, m, log_v = point[:3], point[3:6], point[6:7], point[7:]
    flat = ParameterBlock(["weight"], [nn.Parameter(torch.zeros(1, 3, dtype=torch.float64))])
    layers = LayerSizes.of(flat, last_layer="", last_factor=FACTOR)
    drawn = []
    for _ in range(4000):
        noise = torch.randn(3, dtype=torch.float64, generator=generator)
        layer_noise = torch.randn(1, dtype=torch.float64, generator=generator)
        log_t = m + log_v.exp() * layer_noise
        weight = _build(loc, log_std, log_t, noise, None, None, layers)
        gradient = (GRAM @ weight - CROSS) / NUM_DATA
        parts = _gradients(loc, log_std, m, log_v, gradient, noise, layer_noise, None, None, layers, NUM_DATA)
        drawn.append(torch.cat(parts) / NUM_DATA)  # the objective here is per datum
    assert_agrees(torch.stack(drawn), latents.grad, precise_to=0.1)


def test_flat_ff_reaches_the_optimum_of_its_closed_form_objective():
    best = minimise(flat_ff_objective, torch.tensor([0.1, 0, 0, -2, -2, -2, 0, -1], dtype=torch.float64))
    median_scale = FACTOR * (-best[6] / 2).exp()

    torch.manual_seed(0)
    num_replicates = 16
    model = nn.ModuleList([
        nn.Linear(NUM_INPUTS, 1, bias=False, dtype=torch.float64) for _ in range(num_replicates)
    ])
    optimizer = FlatFF(
        model.named_parameters(),
        num_data=NUM_DATA,
        hidden_factor=FACTOR,
        last_factor=FACTOR,
        generator=torch.Generator().manual_seed(2),
    )
    (group,) = optimizer.param_groups
    num_steps = 1200
    for step in range(num_steps):
        group["lr"] = 0.05 * (1 - step / num_steps) ** 2
        with optimizer.sampled_parameters():
            optimizer.zero_grad()
            regress(lambda x: torch.cat([layer(x) for layer in model], 1)).backward()
        optimizer.step()

    posterior = optimizer.posterior()
    names = list(posterior.mean)
    mean = torch.cat([posterior.mean[name] for name in names])
    precision = torch.cat([posterior.precision[name] for name in names])
    scale = torch.stack([posterior.prior_precision[name].rsqrt() for name in names])[:, None]
    std = best[3:6].exp() * median_scale
    assert_agrees(mean, best[:3] * median_scale, precise_to=0.1 * std)
    assert_agrees(precision.rsqrt(), std, precise_to=0.02 * std)
    # The scale's gradient is noisy and skewed, and AdaBelief divides by a running spread of it: where its
    # steps average to zero the gradient's mean is off by about (1 - beta2) / 2 of the noise, here 1 % in s.
    torch.testing.assert_close(scale.mean(), median_scale, rtol=0.025, atol=0)


@pytest.mark.parametrize("prior_precision", [0.0, 5.0])
def test_flat_map_reaches_the_optimum_of_its_objective(prior_precision):
    """Two layers of a linear model: a hidden one with factor 1/10, the last with factor 1."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(3, 2, dtype=torch.float64), nn.Linear(2, 1, dtype=torch.float64))
    optimizer = FlatMAP(model.named_parameters(), num_data=NUM_DATA, prior_precision=prior_precision)
    factors = {"0": 0.1, "1": 1.0}
    start = torch.cat([p.detach().flatten() / factors[n[0]] for n, p in model.named_parameters()])

    def weights(point: Tensor) -> dict[str, Tensor]:
        log_t, start = {"0": point[-2], "1": point[-1]}, 0
        built = {}
        for name, parameter in model.named_parameters():
            z = point[start : start + parameter.numel()].view(parameter.shape)
            built[name] = factors[name[0]] * (-log_t[name[0]] / 2).exp() * z
            start += parameter.numel()
        return built

    def objective(point: Tensor) -> Tensor:
        outputs = torch.func.functional_call(model, weights(point), (INPUTS,))
        misfit = 0.5 * (outputs[:, 0] - TARGETS).square().mean()
        z, log_t = point[:-2], point[-2:]
        decay = sum(0.5 * prior_precision * each.square().sum() for each in weights(point).values())
        return misfit + (0.5 * z.square().sum() + (2 * log_t.exp() - log_t).sum() + decay) / NUM_DATA

    best = minimise(objective, torch.cat([start, torch.zeros(2, dtype=torch.float64)]))

    (group,) = optimizer.param_groups
    num_steps = 1500
    for step in range(num_steps):
        group["lr"] = 0.05 * (1 - step / num_steps) ** 2
        with optimizer.sampled_parameters():
            optimizer.zero_grad()
            (0.5 * (model(INPUTS)[:, 0] - TARGETS).square().mean()).backward()
        optimizer.step()
    # Rotations of the hidden units change nothing, so the optimum is compared by its value, not its place.
    posterior = optimizer.posterior()
    prior = {name: posterior.prior_precision[name] for name in posterior.mean}
    assert prior["0.weight"] == prior["0.bias"], "a layer is a module: its weight and bias share a scale"
    z = torch.cat([(mean * prior[name].sqrt()).flatten() for name, mean in posterior.mean.items()])
    log_t = torch.stack([(prior[f"{layer}.weight"] * factor**2).log() for layer, factor in factors.items()])
    found = torch.cat([z, log_t]).requires_grad_()
    value = objective(found)
    value.backward()
    torch.testing.assert_close(value.detach(), objective(best), atol=2e-6, rtol=0)
    assert found.grad.abs().max() < 1e-3
    assert all(precision.isinf().all() for precision in posterior.precision.values())
    with torch.no_grad():
        assert objective(found + 0.05) > value + 1e-4, "the tolerance above would accept a shifted point"
