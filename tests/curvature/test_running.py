"""A running curvature: unbiased, with no initial value to forget, resumable, and close to the exact one."""

import pytest
import torch
from torch import Tensor, nn

from secateur.curvature import RunningCurvature, estimate
from secateur.errors import ArtifactError, InvalidArgumentError
from secateur.reduction import delta_f
from secateur.runs.checkpoint import load_nested, save_nested
from support.llama import llama, projections, sentences

NUM_DATA = 5000


class Scale(nn.Module):
    """One weight, y = w x."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[0.7]], dtype=torch.float64))

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.linear(inputs, self.weight)


def network(generator: torch.Generator) -> nn.Module:
    model = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 4)).double()
    for parameter in model.parameters():
        parameter.data = 0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return model


def batches(count: int, size: int, generator: torch.Generator) -> list[tuple[Tensor, Tensor]]:
    spread = torch.linspace(0.2, 2, 12, dtype=torch.float64)
    return [
        (
            torch.randn(size, 12, generator=generator, dtype=torch.float64) * spread,
            torch.zeros(size, dtype=torch.long),
        )
        for _ in range(count)
    ]


def averaged(model: nn.Module, data: list, **options) -> RunningCurvature:
    found = RunningCurvature(model, every=1, max_data=None, **options)
    for batch in data:
        found.step(batch)
    return found


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].reshape(-1) for name in sorted(tensors)])


def ranks(values: Tensor) -> Tensor:
    return values.argsort().argsort().double()


def rank_correlation(first: Tensor, second: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([ranks(first), ranks(second)]))[0, 1])


def evidence(model: nn.Module, diagonals: dict[str, Tensor]) -> Tensor:
    weights = dict(model.named_parameters())
    found = {
        name: delta_f(
            weights[name].detach(),
            NUM_DATA * curvature + 4.0,
            prior_precision=torch.tensor(4.0, dtype=torch.float64),
            reduced_precision=torch.tensor(torch.inf, dtype=torch.float64),
            prior_mean=torch.tensor(0.0, dtype=torch.float64),
        )
        for name, curvature in diagonals.items()
    }
    return flat(found)


def test_one_weight_whose_curvature_is_known(generator):
    """y = w x with unit noise and x = +-1 has h = 1, whatever the residuals."""
    inputs = torch.randint(0, 2, (400, 50, 1), generator=generator).double() * 2 - 1
    found = RunningCurvature(Scale(), likelihood="gaussian", every=1, max_data=None, rate=1e-4)
    looks = []
    for batch in inputs:
        found.add((batch, torch.full((50, 1), 100.0)))
        looks.append(float(found.value(1).diagonals()["weight"]))
    error = (2 / (400 * 50)) ** 0.5  # of a mean of chi-squared numbers
    assert abs(looks[-1] - 1) < 4.5 * error
    assert 4.5 * error < 0.05
    assert abs(looks[0] - 1) < 4.5 * (2 / 50) ** 0.5  # from the first look on


@pytest.mark.parametrize(
    ("likelihood", "layers"), [("categorical", 3), ("gaussian", 1), ("bernoulli", 1), ("poisson", 1)]
)
def test_it_is_the_exact_curvature(likelihood, layers, generator):
    """A frozen perceptron, and linear, logistic and Poisson regression: sum and ranking of delta_f."""
    model = network(generator) if layers > 1 else nn.Sequential(nn.Linear(12, 1)).double()
    for parameter in () if layers > 1 else model.parameters():
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    data = batches(120, 120, generator)
    if layers == 1:
        data = [(inputs, torch.ones(len(inputs), 1, dtype=torch.float64)) for inputs, _ in data]
    exact = estimate(model, data, likelihood=likelihood, outputs="exact", diagonal=True).diagonals()
    found = averaged(model, data, likelihood=likelihood, rate=1e-4).value(NUM_DATA).diagonals()
    assert abs(float(flat(found).sum() / flat(exact).sum()) - 1) < 0.05
    assert rank_correlation(evidence(model, found), evidence(model, exact)) >= 0.98


def test_the_average_is_that_of_its_looks(generator):
    """sum_k (1 - r)^(t - k) look_k, divided by what its weights sum to."""
    model, data, rate = network(generator), batches(5, 7, generator), 0.3
    found = averaged(model, data, rate=rate).value(NUM_DATA)
    assert found.num_data == NUM_DATA
    source = torch.Generator().manual_seed(0)
    looks = [estimate(model, [batch], diagonal=True, generator=source) for batch in data]
    weights = torch.tensor([(1 - rate) ** (4 - k) for k in range(5)], dtype=torch.float64)
    weights /= weights.sum()
    for name, layer in found.layers.items():
        for key in ("A", "G", "row_sums", "diagonal"):
            parts = torch.stack([getattr(look.layers[name], key) for look in looks])
            expected = torch.einsum("k,k...->...", weights, parts)
            torch.testing.assert_close(getattr(layer, key), expected, rtol=1e-10, atol=1e-12)


def test_every_tenth_step_is_a_look_at_some_of_the_batch(generator):
    model, data = network(generator), batches(21, 50, generator)
    found = RunningCurvature(model, every=10, max_data=8)
    assert [found.step(batch) for batch in data] == [number % 10 == 0 for number in range(21)]
    assert (found.num_steps, found.num_looks) == (21, 3)
    assert found.value(1).num_seen == 3 * 8


def test_the_network_is_left_as_it_was(generator):
    model = nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 4)).double().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model[0].weight.grad = torch.ones_like(model[0].weight)
    RunningCurvature(model).step(batches(1, 40, generator)[0])
    assert all(module.training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(model[0].weight.grad, torch.ones_like(model[0].weight))
    assert model[3].weight.grad is None


def test_batches_of_a_language_model_are_cut_by_sentence():
    model = llama()
    found = RunningCurvature(model, include=projections(model), max_data=1)
    padded = sentences()[1]
    found.add(padded)
    assert found.value(1).num_seen == 6  # tokens of the first sentence that are followed by one


def test_it_goes_on_where_it_was_saved(generator, tmp_path):
    model, data = network(generator), batches(6, 9, generator)
    whole = averaged(model, data)
    first = averaged(model, data[:3])
    save_nested(tmp_path / "state", first.state_dict())
    second = RunningCurvature(model, every=1, max_data=None)
    second.load_state_dict(load_nested(tmp_path / "state"))
    assert torch.equal(flat(second.value(1).diagonals()), flat(first.value(1).diagonals()))
    for batch in data[3:]:
        second.step(batch)
    for name, layer in whole.value(1).layers.items():
        for key in ("A", "G", "row_sums", "diagonal"):
            assert torch.equal(getattr(second.value(1).layers[name], key), getattr(layer, key))
    assert (second.num_steps, second.num_looks) == (6, 6)


@pytest.mark.parametrize("damage", ["shape", "name", "missing"])
def test_the_state_of_another_network_is_refused(damage, generator):
    model, data = network(generator), batches(2, 9, generator)
    state = averaged(model, data).state_dict()
    if damage == "shape":
        state["layers"]["0"]["A"] = torch.eye(3)
    elif damage == "name":
        state["layers"]["0"]["names"] = ["elsewhere.weight"]
    else:
        del state["generator"]
    found = averaged(model, data[:1])
    before = flat(found.value(1).diagonals())
    with pytest.raises(ArtifactError, match=r"^curvature state: expected that of this network"):
        found.load_state_dict(state)
    assert torch.equal(flat(found.value(1).diagonals()), before)
    assert found.num_looks == 1


def test_refusals(generator):
    model = network(generator)
    with pytest.raises(InvalidArgumentError, match=r"^every: expected at least 1, got 0"):
        RunningCurvature(model, every=0)
    with pytest.raises(InvalidArgumentError, match=r"^max_data: expected at least 1, got 0"):
        RunningCurvature(model, max_data=0)
    with pytest.raises(InvalidArgumentError, match=r"^rate: expected a fraction in \(0, 1\], got 1\.5"):
        RunningCurvature(model, rate=1.5)
    with pytest.raises(InvalidArgumentError, match=r"^curvature: expected a look before its average"):
        RunningCurvature(model).value(10)
