"""The numbers of a comparison: grouping of runs, standard errors, what is best, published points."""

import json
import math

import pytest

from secateur.reports.columns import COSTS, SCORE_COLUMNS, best, cell_text, published
from secateur.reports.tables import collect
from support.synthetic_comparison import make_run
from support.synthetic_run import measurements

TINY = {"dense": (3, 4), "output": (2, 3)}


def column(key):
    return next(column for column in (*SCORE_COLUMNS, *COSTS) if column.key == key)


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def scored(out, method, seed, accuracy, **values):
    """Write a run of a method with a given accuracy."""
    run = make_run(out, method=method, seed=seed, shapes=TINY, num_epochs=1)
    change(run / "metrics.json", accuracy=accuracy, **values)
    return run


def test_standard_error_is_that_of_the_mean(tmp_path):
    for seed, accuracy in enumerate((1.0, 2.0, 4.0, None)):
        scored(tmp_path, "obd", seed, accuracy)
    scored(tmp_path, "ivon", 0, 0.5)
    (group,) = collect(tmp_path).groups
    mean, error, count = group.means.loc["obd", "accuracy"]
    assert (mean, count) == (pytest.approx(7 / 3), 3)
    assert error == pytest.approx(math.sqrt(7 / 3 / 3))  # variance over n - 1 is 7/3
    assert group.means.loc["ivon", ("accuracy", "mean")] == 0.5
    assert math.isnan(group.means.loc["ivon", ("accuracy", "sem")])


def test_cells_read_well():
    assert cell_text(column("accuracy"), 0.91234, 0.0012) == "0.9123 ± 0.0012"
    assert cell_text(column("accuracy"), 0.91234) == "0.9123"
    assert cell_text(column("sparsity"), 0.953, 0.002) == "95.3 ± 0.2"
    assert cell_text(column("accuracy_minus_dense"), 0.0123) == "+0.0123"
    assert cell_text(column("accuracy"), math.nan) == "\N{EN DASH}"


def test_best_follows_the_direction_of_the_metric(tmp_path):
    for method, accuracy, loss, ece in (
        ("flat-map", 0.9, 0.5, 0.03), ("obd", 0.8, 0.4, 0.02), ("ivon", None, None, None),
        ("flat-ff", 0.1, 2.3, 0),
    ):  # fmt: skip
        scored(tmp_path, method, 0, accuracy, negative_log_likelihood=loss, expected_calibration_error=ece)
    found = best(collect(tmp_path).groups[0].means, SCORE_COLUMNS)
    assert found["accuracy"] == 0.9
    assert found["negative_log_likelihood"] == 0.4
    assert found["expected_calibration_error"] == 0.02  # the one at chance does not compete
    assert "sparsity" not in found
    assert "brier_score" not in found  # all the same


def test_the_dense_baseline_is_paired_by_seed(tmp_path):
    for seed, level in ((0, 0.0), (1, 0.2)):  # seeds differ by more than methods do
        scored(tmp_path, "flat-map", seed, 0.6 + level, sparsity=0.0)
        scored(tmp_path, "calibrated", seed, 0.55 + level)
    scored(tmp_path, "calibrated", 2, 0.1)  # no partner
    (group,) = collect(tmp_path).groups
    assert group.dense == "flat-map"
    mean, error, count = group.means.loc["calibrated", "accuracy_minus_dense"]
    assert (mean, error, count) == (pytest.approx(-0.05), pytest.approx(0, abs=1e-12), 2)
    assert math.isnan(group.means.loc["flat-map", ("accuracy_minus_dense", "mean")])


def test_the_most_accurate_dense_method_stands_in_for_flat_map(tmp_path):
    scored(tmp_path, "obd", 0, 0.9)
    assert collect(tmp_path).groups[0].dense is None
    scored(tmp_path, "flat-ff", 0, 0.6, sparsity=0.0)
    scored(tmp_path, "tiered-ff", 0, 0.7, sparsity=0.0)
    assert collect(tmp_path).groups[0].dense == "tiered-ff"


def test_bytes_are_known_and_milliseconds_where_they_were_measured(tmp_path):
    run = scored(tmp_path, "calibrated", 0, 0.9)
    (group,) = collect(tmp_path).groups
    assert group.runs["dense_bytes"].iloc[0] == 4 * (3 * 4 + 3 + 2 * 3 + 2)
    assert math.isnan(group.runs["milliseconds"].iloc[0])
    (run / "bench.json").write_text(json.dumps(measurements()))
    (group,) = collect(tmp_path).groups
    row = group.runs.iloc[0]
    assert (row["milliseconds_batch"], row["dense_milliseconds"], row["milliseconds"]) == (1, 2.0, 0.5)


def test_runs_that_differ_in_more_than_the_seed_are_not_averaged(tmp_path):
    for seed, sparsity, epochs in ((0, None, 3), (1, None, 3), (0, 0.9, 3), (0, None, 5)):
        make_run(tmp_path, seed=seed, sparsity=sparsity, num_epochs=epochs, shapes=TINY)
    make_run(tmp_path, method="magnitude", sparsity=0.95, num_epochs=3, shapes=TINY)
    (group,) = collect(tmp_path).groups
    assert [(label, [record.config["seed"] for record in group.of(label)]) for label in group.labels] == [
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
    assert collect(tmp_path).groups[0].title == "LeNet on CIFAR-10 (local files)"


def test_time_compares_within_one_kind_of_device_only(tmp_path):
    reference = make_run(tmp_path, method="flat-map", shapes=TINY, num_epochs=1)
    other = make_run(tmp_path, method="calibrated", shapes=TINY, num_epochs=1)
    config = other / "config.json"
    config.write_text(config.read_text().replace('"device": "cpu"', '"device": "cuda:0"'))
    (group,) = collect(tmp_path).groups
    costs = group.runs["relative_seconds_per_iteration"]
    assert costs[reference.name] == 1
    assert math.isnan(costs[other.name])


def test_published_points_are_as_the_paper_has_them():
    table = published("lenet", "fashion-mnist")
    assert table["accuracy"].tolist() == [0.89, 0.884, 0.902]
    reduced = table.loc["bmr-spike-and-slab"]
    assert (reduced["expected_calibration_error"], reduced["negative_log_likelihood"]) == (0.014, 0.283)
    assert reduced["sparsity"] == 0.811
    assert not table["at_least"].any()
    assert published("mlp", "cifar10")["at_least"].tolist() == [False, False, True]
    assert published("resnet20", "cifar10").empty
