"""Reduction against the horseshoe at the same time: who meets whom when, differences, verdicts."""

import json

import pytest

from secateur.reports.claims import claim_rows, paired_comparisons, remarks
from secateur.reports.comparison import write
from secateur.reports.tables import collect
from support.synthetic_comparison import make_run

TINY = {"dense": (3, 4), "output": (2, 3)}


def run(out, method, epochs, *, seed=0, device=None, averaged=(0.5, 1.0, 0.1)):
    """Write a run whose epochs are (seconds at its end, accuracy, NLL, ECE, share removed).

    Accuracy, NLL and ECE of its averaged prediction at the end are `averaged`.
    """
    directory = make_run(out, method=method, seed=seed, num_epochs=len(epochs), shapes=TINY)
    path = directory / "history.jsonl"
    names = (
        "seconds",
        "accuracy",
        "negative_log_likelihood",
        "expected_calibration_error",
        "sparsity",
    )
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row, values in zip(rows, epochs, strict=True):
        row |= dict(zip(names, values, strict=True))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    metrics = json.loads((directory / "metrics.json").read_text())
    metrics |= dict(zip(names[1:4], averaged, strict=True))
    (directory / "metrics.json").write_text(json.dumps(metrics))
    if device is not None:
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | {"device": device}))


def pairs_of(out):
    """The rows of the table with their keys, in order."""
    table = paired_comparisons(collect(out).groups[0])
    return [] if table.empty else [(*key, row) for key, row in table.iterrows()]


def verdicts(out):
    return [row[-1] for row in claim_rows(collect(out).groups[0])]


def test_the_slower_run_is_met_at_an_earlier_epoch(tmp_path):
    run(tmp_path, "calibrated", [(10, 0.7, 0.9, 0.1, 0.0), (20, 0.9, 0.3, 0.02, 0.95)])
    run(tmp_path, "tiered-ff", [(15, 0.8, 0.5, 0.05, 0.0), (30, 0.95, 0.2, 0.01, 0.0)])
    (first, second, when, row), _ = pairs_of(tmp_path)
    assert (first, second, when) == ("calibrated", "tiered-ff", "same time")
    mean = row.xs("mean", level=1)
    assert mean["minutes"] == mean["minutes_other"] == pytest.approx(20 / 60)
    assert (mean["removed"], mean["removed_other"]) == (0.95, 0.0)
    assert mean["accuracy"] == pytest.approx(0.1)
    assert mean["negative_log_likelihood"] == pytest.approx(-0.2)
    assert mean["expected_calibration_error"] == pytest.approx(-0.03)
    assert verdicts(tmp_path)[0] == "yes"


def test_reduction_may_be_the_slower_one_and_lose(tmp_path):
    run(tmp_path, "bmr-horseshoe", [(15, 0.7, 0.9, 0.1, 0.1), (30, 0.99, 0.1, 0.01, 0.9)])
    run(tmp_path, "horseshoe-ff", [(10, 0.6, 1.0, 0.2, 0.0), (20, 0.7, 0.8, 0.1, 0.2)])
    (*_, row), _ = pairs_of(tmp_path)
    assert row["minutes"]["mean"] == row["minutes_other"]["mean"] == pytest.approx(20 / 60)
    assert verdicts(tmp_path)[0] == "not in accuracy, NLL, ECE, sparsity"


def test_at_the_end_the_averaged_predictions_meet(tmp_path):
    run(tmp_path, "calibrated", [(10, 0.7, 0.9, 0.1, 0.9)], averaged=(0.9, 0.3, 0.02))
    run(tmp_path, "tiered-ff", [(10, 0.8, 0.5, 0.05, 0.0)], averaged=(0.8, 0.5, 0.01))
    (_, _, then, _), (_, _, end, row) = pairs_of(tmp_path)
    assert (then, end) == ("same time", "end")
    assert row["accuracy"]["mean"] == pytest.approx(0.1)
    assert row["negative_log_likelihood"]["mean"] == pytest.approx(-0.2)
    assert verdicts(tmp_path) == ["not in accuracy, NLL, ECE", "not in ECE"]


