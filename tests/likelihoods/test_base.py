"""One suite for every likelihood: against autograd, torch.distributions, counting, and at the extremes."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributions as td
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.likelihoods import Bernoulli, Categorical, Gaussian, Likelihood, Poisson


@dataclass(frozen=True)
class Case:
    """A likelihood, how to make targets for given outputs, and the same distribution by torch."""

    likelihood: Likelihood
    num_outputs: int
    distribution: Any  # from outputs (n, c) to torch.distributions with event shape () or (c,)

    def targets(self, outputs: Tensor, generator: torch.Generator) -> Tensor:
        return self.likelihood.sample(outputs, generator)


def independent(make):
    return lambda outputs: td.Independent(make(outputs), 1)


CASES = {
    "categorical": Case(Categorical(), 4, lambda f: td.Categorical(logits=f)),
    "two-classes": Case(Categorical(), 2, lambda f: td.Categorical(logits=f)),
    "bernoulli": Case(Bernoulli(), 1, independent(lambda f: td.Bernoulli(logits=f))),
    "multi-label": Case(Bernoulli(), 3, independent(lambda f: td.Bernoulli(logits=f))),
    "gaussian": Case(Gaussian(), 3, independent(lambda f: td.Normal(f, 1.0))),
    "gaussian-noise": Case(Gaussian(noise=0.3), 2, independent(lambda f: td.Normal(f, 0.3))),
    "gaussian-learned": Case(Gaussian(noise="learned", concentration=7.5, rate=3.0), 2, None),
    "poisson": Case(Poisson(), 2, independent(lambda f: td.Poisson(f.exp()))),
}


@pytest.fixture(params=CASES, ids=list(CASES))
def case(request) -> Case:
    return CASES[request.param]


def outputs_of(case: Case, num_data: int, generator: torch.Generator, dtype=torch.float64) -> Tensor:
    return torch.randn(num_data, case.num_outputs, generator=generator, dtype=dtype)


def test_root_squared_is_the_hessian_of_the_loss(case, generator):
    outputs = outputs_of(case, 6, generator)
    targets = case.targets(outputs, generator)
    roots = case.likelihood.root(outputs)
    for output, target, root in zip(outputs, targets, roots, strict=True):
        hessian = torch.autograd.functional.hessian(
            lambda f, y=target: case.likelihood.loss(f[None], y[None]).sum(), output
        )
        torch.testing.assert_close(root @ root.mT, hessian, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(case.likelihood.root(output), root, rtol=1e-12, atol=1e-14)


def test_loss_is_minus_the_log_density_of_torch(case, generator):
    if case.distribution is None:
        pytest.skip("its loss is an expectation over the noise: test_gaussian.py has the quadrature")
    outputs = outputs_of(case, 50, generator)
    targets = case.targets(outputs, generator)
    expected = -case.distribution(outputs).log_prob(targets)
    torch.testing.assert_close(case.likelihood.loss(outputs, targets), expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(case.likelihood.mean_loss(outputs, targets), expected.mean())
    assert case.likelihood.num_data(targets) == 50


def test_prediction_of_one_network_has_the_likelihood_of_its_loss(case, generator):
    if case.distribution is None:
        pytest.skip("its prediction integrates the noise out: test_gaussian.py has the quadrature")
    outputs = outputs_of(case, 50, generator)
    targets = case.targets(outputs, generator)
    prediction = case.likelihood.predict(outputs)
    losses = case.likelihood.loss(outputs, targets)
    torch.testing.assert_close(case.likelihood.log_likelihood(prediction, targets), -losses)
    torch.testing.assert_close(case.likelihood.prediction_loss(prediction, targets), losses.mean())
    assert case.likelihood.scores(outputs, targets)["negative_log_likelihood"] == pytest.approx(
        losses.mean().item()
    )


def test_averaging_averages_probabilities(case, generator):
    """ln 1/S sum_s p_s by hand, and the same through `scores`."""
    outputs = torch.stack([outputs_of(case, 20, generator) for _ in range(5)])
    targets = case.targets(outputs[0], generator)
    predictions = [case.likelihood.predict(each) for each in outputs]
    single = torch.stack([case.likelihood.log_likelihood(each, targets) for each in predictions])
    average = case.likelihood.average(iter(predictions))
    found = case.likelihood.log_likelihood(average, targets)
    if case.num_outputs == 1 or isinstance(case.likelihood, Gaussian | Poisson | Categorical):
        torch.testing.assert_close(found, single.exp().mean(0).log())
    else:  # the labels of a multi-label average are averaged one by one
        per_label = torch.stack([each.sigmoid() for each in outputs]).mean(0)
        chosen = torch.where(targets == 1, per_label, 1 - per_label)
        torch.testing.assert_close(found, chosen.log().sum(-1))
    scores = case.likelihood.scores(outputs, targets, samples=True)
    assert scores["negative_log_likelihood"] == pytest.approx(-found.mean().item())
    joint = single.sum(-1).logsumexp(0) - torch.tensor(5.0, dtype=torch.float64).log()
    assert scores["log_predictive_density"] == pytest.approx(joint.item() / 20)


def test_gradients_of_sampled_targets_have_the_hessian_as_their_covariance(generator):
    """E[g g^T] = B B^T, what curvature from sampled targets rests on; per entry within 5 standard errors."""
    for name in ("categorical", "multi-label", "gaussian-noise", "poisson"):
        case = CASES[name]
        output = outputs_of(case, 1, generator)
        outputs = output.expand(20_000, -1).clone().requires_grad_()
        targets = case.likelihood.sample(outputs, generator)
        (gradient,) = torch.autograd.grad(case.likelihood.loss(outputs, targets).sum(), outputs)
        products = gradient.unsqueeze(-1) * gradient.unsqueeze(-2)
        root = case.likelihood.root(output)[0]
        error = products.std(0) / len(products) ** 0.5
        assert ((products.mean(0) - root @ root.mT).abs() < 5 * error + 1e-12).all(), name
        assert (gradient.mean(0).abs() < 5 * gradient.std(0) / len(products) ** 0.5).all(), name


def test_draws_have_the_mean_and_follow_the_generator(case, generator):
    outputs = outputs_of(case, 1, generator).expand(20_000, -1)
    drawn = case.likelihood.sample(outputs, torch.Generator().manual_seed(1))
    again = case.likelihood.sample(outputs, generator=torch.Generator().manual_seed(1))
    other = case.likelihood.sample(outputs, generator=torch.Generator().manual_seed(2))
    assert torch.equal(drawn, again)
    assert not torch.equal(drawn, other)
    if isinstance(case.likelihood, Categorical):
        drawn = F.one_hot(drawn, case.num_outputs)
    drawn = drawn.double()
    error = drawn.std(0) / len(drawn) ** 0.5
    assert ((drawn.mean(0) - case.likelihood.mean(outputs)[0]).abs() < 5 * error).all()
    case.likelihood.check(outputs, case.likelihood.sample(outputs, generator))


@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_outputs_have_finite_losses_and_gradients(case, size, generator):
    if isinstance(case.likelihood, Poisson) and size > 0:
        pytest.skip("exp(1e4) is no number; `check` refuses it, see test_poisson.py")
    outputs = torch.zeros(3, case.num_outputs)
    outputs[:, 0] = size
    for target in case.targets(torch.zeros(3, case.num_outputs), generator), case.targets(outputs, generator):
        values = outputs.clone().requires_grad_()
        loss = case.likelihood.mean_loss(values, target)
        (gradient,) = torch.autograd.grad(loss, values)
        assert loss.isfinite()
        assert gradient.isfinite().all()
    assert case.likelihood.root(outputs).isfinite().all()
    assert case.likelihood.predict(outputs).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_outputs_are_judged_in_float32(case, dtype, generator):
    outputs = outputs_of(case, 30, generator).to(dtype)
    targets = case.targets(outputs, generator)
    loss = case.likelihood.loss(outputs, targets)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, case.likelihood.loss(outputs.float(), targets))
    assert case.likelihood.root(outputs).dtype == dtype
    expected = case.likelihood.root(outputs.float())
    torch.testing.assert_close(case.likelihood.root(outputs).float(), expected, rtol=1e-2, atol=1e-3)


def test_positions_are_data(case, generator):
    outputs = outputs_of(case, 6, generator)
    targets = case.targets(outputs, generator)
    shaped = outputs.view(2, 3, -1)
    wanted = targets.view(2, 3, *targets.shape[1:])
    case.likelihood.check(shaped, wanted)
    loss = case.likelihood.loss(shaped, wanted)
    assert torch.equal(loss, case.likelihood.loss(outputs, targets).view(2, 3))
    assert case.likelihood.num_data(wanted) == 6
    torch.testing.assert_close(
        case.likelihood.scores(shaped, wanted), case.likelihood.scores(outputs, targets)
    )


def test_works_under_vmap(case, generator):
    outputs = outputs_of(case, 5, generator)
    torch.testing.assert_close(torch.func.vmap(case.likelihood.root)(outputs), case.likelihood.root(outputs))


@given(
    logits=st.lists(st.floats(-50, 50), min_size=2, max_size=6), shift=st.floats(-100, 100), data=st.data()
)
def test_categorical_is_blind_to_a_shift_and_its_losses_sum_to_one(logits, shift, data):
    outputs = torch.tensor([logits], dtype=torch.float64)
    labels = torch.arange(len(logits))
    losses = Categorical().loss(outputs.expand(len(logits), -1), labels)
    assert (-losses).logsumexp(0).item() == pytest.approx(0, abs=1e-9)
    shifted = Categorical().loss((outputs + shift).expand(len(logits), -1), labels)
    torch.testing.assert_close(shifted, losses, rtol=0, atol=1e-9)
    root = Categorical().root(outputs[0])
    assert (root.sum(0).abs() < 1e-12).all()  # no direction changes all logits alike


@given(logit=st.floats(-500, 500), target=st.sampled_from([0.0, 1.0]))
def test_bernoulli_is_two_classes(logit, target):
    outputs = torch.tensor([[logit]], dtype=torch.float64)
    two = torch.tensor([[0.0, logit]], dtype=torch.float64)
    torch.testing.assert_close(
        Bernoulli().loss(outputs, torch.tensor([[target]])),
        Categorical().loss(two, torch.tensor([int(target)])),
    )
    root = Categorical().root(two[0])
    torch.testing.assert_close(
        Bernoulli().root(outputs)[0, 0, 0].square(), (root @ root.mT)[1, 1], rtol=1e-9, atol=1e-16
    )


@given(log_rate=st.floats(-20, 5), count=st.integers(0, 200))
def test_poisson_loss_is_least_where_the_rate_is_the_count(log_rate, count):
    loss = Poisson().loss(torch.tensor([[log_rate]], dtype=torch.float64), torch.tensor([[count]]))
    best = torch.tensor([[max(count, 1e-12)]], dtype=torch.float64).log()
    assert loss >= Poisson().loss(best, torch.tensor([[count]])) - 1e-9


@pytest.mark.parametrize("kind", [Bernoulli, Gaussian, Poisson])
def test_a_single_output_may_come_without_its_axis(kind):
    flat = torch.tensor([0.3, -1.0, 0.5])
    targets = torch.tensor([1.0, 0.0, 1.0])
    expected = kind().loss(flat[:, None], targets[:, None])
    assert expected.shape == (3,)
    for outputs, wanted in ((flat, targets), (flat[:, None], targets), (flat, targets[:, None])):
        kind().check(outputs, wanted)
        assert torch.equal(kind().loss(outputs, wanted), expected)
        assert kind().num_data(wanted) == 3
        assert kind().scores(outputs, wanted) == kind().scores(flat[:, None], targets[:, None])


@pytest.mark.parametrize("kind", [Bernoulli, Gaussian, Poisson])
def test_shapes_that_would_broadcast_are_refused(kind):
    with pytest.raises(InvalidArgumentError, match=r"one for each output, shape \(3, 2\), got \(3, 1\)"):
        kind().loss(torch.zeros(3, 2), torch.zeros(3, 1))
    with pytest.raises(InvalidArgumentError, match=r"one for each output"):
        kind().loss(torch.zeros(3, 1), torch.zeros(4))
    with pytest.raises(InvalidArgumentError, match=r"one for each output"):
        kind().loss(torch.tensor(0.0), torch.tensor(0.0))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (
            torch.tensor([[0.0, float("nan")]]),
            "expected finite numbers, got nan or infinity in 1 of 2",
        ),
        (torch.tensor([[0.0, float("inf")]]), "outputs: expected finite numbers"),
        (torch.tensor([[0, 1]]), "outputs: expected floating-point numbers, got torch.int64"),
        (torch.tensor([[0j, 1j]]), "outputs: expected floating-point numbers, got torch.complex64"),
        (torch.zeros(0, 2), "outputs: expected at least one datum"),
        (torch.tensor(1.0), "outputs: expected at least one datum"),
    ],
)
def test_unusable_outputs_are_refused(case, outputs, message):
    with pytest.raises(InvalidArgumentError, match=message):
        case.likelihood.check(outputs)


def test_scores_check_their_data_and_samples(case, generator):
    outputs = outputs_of(case, 4, generator)
    targets = case.targets(outputs, generator)
    with pytest.raises(InvalidArgumentError, match="first axis that counts samples"):
        case.likelihood.scores(outputs[:, None][:0], targets, samples=True)
    with pytest.raises(InvalidArgumentError, match="nan"):
        case.likelihood.scores(outputs * float("nan"), targets)
