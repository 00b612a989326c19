"""Subset search and model averaging against brute force over the dense evidence."""

import itertools
import math

import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from secateur.errors import InvalidArgumentError
from secateur.reduction import (
    average_models,
    conditional_prior,
    delta_f,
    dense_delta_f,
    dense_reduced_posterior,
    search_subsets,
    single_delta_f,
)

FLOAT64 = torch.float64


def problem(size: int, seed: int = 0) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """A correlated posterior and prior; every second mean is small."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=FLOAT64, generator=generator)

    eye = torch.eye(size, dtype=FLOAT64)
    root, prior_root = normal(size, size), normal(size, size)
    prior = 0.3 * eye + 0.05 * prior_root @ prior_root.mT
    precision = prior + 5 * root @ root.mT + 4 * eye
    mean = normal(size) * torch.where(torch.arange(size) % 2 == 0, 1.0, 0.1)
    means = {"prior_mean": 0.2 * normal(size), "reduced_mean": 0.1 * normal(size)}
    return mean, precision, {"prior_precision": prior, **means}


def brute_force(mean: Tensor, precision: Tensor, keywords: dict[str, Tensor], pins: Tensor) -> Tensor:
    reduced_mean, reduced_precision = conditional_prior(pins, **keywords)
    changes = {"reduced_mean": reduced_mean, "reduced_precision": reduced_precision}
    return dense_delta_f(mean, precision, **(keywords | changes))


@pytest.mark.parametrize("seed", range(3))
def test_exhaustive_search_is_the_dense_evidence_of_every_subset(seed: int) -> None:
    mean, precision, keywords = problem(6, seed)
    found = search_subsets(mean, precision, **keywords)
    assert found.method == "exhaustive"
    assert {tuple(row) for row in found.removed.tolist()} == set(itertools.product([False, True], repeat=6))
    torch.testing.assert_close(
        found.delta_f, brute_force(mean, precision, keywords, found.removed), rtol=0, atol=1e-9
    )
    assert not found.removed[0].any()
    assert found.delta_f[0] == 0
    assert torch.equal(found.best_removed, found.removed[found.delta_f.argmax()])
    torch.testing.assert_close(found.probability, found.delta_f.softmax(0))
    torch.testing.assert_close(found.keep_probability, found.probability @ (~found.removed).to(FLOAT64))


def test_the_conditional_prior_makes_removal_a_ratio_of_marginal_densities() -> None:
    mean, precision, keywords = problem(4)
    pins = torch.tensor([True, False, True, False])
    at = keywords["reduced_mean"][pins].numpy()

    def log_density(mean: Tensor, precision: Tensor) -> float:
        covariance = torch.linalg.inv(precision)[pins][:, pins]
        return float(multivariate_normal(mean[pins].numpy(), covariance.numpy()).logpdf(at))

    expected = log_density(mean, precision) - log_density(keywords["prior_mean"], keywords["prior_precision"])
    assert brute_force(mean, precision, keywords, pins).item() == pytest.approx(expected, abs=1e-10)


def test_sixteen_parameters_are_searched_exhaustively_and_seventeen_are_not() -> None:
    mean, precision, keywords = problem(16)
    found = search_subsets(mean, precision, **keywords)
    assert found.removed.shape == (1 << 16, 16)
    sample = torch.arange(0, 1 << 16, 4099)
    torch.testing.assert_close(
        found.delta_f[sample],
        brute_force(mean, precision, keywords, found.removed[sample]),
        rtol=0,
        atol=1e-8,
    )
    mean, precision, keywords = problem(17)
    assert search_subsets(mean, precision, **keywords).method == "greedy"
    with pytest.raises(InvalidArgumentError, match=r"at most 16 entries .* got 17; use greedy"):
        search_subsets(mean, precision, method="exhaustive", **keywords)


def test_greedy_search_removes_the_best_and_updates_after_each_removal() -> None:
    mean, precision, keywords = problem(60, seed=1)
    found = search_subsets(mean, precision, **keywords)
    assert found.removed.sum(-1).tolist() == list(range(61))
    joint = brute_force(mean, precision, keywords, found.removed)
    torch.testing.assert_close(found.delta_f, joint, rtol=1e-10, atol=1e-8)
    for step in (0, 7, 30, 58):  # at these steps try all single removals by brute force
        left = (~found.removed[step]).nonzero().squeeze(-1)
        tries = found.removed[step].repeat(len(left), 1)
        tries[torch.arange(len(left)), left] = True
        best = brute_force(mean, precision, keywords, tries).argmax()
        assert torch.equal(found.removed[step + 1], tries[best])


def test_single_precision_is_searched_in_double() -> None:
    mean, precision, keywords = problem(60, seed=1)
    single = {name: value.float() for name, value in keywords.items()}
    found = search_subsets(mean.float(), precision.float(), **single)
    exact = search_subsets(mean, precision, **keywords)
    assert found.delta_f.dtype == FLOAT64
    torch.testing.assert_close(found.delta_f, exact.delta_f, rtol=1e-3, atol=1e-2)


def test_greedy_finds_the_best_subset_where_parameters_are_independent() -> None:
    mean, precision, keywords = problem(8)
    diagonal = precision.diagonal().diag()
    prior = {"prior_precision": keywords["prior_precision"].diagonal().diag()}
    greedy = search_subsets(mean, diagonal, method="greedy", **prior)
    exhaustive = search_subsets(mean, diagonal, **prior)
    per_weight = delta_f(mean, diagonal.diagonal(), prior_precision=prior["prior_precision"].diagonal())
    assert torch.equal(greedy.best_removed, exhaustive.best_removed)
    assert torch.equal(greedy.best_removed, per_weight > 0)
    torch.testing.assert_close(greedy.delta_f.max(), per_weight.clamp(min=0).sum())


def test_prior_log_odds_move_the_threshold() -> None:
    mean, precision, keywords = problem(6, seed=2)
    sizes = [
        int(search_subsets(mean, precision, log_odds=odds, **keywords).best_removed.sum())
        for odds in (-50, 0, 50)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert (sizes[0], sizes[-1]) == (6, 0)


def test_single_removals_are_the_first_step_of_the_search() -> None:
    mean, precision, keywords = problem(5)
    found = search_subsets(mean, precision, **keywords)
    alone = found.delta_f[found.removed.sum(-1) == 1]
    torch.testing.assert_close(single_delta_f(mean, precision, **keywords).sort().values, alone.sort().values)
    batch = single_delta_f(torch.stack([mean, -mean]), torch.stack([precision, precision]), **keywords)
    torch.testing.assert_close(batch[0], single_delta_f(mean, precision, **keywords))


@pytest.mark.parametrize("method", ["exhaustive", "greedy"])
def test_averages_are_those_of_the_mixture(method: str) -> None:
    mean, precision, keywords = problem(5, seed=4)
    found = search_subsets(mean, precision, method=method, **keywords)  # type: ignore[arg-type]
    average = average_models(found, mean, precision, **keywords)
    first, second = torch.zeros(5, dtype=FLOAT64), torch.zeros(5, 5, dtype=FLOAT64)
    for pins, weight in zip(found.removed, found.probability, strict=True):
        kept_mean, kept_precision = conditional_prior(pins, **keywords)
        changes = {"reduced_mean": kept_mean, "reduced_precision": kept_precision}
        m, p = dense_reduced_posterior(mean, precision, **(keywords | changes))
        covariance, free = torch.zeros(5, 5, dtype=FLOAT64), (~pins).nonzero().squeeze(-1)
        covariance[free[:, None], free] = torch.linalg.inv(p[free][:, free])
        first += weight * m
        second += weight * (covariance + m[:, None] * m)
    torch.testing.assert_close(average.mean, first, rtol=0, atol=1e-7)
    torch.testing.assert_close(average.covariance, second - first[:, None] * first, rtol=0, atol=1e-7)


def test_bad_arguments_are_named() -> None:
    mean, precision, keywords = problem(3)
    with pytest.raises(InvalidArgumentError, match=r"^mean must have shape \(n,\), got \(1, 3\)"):
        search_subsets(mean[None], precision, **keywords)
    with pytest.raises(InvalidArgumentError, match=r"^precision must be positive definite"):
        search_subsets(mean, -precision, **keywords)
    with pytest.raises(InvalidArgumentError, match=r"^prior_mean must be finite, got nan"):
        search_subsets(mean, precision, **(keywords | {"prior_mean": torch.tensor([0.0, math.nan, 0.0])}))
    found = search_subsets(mean, precision, **keywords)
    other_mean, other_precision, other = problem(4)
    with pytest.raises(InvalidArgumentError, match=r"search.removed must have shape \(..., 4\)"):
        average_models(found, other_mean, other_precision, **other)


def test_single_evidence_takes_plain_numbers() -> None:
    by_numbers = single_delta_f(0.3, 25.0, prior_precision=2.0)
    eye = torch.eye(1, dtype=torch.float64)
    by_tensors = single_delta_f(0.3 * torch.ones(1, dtype=torch.float64), 25 * eye, prior_precision=2 * eye)
    assert by_numbers.item() == pytest.approx(by_tensors.item(), rel=1e-14)
    means = torch.tensor([0.3, -1.0], dtype=torch.float64)
    torch.testing.assert_close(
        single_delta_f(means, 25.0, prior_precision=torch.eye(2, dtype=torch.float64)),
        single_delta_f(means, 25 * torch.eye(2, dtype=torch.float64), prior_precision=1.0),
    )
