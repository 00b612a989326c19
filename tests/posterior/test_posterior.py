"""The posterior as a value: draws, temperature, divergence, blocks, and what it refuses."""

import math
from dataclasses import FrozenInstanceError

import pytest
import torch
from torch import distributions
from torch.overrides import TorchFunctionMode

from secateur import Posterior
from secateur.errors import InvalidArgumentError
from secateur.posterior import Dense, Diagonal, Kronecker, Rowwise
from secateur.reduction import rows


@pytest.fixture
def posterior(generator) -> Posterior:
    def random(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator)

    mean = {"a.weight": random(3, 4), "a.bias": random(3), "scale": random()}
    return Posterior(
        mean=mean,
        precision={name: 3 * random(*value.shape).exp() for name, value in mean.items()},
        prior_precision={
            "a.weight": torch.tensor(0.7, dtype=torch.float64),
            "a.bias": torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64),
            "scale": torch.tensor(2.0, dtype=torch.float64),
        },
        keep={"a.weight": random(3, 4) > 0},
    )


def assert_equal(found: Posterior, expected: Posterior) -> None:
    for kind in ("mean", "precision", "prior_precision", "keep"):
        ours, theirs = getattr(found, kind), getattr(expected, kind)
        assert ours.keys() == theirs.keys()
        assert all(ours[name].dtype == theirs[name].dtype for name in theirs)
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_draws_have_the_posteriors_moments(posterior, generator):
    num_draws = 4000
    draws = [posterior.sample(generator=generator) for _ in range(num_draws)]
    for name, mean in posterior.mean.items():
        stacked = torch.stack([draw[name] for draw in draws])
        keep = posterior.keep.get(name, torch.ones_like(mean, dtype=torch.bool))
        assert (stacked[:, ~keep] == 0).all()
        std = posterior.std[name][keep]
        off = (stacked.mean(0) - mean)[keep].abs() / (std / math.sqrt(num_draws))
        assert (off < 4.5).all()
        variance_error = (stacked.var(0)[keep] / std.square() - 1).abs()
        assert (variance_error < 4.5 * math.sqrt(2 / num_draws)).all()


