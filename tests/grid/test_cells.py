"""The grid: which cells, in which order, with which options, and what is refused before anything runs."""

import json

import pytest

from secateur import training
from secateur.cli.invocation import run_directory
from secateur.errors import ArtifactError, InvalidArgumentError, UsageError
from secateur.grid.cells import (
    Cell,
    Grid,
    GridRecord,
    RunOptions,
    add_grid,
    parse_names,
    parse_seeds,
    read_record,
    reduces,
    write_record,
)

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
    both = GridRecord((small, large)).cells()
    assert both[:4] == small.cells()
    assert set(both) == set(large.cells())
    assert len(both) == 8


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


NOTHING = {"networks": None, "data": None, "methods": None, "seeds": None}
FIRST = {"networks": ("mlp",), "data": ("digits",), "methods": ("flat-map",), "seeds": (0,)}


@pytest.fixture
def begun(tmp_path):
    """A directory that was asked for one run of five epochs."""
    write_record(tmp_path, add_grid(GridRecord(()), FIRST, RunOptions(epochs=5), out=tmp_path))
    return tmp_path


def test_a_new_directory_gets_the_defaults(tmp_path):
    (grid,) = add_grid(read_record(tmp_path), NOTHING, RunOptions(), out=tmp_path).grids
    assert grid == Grid(
        networks=("lenet",), data=("fashion-mnist",), methods=training.method_names(), seeds=(0,)
    )


def test_what_was_written_comes_back_with_its_versions(begun):
    assert read_record(begun) == GridRecord((Grid(**FIRST),), RunOptions(epochs=5))
    assert json.loads((begun / "comparison.json").read_text())["versions"].keys() >= {"secateur", "torch"}


def test_asked_for_nothing_it_is_the_same_again(begun):
    before = read_record(begun)
    assert add_grid(before, NOTHING, RunOptions(), out=begun) == before
    assert add_grid(before, FIRST, RunOptions(epochs=5), out=begun) == before


def test_a_further_list_adds_runs_that_go_first_and_keeps_the_other_axes(begun):
    more = add_grid(read_record(begun), NOTHING | {"seeds": (1, 2)}, RunOptions(), out=begun)
    assert [(cell.network, cell.method, cell.seed) for cell in more.cells()] == [
        ("mlp", "flat-map", 1),
        ("mlp", "flat-map", 2),
        ("mlp", "flat-map", 0),
    ]
    assert more.options == RunOptions(epochs=5)


def test_separate_grids_do_not_multiply(begun):
    other = {"networks": ("lenet",), "data": ("cifar10",), "methods": ("ivon",), "seeds": (0,)}
    more = add_grid(read_record(begun), other, RunOptions(), out=begun)
    assert len(more.cells()) == 2


def test_a_larger_grid_takes_the_place_of_the_smaller(begun):
    larger = FIRST | {"networks": ("mlp", "lenet")}
    assert add_grid(read_record(begun), larger, RunOptions(), out=begun).grids == (Grid(**larger),)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (RunOptions(epochs=6), "(--epochs 5), got --epochs 6"),
        (RunOptions(sparsity=0.0), "(no --sparsity), got --sparsity 0.0"),
        (RunOptions(augment=True), "(no --augment), got --augment"),
        (RunOptions(batch_size=1), "(no --batch-size), got --batch-size 1"),
    ],
)
def test_runs_that_would_not_compare_are_refused_in_one_line(begun, options, said):
    with pytest.raises(ArtifactError) as refused:
        add_grid(read_record(begun), NOTHING, options, out=begun)
    assert said in str(refused.value)
    assert "another --out" in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        "{}",
        '{"grids": [{"networks": "mlp"}]}',
        '{"grids": [{"networks": [1], "data": ["digits"], "methods": ["ivon"], "seeds": [0]}]}',
        '{"grids": [{"networks": ["mlp"], "data": ["digits"], "methods": ["ivon"], "seeds": [0.5]}]}',
        '{"grids": [], "options": {"epochs": "five"}}',
        '{"grids": [], "options": {"learning_rate": 1.0}}',
    ],
)
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / "comparison.json").write_text(content)
    with pytest.raises(ArtifactError, match=r"comparison\.json is damaged"):
        read_record(tmp_path)


def test_a_record_of_another_version_says_what_this_one_does_not_know(begun):
    text = (begun / "comparison.json").read_text().replace("flat-map", "flat-mop")
    (begun / "comparison.json").write_text(text)
    with pytest.raises(UsageError, match="flat-mop"):
        read_record(begun)
