"""Words on a run that pages and terminal share."""

import json

from secateur.reports import advice
from secateur.reports.record import read
from support.synthetic_run import measurements


def edit(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_outcome_and_command(run_dir):
    record = read(run_dir)
    assert advice.title(record) == "LeNet on Fashion-MNIST"
    assert advice.outcome(record).endswith("of 61,706 weights removed")
    assert advice.command(record) == "secateur fit lenet fashion-mnist --epochs 40 --seed 0"
    record.config["command"] = ["secateur", "fit", "a b"]
    assert advice.command(record) == "secateur fit 'a b'"
    record.config.pop("command")
    assert advice.command(record) is None


def test_the_dense_baseline_is_a_measured_run_or_the_last_epoch_before_a_removal(run_dir):
    head, scores = advice.dense_scores(read(run_dir))
    assert head == "dense, epoch 5"  # reductions begin after the sixth
    rows = [json.loads(line) for line in (run_dir / "history.jsonl").read_text().splitlines()]
    assert scores["accuracy"] == rows[4]["accuracy"]
    bench = measurements()
    bench["machine"]["dense_run"] = "runs/dense"
    (run_dir / "bench.json").write_text(json.dumps(bench))
    assert advice.dense_scores(read(run_dir)) == ("dense: runs/dense", {"accuracy": 0.9043})
    (run_dir / "bench.json").unlink()
    (run_dir / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[8:]))
    assert advice.dense_scores(read(run_dir)) == ("", {})


def test_numbers_that_mislead_are_told(run_dir):
    (only,) = advice.remarks(read(run_dir))
    assert "after epoch 5, before the first removal; the pruned one went on to epoch 40" in only
    edit(run_dir / "config.json", num_classes=10)
    edit(run_dir / "metrics.json", accuracy=0.12, evaluated_on="train")
    lines = (run_dir / "history.jsonl").read_text().splitlines(keepends=True)
    (run_dir / "history.jsonl").write_text("".join(lines[:3]))
    text = " ".join(advice.remarks(read(run_dir)))
    assert "at chance: accuracy 0.120, and a guess has 0.100" in text
    assert "3 epochs are few" in text
    assert "for want of a test set" in text


def test_the_next_command_depends_on_what_is_missing(run_dir):
    commands = [line for _, line in advice.next_commands(read(run_dir))]
    assert commands[0] == f"secateur bench {run_dir}"
    assert (
        f"secateur fit lenet fashion-mnist --seed 0 --method flat-map --epochs 40 --out {run_dir}-dense"
        in commands
    )
    (run_dir / "bench.json").write_text(json.dumps(measurements()))
    edit(run_dir / "metrics.json", num_kept=61706)
    commands = [line for _, line in advice.next_commands(read(run_dir))]
    assert not any("bench" in line or "flat-map" in line for line in commands)
    assert "--epochs 50" in commands[0]
    edit(run_dir / "config.json", network="mine; rm")
    commands = [line for _, line in advice.next_commands(read(run_dir))]
    assert commands == [f"secateur export {run_dir} --to onnx"]
