"""The grid: which cells, in which order, with which options, and what is refused before anything runs."""

import pytest

from secateur import training
from secateur.cli.invocation import run_directory
from secateur.errors import InvalidArgumentError, UsageError
from secateur.grid.cells import Cell, Grid, RunOptions, cells_of, parse_names, parse_seeds, reduces

AXES = {
    "networks": ("mlp", "lenet"),
    "data": ("digits",),
    "methods": ("calibrated", "flat-map"),
    "seeds": (0, 1),
}


def test_a_grid_is_every_combination_once_and_the_first_seed_of_all_comes_first():
    cells = Grid(**AXES).cells()
    assert len(cells) == len(set(cells)) == 8
    assert [cell.seed for cell in cells] == [0] * 4 + [1] * 4
    assert cells[0] == Cell("mlp", "digits", "calibrated", 0)
    assert cells[2] == Cell("lenet", "digits", "calibrated", 0)


def test_grids_that_overlap_have_their_cells_once():
    small, large = Grid(**AXES | {"seeds": (1,)}), Grid(**AXES)
    assert cells_of([small, large])[:4] == small.cells()
    assert set(cells_of([small, large])) == set(large.cells())
    assert len(cells_of([small, large])) == 8


def test_a_cell_is_kept_where_a_fit_of_its_own_would_be(tmp_path):
    cell = Cell("lenet", "fashion-mnist", "calibrated", 3)
    alone = run_directory("lenet", "fashion-mnist", "calibrated", 3)
    assert cell.directory(tmp_path) == tmp_path / alone
    assert cell.log(tmp_path) == tmp_path / "logs" / f"{alone.name}.log"


@pytest.mark.parametrize(
    ("axis", "values", "error", "said"),
    [
        ("networks", ("mlp", "lenett"), UsageError, "did you mean lenet?"),
        ("data", ("digit",), UsageError, "expected one of the data sets digits,"),
        ("methods", ("flatmap",), UsageError, "did you mean flat-map?"),
        (
            "methods",
            ("ivon", "ivon"),
            InvalidArgumentError,
            "--methods: expected each one once, got ivon twice",
        ),
        ("seeds", (0, 1, 0), InvalidArgumentError, "--seeds: expected each one once, got 0 twice"),
        ("seeds", (-1,), InvalidArgumentError, "got -1"),
        ("seeds", (2**32,), InvalidArgumentError, "got 4294967296"),
        ("data", (), InvalidArgumentError, "--data: expected at least one"),
    ],
)
def test_what_does_not_exist_or_comes_twice_is_refused(axis, values, error, said):
    with pytest.raises(error) as refused:
        Grid(**AXES | {axis: values})
    assert said in str(refused.value)


@pytest.mark.parametrize("text", ["", "mlp,", ",mlp", "mlp,,lenet"])
def test_a_list_with_a_hole_is_refused(text):
    with pytest.raises(InvalidArgumentError, match="--networks: expected names separated by commas"):
        parse_names(text, "networks")


@pytest.mark.parametrize("text", ["one", "0;1", "1.5", "0,"])
def test_seeds_are_whole_numbers(text):
    with pytest.raises(InvalidArgumentError, match="--seeds"):
        parse_seeds(text)
    assert parse_seeds("2, 0") == (2, 0)


@pytest.mark.parametrize("sparsity", [1.0, -0.1, float("nan")])
def test_a_sparsity_is_a_share(sparsity):
    with pytest.raises(InvalidArgumentError, match="--sparsity"):
        RunOptions(sparsity=sparsity)


def test_options_reach_the_runs_that_can_use_them():
    options = RunOptions(epochs=3, sparsity=0.0, samples=7, batch_size=32, autocast=True)
    shared = ["--samples", "7", "--batch-size", "32", "--autocast"]
    assert options.words(Cell("mlp", "digits", "flat-map", 0)) == ["--epochs", "3", *shared]
    assert options.words(Cell("mlp", "digits", "calibrated", 0)) == [
        "--epochs",
        "3",
        "--sparsity",
        "0.0",
        *shared,
    ]
    assert RunOptions().words(Cell("mlp", "digits", "calibrated", 0)) == []


def test_the_dense_methods_are_those_without_reductions():
    dense = {name for name in training.method_names() if not reduces(name)}
    assert {"flat-map", "flat-ff"} <= dense
    assert dense.isdisjoint({"calibrated", "ivon", "bmr-spike-and-slab"})
