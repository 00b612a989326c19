"""Recovery by distillation: towards the teacher, with zeros held, for every likelihood."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.errors import InvalidArgumentError
from secateur.likelihoods import Categorical, Gaussian, Likelihood, Poisson, resolve
from secateur.modules import hold
from secateur.training.recovery import PREDICTIVE, recover
from support.llama import llama, projections, sentences


def pruned(outputs: int = 3) -> tuple[nn.Sequential, nn.Sequential]:
    """Return a network without two thirds of its weights, and what it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Dropout(0.5), nn.Linear(16, outputs))
    teacher = copy.deepcopy(model)
    masks = {
        name: weight.abs() > weight.abs().flatten().quantile(0.66)
        for name, weight in model.named_parameters()
        if weight.dim() > 1
    }
    hold(model, masks)
    return model, teacher


def batches(count: int = 8) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(32, 5, generator=generator) for _ in range(count)]


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize("likelihood", ["categorical", "bernoulli", "gaussian", "poisson"])
def test_answers_come_nearer_and_zeros_stay(likelihood):
    model, teacher = pruned()
    masks, dense = secateur.masks_of(model), state(teacher)
    found = recover(
        model, teacher, batches(), likelihood=likelihood, epochs=10, learning_rate=1e-2, progress=False
    )
    assert len(found) == 10
    assert found[-1] < 0.75 * found[0]
    for name, mask in masks.items():
        assert (model.get_parameter(name)[~mask] == 0).all()
        assert torch.equal(secateur.masks_of(model)[name], mask)
    assert all(torch.equal(value, dense[name]) for name, value in teacher.state_dict().items())
    assert model.training
    assert teacher.training
    assert all(each.grad is None for each in model.parameters())


@pytest.mark.parametrize("name", ["categorical", "bernoulli", "gaussian", "poisson"])
def test_the_divergence_is_the_expected_rise_of_the_loss(name):
    """Its gradient is that of the loss at targets that the teacher draws, on average."""
    generator = torch.Generator().manual_seed(0)
    likelihood = Gaussian(noise=0.7) if name == "gaussian" else resolve(name)
    teacher = torch.randn(1, 3, generator=generator, dtype=torch.float64).expand(40_000, 3)
    outputs = torch.randn(1, 3, generator=generator, dtype=torch.float64).expand(40_000, 3)
    drawn = likelihood.sample(teacher, generator)
    rises = likelihood.loss(outputs, drawn) - likelihood.loss(teacher, drawn)
    predictive = PREDICTIVE[type(likelihood)]
    exact = torch.distributions.kl_divergence(
        predictive(likelihood, teacher[:1]), predictive(likelihood, outputs[:1])
    ).sum()
    error = rises.std() / len(rises) ** 0.5
    assert abs(float(rises.mean() - exact)) < 4 * float(error)


def test_padding_does_not_count():
    model, teacher = llama(), llama()
    hold(model, {name: model.get_parameter(name).abs() > 0.01 for name in projections(model)})
    whole = sentences()
    padded = copy.deepcopy(whole)
    padded[1]["input_ids"][0, 7:] = 3
    first, second = (
        recover(copy.deepcopy(model), teacher, data, learning_rate=1e-9, progress=False)
        for data in (whole, padded)
    )
    assert first == pytest.approx(second, rel=1e-5)


def test_the_same_call_gives_the_same_network():
    results = []
    for _ in range(2):
        model, teacher = pruned()
        recover(model, teacher, batches(), epochs=2, progress=False)
        results.append(state(model))
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def test_nothing_is_to_be_learned_from_oneself():
    model, _ = pruned()
    found = recover(model, copy.deepcopy(model), batches(2), progress=False)
    assert found == pytest.approx((0.0,), abs=1e-6)


class Own(Categorical):
    name = "own"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs: expected at least 1, got 0"),
        ({"learning_rate": 0.0}, "learning_rate: expected a positive number, got 0.0"),
        ({"learning_rate": math.nan}, "learning_rate: expected a positive number, got nan"),
        ({"loader": []}, "loader: expected at least one batch, got none"),
        ({"loader": iter([])}, "loader: expected at least one batch, got none"),
        (
            {"likelihood": Own()},
            "likelihood: expected one of bernoulli, categorical, gaussian, poisson, got own",
        ),
        ({"loader": [torch.full((2, 5), math.nan)]}, "loader: expected finite inputs, got nan in a batch"),
    ],
)
def test_bad_input_is_refused_in_one_line(options, message):
    model, teacher = pruned()
    before = state(model)
    with pytest.raises(InvalidArgumentError, match=f"^{message}"):
        recover(model, teacher, **{"loader": batches(), "progress": False, **options})
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_network_is_not_its_own_teacher():
    model, _ = pruned()
    for teacher in (model, nn.Sequential(model)):
        with pytest.raises(InvalidArgumentError, match=r"^teacher: expected another network"):
            recover(model, teacher, batches(), progress=False)


def test_frozen_networks_are_refused():
    model, teacher = pruned()
    model.requires_grad_(False)
    with pytest.raises(InvalidArgumentError, match=r"^model: expected a parameter that takes a gradient"):
        recover(model, teacher, batches(), progress=False)


def test_a_diverging_step_gives_the_weights_back():
    model, teacher = pruned()
    before = state(model)
    with pytest.raises(InvalidArgumentError, match=r"^learning_rate: expected one at which the answers stay"):
        recover(model, teacher, batches(), likelihood=Poisson(), learning_rate=1e6, epochs=3, progress=False)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_every_likelihood_has_a_predictive_distribution():
    def kinds(base: type[Likelihood]) -> set[type[Likelihood]]:
        return {each for each in base.__subclasses__() if each.__module__.startswith("secateur")}

    assert set(PREDICTIVE) == kinds(Likelihood)


def test_fit_goes_on_from_a_pruned_network():
    """What `recover` does without labels, `fit` does with them: zeros stay, no further weight goes."""
    dataset = secateur.data.load("digits")
    model = secateur.networks.build("mlp", image_shape=dataset.train.image_shape, num_classes=10, seed=0)
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(dataset.train.images, dataset.train.labels), batch_size=128
    )
    result = secateur.prune_trained(model, loader, sparsity=0.5, rounds=2, max_batches=1, progress=False)
    run = secateur.fit(model, dataset.train, dataset.test, epochs=1, reduce=False, num_samples=2)
    for name, mask in result.masks.items():
        assert (run.model.get_parameter(name)[~mask] == 0).all()
        assert (run.model.get_parameter(name)[mask] != 0).float().mean() > 0.99
