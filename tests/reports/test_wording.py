"""Words of a run that reports and summaries share."""

from secateur.reports import wording
from secateur.reports.record import read


def test_outcome_and_command(run_dir):
    record = read(run_dir)
    assert wording.outcome(record).startswith("LeNet on Fashion-MNIST: 9")
    assert wording.outcome(record).endswith("of 61,706 weights removed")
    assert wording.key_scores(record).startswith("accuracy 0.905, ")
    assert wording.command(record) == "secateur fit lenet fashion-mnist --epochs 40 --seed 0"
    record.config["command"] = ["secateur", "fit", "a b"]
    assert wording.command(record) == "secateur fit 'a b'"
    record.config.pop("command")
    assert wording.command(record) is None
