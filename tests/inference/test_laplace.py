"""Diagonal Laplace: the exact generalised Gauss-Newton diagonal, and a prior at the evidence's maximum."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur import Posterior
from secateur.errors import InvalidArgumentError
from secateur.inference import laplace
from secateur.pruning import prune


def loader(task, batch_size=24):
    return list(zip(task.inputs.split(batch_size), task.labels.split(batch_size), strict=True))


def dense_ggn(model: nn.Module, inputs: torch.Tensor, loss_fn: str) -> dict[str, torch.Tensor]:
    """Diagonal of sum_i J_i^T H_i J_i by whole Jacobians and the loss's own Hessian."""
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for example in inputs:
        with sdpa_kernel(SDPBackend.MATH):
            jacobians = jacrev(lambda w, x=example: functional_call(model, w, (x[None],))[0])(weights)
        outputs = model(example[None])[0].detach()

        def loss(values):
            if loss_fn == "squared-error":
                return 0.5 * values.square().sum()
            return -values.log_softmax(-1)[0]

        hessian = torch.autograd.functional.hessian(loss, outputs)
        for name, jacobian in jacobians.items():
            rows = jacobian.flatten(1)
            total[name] += (rows * (hessian @ rows)).sum(0).view(weights[name].shape)
    return total


@pytest.mark.parametrize("loss_fn", ["cross-entropy", "squared-error"])
def test_curvature_is_the_diagonal_of_the_dense_ggn(any_task, loss_fn):
    model = any_task.model.double()
    inputs = any_task.inputs if any_task.inputs.dtype == torch.int64 else any_task.inputs.double()
    model(inputs)  # running statistics that are not the initial ones
    inputs = inputs[:10]
    model.eval()
    expected = dense_ggn(model, inputs, loss_fn)
    model.train()
    posterior = laplace(model, [(inputs, inputs)], loss_fn=loss_fn, prior_precision=0.7, chunk_size=3)
    assert posterior.mean.keys() == expected.keys()
    for name, curvature in expected.items():
        torch.testing.assert_close(posterior.precision[name], curvature + 0.7, rtol=1e-8, atol=1e-8)
        assert torch.equal(posterior.mean[name], dict(model.named_parameters())[name])


def test_batches_and_chunks_change_nothing(make_task):
    task = make_task("mlp")
    whole = laplace(task.model, [(task.inputs, task.labels)])
    parts = laplace(task.model, loader(task, 7), chunk_size=4)
    for name in whole.mean:
        torch.testing.assert_close(parts.precision[name], whole.precision[name], rtol=1e-4, atol=0)


def test_every_module_returns_to_its_own_mode_also_on_error(make_task):
    task = make_task("conv-net")
    task.model.train()
    task.model[1].eval()  # frozen statistics, as when fine-tuning
    before = task.model[1].running_mean.clone()
    laplace(task.model, loader(task))
    with pytest.raises(RuntimeError):
        laplace(task.model, [(torch.zeros(2, 5, 5, 5), task.labels)])
    assert [module.training for module in task.model] == [True, False, True, True, True, True, True]
    assert torch.equal(task.model[1].running_mean, before)


def test_prior_precision_is_a_stationary_point_of_the_evidence(make_task):
    """d/d log P0 of  sum_k [log P0 - log P_k] / 2 - P0 sum w^2 / 2  vanishes for each layer."""
    task = make_task("mlp")
    model = task.model.double()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-3)
    inputs = task.inputs.double()
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), task.labels).backward()
        optimizer.step()
    posterior = laplace(model, [(inputs, task.labels)])
    for layer in ("0", "2", "4"):
        names = [f"{layer}.weight", f"{layer}.bias"]
        prior = posterior.prior_precision[names[0]]
        assert prior == posterior.prior_precision[names[1]]
        weight = torch.cat([posterior.mean[name].flatten() for name in names])
        curvature = torch.cat([(posterior.precision[name] - prior).flatten() for name in names])

        def evidence(log_prior, weight=weight, curvature=curvature):
            volume = (log_prior - (curvature + log_prior.exp()).log()).sum()
            return 0.5 * (volume - log_prior.exp() * weight.square().sum())

        slope = torch.func.grad(evidence)(prior.log())
        assert slope.abs() < 1e-3 * len(weight)
        assert evidence(prior.log()) > max(evidence(prior.log() + 0.5), evidence(prior.log() - 0.5))


def test_a_layer_of_zeros_gets_a_finite_prior():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    nn.init.zeros_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    inputs = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
    posterior = laplace(model, [(inputs, inputs)])
    assert all(value.isfinite() and value > 0 for value in posterior.prior_precision.values())
    assert all(value.isfinite().all() for value in posterior.precision.values())


def test_a_masked_network_is_judged_with_its_masks_and_left_usable(make_task):
    task = make_task("transformer")
    first = laplace(task.model, loader(task), prior_precision=1.0)
    prune(task.model, first, sparsity=0.4)
    expected = task.model(task.inputs).detach()
    again = laplace(task.model, loader(task), prior_precision=1.0)
    linear = task.model.block.linear1
    assert set(dict(task.model.named_parameters())) == set(first.mean)
    assert (linear.weight == 0).any()
    report = prune(task.model, again, sparsity=0.4)
    assert report.num_removed == 0
    torch.testing.assert_close(task.model(task.inputs), expected)


def test_it_prunes_a_trained_network_better_than_chance(make_task):
    task = make_task("mlp")
    optimizer = torch.optim.Adam(task.model.parameters(), lr=2e-2)
    for _ in range(150):
        optimizer.zero_grad()
        task.loss().backward()
        optimizer.step()
    posterior = laplace(task.model, loader(task))
    shuffled = torch.Generator().manual_seed(0)
    losses = []
    for chance in (False, True):
        copy = make_task("mlp")
        copy.model.load_state_dict(task.model.state_dict())
        mean, precision = posterior.mean, posterior.precision
        if chance:
            order = {n: torch.randperm(m.numel(), generator=shuffled) for n, m in mean.items()}
            mean = {n: m.flatten()[order[n]].view_as(m) for n, m in mean.items()}
            precision = {n: p.flatten()[order[n]].view_as(p) for n, p in precision.items()}
        prune(copy.model, Posterior(mean, precision, posterior.prior_precision), sparsity=0.4)
        losses.append(copy.loss().item())
    assert losses[0] < 0.5 * losses[1]


def test_patterns_choose(make_task):
    task = make_task("mlp")
    posterior = laplace(task.model, loader(task), include=["2.*"], exclude=["*.bias"])
    assert list(posterior.mean) == ["2.weight"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss_fn": "hinge"}, "loss_fn: expected one of cross-entropy, squared-error, got 'hinge'"),
        ({"prior_precision": 0.0}, "prior_precision: expected a positive"),
        ({"chunk_size": 0}, "chunk_size: expected a positive"),
        ({"include": ["none"]}, "at least one parameter"),
        ({"exclude": "0.*"}, "exclude: expected a list"),
    ],
)
def test_wrong_arguments_are_named(make_task, options, message):
    task = make_task("mlp")
    with pytest.raises(InvalidArgumentError, match=message):
        laplace(task.model, loader(task), **options)


def test_an_empty_loader_and_unusable_outputs_are_named(make_task):
    task = make_task("mlp")
    with pytest.raises(InvalidArgumentError, match="loader: expected at least one batch"):
        laplace(task.model, [])
    with pytest.raises(InvalidArgumentError, match=r"\(batch, outputs\), got \(batch, 5, 3\)"):
        laplace(nn.Linear(4, 3), [(torch.zeros(2, 5, 4), task.labels)])
