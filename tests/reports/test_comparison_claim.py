"""Reduction against the horseshoe at the same time: who meets whom when, differences, verdicts."""

import json

import pytest

from secateur.reports.comparison import write
from secateur.reports.comparison_claim import claim_html, claim_markdown, paired_comparisons
from secateur.reports.comparison_runs import collect
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


def test_the_slower_run_is_met_at_an_earlier_epoch(tmp_path):
    run(tmp_path, "calibrated", [(10, 0.7, 0.9, 0.1, 0.0), (20, 0.9, 0.3, 0.02, 0.95)])
    run(tmp_path, "tiered-ff", [(15, 0.8, 0.5, 0.05, 0.0), (30, 0.95, 0.2, 0.01, 0.0)])
    pair, _ = paired_comparisons(collect(tmp_path).groups[0])
    assert (pair.reduction, pair.horseshoe) == ("calibrated", "tiered-ff")
    assert [cell.mean for cell in pair.seconds] == [20, 20]
    assert [cell.mean for cell in pair.removed] == [0.95, 0.0]
    assert pair.differences["accuracy"].mean == pytest.approx(0.1)
    assert pair.differences["negative_log_likelihood"].mean == pytest.approx(-0.2)
    assert pair.differences["expected_calibration_error"].mean == pytest.approx(-0.03)
    assert pair.verdict == "yes"


def test_reduction_may_be_the_slower_one_and_lose(tmp_path):
    run(tmp_path, "bmr-horseshoe", [(15, 0.7, 0.9, 0.1, 0.1), (30, 0.99, 0.1, 0.01, 0.9)])
    run(tmp_path, "horseshoe-ff", [(10, 0.6, 1.0, 0.2, 0.0), (20, 0.7, 0.8, 0.1, 0.2)])
    pair, _ = paired_comparisons(collect(tmp_path).groups[0])
    assert [cell.mean for cell in pair.seconds] == [20, 20]
    assert pair.verdict == "not in accuracy, NLL, ECE, sparsity"


def test_at_the_end_the_averaged_predictions_meet(tmp_path):
    run(tmp_path, "calibrated", [(10, 0.7, 0.9, 0.1, 0.9)], averaged=(0.9, 0.3, 0.02))
    run(tmp_path, "tiered-ff", [(10, 0.8, 0.5, 0.05, 0.0)], averaged=(0.8, 0.5, 0.01))
    then, end = paired_comparisons(collect(tmp_path).groups[0])
    assert (then.when, end.when) == ("same time", "end")
    assert then.verdict == "not in accuracy, NLL, ECE"
    assert end.differences["accuracy"].mean == pytest.approx(0.1)
    assert end.differences["negative_log_likelihood"].mean == pytest.approx(-0.2)
    assert end.verdict == "not in ECE"


def test_differences_are_of_the_same_seed(tmp_path):
    for seed, level in ((0, 0.0), (1, 0.2)):  # seeds differ by more than methods do
        run(tmp_path, "calibrated", [(10, 0.7 + level, 0.5, 0.02, 0.9)], seed=seed)
        run(tmp_path, "tiered-ff", [(10, 0.6 + level, 0.6, 0.03, 0.0)], seed=seed)
    run(tmp_path, "tiered-ff", [(10, 0.1, 3.0, 0.5, 0.0)], seed=2)  # no partner
    pair, _ = paired_comparisons(collect(tmp_path).groups[0])
    accuracy = pair.differences["accuracy"]
    assert accuracy.count == 2
    assert accuracy.mean == pytest.approx(0.1)
    assert accuracy.error == pytest.approx(0, abs=1e-12)


def test_runs_that_cannot_meet_make_no_row(tmp_path):
    run(tmp_path, "calibrated", [(10, 0.7, 0.5, 0.02, 0.9)])
    run(tmp_path, "tiered-ff", [(10, 0.6, 0.6, 0.03, 0.0)], seed=1)  # another seed
    run(tmp_path, "horseshoe-ff", [(10, 0.6, 0.6, 0.03, 0.0)], device="cuda")  # another kind of device
    group = collect(tmp_path).groups[0]
    assert paired_comparisons(group) == ()
    assert claim_markdown(group) == ""
    assert claim_html(group) == ""


@pytest.mark.parametrize("seconds", [None, 99.0])  # of the first epoch: not known, or after the other's end
def test_a_run_without_an_epoch_by_then_is_met_at_the_end_only(tmp_path, seconds):
    run(tmp_path, "calibrated", [(10, 0.7, 0.5, 0.02, 0.9)])
    run(tmp_path, "tiered-ff", [(seconds, 0.6, 0.6, 0.03, 0.0)])
    assert [pair.when for pair in paired_comparisons(collect(tmp_path).groups[0])] == ["end"]


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
