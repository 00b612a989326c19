"""A comparison's record: repeated, extended, contradicted, damaged."""

import json

import pytest

from secateur import training
from secateur.errors import ArtifactError, UsageError
from secateur.grid.cells import Grid, RunOptions
from secateur.grid.record import GridRecord, add_grid, read_record, write_record

NOTHING = {"networks": None, "data": None, "methods": None, "seeds": None}
FIRST = {"networks": ("mlp",), "data": ("digits",), "methods": ("flat-map",), "seeds": (0,)}


@pytest.fixture
def begun(tmp_path):
    """A directory that was asked for one run of five epochs."""
    write_record(tmp_path, add_grid(GridRecord(), FIRST, RunOptions(epochs=5), out=tmp_path))
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
