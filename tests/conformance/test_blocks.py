"""Blocks of every structure answer as the dense oracle does, and alike where one is a case of another."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from secateur.posterior import Block, Dense, Diagonal, Kronecker, Rowwise, kronecker
from secateur.reduction import (
    columns,
    delta_f,
    dense_delta_f,
    dense_reduced_posterior,
    partition,
    rows,
    runs,
)

PRIOR = 0.37  # of variance 2.7: formulas that drop a half show at variances other than 1
ROWS, COLUMNS = 3, 4
NAMES = ("fc.weight", "fc.bias")
EXACT = {"rtol": 1e-10, "atol": 1e-10}


def random(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=generator)


def curvature(generator: torch.Generator, size: int) -> Tensor:
    root = random(generator, size, size + 2)
    return root @ root.T


def parameters(generator: torch.Generator, num_rows: int, num_columns: int) -> dict[str, Tensor]:
    weight, bias = random(generator, num_rows, num_columns - 1), random(generator, num_rows)
    return {"fc.weight": weight, "fc.bias": bias} if num_columns > 1 else {"fc.bias": bias}


def prior_of(mean: dict[str, Tensor], value: float = PRIOR) -> dict[str, Tensor]:
    return dict.fromkeys(mean, torch.tensor(value, dtype=torch.float64))


def independent(generator: torch.Generator, num_rows: int, num_columns: int) -> dict[str, Block]:
    """One posterior of independent weights in every structure: precision r_i c_j + prior."""
    mean = parameters(generator, num_rows, num_columns)
    by_row, by_column = random(generator, num_rows).exp(), random(generator, num_columns).exp()
    precision = by_row.unsqueeze(-1) * by_column + PRIOR
    own, prior = {}, prior_of(mean)
    for name, part in zip(
        mean, precision.split([num_columns - 1, 1], 1) if num_columns > 1 else [precision], strict=True
    ):
        own[name] = part.reshape(mean[name].shape)
    return {
        "diagonal": Diagonal("fc", mean, own, prior),
        "rowwise": Rowwise("fc", mean, torch.diag_embed(precision), prior),
        "factored": Rowwise.factored("fc", mean, by_row, torch.diag(by_column), prior),
        "kronecker": Kronecker("fc", mean, torch.diag(by_row), torch.diag(by_column), prior),
        "dense": Dense("fc", mean, torch.diag(precision.reshape(-1)), prior),
    }


def joint(kind: str, generator: torch.Generator, num_rows: int, num_columns: int) -> tuple[Block, Dense]:
    """A block of a structure, and the same posterior as one dense block."""
    mean = parameters(generator, num_rows, num_columns)
    prior, size = prior_of(mean), num_rows * num_columns
    between, within = curvature(generator, num_rows), curvature(generator, num_columns)
    identity = torch.eye(size, dtype=torch.float64)
    if kind == "kronecker":
        block = Kronecker("fc", mean, between, within, prior)
        return block, Dense("fc", mean, torch.kron(between, within) + PRIOR * identity, prior)
    if kind == "factored":
        scale = between.diagonal().clone()
        block = Rowwise.factored("fc", mean, scale, within, prior)
        return block, Dense("fc", mean, torch.kron(torch.diag(scale), within) + PRIOR * identity, prior)
    if kind == "rowwise":
        each = [curvature(generator, num_columns) + PRIOR * torch.eye(num_columns) for _ in range(num_rows)]
        block = Rowwise("fc", mean, torch.stack(each), prior)
        return block, Dense("fc", mean, torch.block_diag(*each), prior)
    if kind == "diagonal":
        blocks = independent(generator, num_rows, num_columns)
        return blocks["diagonal"], blocks["dense"]
    dense = Dense("fc", mean, curvature(generator, size) + PRIOR * identity, prior)
    return dense, dense


JOINT = ["rowwise", "factored", "kronecker", "dense"]


def scattered(generator: torch.Generator, block: Block, share: float = 0.3) -> dict[str, Tensor]:
    return {name: torch.rand(mean.shape, generator=generator) > share for name, mean in block.mean.items()}


def whole(generator: torch.Generator, block: Block, share: float = 0.3) -> dict[str, Tensor]:
    """Masks that take whole rows and whole columns."""
    num_rows = len(next(iter(block.mean.values())))
    by_row = torch.rand(num_rows, generator=generator) > share
    masks = {}
    for name, mean in block.mean.items():
        by_column = torch.rand(mean[0].shape, generator=generator) > share
        masks[name] = by_row.reshape(-1, *[1] * (mean.dim() - 1)) & by_column
    return masks


OUT: dict[str, Callable[[torch.Generator, Block], dict[str, Tensor]]] = {
    "nothing": lambda generator, block: {},
    "scattered": scattered,
    "whole": whole,
}


def assert_alike(found: dict[str, Tensor], expected: dict[str, Tensor], **tolerance: float) -> None:
    assert list(found) == list(expected)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], equal_nan=True, **(tolerance or EXACT))


def assert_same_answers(found: Block, expected: Block) -> None:
    """Everything a block answers that is not random."""
    assert_alike(found.point(), expected.point())
    assert_alike(found.variance(), expected.variance())
    assert_alike(found.delta_f(), expected.delta_f())
    torch.testing.assert_close(found.kl(), expected.kl(), **EXACT)
    layer = (len(found.point()["fc.bias"]), sum(value[0].numel() for value in found.mean.values()))
    labels = torch.arange(math.prod(layer)).reshape(layer) % 3 - 1
    for groups in (rows(layer), columns(layer), runs(layer, 2 - layer[1] % 2), labels):
        torch.testing.assert_close(found.delta_f(groups), expected.delta_f(groups), equal_nan=True, **EXACT)
    by_parameter = {
        name: torch.arange(mean.numel()).reshape(mean.shape) % 2 for name, mean in found.mean.items()
    }
    torch.testing.assert_close(
        found.delta_f(by_parameter), expected.delta_f(by_parameter), equal_nan=True, **EXACT
    )


@pytest.mark.parametrize("out", OUT)
@pytest.mark.parametrize("kind", ["diagonal", "rowwise", "factored", "kronecker"])
def test_independent_weights_are_alike_in_every_structure(kind, out, generator):
    blocks = independent(generator, ROWS, COLUMNS)
    block, oracle = blocks[kind], blocks["dense"]
    removal = OUT[out](generator, block)
    assert_same_answers(block.given(removal), oracle.given(removal))
    precision = block.given(removal).precision
    for name, keep in block.given(removal).keep.items():
        torch.testing.assert_close(precision[name][keep], blocks["diagonal"].precision[name][keep], **EXACT)


@pytest.mark.parametrize("out", OUT)
@pytest.mark.parametrize("kind", JOINT[:-1])
def test_joint_weights_are_as_the_dense_oracle_has_them(kind, out, generator):
    block, oracle = joint(kind, generator, ROWS, COLUMNS)
    removal = OUT[out](generator, block)
    assert_same_answers(block.given(removal), oracle.given(removal))


@given(
    st.sampled_from(["diagonal", *JOINT]),
    st.integers(1, 4),
    st.integers(1, 5),
    st.sampled_from(sorted(OUT)),
    st.integers(0, 1000),
)
@settings(max_examples=40)
def test_every_shape_is_as_the_dense_oracle_has_it(kind, num_rows, num_columns, out, seed):
    generator = torch.Generator().manual_seed(seed)
    block, oracle = joint(kind, generator, num_rows, num_columns)
    removal = OUT[out](generator, block)
    assert_same_answers(block.given(removal), oracle.given(removal))


@pytest.mark.parametrize("kind", JOINT)
def test_tiles_of_several_rows_and_columns_are_judged_jointly(kind, generator):
    block, oracle = joint(kind, generator, 4, 6)
    groups = partition.blocks((4, 6), (2, 3))
    assert block.delta_f(groups).shape == (2, 2)
    torch.testing.assert_close(block.delta_f(groups), oracle.delta_f(groups), **EXACT)
    # Two rows as one group, as a head is: the same entries as labels and as a partition.
    pairs = torch.arange(4).unsqueeze(-1).expand(4, 6) // 2
    torch.testing.assert_close(block.delta_f(pairs), oracle.delta_f(pairs), **EXACT)
    torch.testing.assert_close(
        block.delta_f(pairs), block.delta_f(partition.blocks((4, 6), (2, 6)))[:, 0], **EXACT
    )


# The oracle itself -----------------------------------------------------------------------------------------


def reduced(removed: Tensor) -> Tensor:
    """The reduced prior that pins what is removed and leaves the prior of the rest."""
    return torch.diag(torch.full(removed.shape, PRIOR, dtype=torch.float64).masked_fill(removed, math.inf))


def dense_and_matrix(generator: torch.Generator) -> tuple[Dense, Tensor]:
    dense = joint("dense", generator, ROWS, COLUMNS)[1]
    return dense, torch.cat([dense.mean["fc.weight"], dense.mean["fc.bias"].unsqueeze(-1)], 1).reshape(-1)


def test_the_oracle_is_bayesian_model_reduction(generator):
    dense, mean = dense_and_matrix(generator)
    full = {"prior_precision": PRIOR * torch.eye(len(mean), dtype=torch.float64)}
    arguments = mean, dense.joint_precision
    removed = torch.rand(len(mean), generator=generator) < 0.4
    expected = dense_delta_f(*arguments, **full, reduced_precision=reduced(removed))
    labels = torch.where(removed, 0, -1).reshape(ROWS, COLUMNS)
    torch.testing.assert_close(dense.delta_f(labels), expected.reshape(1), **EXACT)
    moved, precision = dense_reduced_posterior(*arguments, **full, reduced_precision=reduced(removed))
    keep = ~removed.reshape(ROWS, COLUMNS)
    after = dense.given({"fc.weight": keep[:, :-1], "fc.bias": keep[:, -1]})
    found = torch.cat([after.point()["fc.weight"], after.point()["fc.bias"].unsqueeze(-1)], 1)
    torch.testing.assert_close(found.reshape(-1), moved, **EXACT)
    spread = torch.linalg.inv(precision[~removed][:, ~removed]).diagonal()
    variance = torch.cat([after.variance()["fc.weight"], after.variance()["fc.bias"].unsqueeze(-1)], 1)
    torch.testing.assert_close(variance.reshape(-1)[~removed], spread, **EXACT)
    assert (variance.reshape(-1)[removed] == 0).all()


def test_single_entries_are_removed_as_the_density_ratio_says(generator):
    dense, mean = dense_and_matrix(generator)
    covariance = torch.linalg.inv(dense.joint_precision)
    expected = delta_f(mean, 1 / covariance.diagonal(), prior_precision=PRIOR).reshape(ROWS, COLUMNS)
    torch.testing.assert_close(dense.delta_f()["fc.weight"], expected[:, :-1], **EXACT)
    torch.testing.assert_close(dense.delta_f()["fc.bias"], expected[:, -1], **EXACT)


@pytest.mark.parametrize("kind", ["diagonal", *JOINT])
def test_divergence_is_that_of_multivariate_normals(kind, generator):
    block, oracle = joint(kind, generator, ROWS, COLUMNS)
    removal = scattered(generator, block)
    keep = torch.cat([removal["fc.weight"], removal["fc.bias"].unsqueeze(-1)], 1).reshape(-1)
    after = block.given(removal)
    mean = torch.cat([after.point()["fc.weight"], after.point()["fc.bias"].unsqueeze(-1)], 1).reshape(-1)
    precision = oracle.joint_precision[keep][:, keep]
    q = MultivariateNormal(mean[keep], precision_matrix=precision)
    p = MultivariateNormal(torch.zeros_like(mean[keep]), PRIOR**-1 * torch.eye(int(keep.sum())).double())
    torch.testing.assert_close(after.kl(), kl_divergence(q, p), **EXACT)


# Removal in steps ------------------------------------------------------------------------------------------


@given(st.sampled_from(["diagonal", *JOINT]), st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
@settings(max_examples=40)
def test_two_removals_are_one(kind, num_rows, num_columns, seed):
    generator = torch.Generator().manual_seed(seed)
    block, _ = joint(kind, generator, num_rows, num_columns)
    first, second = scattered(generator, block), whole(generator, block)
    both = {name: first[name] & second[name] for name in first}
    stepwise, at_once = block.given(first).given(second), block.given(both)
    assert_alike(stepwise.point(), at_once.point())
    assert_alike(stepwise.variance(), at_once.variance())
    assert_alike(stepwise.delta_f(), at_once.delta_f())
    assert all(torch.equal(stepwise.keep[name], both[name]) for name in both)
    again = stepwise.given(first)  # what is out stays out, and nothing else changes
    assert_alike(again.point(), stepwise.point())


@given(st.sampled_from(["diagonal", *JOINT]), st.integers(1, 4), st.integers(1, 4), st.integers(0, 1000))
@settings(max_examples=40)
def test_evidence_of_a_union_is_the_sum_along_the_removals(kind, num_rows, num_columns, seed):
    generator = torch.Generator().manual_seed(seed)
    block, _ = joint(kind, generator, num_rows, num_columns)
    block = block.given(scattered(generator, block, 0.2))
    keep = {name: block.present(name) for name in block.mean}
    order = [
        (name, int(k))
        for name in block.mean
        for k in torch.randperm(block.mean[name].numel(), generator=generator)
    ]
    chosen = [place for place in order if keep[place[0]].reshape(-1)[place[1]]][::2]
    union = {name: torch.full(mean.shape, -1) for name, mean in block.mean.items()}
    total, step = torch.zeros((), dtype=torch.float64), block
    for name, k in chosen:
        union[name].view(-1)[k] = 0
        total = total + step.delta_f()[name].reshape(-1)[k]
        removal = torch.ones(block.mean[name].numel(), dtype=torch.bool)
        removal[k] = False
        step = step.given({name: removal.reshape(block.mean[name].shape)})
    if chosen:
        torch.testing.assert_close(block.delta_f(union), total.reshape(1), **EXACT)


# A large Kronecker block, by its way for large blocks -----------------------------------------------------


@pytest.fixture
def no_dense(monkeypatch):
    monkeypatch.setattr(kronecker, "LARGEST_DENSE", 0)


@pytest.mark.usefixtures("no_dense")
def test_means_of_a_large_block_move_exactly(generator):
    block, oracle = joint("kronecker", generator, 7, 9)
    for removal in (scattered(generator, block, 0.5), scattered(generator, block, 0.5)):
        block, oracle = block.given(removal), oracle.given(removal)
        assert_alike(block.point(), oracle.point(), rtol=1e-8, atol=1e-8)


@pytest.mark.usefixtures("no_dense")
def test_spread_of_a_large_block_is_that_of_its_rows_given_each_other(generator):
    block, oracle = joint("kronecker", generator, 5, 4)
    removal = scattered(generator, block)
    after = block.given(removal)
    assert_alike(after.variance(), after.rowwise().variance())
    assert_alike(after.delta_f(), after.rowwise().delta_f())
    exact = oracle.given(removal).variance()
    assert all((after.variance()[name] <= exact[name] * (1 + 1e-12)).all() for name in exact)
    # By hand: row 1, its kept columns, and the diagonal of the row curvature.
    kept = torch.cat([removal["fc.weight"][1], removal["fc.bias"][1:2]])
    precision = block.row_curvature[1, 1] * block.column_curvature + PRIOR * torch.eye(4).double()
    by_hand = torch.linalg.inv(precision[kept][:, kept]).diagonal()
    found = torch.cat([after.variance()["fc.weight"][1], after.variance()["fc.bias"][1:2]])
    torch.testing.assert_close(found[kept], by_hand, **EXACT)


# Draws -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", OUT)
@pytest.mark.parametrize("kind", ["diagonal", *JOINT, "large"])
def test_draws_have_the_posteriors_moments(kind, out, generator, monkeypatch):
    if kind == "large":
        monkeypatch.setattr(kronecker, "LARGEST_DENSE", 0)
    block, oracle = joint("kronecker" if kind == "large" else kind, generator, 2, 3)
    removal = OUT[out](generator, block)
    block = block.given(removal)
    num_draws = 1500
    draws = [block.sample(generator=generator) for _ in range(num_draws)]
    flat = torch.stack([
        torch.cat([d["fc.weight"], d["fc.bias"].unsqueeze(-1)], 1).reshape(-1) for d in draws
    ])
    point = block.point()
    mean = torch.cat([point["fc.weight"], point["fc.bias"].unsqueeze(-1)], 1).reshape(-1)
    present = {name: block.present(name) for name in block.mean}
    keep = torch.cat([present["fc.weight"], present["fc.bias"].unsqueeze(-1)], 1).reshape(-1)
    assert (flat[:, ~keep] == 0).all()
    covariance = torch.linalg.inv(oracle.joint_precision[keep][:, keep])
    spread = covariance.diagonal()
    off = (flat.mean(0) - mean)[keep].abs() / (spread / num_draws).sqrt()
    assert (off < 4.5).all()
    error = (torch.outer(spread, spread) + covariance.square()).div(num_draws).sqrt()
    assert ((torch.cov(flat[:, keep].T).reshape(error.shape) - covariance).abs() < 4.5 * error).all()


@pytest.mark.parametrize("kind", ["diagonal", *JOINT])
def test_the_seed_decides_a_draw(kind, generator):
    block, _ = joint(kind, generator, ROWS, COLUMNS)
    first, second = (block.sample(generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert_alike(first, second, rtol=0, atol=0)


# Copies ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("out", OUT)
@pytest.mark.parametrize("kind", ["diagonal", *JOINT])
def test_tensors_make_the_same_block(kind, out, generator):
    block, _ = joint(kind, generator, ROWS, COLUMNS)
    block = block.given(OUT[out](generator, block))
    again = type(block).from_tensors(block.layer, block.tensors(), transposed=block.transposed)
    assert again.tensors().keys() == block.tensors().keys()
    for key, tensor in block.tensors().items():
        assert torch.equal(again.tensors()[key], tensor)
    assert_same_answers(again, block)


@pytest.mark.parametrize("kind", ["diagonal", *JOINT])
def test_temperature_scales_the_covariance_and_no_mean(kind, generator):
    block, _ = joint(kind, generator, ROWS, COLUMNS)
    block = block.given(scattered(generator, block))
    cold = block.at_temperature(0.25)
    assert_alike(cold.point(), block.point())
    assert_alike(cold.variance(), {name: 0.25 * each for name, each in block.variance().items()})
    for name, prior in block.prior_precision.items():
        torch.testing.assert_close(cold.prior_precision[name], 4 * prior)
    with pytest.raises(ValueError, match="temperature: expected a positive number"):
        block.at_temperature(0.0)


@pytest.mark.parametrize("kind", ["diagonal", *JOINT])
def test_single_precision_is_close_to_double(kind, generator):
    block, _ = joint(kind, generator, ROWS, COLUMNS)
    tensors = {
        key: value.float() if value.is_floating_point() else value for key, value in block.tensors().items()
    }
    single = type(block).from_tensors("fc", tensors).given(scattered(generator, block))
    assert all(each.dtype == torch.float32 for each in single.delta_f().values())
    assert all(each.dtype == torch.float32 for each in single.point().values())
    removal = {name: single.present(name) for name in single.mean}
    expected = block.given(removal).delta_f()
    assert_alike(single.delta_f(), {n: e.float() for n, e in expected.items()}, rtol=1e-3, atol=1e-3)


# Layouts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", JOINT)
def test_a_transposed_layer_is_the_same_layer(kind, generator):
    block, _ = joint(kind, generator, ROWS, COLUMNS)
    removal = scattered(generator, block)
    tensors = {
        key: value.T if key in {"mean/fc.weight", "keep/fc.weight"} else value
        for key, value in block.tensors().items()
    }
    turned = type(block).from_tensors("fc", tensors, transposed=True)
    after = turned.given(removal | {"fc.weight": removal["fc.weight"].T})
    expected = block.given(removal)
    torch.testing.assert_close(after.point()["fc.weight"].T, expected.point()["fc.weight"], **EXACT)
    layer = (ROWS, COLUMNS)
    torch.testing.assert_close(after.delta_f(rows(layer)), expected.delta_f(rows(layer)), equal_nan=True)


@pytest.mark.parametrize("kind", JOINT)
def test_a_kernel_is_a_row_and_a_weight_may_be_alone(kind, generator):
    block, _ = joint(kind, generator, ROWS, 1 + 2 * 3 * 3)
    kernel = {
        "conv.weight": block.mean["fc.weight"].reshape(ROWS, 2, 3, 3),
        "conv.bias": block.mean["fc.bias"],
    }
    matrices = {key: value for key, value in block.tensors().items() if "/" not in key}
    tensors = {f"mean/{name}": value for name, value in kernel.items()} | matrices
    tensors |= {f"prior_precision/{name}": value for name, value in prior_of(kernel).items()}
    conv = type(block).from_tensors("conv", tensors)
    expected = block.delta_f()["fc.weight"].reshape(ROWS, 2, 3, 3)
    torch.testing.assert_close(conv.delta_f()["conv.weight"], expected, **EXACT)
    alone = {"w": torch.cat([block.mean["fc.weight"], block.mean["fc.bias"].unsqueeze(-1)], 1)}
    tensors = {"mean/w": alone["w"], "prior_precision/w": torch.tensor(PRIOR, dtype=torch.float64)} | matrices
    single = type(block).from_tensors("", tensors)
    torch.testing.assert_close(single.delta_f()["w"][:, :-1], block.delta_f()["fc.weight"], **EXACT)


# Scales ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("prior", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
@pytest.mark.parametrize("kind", ["diagonal", *JOINT])
def test_extreme_scales_are_finite(kind, scale, prior, dtype, generator):
    block, _ = joint(kind, generator, ROWS, COLUMNS)
    tensors = {}
    for key, value in block.tensors().items():
        part, _, name = key.partition("/")
        if part == "prior_precision":
            value = torch.full_like(value, prior)
        elif part in {"joint_precision", "row_curvature", "precision"}:
            value = scale * value + (prior * torch.eye(len(value)) if part == "joint_precision" else 0)
        elif part == "row_scale":
            value = scale * value
        elif part == "row_precision" and kind == "rowwise":
            value = scale * value + prior * torch.eye(value.shape[-1])
        tensors[key] = value.to(dtype) if value.is_floating_point() else value
    block = type(block).from_tensors("fc", tensors).given(scattered(generator, block))
    point, variance, evidence = block.point(), block.variance(), block.delta_f()
    for name in block.mean:
        present = block.present(name)
        assert point[name].isfinite().all()
        assert (variance[name][present] > 0).all()
        assert variance[name].isfinite().all()
        assert evidence[name][present].isfinite().all()
        assert evidence[name][~present].isnan().all()
    assert block.kl().isfinite()
    assert block.kl() >= -1e-9 * max(1.0, abs(float(block.kl())))
    assert all(each.isfinite().all() for each in block.sample(generator=generator).values())
    assert block.delta_f(torch.zeros(ROWS, COLUMNS, dtype=torch.int64)).isfinite().all()