def test_differences_are_of_the_same_seed(tmp_path):
    for seed, level in ((0, 0.0), (1, 0.2)):  # seeds differ by more than methods do
        run(tmp_path, "calibrated", [(10, 0.7 + level, 0.5, 0.02, 0.9)], seed=seed)
        run(tmp_path, "tiered-ff", [(10, 0.6 + level, 0.6, 0.03, 0.0)], seed=seed)
    run(tmp_path, "tiered-ff", [(10, 0.1, 3.0, 0.5, 0.0)], seed=2)  # no partner
    (*_, row), _ = pairs_of(tmp_path)
    assert row["accuracy"]["count"] == 2
    assert row["accuracy"]["mean"] == pytest.approx(0.1)
    assert row["accuracy"]["sem"] == pytest.approx(0, abs=1e-12)


def test_runs_that_cannot_meet_make_no_row(tmp_path):
    run(tmp_path, "calibrated", [(10, 0.7, 0.5, 0.02, 0.9)])
    run(tmp_path, "tiered-ff", [(10, 0.6, 0.6, 0.03, 0.0)], seed=1)  # another seed
    run(tmp_path, "horseshoe-ff", [(10, 0.6, 0.6, 0.03, 0.0)], device="cuda")  # another kind of device
    assert pairs_of(tmp_path) == []
    assert verdicts(tmp_path) == []


@pytest.mark.parametrize("seconds", [None, 99.0])  # of the first epoch: not known, or after the other's end
def test_a_run_without_an_epoch_by_then_is_met_at_the_end_only(tmp_path, seconds):
    run(tmp_path, "calibrated", [(10, 0.7, 0.5, 0.02, 0.9)])
    run(tmp_path, "tiered-ff", [(seconds, 0.6, 0.6, 0.03, 0.0)])
    assert [when for _, _, when, _ in pairs_of(tmp_path)] == ["end"]


def test_page_and_markdown_hold_the_table(tmp_path):
    for seed in (0, 1):
        run(tmp_path, "calibrated", [(9, 0.7, 0.5, 0.02 + 0.001 * seed, 0.9)], seed=seed)
        run(tmp_path, "tiered-ff", [(9, 0.6, 0.6, 0.03, 0.0)], seed=seed)
    page = write(tmp_path, device="cpu").read_text()
    assert 'id="lenet-fashion-mnist-claim"' in page
    assert 'href="#lenet-fashion-mnist-claim"' in page
    row = "| calibrated | tiered-ff | same time | 2 | 0.1 | 90.0 / 0.0 | +0.1000 \N{PLUS-MINUS SIGN} 0.0000 "
    text = (tmp_path / "comparison.md").read_text()
    assert row in text
    assert "| yes |" in text


def said(out):
    return " ".join(remarks(collect(out).groups[0]))


def test_unequal_things_side_by_side_are_told(tmp_path):
    run(tmp_path, "calibrated", [(1, 0.7, 0.5, 0.02, 0.9)] * 12)
    run(tmp_path, "obd", [(1, 0.7, 0.5, 0.02, 0.9)] * 12)
    text = said(tmp_path)
    assert "no dense baseline: add the method flat-map" in text
    assert "2 of 2 methods ran with one seed" in text
    assert "unequal" not in text
    dense = make_run(tmp_path, method="flat-map", num_epochs=4, shapes=TINY)
    change(dense / "metrics.json", sparsity=0.0)
    change(dense / "config.json", device="cuda:0", num_classes=10)
    change(dense / "metrics.json", accuracy=0.11, evaluated_on="train")
    text = said(tmp_path)
    for words in (
        "unequal size stand side by side: 0.0\N{NO-BREAK SPACE}% is removed by flat-map", "% by obd",
        "unequal length stand side by side: 4 epochs (flat-map) to 12 (calibrated)",
        "1 of 3 runs have 4 epochs or fewer", "At chance, so that other scores say nothing: flat-map.",
        "different kinds of device", "Judged on training data",
    ):  # fmt: skip
        assert words in text, words
    assert "no dense baseline" not in text


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
