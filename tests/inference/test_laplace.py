"""Diagonal Laplace: the exact generalised Gauss-Newton diagonal, and a prior at the evidence's maximum."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from secateur import Posterior
from secateur.errors import InvalidArgumentError
from secateur.inference import laplace
from secateur.likelihoods import Bernoulli, Categorical, Gaussian, Poisson
from secateur.posterior import Diagonal, Kronecker, Rowwise
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


@pytest.mark.parametrize(
    "likelihood",
    [Bernoulli(), Poisson(), Gaussian(noise=0.3), Gaussian(noise="learned", rate=5.0), Categorical()],
    ids=lambda each: f"{each.name}-{getattr(each, 'noise', '')}",
)
def test_curvature_of_every_likelihood_is_that_of_its_loss(make_task, likelihood):
    """J^T H J by whole Jacobians and autograd's Hessian of the loss, at targets that have no say."""
    task = make_task("mlp")
    model, inputs = task.model.double(), task.inputs.double()[:6]
    targets = likelihood.sample(model(inputs), torch.Generator().manual_seed(0))
    posterior = laplace(model, [(inputs, targets)], likelihood=likelihood, prior_precision=0.5)
    learned = likelihood.updated(model(inputs), targets)
    weights = {name: parameter.detach() for name, parameter in model.named_parameters()}
    expected = {name: torch.full_like(weight, 0.5) for name, weight in weights.items()}
    for example, target in zip(inputs, targets, strict=True):
        jacobians = jacrev(lambda w, x=example: functional_call(model, w, (x[None],))[0])(weights)
        hessian = torch.autograd.functional.hessian(
            lambda f, y=target: learned.loss(f[None], y[None]).sum(), model(example[None])[0].detach()
        )
        for name, jacobian in jacobians.items():
            rows = jacobian.flatten(1)
            expected[name] += (rows * (hessian @ rows)).sum(0).view(weights[name].shape)
    for name, precision in expected.items():
        torch.testing.assert_close(posterior.precision[name], precision, rtol=1e-8, atol=1e-10)


def test_a_single_logit_is_refused_under_classes_with_the_remedy():
    model = nn.Linear(4, 1)
    with pytest.raises(InvalidArgumentError, match='got 1; use likelihood="bernoulli" for a single logit'):
        laplace(model, [(torch.randn(3, 4), torch.zeros(3).long())])
    assert laplace(model, [(torch.randn(3, 4), torch.zeros(3))], likelihood="bernoulli").mean.keys() == {
        "weight",
        "bias",
    }
    with pytest.raises(InvalidArgumentError, match="likelihood: expected one of categorical"):
        laplace(model, [(torch.randn(3, 4), torch.zeros(3))], likelihood="hinge")


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


def fitted(task) -> nn.Module:
    model = task.model.double()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, weight_decay=1e-3)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(task.inputs.double()), task.labels).backward()
        optimizer.step()
    return model


def test_prior_precision_is_a_stationary_point_of_the_evidence(make_task):
    """d/d log P0 of  [sum_k log P0 - log det P] / 2 - P0 sum w^2 / 2  vanishes for each layer.

    P is that of the factors, also where the posterior is diagonal: that counts correlated weights twice.
    """
    task = make_task("mlp")
    model, data = fitted(task), [(task.inputs.double(), task.labels)]
    posterior = laplace(model, data, structure="kronecker")
    diagonal = laplace(model, data)
    for layer in ("0", "2", "4"):
        block = posterior.blocks[layer]
        prior = posterior.prior_precision[f"{layer}.weight"]
        assert prior == posterior.prior_precision[f"{layer}.bias"]
        torch.testing.assert_close(diagonal.prior_precision[f"{layer}.weight"], prior)
        rows, columns = (torch.linalg.eigvalsh(m) for m in (block.row_curvature, block.column_curvature))
        values = torch.outer(rows.clamp_min(0), columns.clamp_min(0))
        power = sum(value.square().sum() for value in block.mean.values())

        def evidence(log_prior, values=values, power=power):
            volume = (log_prior - (values + log_prior.exp()).log()).sum()
            return 0.5 * (volume - log_prior.exp() * power)

        assert torch.func.grad(evidence)(prior.log()).abs() < 1e-6 * values.numel()
        assert evidence(prior.log()) > max(evidence(prior.log() + 0.5), evidence(prior.log() - 0.5))


