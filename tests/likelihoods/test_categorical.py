"""Classes: bits of torch's own cross-entropy, tokens with ignored labels, and what is refused."""

import pytest
import torch
import torch.nn.functional as F

from secateur import metrics
from secateur.errors import InvalidArgumentError
from secateur.likelihoods import Categorical


def tokens(generator, ignored=-100):
    outputs = torch.randn(3, 5, 7, generator=generator)
    targets = torch.randint(7, (3, 5), generator=generator)
    targets[0, 3:] = ignored
    targets[2] = ignored
    return outputs, targets


@pytest.mark.parametrize("num_data", [1, 3, 120, 997])
def test_mean_loss_is_torch_cross_entropy_to_the_last_bit(num_data, generator):
    outputs = 3 * torch.randn(num_data, 10, generator=generator)
    labels = torch.randint(10, (num_data,), generator=generator)
    assert torch.equal(Categorical().mean_loss(outputs, labels), F.cross_entropy(outputs, labels))
    labels[::4] = -100
    if num_data > 1:
        assert torch.equal(Categorical().mean_loss(outputs, labels), F.cross_entropy(outputs, labels))
    loss = Categorical().loss(outputs, labels)
    assert torch.equal(loss, F.cross_entropy(outputs, labels, reduction="none"))


def test_prediction_loss_is_torch_nll_loss_to_the_last_bit(generator):
    table = torch.randn(997, 10, generator=generator).log_softmax(-1)
    labels = torch.randint(10, (997,), generator=generator)
    assert torch.equal(Categorical().prediction_loss(table, labels), F.nll_loss(table, labels))


@pytest.mark.parametrize("ignored", [-100, 0])
def test_ignored_tokens_contribute_nothing(ignored, generator):
    likelihood = Categorical(ignore_label=ignored)
    outputs, targets = tokens(generator, ignored)
    labelled = targets != ignored
    outputs.requires_grad_()
    loss = likelihood.loss(outputs, targets)
    assert loss.shape == (3, 5)
    assert (loss[~labelled] == 0).all()
    assert likelihood.num_data(targets) == int(labelled.sum())
    mean = likelihood.mean_loss(outputs, targets)
    torch.testing.assert_close(mean, loss.sum() / labelled.sum())
    expected = F.cross_entropy(outputs.flatten(0, 1), targets.flatten(), ignore_index=ignored)
    assert torch.equal(mean, expected)
    (gradient,) = torch.autograd.grad(mean, outputs)
    assert (gradient[~labelled] == 0).all()
    assert (gradient[labelled].abs().sum(-1) > 0).all()


def test_scores_leave_ignored_tokens_out(generator):
    outputs, targets = tokens(generator)
    labelled = targets != -100
    expected = metrics.evaluate(outputs[labelled].log_softmax(-1), targets[labelled]).as_dict()
    assert Categorical().scores(outputs, targets) == expected
    changed = torch.where(labelled.unsqueeze(-1), outputs, torch.zeros(()))
    assert Categorical().scores(changed, targets) == expected
    table = Categorical().reliability(Categorical().predict(outputs), targets)
    assert int(table.count.sum()) == int(labelled.sum())


def test_scores_of_labels_are_those_of_the_metrics(generator):
    samples = torch.randn(4, 60, 5, generator=generator)
    labels = torch.randint(5, (60,), generator=generator)
    tables = samples.log_softmax(-1)
    expected = metrics.evaluate(
        metrics.average_log_probabilities(tables),
        labels,
        sample_log_likelihoods=metrics.log_likelihoods(tables, labels),
    ).as_dict()
    found = Categorical().scores(samples, labels, samples=True)
    assert found.keys() == expected.keys()
    assert found == pytest.approx(expected, rel=1e-6)


def test_sampled_targets_stay_ignored_where_the_labels_are(generator):
    outputs, targets = tokens(generator)
    drawn = Categorical().sample_like(outputs, targets, generator)
    assert torch.equal(drawn == -100, targets == -100)
    assert ((drawn >= 0) | (drawn == -100)).all()


def test_frequencies_of_draws_are_the_probabilities(generator):
    outputs = torch.tensor([0.0, 1.0, -2.0, 3.0])
    drawn = Categorical().sample(outputs.expand(200, 100, 4), generator)
    assert drawn.shape == (200, 100)
    frequency = drawn.flatten().bincount(minlength=4) / drawn.numel()
    probability = outputs.softmax(-1)
    error = (probability * (1 - probability) / drawn.numel()).sqrt()
    assert ((frequency - probability).abs() < 5 * error).all()


@pytest.mark.parametrize(
    ("outputs", "targets", "message"),
    [
        (
            torch.zeros(3, 1),
            torch.zeros(3).long(),
            r'two classes, got 1; use likelihood="bernoulli"',
        ),
        (
            torch.zeros(3),
            torch.zeros(3).long(),
            r"shape \(\) for logits of shape \(3,\), got \(3,\)",
        ),
        (torch.zeros(3, 2), torch.zeros(3), r"class numbers as int64, got torch.float32"),
        (torch.zeros(3, 2), torch.zeros(3, dtype=torch.int32), r"got torch.int32; convert them by .long\(\)"),
        (torch.zeros(3, 2), torch.tensor([0, 1, 2]), r"class numbers in 0 ... 1, got 0 ... 2"),
        (torch.zeros(3, 2), torch.tensor([0, 1, -1]), r"class numbers in 0 ... 1, got -1 ... 1"),
        (torch.zeros(3, 2), torch.tensor([0, 1]), r"expected shape \(3,\) .* got \(2,\)"),
        (torch.zeros(3, 2), torch.full((3,), -100), r"at least one label, got ignored ones \(-100\) only"),
        (torch.zeros(3, 4, 5), torch.zeros(3, 5).long(), r"put the classes last: outputs.movedim\(1, -1\)"),
    ],
)
def test_targets_that_do_not_fit_are_refused_with_the_remedy(outputs, targets, message):
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        Categorical().check(outputs, targets)
    assert "\n" not in str(caught.value)


def test_shapes_are_checked_at_every_loss():
    with pytest.raises(InvalidArgumentError, match=r"expected shape \(3,\)"):
        Categorical().mean_loss(torch.zeros(3, 2), torch.zeros(2).long())
