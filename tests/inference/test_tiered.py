"""Horseshoe priors: scales against the formulas written out, gradients against the whole objective."""

import math

import pytest
import torch
from scipy import integrate, stats
from torch import Tensor, nn

from secateur.errors import InvalidArgumentError
from secateur.inference import FlatFF, HorseshoeFF
from secateur.inference.block import ParameterBlock
from secateur.inference.scale_layout import HALF_CAUCHY, SLAB, ScaleLayout


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 4)).double()


def layout_of(model: nn.Module, *, full: bool, global_scale: float = 0.3) -> ScaleLayout:
    names, parameters = zip(*model.named_parameters(), strict=True)
    return ScaleLayout.of(
        ParameterBlock(names, parameters), last_layer="3", full=full, global_scale=global_scale
    )


@pytest.mark.parametrize("full", [False, True])
def test_scales_are_those_of_the_prior_written_out(full, generator):
    layout = layout_of(network(), full=full)
    logs = torch.randn(layout.total(), generator=generator, dtype=torch.float64)
    z0, z1, slab, u, v, *own = (part.exp() for part in logs.split(layout.sizes))
    expected, row, weight = [], 0, 0
    layers = [(3, [4, 1]), (3, [1, 1]), None]  # rows, and each parameter's entries per row; None for the last
    for index, layer in enumerate(layers):
        if layer is None:
            gamma_squared = z0[index] / z1[index]
            expected += [gamma_squared] * (4 * 12 + 4)
            continue
        rows, per_row = layer
        for entries in per_row:
            for i in range(rows):
                for _ in range(entries):
                    psi, xi = 0.3**2 * z0[index] / z1[index] * v[row + i], u[row + i]
                    if full:
                        psi, xi = psi * own[1][weight], xi * own[0][weight]
                        weight += 1
                    expected.append(psi / (xi + slab[index] * psi))
        row += rows
    found = (-layout.log_inverse_square(logs)).exp()
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("family", [HALF_CAUCHY, SLAB])
@pytest.mark.parametrize(("loc", "std"), [(-1.0, 0.5), (0.7, 1.3)])
def test_divergence_is_that_of_a_log_normal_to_a_gamma(family, loc, std):
    """Against quadrature, up to the constant that the module leaves out."""
    shape, rate = family

    def divergence(mu: float, sigma: float) -> float:
        q, p = stats.lognorm(sigma, scale=math.exp(mu)), stats.gamma(shape, scale=1 / rate)

        def log_ratio(t: float) -> float:
            s = math.exp(t)
            return q.pdf(s) * s * (q.logpdf(s) - p.logpdf(s))

        return integrate.quad(log_ratio, mu - 12 * sigma, mu + 12 * sigma, limit=200)[0]

    layout = layout_of(network(), full=False)
    index = 2 if family == SLAB else 3
    position = sum(layout.sizes[:index])
    zeros = torch.zeros(layout.total(), dtype=torch.float64)
    moved, narrowed = zeros.clone(), zeros.clone()
    moved[position], narrowed[position] = loc, math.log(std)
    found = layout.divergence(moved, narrowed) - layout.divergence(zeros, zeros)
    assert float(found) == pytest.approx(divergence(loc, std) - divergence(0.0, 1.0), rel=1e-6, abs=1e-6)


def normal_divergence(loc: Tensor, log_std: Tensor) -> Tensor:
    q = torch.distributions.Normal(loc, log_std.exp())
    return torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).sum()


@pytest.mark.parametrize("scales", ["tiered", "full"])
def test_one_step_follows_the_gradient_of_the_whole_objective(scales):
    """The update sees the loss through its gradient by the weights; here it is differentiated whole."""
    model, num_data = network(), 50
    optimizer = HorseshoeFF(
        model.named_parameters(),
        num_data=num_data,
        scales=scales,
        global_scale=0.3,
        generator=torch.Generator().manual_seed(1),
    )
    (block,) = optimizer._blocks
    x = torch.randn(6, 1, 3, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    latents = {name: block.state[name].clone().requires_grad_() for name in block.state}
    seen = []
    block.inner.step = lambda: seen.extend(
        each.grad.clone() for each in block.inner.param_groups[0]["params"]
    )
    with optimizer.sampled_parameters():
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
    noise, scale_noise = block.drawn["noise"].clone(), block.drawn["scale_noise"].clone()
    optimizer.step()

    layout = layout_of(model, full=scales == "full")
    log_scales = latents["scale_loc"] + latents["scale_log_std"].exp() * scale_noise
    gamma = (-0.5 * layout.log_inverse_square(log_scales)).exp()
    weights = gamma * (latents["loc"] + latents["log_std"].exp() * noise)
    output = torch.func.functional_call(model, block.named(weights), (x,))
    objective = (
        num_data * nn.functional.cross_entropy(output, y)
        + normal_divergence(latents["loc"], latents["log_std"])
        + layout.divergence(latents["scale_loc"], latents["scale_log_std"])
    )
    expected = torch.autograd.grad(objective, list(latents.values()))
    assert len(seen) == len(expected) == 4
    for found, wanted in zip(seen, expected, strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_scale_per_unit_lets_useless_units_go():
    """Units whose targets are noise end far narrower than the one that is used."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 4, generator=generator)
    targets = torch.cat([x @ torch.tensor([[1.0], [-1.0], [0.5], [2.0]]), torch.zeros(400, 3)], 1)
    targets = targets + 0.5 * torch.randn(400, 4, generator=generator)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Identity())
    model[1].register_parameter("unused", nn.Parameter(torch.zeros(1)))  # the last layer, without a role
    optimizer = HorseshoeFF(
        model.named_parameters(), lr=5e-2, num_data=400, global_scale=0.1, generator=generator
    )
    for _ in range(1000):
        with optimizer.sampled_parameters():
            loss = 2 * (model(x) - targets).square().sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
        optimizer.step()
    prior_std = optimizer.posterior().prior_precision["0.weight"].rsqrt()[:, 0]
    assert prior_std[0] > 5 * prior_std[1:].max()


def test_wrong_scales_are_named():
    with pytest.raises(InvalidArgumentError, match="scales: expected one of tiered, full, got 'row'"):
        HorseshoeFF(network().named_parameters(), num_data=10, scales="row")


@pytest.mark.parametrize("kind", [FlatFF, HorseshoeFF])
def test_the_start_is_spread_over_matrices_only_and_follows_the_generator(kind):
    def start(seed: int) -> dict[str, Tensor]:
        model = network()
        kind(
            model.named_parameters(),
            num_data=10,
            init_range=2.0,
            generator=torch.Generator().manual_seed(seed),
        )
        return {name: each.detach().clone() for name, each in model.named_parameters()}

    first, again, other = start(1), start(1), start(2)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])
    torch.testing.assert_close(first["1.weight"], torch.ones(3, dtype=torch.float64))
    if kind is FlatFF:
        assert first["0.weight"].abs().max() < 0.2  # a tenth of z in hidden layers
        assert 0.5 < first["3.weight"].abs().max() < 2.0
