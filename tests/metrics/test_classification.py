"""Figures worked by hand, then against scikit-learn and naive code."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

from secateur import metrics
from secateur.errors import InvalidArgumentError

# Three data, two classes. Hits: 0 and 2. Confidences .8, .6, .9.
BY_HAND = torch.tensor([[0.8, 0.2], [0.4, 0.6], [0.1, 0.9]], dtype=torch.float64).log()
LABELS = torch.tensor([0, 0, 1])


def predictions(num_data: int, num_classes: int, generator: torch.Generator, sharpness: float = 2.0):
    logits = sharpness * torch.randn(num_data, num_classes, generator=generator, dtype=torch.float64)
    log_probabilities = logits.log_softmax(-1)
    labels = torch.multinomial(log_probabilities.exp().sqrt(), 1, generator=generator).squeeze(1)
    return log_probabilities, labels


def test_worked_by_hand():
    assert metrics.accuracy(BY_HAND, LABELS) == pytest.approx(2 / 3)
    assert metrics.negative_log_likelihood(BY_HAND, LABELS) == pytest.approx(
        -(math.log(0.8) + math.log(0.4) + math.log(0.9)) / 3
    )
    # .2² + .2², .6² + .6², .1² + .1²
    assert metrics.brier_score(BY_HAND, LABELS) == pytest.approx((0.08 + 0.72 + 0.02) / 3)
    # a bin for each datum: |1 - .8|, |0 - .6|, |1 - .9|
    assert metrics.expected_calibration_error(BY_HAND, LABELS) == pytest.approx((0.2 + 0.6 + 0.1) / 3)
    # one bin: |2/3 - 2.3/3|
    assert metrics.expected_calibration_error(BY_HAND, LABELS, num_bins=1) == pytest.approx(0.1)


def test_reliability_by_hand():
    # Four confidences in two bins of two: (.6, .7) with one hit, (.8, .9) with two.
    probabilities = torch.tensor([[0.9, 0.1], [0.3, 0.7], [0.8, 0.2], [0.6, 0.4]], dtype=torch.float64)
    table = metrics.reliability(probabilities.log(), torch.tensor([0, 0, 0, 0]), num_bins=2)
    torch.testing.assert_close(table.confidence, torch.tensor([0.65, 0.85], dtype=torch.float64))
    torch.testing.assert_close(table.accuracy, torch.tensor([0.5, 1.0], dtype=torch.float64))
    assert table.count.tolist() == [2, 2]


def test_averaging_is_of_probabilities_not_of_logs():
    samples = torch.tensor([[[0.5, 0.5]], [[0.99, 0.01]]], dtype=torch.float64).log()
    torch.testing.assert_close(
        metrics.average_log_probabilities(samples).exp(), torch.tensor([[0.745, 0.255]], dtype=torch.float64)
    )


def test_averaging_survives_probabilities_that_underflow():
    samples = torch.tensor([[[-1e4, 0.0]], [[-2e4, 0.0]]])
    average = metrics.average_log_probabilities(samples)
    torch.testing.assert_close(average, torch.tensor([[-1e4 - math.log(2), 0.0]]))


def test_log_predictive_density_is_joint_and_nll_is_not():
    # Two samples, two data: each sample explains another datum. p = (.9, .1) and (.1, .9).
    samples = torch.tensor([[[0.9, 0.1], [0.1, 0.9]], [[0.1, 0.9], [0.9, 0.1]]], dtype=torch.float64).log()
    labels = torch.tensor([0, 0])
    assert metrics.log_predictive_density(samples, labels) == pytest.approx(math.log(0.09) / 2)
    average = metrics.average_log_probabilities(samples)
    assert metrics.negative_log_likelihood(average, labels) == pytest.approx(math.log(2))
    # Samples that agree in which is better: jointly the good one decides.
    labels = torch.tensor([0, 1])
    assert metrics.log_predictive_density(samples, labels) == pytest.approx(math.log((0.81 + 0.01) / 2) / 2)


def test_log_predictive_density_of_one_sample_is_minus_nll(generator):
    log_probabilities, labels = predictions(50, 4, generator)
    density = metrics.log_predictive_density(log_probabilities, labels)
    assert density == pytest.approx(-metrics.negative_log_likelihood(log_probabilities, labels))
    assert metrics.log_predictive_density(log_probabilities[None], labels) == pytest.approx(density)


def test_log_predictive_density_lies_between_the_samples(generator):
    samples = (3 * torch.randn(7, 40, 5, generator=generator, dtype=torch.float64)).log_softmax(-1)
    labels = torch.randint(5, (40,), generator=generator)
    each = [metrics.log_predictive_density(sample, labels) for sample in samples]
    density = metrics.log_predictive_density(samples, labels)
    assert min(each) <= density <= max(each)
    assert density >= max(each) - math.log(7) / 40


def test_against_scikit_learn(generator):
    log_probabilities, labels = predictions(500, 6, generator)
    assert metrics.negative_log_likelihood(log_probabilities, labels) == pytest.approx(
        log_loss(labels.numpy(), log_probabilities.exp().numpy(), labels=range(6))
    )
    assert metrics.accuracy(log_probabilities, labels) == pytest.approx(
        accuracy_score(labels.numpy(), log_probabilities.argmax(-1).numpy())
    )


def test_calibration_error_agrees_with_equal_widths_where_both_binnings_coincide(generator):
    # Confidences spread evenly over .5 ... 1 fill ten equal-mass bins of width .05 just as well as 20 bins
    # of width .05 on 0 ... 1 (of which the lower ten stay empty).
    confidence = 0.5 + (torch.randperm(1000, generator=generator).double() + 0.5) / 2000
    probabilities = torch.stack([confidence, 1 - confidence], -1)
    labels = torch.randint(2, (1000,), generator=generator)
    ours = metrics.expected_calibration_error(probabilities.log(), labels, num_bins=10)
    certain, predicted = probabilities.max(-1)
    hits = (predicted == labels).double()
    bins = (certain * 20).long()
    gaps = [
        (hits[bins == b].mean() - certain[bins == b].mean()).abs() * (bins == b).sum() for b in range(10, 20)
    ]
    assert ours == pytest.approx((sum(gaps) / 1000).item(), abs=1e-12)


def naive_calibration_error(log_probabilities, labels, num_bins):
    """Sort, split into runs of equal length, no thought of ties."""
    confidence, predicted = np.exp(log_probabilities.numpy()).max(1), log_probabilities.numpy().argmax(1)
    order = np.argsort(confidence)
    edges = [len(order) * i // num_bins for i in range(num_bins + 1)]
    total = 0.0
    for start, stop in pairwise(edges):
        members = order[start:stop]
        if len(members):
            hits = predicted[members] == labels.numpy()[members]
            total += len(members) * abs(hits.mean() - confidence[members].mean())
    return total / len(order)


@pytest.mark.parametrize("num_data", [1, 7, 19, 20, 21, 333])
def test_calibration_error_against_sorting_and_splitting(num_data, generator):
    log_probabilities, labels = predictions(num_data, 3, generator)
    assert metrics.expected_calibration_error(log_probabilities, labels) == pytest.approx(
        naive_calibration_error(log_probabilities, labels, 20)
    )


def test_bins_have_equal_mass(generator):
    log_probabilities, labels = predictions(1003, 10, generator)
    count = metrics.reliability(log_probabilities, labels).count
    assert len(count) == 20
    assert count.sum() == 1003
    assert count.max() - count.min() <= 1


@given(seed=st.integers(0, 10_000), num_levels=st.integers(1, 5))
@settings(max_examples=25, deadline=None)
def test_order_of_data_has_no_say_even_with_ties(seed, num_levels):
    generator = torch.Generator().manual_seed(seed)
    confidence = (
        0.5 + 0.5 * torch.randint(1, num_levels + 1, (60,), generator=generator).double() / num_levels
    )
    log_probabilities = torch.stack([confidence, 1 - confidence], -1).log()
    labels = torch.randint(2, (60,), generator=generator)
    shuffled = torch.randperm(60, generator=generator)
    assert metrics.expected_calibration_error(log_probabilities, labels) == pytest.approx(
        metrics.expected_calibration_error(log_probabilities[shuffled], labels[shuffled]), abs=1e-12
    )


def test_certain_and_right_is_perfect():
    log_probabilities = torch.tensor([[0.0, -math.inf], [-math.inf, 0.0]])
    figures = metrics.evaluate(log_probabilities, torch.tensor([0, 1]))
    assert figures == metrics.Metrics(1.0, 0.0, 0.0, 0.0, 0.0)


def test_certain_and_wrong_is_infinitely_bad():
    figures = metrics.evaluate(torch.tensor([[0.0, -math.inf]]), torch.tensor([1]))
    assert figures.negative_log_likelihood == math.inf
    assert figures.brier_score == 2.0
    assert figures.expected_calibration_error == 1.0


def test_evaluate_gathers_the_same_figures(generator):
    samples = torch.randn(5, 30, 4, generator=generator).log_softmax(-1)
    labels = torch.randint(4, (30,), generator=generator)
    average = metrics.average_log_probabilities(samples)
    per_datum = metrics.log_likelihoods(samples, labels)
    figures = metrics.evaluate(average, labels, sample_log_likelihoods=per_datum).as_dict()
    assert figures == {
        "accuracy": metrics.accuracy(average, labels),
        "negative_log_likelihood": metrics.negative_log_likelihood(average, labels),
        "expected_calibration_error": metrics.expected_calibration_error(average, labels),
        "brier_score": metrics.brier_score(average, labels),
        "log_predictive_density": metrics.log_predictive_density(samples, labels),
    }


@pytest.mark.parametrize(
    ("log_probabilities", "labels", "says"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), "at least one datum"),
        (torch.zeros(2, 2).log_softmax(-1), torch.tensor([0, 2]), r"labels in 0 \.\.\. 1, got 0 \.\.\. 2"),
        (torch.zeros(2, 2).log_softmax(-1), torch.tensor([-1, 0]), r"got -1 \.\.\. 0"),
        (torch.tensor([[1.0, 3.0]]), torch.tensor([0]), "sum to 1"),
        (torch.tensor([[math.nan, 0.0]]), torch.tensor([0]), "sum to 1"),
    ],
)
def test_evaluate_refuses(log_probabilities, labels, says):
    with pytest.raises(InvalidArgumentError, match=says):
        metrics.evaluate(log_probabilities, labels)


def test_evaluate_takes_half_precision_probabilities(generator):
    log_probabilities, labels = predictions(200, 100, generator)
    half = metrics.evaluate(log_probabilities.bfloat16(), labels)
    full = metrics.evaluate(log_probabilities, labels)
    assert half.negative_log_likelihood == pytest.approx(full.negative_log_likelihood, rel=0.01)


def test_entropy_by_hand():
    log_probabilities = torch.tensor([[0.0, -math.inf], [math.log(0.5), math.log(0.5)]])
    torch.testing.assert_close(
        metrics.predictive_entropy(log_probabilities), torch.tensor([0.0, math.log(2)])
    )


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e6])
def test_auroc_against_scikit_learn_at_any_scale(scale, generator):
    inside = scale * torch.randn(80, generator=generator, dtype=torch.float64)
    outside = scale * (torch.randn(50, generator=generator, dtype=torch.float64) + 0.7)
    outside[:5] = inside[:5]  # ties
    truth = [0] * 80 + [1] * 50
    expected = roc_auc_score(truth, torch.cat([inside, outside]).numpy())
    assert metrics.auroc(inside, outside) == pytest.approx(expected, abs=1e-12)


def test_auroc_extremes():
    low, high = torch.tensor([1.0, 2.0]), torch.tensor([3.0, math.inf])
    assert metrics.auroc(low, high) == 1.0
    assert metrics.auroc(high, low) == 0.0
    assert metrics.auroc(low[:1], low[:1]) == 0.5
    with pytest.raises(InvalidArgumentError, match="0 outside"):
        metrics.auroc(low, torch.zeros(0))
    with pytest.raises(InvalidArgumentError, match="1 nan"):
        metrics.auroc(low, torch.tensor([math.nan]))
