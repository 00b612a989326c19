"""Fits of other targets than classes: own networks, their scores, runs read back, and what is refused."""

from dataclasses import replace

import pytest
import torch

import secateur
from secateur.errors import ArtifactError, DataError, InvalidArgumentError
from secateur.likelihoods import Bernoulli, Categorical, Gaussian, Poisson
from secateur.networks.mlp import MLP
from secateur.training import load_run


def single(seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MLP((1, 8, 8), 1, width=16, depth=2)


@pytest.fixture
def labelled(digits):
    """The small digits with labels made of the old ones; odd or not, how much, ..."""

    def make(change):
        return {
            name: replace(split, labels=change(split.labels))
            for name, split in (("train", digits.train), ("test", digits.test))
        }

    return make


CASES = {
    "bernoulli": (Bernoulli(), lambda labels: (labels >= 5).long(), "accuracy"),
    "poisson": (Poisson(), lambda labels: labels, "deviance"),
    "gaussian": (Gaussian(noise=2.0), lambda labels: labels - 4, "coverage_90"),
    "learned": (Gaussian(noise="learned"), lambda labels: labels - 4, "coverage_90"),
}


@pytest.mark.parametrize("case", CASES)
def test_own_networks_learn_targets_of_every_kind(fit, labelled, tmp_path, case):
    likelihood, change, score = CASES[case]
    data = labelled(change)
    run = fit(single(), **data, likelihood=likelihood, epochs=15, reduce=False, out=tmp_path / "run")
    assert score in run.metrics
    assert score in run.history[-1]
    # better than the best constant prediction, in nats
    labels = data["test"].labels
    constant = data["train"].labels.double().mean()
    means = {"bernoulli": constant.logit(), "poisson": constant.log()}
    outputs = means.get(case, constant).expand(len(labels), 1)
    blind = likelihood.updated(outputs, labels).scores(outputs, labels)["negative_log_likelihood"]
    assert run.metrics["negative_log_likelihood"] < blind
    # predictions are expected targets, and come back from the file
    predicted = run.predict(data["test"].images, num_samples=3)
    assert predicted.shape == (len(labels), 1)
    error = (predicted[:, 0] - labels).square().mean()
    assert error < (labels - constant).square().mean()
    again = load_run(tmp_path / "run", model=single(1))
    assert again.likelihood == run.likelihood
    assert torch.equal(again.predict(data["test"].images, num_samples=3), predicted)
    assert ("reliability" in run.metrics) == (case == "bernoulli")


def test_learned_noise_is_about_the_residuals_and_resumes_bit_for_bit(
    fit, labelled, stop_at, repeatable, tmp_path
):
    data = labelled(lambda labels: labels - 4)
    options = {**data, "likelihood": Gaussian(noise="learned"), "epochs": 4}
    run = fit(single(), out=tmp_path / "whole", **options)
    residuals = run.model(data["train"].images)[:, 0] - data["train"].labels
    assert run.likelihood.precision == pytest.approx(1 / residuals.square().mean().item(), rel=0.02)
    with pytest.raises(KeyboardInterrupt):
        fit(single(), out=tmp_path / "part", progress=stop_at(50), **options)
    fit(single(), out=tmp_path / "part", resume=True, **options)
    assert repeatable(tmp_path / "part") == repeatable(tmp_path / "whole")
    with pytest.raises(ArtifactError, match="the run's own likelihood"):
        fit(single(), out=tmp_path / "part", resume=True, **options | {"likelihood": Gaussian(noise=1.0)})


def test_named_networks_get_one_output_for_a_number(labelled, early_reductions):
    data = labelled(lambda labels: (labels >= 5).long())
    run = secateur.fit(
        "mlp", **data, likelihood="bernoulli", epochs=1, device="cpu", num_samples=2, compile=False
    )
    assert run.predict(data["test"].images[:3]).shape == (3, 1)


def test_classes_by_name_or_value_are_what_they_were(fit, tmp_path):
    default = fit(epochs=2)
    for likelihood in ("categorical", "cross-entropy", Categorical()):
        run = fit(epochs=2, likelihood=likelihood)
        assert {k: v for k, v in run.metrics.items() if "seconds" not in k} == {
            k: v for k, v in default.metrics.items() if "seconds" not in k
        }


@pytest.mark.parametrize(
    ("network", "likelihood", "change", "error", "message"),
    [
        (
            single,
            "categorical",
            lambda y: y,
            InvalidArgumentError,
            'got 1; use likelihood="bernoulli"',
        ),
        (single, "bernoulli", lambda y: y, InvalidArgumentError, "expected 0 or 1, got 0 ... 9"),
        (single, "poisson", lambda y: y - 1, InvalidArgumentError, "expected counts from 0, got -1"),
        (single, "binomial", lambda y: y, InvalidArgumentError, "likelihood: expected one of categorical"),
        (None, "bernoulli", lambda y: y % 2, InvalidArgumentError, "0 or 1 for each of 10 logits"),
        (None, "gaussian", lambda y: y, InvalidArgumentError, "one for each output"),
        (None, "categorical", lambda y: y + 1, DataError, r"labels in 0 ... 9, got 10"),
    ],
)
def test_what_does_not_fit_the_likelihood_is_refused_before_anything_is_written(
    fit, labelled, tmp_path, network, likelihood, change, error, message
):
    model = None if network is None else network()
    with pytest.raises(error, match=message) as caught:
        fit(model, **labelled(change), likelihood=likelihood, out=tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
