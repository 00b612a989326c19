"""Yes or no: scores against scikit-learn, labels of every kind, and what is refused."""

import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss

from secateur.errors import InvalidArgumentError
from secateur.likelihoods import Bernoulli


def test_scores_are_those_of_scikit_learn(generator):
    logits = 2 * torch.randn(300, generator=generator, dtype=torch.float64)
    targets = Bernoulli().sample(logits, generator)
    probabilities = logits.sigmoid().numpy()
    scores = Bernoulli().scores(logits, targets)
    assert scores["negative_log_likelihood"] == pytest.approx(log_loss(targets.numpy(), probabilities))
    assert scores["brier_score"] == pytest.approx(brier_score_loss(targets.numpy(), probabilities))
    assert scores["accuracy"] == pytest.approx(((logits > 0) == targets.bool()).double().mean().item())
    assert scores["expected_calibration_error"] < 0.1
    # a liar is caught
    assert Bernoulli().scores(-logits, targets)["expected_calibration_error"] > 0.3


def test_labels_are_scored_one_by_one_and_likelihoods_datum_by_datum(generator):
    logits = torch.randn(50, 4, generator=generator, dtype=torch.float64)
    targets = Bernoulli().sample(logits, generator)
    columns = [Bernoulli().scores(logits[:, i], targets[:, i]) for i in range(4)]
    scores = Bernoulli().scores(logits, targets)
    for name in ("accuracy", "brier_score"):
        assert scores[name] == pytest.approx(sum(column[name] for column in columns) / 4)
    for name in ("negative_log_likelihood", "log_predictive_density"):
        assert scores[name] == pytest.approx(sum(column[name] for column in columns))
    table = Bernoulli().reliability(Bernoulli().predict(logits), targets)
    assert int(table.count.sum()) == 200


def test_frequencies_of_draws_are_the_probabilities(generator):
    logits = torch.tensor([-3.0, 0.0, 1.0])
    drawn = Bernoulli().sample(logits.expand(20_000, 3), generator)
    probability = logits.sigmoid()
    error = (probability * (1 - probability) / 20_000).sqrt()
    assert ((drawn.mean(0) - probability).abs() < 5 * error).all()


def test_labels_may_be_of_any_kind():
    logits = torch.tensor([0.3, -1.0])
    expected = Bernoulli().loss(logits, torch.tensor([1.0, 0.0]))
    for targets in (torch.tensor([1, 0]), torch.tensor([True, False]), torch.tensor([1, 0]).half()):
        Bernoulli().check(logits, targets)
        assert torch.equal(Bernoulli().loss(logits, targets), expected)


def test_the_root_is_right_where_probabilities_round_to_one():
    root = Bernoulli().root(torch.tensor([[30.0]])).item()
    assert root == pytest.approx(2.718281828**-15, rel=1e-4)  # sqrt(e^-30)


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (
            torch.zeros(3, 1),
            torch.tensor([0, 1, 2]),
            r'got 0 ... 2; use likelihood="categorical"',
        ),
        (torch.zeros(2), torch.tensor([0.5, 1.0]), r"expected 0 or 1, got 0.5 ... 1"),
        (torch.zeros(2), torch.tensor([-1.0, 1.0]), r"expected 0 or 1, got -1 ... 1"),
        (torch.zeros(2), torch.tensor([float("nan"), 1.0]), r"expected 0 or 1, got nan"),
        (torch.zeros(2), torch.tensor([0j, 1j]), r"expected 0 or 1, got torch.complex64"),
        (
            torch.zeros(3, 4),
            torch.tensor([0, 1, 3]),
            r'one number per datum; use likelihood="cat',
        ),
        (torch.zeros(3, 4), torch.zeros(3, 2), r"one for each output, shape \(3, 4\), got \(3, 2\)"),
    ],
)
def test_targets_that_do_not_fit_are_refused_with_the_remedy(outputs, targets, message):
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        Bernoulli().check(outputs, targets)
    assert "\n" not in str(caught.value)
