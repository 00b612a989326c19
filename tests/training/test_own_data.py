"""Fits of own data: units that must not matter, every likelihood, and runs that are opened again."""

import json

import numpy as np
import pytest
import torch

import secateur
from secateur.data import OwnData, Split, from_arrays
from secateur.errors import ArtifactError, DataError, InvalidArgumentError, UsageError
from secateur.likelihoods import Gaussian
from secateur.modules import held_masks
from secateur.networks.mlp import MLP
from secateur.training import evaluate, load_run

NUM_DATA = 330


def single(seed=0, outputs=1, features=4):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MLP((features,), outputs, width=20, depth=2)


@pytest.fixture
def table(generator):
    x = 5 + 3 * torch.randn(NUM_DATA, 4, generator=generator, dtype=torch.float64)
    y = ((x[:, 0] - 5) / 3).sin() * 2 + 0.2 * x[:, 1] + 0.3 * torch.randn(NUM_DATA, generator=generator)
    return x, y


@pytest.fixture
def fit_own(early_reductions):
    def run(network, train, **options):
        defaults = {"epochs": 12, "num_samples": 8, "device": "cpu", "compile": False}
        return secateur.fit(network, train, **(defaults | options))

    return run


def test_any_unit_of_targets_and_inputs_gives_the_same_masks_and_scores(fit_own, table):
    x, y = table
    first = fit_own(single(), (x, y))
    second = fit_own(single(), (1000 * x - 7, 1e6 * y + 3e7))
    masks, others = held_masks(first.model), held_masks(second.model)
    assert 0.1 < first.metrics["sparsity"] < 1
    assert all(torch.equal(masks[name], others[name]) for name in masks)
    for name in ("root_mean_squared_error", "continuous_ranked_probability_score"):
        assert second.metrics[name] == pytest.approx(1e6 * first.metrics[name], rel=1e-3)
    assert second.metrics["coverage_90"] == first.metrics["coverage_90"]
    difference = second.metrics["negative_log_likelihood"] - first.metrics["negative_log_likelihood"]
    assert difference == pytest.approx(np.log(1e6), abs=1e-3)


def test_regression_learns_predicts_in_own_units_and_is_calibrated(fit_own, table):
    x, y = table
    run = fit_own(single(), (x, y * 100), epochs=40, reduce=False)
    data = from_arrays(x, y * 100)
    assert run.metrics["root_mean_squared_error"] < 0.6 * data.test.labels.std()
    assert 0.75 < run.metrics["coverage_90"] <= 1
    predicted = run.predict(x.float(), num_samples=0)[:, 0]
    assert (predicted - y * 100).square().mean().sqrt() < 0.6 * (y * 100).std()
    levels = run.metrics["intervals"]
    assert levels["num_targets"] == len(data.test)
    assert levels["coverage"] == sorted(levels["coverage"])


CASES = {
    "counts": (
        "poisson",
        lambda x, y, g: torch.poisson(300 * (0.3 * (y - y.mean())).exp(), generator=g),
        1,
        "deviance",
    ),
    "labels": ("bernoulli", lambda x, y, g: torch.stack([y > 1, x[:, 2] > 5], 1).int(), 2, "accuracy"),
    "classes": ("categorical", lambda x, y, g: np.where(y.numpy() > 1, "high", "low"), 2, "accuracy"),
    "numbers": ("gaussian", lambda x, y, g: torch.stack([y, 1000 - 50 * x[:, 2]], 1), 2, "coverage_90"),
}


@pytest.mark.parametrize("case", CASES)
def test_every_likelihood_from_arrays_to_predictions(fit_own, table, generator, tmp_path, case):
    kind, change, outputs, score = CASES[case]
    x, y = table
    targets = change(x, y, generator)
    run = fit_own("mlp-50", (x, targets), likelihood=kind, epochs=30, reduce=False, out=tmp_path / "run")
    assert run.likelihood.name == kind
    assert score in run.metrics
    predicted = run.predict(x.float(), num_samples=3)
    assert predicted.shape == (NUM_DATA, outputs)
    if kind != "categorical":
        wanted = torch.as_tensor(targets).double().reshape(NUM_DATA, -1)
        error = (predicted - wanted).square().mean(0)
        assert (error < 0.8 * wanted.var(0)).all()
    else:
        assert run.metrics["accuracy"] > 0.75
    again = load_run(tmp_path / "run")
    assert torch.equal(again.predict(x.float(), num_samples=3), predicted)


