"""The posterior as a value: draws, temperature, divergence, and a file that is whole or refused."""

import math

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import distributions
from torch.overrides import TorchFunctionMode

from secateur import Posterior
from secateur.errors import ArtifactError, InvalidArgumentError


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


# Files ---------------------------------------------------------------------------------------------------


def test_round_trip_to_the_bit(posterior, tmp_path):
    path = tmp_path / "posterior.safetensors"
    posterior.save(path)
    assert_equal(Posterior.load(path), posterior)
    assert list(tmp_path.iterdir()) == [path]


def test_views_of_one_vector_and_one_shared_prior_are_saved(tmp_path):
    """As an optimiser's posterior comes: parameters are views, the prior one scalar for all."""
    vector, prior = torch.arange(6.0), torch.tensor(2.0)
    mean = {"a": vector[:4].view(2, 2).T, "b": vector[4:]}
    posterior = Posterior(mean, {n: v.square() + 1 for n, v in mean.items()}, dict.fromkeys(mean, prior))
    posterior.save(str(tmp_path / "p"))
    assert_equal(Posterior.load(str(tmp_path / "p")), posterior)


def test_a_truncated_file_is_refused(posterior, tmp_path):
    path = tmp_path / "posterior.safetensors"
    posterior.save(path)
    content = path.read_bytes()
    for length in (0, 4, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ArtifactError, match=r"posterior\.safetensors: expected a readable posterior"):
            Posterior.load(path)


def test_a_damaged_header_is_refused(posterior, tmp_path):
    path = tmp_path / "posterior.safetensors"
    posterior.save(path)
    content = bytearray(path.read_bytes())
    content[20:40] = b"\xff" * 20
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="expected a readable posterior"):
        Posterior.load(path)


def test_other_files_are_refused(posterior, tmp_path):
    path = tmp_path / "other.safetensors"
    with pytest.raises(ArtifactError, match=r"other\.safetensors"):
        Posterior.load(path)
    save_file({"x": torch.ones(2)}, path)
    with pytest.raises(ArtifactError, match=r"expected a posterior .* got format None"):
        Posterior.load(path)
    own = tmp_path / "own.safetensors"
    posterior.save(own)
    tensors = load_file(own)
    metadata = {"format": "secateur-posterior-1"}
    for damaged in (
        {name: value for name, value in tensors.items() if name != "precision/a.bias"},
        tensors | {"variance/a.bias": torch.ones(3)},
        tensors | {"mean/a.bias": torch.ones(7)},
    ):
        save_file(damaged, path, metadata=metadata)
        with pytest.raises(ArtifactError, match="expected a readable posterior"):
            Posterior.load(path)


def test_a_place_that_cannot_be_written_is_named_and_the_old_file_stays(posterior, tmp_path):
    with pytest.raises(ArtifactError, match="expected to write it"):
        posterior.save(tmp_path / "missing" / "p.safetensors")
    occupied = tmp_path / "occupied"
    (occupied / "inside").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="occupied: expected to write it"):
        posterior.save(occupied)
    assert [path.name for path in tmp_path.iterdir()] == ["occupied"]


def test_what_is_present_is_what_keep_says_and_all_where_it_says_nothing():
    keep = torch.tensor([True, False])
    ones = {"a": torch.ones(2), "b": torch.ones(3)}
    posterior = Posterior(ones, ones, {name: torch.tensor(1.0) for name in ones}, {"a": keep})
    assert torch.equal(posterior.present("a"), keep)
    assert torch.equal(posterior.present("b"), torch.ones(3, dtype=torch.bool))
