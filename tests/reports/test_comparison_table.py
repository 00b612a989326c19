"""The numbers of a comparison: grouping of runs, standard errors, what is best, published points."""

import math

import pytest

from secateur.reports import comparison_table
from secateur.reports.comparison_runs import collect, mean_and_error
from secateur.reports.comparison_table import COLUMNS, Cell
from secateur.reports.published import published
from support.synthetic_comparison import make_run

TINY = {"dense": (3, 4), "output": (2, 3)}


def column(key):
    return next(column for column in COLUMNS if column.key == key)


def test_standard_error_is_that_of_the_mean():
    mean, error, count = mean_and_error([1.0, 2.0, 4.0, math.nan])
    assert (mean, count) == (pytest.approx(7 / 3), 3)
    assert error == pytest.approx(math.sqrt(7 / 3 / 3))  # variance over n - 1 is 7/3
    assert mean_and_error([0.5])[0] == 0.5
    assert math.isnan(mean_and_error([0.5])[1])
    assert mean_and_error([math.nan])[2] == 0


def test_cells_read_well():
    assert Cell(0.91234, 0.0012, 3).text(column("accuracy")) == "0.9123 ± 0.0012"
    assert Cell(0.91234, math.nan, 1).text(column("accuracy")) == "0.9123"
    assert Cell(0.953, 0.002, 3).text(column("sparsity")) == "95.3 ± 0.2"
    assert Cell(math.nan, math.nan, 0).text(column("accuracy")) == "\N{EN DASH}"


def test_best_follows_the_direction_of_the_metric():
    def row(value):
        return {column.key: Cell(value, math.nan, 1) for column in COLUMNS}

    found = comparison_table.best([row(0.2), row(0.1), row(math.nan)])  # 0.1 is just half of the best
    assert found["accuracy"] == 0.2
    assert found["negative_log_likelihood"] == 0.1
    assert "sparsity" not in found
    assert comparison_table.best([row(0.2), row(0.2)]) == {}
    dead = row(0.01) | {"accuracy": Cell(0.05, math.nan, 1)}
    assert comparison_table.best([row(0.2), row(0.15), dead])["expected_calibration_error"] == 0.15


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(tmp_path):
    for seed, sparsity, epochs in ((0, None, 3), (1, None, 3), (0, 0.9, 3), (0, None, 5)):
        make_run(tmp_path, seed=seed, sparsity=sparsity, num_epochs=epochs, shapes=TINY)
    make_run(tmp_path, method="magnitude", sparsity=0.95, num_epochs=3, shapes=TINY)
    (group,) = collect(tmp_path).groups
    assert [(v.label, [run.seed for run in v.runs]) for v in group.variants] == [
        ("calibrated, 3 epochs", [0, 1]),
        ("calibrated to 90 %, 3 epochs", [0]),
        ("calibrated, 5 epochs", [0]),
        ("magnitude", [0]),
    ]


def test_groups_come_data_set_by_data_set_small_networks_first(tmp_path):
    for network, data in (
        ("vit", "cifar10"),
        ("lenet", "cifar10"),
        ("mine", "digits"),
        ("mlp", "odd (copy)"),
    ):
        make_run(tmp_path, network=network, data=data, shapes=TINY, num_epochs=1)
    groups = collect(tmp_path).groups
    assert [(group.network, group.data) for group in groups] == [
        ("mine", "digits"), ("lenet", "cifar10"), ("vit", "cifar10"), ("mlp", "odd (copy)"),
    ]  # fmt: skip
    assert groups[-1].name == "mlp-odd--copy"


def test_data_that_are_not_the_official_files_are_called_so(tmp_path):
    make_run(tmp_path, data="cifar10 (local files)", shapes=TINY, num_epochs=1)
    assert comparison_table.title(collect(tmp_path).groups[0]) == "LeNet on CIFAR-10 (local files)"


def test_time_compares_within_one_kind_of_device_only(tmp_path):
    reference = make_run(tmp_path, method="flat-map", shapes=TINY, num_epochs=1)
    other = make_run(tmp_path, method="calibrated", shapes=TINY, num_epochs=1)
    config = other / "config.json"
    config.write_text(config.read_text().replace('"device": "cpu"', '"device": "cuda:0"'))
    (group,) = collect(tmp_path).groups
    costs = comparison_table.relative_cost(group)
    assert costs[reference] == 1
    assert math.isnan(costs[other])


def test_published_points_are_as_the_paper_has_them():
    flat_map, flat_ff, reduced = published("lenet", "fashion-mnist")
    assert (flat_map.accuracy, flat_ff.accuracy) == (0.89, 0.884)
    assert (reduced.accuracy, reduced.expected_calibration_error, reduced.negative_log_likelihood) == (
        0.902, 0.014, 0.283,
    )  # fmt: skip
    assert reduced.sparsity == 0.811
    assert (
        comparison_table.published_cells(published("mlp", "cifar10")[2])["sparsity"]
        == "≥\N{NO-BREAK SPACE}98.0"
    )
    assert comparison_table.published_cells(flat_map).keys() == {"sparsity", "accuracy"}
    assert published("resnet20", "cifar10") == ()