def test_the_likelihood_of_bare_tensors_is_guessed(fit_own, table):
    x, y = table
    run = fit_own(single(), Split(x.float(), 100 * y), epochs=2)
    assert isinstance(run.likelihood, Gaussian)
    assert run.likelihood.scale == pytest.approx(100 * y.std(correction=0).item())
    with pytest.raises(InvalidArgumentError, match="beside such training data"):
        fit_own(single(), Split(x.float(), y), test=(x, y))


def write(path, x, y):
    header = ",".join([*(f"x{k}" for k in range(4)), "y"])
    np.savetxt(path, np.column_stack([x.numpy(), y.numpy()]), delimiter=",", header=header, comments="")
    return OwnData(path=str(path), target=("y",))


def test_a_run_on_a_file_is_evaluated_again_from_that_file(fit_own, table, tmp_path):
    own = write(tmp_path / "own.csv", *table)
    run = fit_own("mlp-50", own, out=tmp_path / "run")
    for split in ("test", "train"):
        scores = evaluate(tmp_path / "run", num_samples=8, split=split, device="cpu")
        if split == "test":
            expected = {name: run.metrics[name] for name in scores}
            assert json.dumps(scores) == json.dumps(expected)
    moved = (tmp_path / "own.csv").rename(tmp_path / "moved.csv")
    with pytest.raises(DataError, match=r"own\.csv: expected a file"):
        evaluate(tmp_path / "run", device="cpu")
    evaluate(tmp_path / "run", device="cpu", num_samples=2, data=str(moved))
    write(moved, table[0], table[1] + 1)
    with pytest.raises(DataError, match="the data that the run was trained on, got others"):
        evaluate(tmp_path / "run", device="cpu", data=str(moved))


def test_a_resumed_run_needs_the_same_data(fit_own, stop_at, repeatable, table, tmp_path):
    own = write(tmp_path / "own.csv", *table)
    fit_own("mlp-50", own, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit_own("mlp-50", own, out=tmp_path / "part", progress=stop_at(60))
    fit_own("mlp-50", own, out=tmp_path / "part", resume=True)
    assert repeatable(tmp_path / "part") == repeatable(tmp_path / "whole")
    write(tmp_path / "own.csv", table[0] + 1, table[1])
    with pytest.raises(ArtifactError, match="the run's own"):
        fit_own("mlp-50", own, out=tmp_path / "part", resume=True)


@pytest.mark.parametrize(
    ("network", "options", "error", "says"),
    [
        (
            "lenet",
            {},
            InvalidArgumentError,
            r"expected images for lenet, got inputs of shape \(4,\).* mlp, mlp-50",
        ),
        (lambda: single(features=5), {}, DataError, "expected rows that the network takes, got shape"),
        (lambda: single(outputs=3), {}, InvalidArgumentError, "one for each output"),
        ("no_such_module:Net", {}, UsageError, "no module 'no_such_module'"),
        ("collections:OrderedDict", {}, UsageError, "expected a torch.nn.Module, got OrderedDict"),
        ("torch.nn:Linear", {}, UsageError, "give its arguments defaults, or name a function"),
        (single, {"augment": True}, InvalidArgumentError, "augment: expected images"),
        (single, {"batch_size": 1000}, DataError, "at most the 2.. training examples, got 1000"),
    ],
)
def test_what_does_not_fit_is_one_line_before_anything_is_written(
    fit_own, table, tmp_path, network, options, error, says
):
    with pytest.raises(error, match=says) as caught:
        fit_own(network if isinstance(network, str) else network(), table, out=tmp_path / "run", **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_fewer_outputs_than_classes_are_refused(fit_own, table):
    x, y = table
    with pytest.raises(DataError, match="an output for each of the 3 classes of own data, got 2"):
        fit_own(single(outputs=2), (x, (y > 1).long() + (y > 2).long()))


def test_too_few_steps_are_said_with_the_number_that_is_enough(table, tmp_path):
    said = []

    class Told(secateur.training.SilentProgress):
        def message(self, text):
            said.append(text)

    secateur.fit(single(), table, epochs=2, num_samples=2, device="cpu", progress=Told())
    assert any(text.startswith("likelihood gaussian: ") for text in said)
    (line,) = [text for text in said if "nothing is removed" in text]
    enough = int(line.split()[-2])
    recipe = secateur.training.method_named("calibrated").recipe
    assert recipe(enough, 264).schedule is not None
    assert recipe(enough - 1, 264).schedule is None
