"""Gaussians from draws: the moments, whatever holds the draws."""

import numpy as np
import pytest
import torch

from secateur.errors import InvalidArgumentError
from secateur.reduction import delta_f, dense_delta_f, from_draws

FLOAT64 = torch.float64


@pytest.fixture
def draws() -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.normal(1.0, 0.2, (4, 250, 3, 2)) + rng.normal(size=(4, 250, 1, 1))


def test_moments_of_arrays(draws: np.ndarray) -> None:
    mean, precision = from_draws(draws, num_draw_axes=2)
    flat = draws.reshape(1000, 3, 2)
    np.testing.assert_allclose(mean.numpy(), flat.mean(0))
    np.testing.assert_allclose(precision.numpy(), 1 / flat.var(0, ddof=1))
    fit = from_draws(torch.from_numpy(flat), covariance=True)
    assert fit.num_draws == 1000
    np.testing.assert_allclose(
        np.linalg.inv(fit.precision.numpy()), np.cov(flat.reshape(1000, 6), rowvar=False), rtol=1e-8
    )
    assert torch.equal(fit.precision, fit.precision.mT)
    dense_delta_f(
        *fit, prior_precision=torch.eye(6, dtype=FLOAT64), reduced_precision=2 * torch.eye(6, dtype=FLOAT64)
    )


def test_labelled_draws_find_their_own_axes(draws: np.ndarray) -> None:
    xarray = pytest.importorskip("xarray")
    expected = from_draws(draws, num_draw_axes=2)
    labelled = xarray.DataArray(np.moveaxis(draws, (0, 1), (3, 1)), dims=("row", "draw", "column", "chain"))
    other = xarray.DataArray(draws[:, :, 0, 0], dims=("chain", "draw"))
    dataset = xarray.Dataset({"weights": labelled, "noise": other})
    for holder in (dataset, {"weights": labelled, "noise": other}):
        got = from_draws(holder, variable="weights")
        torch.testing.assert_close(got.mean, expected.mean)
        torch.testing.assert_close(got.precision, expected.precision)
    torch.testing.assert_close(from_draws(labelled).mean, expected.mean)
    torch.testing.assert_close(from_draws({"weights": labelled}).mean, expected.mean)
    assert from_draws(dataset, variable="noise").mean.shape == ()


def test_arviz_inference_data(draws: np.ndarray) -> None:
    arviz = pytest.importorskip("arviz")
    data = arviz.from_dict(posterior={"weights": draws})
    got = from_draws(data, variable="weights")
    torch.testing.assert_close(got.mean, from_draws(draws, num_draw_axes=2).mean)
    assert got.num_draws == 1000


def test_evidence_from_draws_is_right_within_monte_carlo_error() -> None:
    num_draws, m, p = 20_000, 0.3, 25.0
    samples = np.random.default_rng(1).normal(m, p**-0.5, (num_draws, 200))
    got = delta_f(*from_draws(samples), prior_precision=0.7)
    exact = delta_f(m, p, prior_precision=0.7).item()
    # d delta_f = (1/2p - m²/2) dp - p m dm, with var(dp) = 2 p² / draws and var(dm) = 1 / (p draws)
    error = np.sqrt(((0.5 / p - 0.5 * m**2) ** 2 * 2 * p**2 + p * m**2) / num_draws)
    scores = (got.numpy() - exact) / error
    assert abs(scores.mean()) < 4 / np.sqrt(200)
    assert 0.8 < scores.std() < 1.2


def test_bad_draws_are_named(draws: np.ndarray) -> None:
    draws = draws.copy()
    draws[2, 7, 1, 0] = np.nan
    with pytest.raises(InvalidArgumentError, match=r"draws must be finite, got nan at index \(2, 7, 1, 0\)"):
        from_draws(draws, num_draw_axes=2)
    with pytest.raises(
        InvalidArgumentError,
        match=r"at least 8 for 6 parameters, got 7; .* along the first 1 of the axes \(7, 6\)",
    ):
        from_draws(np.zeros((7, 6)), covariance=True)
    with pytest.raises(
        InvalidArgumentError, match=r"draws must be of positive variance, got 0 at index \(0,\)"
    ):
        from_draws(np.ones((9, 2)))
    repeated = np.random.default_rng(0).normal(size=(50, 1)) * np.ones(2)
    with pytest.raises(InvalidArgumentError, match=r"draws must be free of linear dependence"):
        from_draws(repeated, covariance=True)
    with pytest.raises(InvalidArgumentError, match=r"variable must be one of \['a', 'b'\], got None"):
        from_draws({"a": np.zeros(5), "b": np.zeros(5)})
    with pytest.raises(InvalidArgumentError, match="num_draw_axes must be 1 to 2, got 3"):
        from_draws(np.zeros((7, 6)), num_draw_axes=3)


def test_an_array_that_looks_swapped_is_told_which_axis_holds_the_draws() -> None:
    swapped = np.random.default_rng(0).normal(size=(3, 400))
    with pytest.warns(UserWarning, match=r"looks swapped; .* along the first 1 of the axes \(3, 400\)"):
        from_draws(swapped)
    assert from_draws(swapped.T).num_draws == 400
    xarray = pytest.importorskip("xarray")
    from_draws(xarray.DataArray(swapped, dims=("draw", "weight")))  # is what its labels say