@pytest.mark.parametrize(("structure", "block"), [("row", Rowwise), ("kronecker", Kronecker)])
def test_a_structure_has_blocks_with_the_same_row_sums(any_task, structure, block):
    """Rows of the diagonal of G (x) A sum to those of the exact diagonal, whatever the layer."""
    inputs = any_task.inputs if any_task.inputs.dtype == torch.int64 else any_task.inputs.double()
    model, data = any_task.model.double(), [(inputs[:10], any_task.labels[:10])]
    exact = laplace(model, data, prior_precision=0.5)
    joint = laplace(model, data, structure=structure, prior_precision=0.5)
    assert joint.mean.keys() == exact.mean.keys()
    kinds = {type(each) for each in joint.blocks.values()}
    assert kinds in ({block}, {block, Diagonal})
    for found in joint.blocks.values():
        if isinstance(found, Kronecker):
            rows, columns = found.row_curvature.diagonal(), found.column_curvature.diagonal()
        elif isinstance(found, Rowwise):
            rows, columns = found.row_scale, found.row_precision[0].diagonal()
        else:
            for name, precision in found.precision.items():
                torch.testing.assert_close(precision, exact.precision[name], rtol=1e-8, atol=1e-8)
            continue
        curvature = {name: exact.precision[name] - 0.5 for name in found.mean}
        sums = found.layout.pack(curvature).sum(1)
        torch.testing.assert_close(rows * columns.sum(), sums, rtol=1e-8, atol=1e-8)


def test_sampled_outputs_are_near_the_exact_ones(make_task):
    task = make_task("mlp")
    model = task.model.double()  # not fitted: a confident network has rare, large gradients
    data = [(task.inputs.double(), task.labels)] * 50
    exact = laplace(model, data, prior_precision=1.0).precision
    sampled = laplace(model, data, prior_precision=1.0, outputs="sampled", seed=3).precision
    again = laplace(model, data, prior_precision=1.0, outputs="sampled", seed=3).precision
    for name, value in exact.items():
        assert torch.equal(sampled[name], again[name])
        assert (sampled[name].sum() / value.sum()).item() == pytest.approx(1, abs=0.1)


def test_dicts_iterators_and_parts_of_the_data_say_the_same(make_task):
    task = make_task("mlp")
    module = nn.Module()
    module.net, module.forward = task.model, lambda x: task.model(x)
    expected = laplace(module, [(task.inputs, task.labels)])
    for loader in (
        [{"x": task.inputs, "labels": task.labels}],
        [(task.inputs, {"labels": task.labels})],
        iter([(task.inputs, task.labels)]),
    ):
        found = laplace(module, loader)
        for name, value in expected.precision.items():
            torch.testing.assert_close(found.precision[name], value, rtol=1e-4, atol=1e-6)
    for options in ({}, {"structure": "kronecker"}):
        twice = laplace(module, loader_of_half(task), prior_precision=1.0, num_data=64, **options)
        whole = laplace(module, loader_of_half(task), prior_precision=0.5, **options).at_temperature(0.5)
        for name, value in whole.precision.items():
            torch.testing.assert_close(twice.precision[name], value, rtol=1e-4, atol=1e-6)


def loader_of_half(task):
    return [(task.inputs[:32], task.labels[:32])]


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
        ({"num_data": 0}, "num_data: expected a positive"),
        ({"structure": "full"}, "structure: expected one of diagonal, row, kronecker, got 'full'"),
        ({"outputs": "labels"}, "outputs: expected one of exact, sampled, got 'labels'"),
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