def test_the_seed_decides_a_draw(posterior):
    first, second = (posterior.sample(generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_point_estimate_draws_itself(generator):
    mean = {"w": torch.tensor([1.0, -2.0])}
    point = Posterior(mean, {"w": torch.full((2,), math.inf)}, {"w": torch.tensor(1.0)})
    assert torch.equal(point.sample(generator=generator)["w"], mean["w"])
    assert (point.std["w"] == 0).all()
    assert point.kl_divergence() == math.inf


def test_the_point_is_the_mean_with_removed_entries_zero(posterior):
    point = posterior.point()
    assert torch.equal(point["a.bias"], posterior.mean["a.bias"])
    assert torch.equal(point["a.weight"], posterior.mean["a.weight"] * posterior.keep["a.weight"])


def test_divergence_is_torchs_summed_over_what_is_in(posterior):
    expected = 0.0
    for name, mean in posterior.mean.items():
        q = distributions.Normal(mean, posterior.std[name])
        p = distributions.Normal(torch.zeros_like(mean), posterior.prior_precision[name].rsqrt())
        each = distributions.kl_divergence(q, p)
        expected += each[posterior.keep.get(name, torch.ones_like(mean, dtype=torch.bool))].sum()
    torch.testing.assert_close(posterior.kl_divergence(), expected, rtol=1e-12, atol=0)


def test_no_divergence_from_itself():
    precision = {"w": torch.full((5,), 3.0)}
    own = Posterior({"w": torch.zeros(5)}, precision, {"w": torch.tensor(3.0)})
    assert own.kl_divergence() == 0


def test_temperature_scales_likelihood_and_prior_alike(posterior):
    cold = posterior.at_temperature(0.25)
    for name in posterior.mean:
        torch.testing.assert_close(cold.std[name], 0.5 * posterior.std[name])
        torch.testing.assert_close(cold.prior_precision[name], 4 * posterior.prior_precision[name])
        assert torch.equal(cold.mean[name], posterior.mean[name])
    assert all(cold.keep[name] is posterior.keep[name] for name in posterior.keep)
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(InvalidArgumentError, match="temperature: expected a positive number"):
            posterior.at_temperature(wrong)


class MovingCopies(TorchFunctionMode):
    """Let `Tensor.to` copy even to the same device, as a move to another one does."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        return result.clone() if func is torch.Tensor.to else result


def test_moving_keeps_everything(posterior):
    with MovingCopies():
        moved = posterior.to("cpu")
    assert_equal(moved, posterior)
    for kind in ("mean", "precision", "prior_precision", "keep"):
        for name, value in getattr(posterior, kind).items():
            assert getattr(moved, kind)[name].data_ptr() != value.data_ptr(), f"{kind}[{name!r}] stayed"


# Shapes and names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"precision": {"v": torch.ones(2, 3)}}, r"precision: expected the names of mean, .* at 'v'"),
        ({"prior_precision": {}}, r"prior_precision: expected the names of mean, .* at 'w'"),
        ({"precision": {"w": torch.ones(3)}}, r"precision\['w'\]: expected shape \(2, 3\), got \(3,\)"),
        ({"prior_precision": {"w": torch.ones(2)}}, r"prior_precision\['w'\]: .* broadcasts to \(2, 3\)"),
        ({"prior_precision": {"w": torch.ones(4, 2, 3)}}, r"prior_precision\['w'\]: .* got \(4, 2, 3\)"),
        ({"keep": {"v": torch.ones(2, 3) > 0}}, r"keep: expected names of mean, got 'v'"),
        ({"keep": {"w": torch.ones(3, 2) > 0}}, r"keep\['w'\]: expected shape \(2, 3\), got \(3, 2\)"),
        ({"keep": {"w": torch.ones(2, 3)}}, r"keep\['w'\]: expected booleans, got torch.float32"),
    ],
)
def test_names_and_shapes_must_agree(changed, message):
    fields = {
        "mean": {"w": torch.zeros(2, 3)},
        "precision": {"w": torch.ones(2, 3)},
        "prior_precision": {"w": torch.ones(3)},
    }
    Posterior(**fields)
    with pytest.raises(InvalidArgumentError, match=message):
        Posterior(**(fields | changed))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"mean": {"w": torch.tensor([0.0, math.nan])}},
            r"mean\['w'\]: expected numbers, got nan at index \(1,\)",
        ),
        (
            {"precision": {"w": torch.tensor([1.0, 0.0])}},
            r"precision\['w'\]: expected positive .* got 0 at index",
        ),
        (
            {"precision": {"w": torch.tensor([-1.0, 1.0])}},
            r"precision\['w'\]: expected positive .* got -1 at",
        ),
        (
            {"precision": {"w": torch.tensor([1.0, math.nan])}},
            r"precision\['w'\]: expected positive .* got nan",
        ),
        (
            {"prior_precision": {"w": torch.tensor(-2.0)}},
            r"prior_precision\['w'\]: expected positive .* got -2$",
        ),
        ({"mean": {"w": torch.ones(2, dtype=torch.int64)}}, r"mean\['w'\]: .* floating-point .* torch.int64"),
        ({"mean": {"w": torch.ones(2, dtype=torch.complex64)}}, r"mean\['w'\]: .* got torch.complex64"),
        ({"precision": {"w": torch.ones(2, dtype=torch.int32)}}, r"precision\['w'\]: .* got torch.int32"),
        ({"prior_precision": {"w": torch.tensor(1)}}, r"prior_precision\['w'\]: .* got torch.int64"),
    ],
)
def test_values_must_be_those_of_a_gaussian(changed, message):
    fields = {
        "mean": {"w": torch.zeros(2)},
        "precision": {"w": torch.tensor([1.0, math.inf])},
        "prior_precision": {"w": torch.tensor(1.0)},
    }
    Posterior(**fields)
    with pytest.raises(InvalidArgumentError, match=message) as caught:
        Posterior(**(fields | changed))
    assert "\n" not in str(caught.value)


def test_what_is_out_may_have_any_value():
    mean, precision = {"w": torch.tensor([1.0, math.nan])}, {"w": torch.tensor([2.0, 0.0])}
    prior, keep = {"w": torch.tensor(1.0)}, {"w": torch.tensor([True, False])}
    posterior = Posterior(mean, precision, prior, keep)
    evidence = posterior.blocks[""].delta_f()["w"]
    torch.testing.assert_close(evidence, torch.tensor([0.5 * (math.log(2) - 2), math.nan]), equal_nan=True)


def test_a_posterior_cannot_be_changed(posterior):
    with pytest.raises(FrozenInstanceError):
        posterior.mean = {}
    with pytest.raises(FrozenInstanceError):
        posterior.blocks["a"].mean = {}


# Blocks --------------------------------------------------------------------------------------------------


def kronecker(generator: torch.Generator, layer: str = "k") -> Kronecker:
    def curvature(size: int) -> torch.Tensor:
        root = torch.randn(size, size, dtype=torch.float64, generator=generator)
        return root @ root.T

    mean = {f"{layer}.weight": torch.randn(2, 3, dtype=torch.float64, generator=generator)}
    prior = {f"{layer}.weight": torch.tensor(0.7, dtype=torch.float64)}
    return Kronecker(layer, mean, curvature(2), curvature(3), prior)


def test_tensors_become_a_diagonal_block_of_each_layer_and_are_not_copied(posterior):
    assert list(posterior.blocks) == ["a", ""]
    assert posterior.is_diagonal
    for layer, names in {"a": ["a.weight", "a.bias"], "": ["scale"]}.items():
        block = posterior.blocks[layer]
        assert isinstance(block, Diagonal)
        assert list(block.mean) == names
        for name in names:
            for kind in ("mean", "precision", "prior_precision"):
                assert getattr(block, kind)[name] is getattr(posterior, kind)[name]
    assert posterior.blocks["a"].keep["a.weight"] is posterior.keep["a.weight"]


def test_draws_follow_the_order_of_the_means_and_not_that_of_the_layers():
    names = ["a.w", "b.w", "a.v"]
    ones = {name: torch.ones(3) for name in names}
    posterior = Posterior(ones, ones, ones)
    drawn = posterior.sample(generator=torch.Generator().manual_seed(0))
    again = torch.Generator().manual_seed(0)
    assert list(drawn) == names
    for name in names:
        assert torch.equal(drawn[name], 1 + torch.randn(3, generator=again))


def test_a_posterior_of_blocks_answers_for_all_of_them(posterior, generator):
    joint = kronecker(generator)
    mixed = Posterior.of([*posterior.blocks.values(), joint])
    assert not mixed.is_diagonal
    assert list(mixed.mean) == ["a.weight", "a.bias", "scale", "k.weight"]
    assert mixed.precision["a.bias"] is posterior.precision["a.bias"]
    torch.testing.assert_close(mixed.precision["k.weight"], 1 / joint.variance()["k.weight"])
    torch.testing.assert_close(mixed.kl_divergence(), posterior.kl_divergence() + joint.kl())
    cold = mixed.at_temperature(0.5)
    torch.testing.assert_close(cold.std["k.weight"], 0.5**0.5 * mixed.std["k.weight"])
    drawn = mixed.sample(generator=torch.Generator().manual_seed(1))
    first = posterior.sample(generator=torch.Generator().manual_seed(1))
    assert all(torch.equal(drawn[name], first[name]) for name in first)
    assert drawn["k.weight"].shape == (2, 3)


def test_given_a_removal_joint_means_move_and_independent_ones_stay(posterior, generator):
    joint = kronecker(generator)
    mixed = Posterior.of([*posterior.blocks.values(), joint])
    keep = torch.tensor([[True, False, True], [True, True, True]])
    after = mixed.given({"k.weight": keep, "a.bias": torch.tensor([True, True, False])})
    expected = joint.given({"k.weight": keep})
    assert torch.equal(after.mean["k.weight"], expected.mean["k.weight"])
    assert not torch.equal(after.mean["k.weight"][keep], mixed.mean["k.weight"][keep])
    assert after.mean["a.bias"] is mixed.mean["a.bias"]
    assert after.point()["a.bias"][2] == 0
    assert torch.equal(after.keep["a.weight"], mixed.keep["a.weight"])
    assert after.blocks[""] is mixed.blocks[""]
    assert "k.weight" not in mixed.keep
    for wrong, message in (
        ({"z": keep}, "keep: expected names of mean, got 'z'"),
        ({"k.weight": keep.T}, r"keep\['k.weight'\]: expected shape \(2, 3\), got \(3, 2\)"),
        ({"k.weight": keep.float()}, r"keep\['k.weight'\]: expected booleans, got torch.float32"),
    ):
        with pytest.raises(InvalidArgumentError, match=message):
            mixed.given(wrong)


def test_blocks_whose_names_overlap_are_refused(generator):
    block = kronecker(generator)
    with pytest.raises(InvalidArgumentError, match="blocks: expected one for each layer, got two of 'k'"):
        Posterior.of([block, block])
    ones = {"k.weight": torch.ones(2, 3)}
    other = Diagonal("other", ones, ones, ones)
    with pytest.raises(InvalidArgumentError, match=r"got 'k.weight' in the layers 'k' and 'other'"):
        Posterior.of([block, other])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda m, p: Dense("l", m, torch.eye(5), p), r"joint_precision of 'l': expected shape \(6, 6\)"),
        (lambda m, p: Dense("l", m, torch.eye(6).triu() + torch.ones(6, 6).triu(1), p), "must be symmetric"),
        (lambda m, p: Rowwise("l", m, torch.eye(3), p), r"row_precision of 'l': expected shape \(2, 3, 3\)"),
        (
            lambda m, p: Rowwise.factored("l", m, torch.tensor([1.0, -1.0]), torch.eye(3), p),
            "row_scale of 'l': expected finite numbers that are not negative, got -1 to 1",
        ),
        (
            lambda m, p: Kronecker("l", m, torch.eye(3), torch.eye(3), p),
            r"row_curvature of 'l': expected shape \(2, 2\), got \(3, 3\)",
        ),
        (
            lambda m, p: Kronecker("l", m, torch.eye(2), torch.full((3, 3), math.nan), p),
            "column_curvature of 'l' must be finite",
        ),
        (
            lambda m, p: Kronecker("l", m, torch.eye(2), torch.eye(3), {"w": torch.tensor([1.0, 2.0, 2.0])}),
            "prior_precision of 'l': expected one number for the layer, got 2",
        ),
        (
            lambda m, p: Kronecker("l", m, torch.eye(2, dtype=torch.int64), torch.eye(3), p),
            "row_curvature of 'l': expected floating-point numbers, got torch.int64",
        ),
        (lambda m, p: Kronecker("l", {}, torch.eye(2), torch.eye(3), {}), "expected at least one parameter"),
    ],
)
def test_joint_blocks_that_do_not_fit_are_refused(build, message):
    with pytest.raises(InvalidArgumentError, match=message):
        build({"w": torch.ones(2, 3)}, {"w": torch.tensor(1.0)})


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (rows((3, 2)), r"groups: expected a partition of the layer's matrix \(2, 3\), got one of \(3, 2\)"),
        (torch.ones(2, 3), r"groups: expected integer labels in the shape \(2, 3\)"),
        (torch.zeros(3, 2, dtype=torch.int64), r"groups: expected integer labels in the shape \(2, 3\)"),
        ({"v": torch.zeros(2, 3, dtype=torch.int64)}, "groups: expected labels for every parameter"),
        ({"k.weight": torch.zeros(3, dtype=torch.int64)}, r"groups\['k.weight'\]: expected integer labels"),
    ],
)
def test_groups_that_do_not_fit_a_layer_are_refused(groups, message, generator):
    joint = kronecker(generator)
    diagonal = Diagonal("k", joint.mean, {n: m.exp() for n, m in joint.mean.items()}, joint.prior_precision)
    for block in (joint, diagonal):
        with pytest.raises(InvalidArgumentError, match=message):
            block.delta_f(groups)


def test_a_point_estimate_has_no_evidence():
    ones = {"w": torch.ones(2)}
    block = Diagonal("", ones, {"w": torch.tensor([1.0, math.inf])}, ones)
    with pytest.raises(InvalidArgumentError, match=r"precision\['w'\]: .* a point estimate has no evidence"):
        block.delta_f()
    held = block.given({"w": torch.tensor([True, False])})
    assert held.delta_f()["w"][0] == -0.5


def test_what_is_present_is_what_keep_says_and_all_where_it_says_nothing():
    keep = torch.tensor([True, False])
    ones = {"a": torch.ones(2), "b": torch.ones(3)}
    posterior = Posterior(ones, ones, {name: torch.tensor(1.0) for name in ones}, {"a": keep})
    assert torch.equal(posterior.present("a"), keep)
    assert torch.equal(posterior.present("b"), torch.ones(3, dtype=torch.bool))
