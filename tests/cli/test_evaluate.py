"""`secateur evaluate` asks for a test of the run and shows its scores."""

import json


def test_scores_are_shown_side_by_side(secateur, run_dir, monkeypatch, tmp_path):
    asked = []

    def evaluate(run, **options):
        asked.append((run, options))
        return json.loads((run_dir / "metrics.json").read_text())

    monkeypatch.setattr("secateur.training.evaluate", evaluate)
    result = secateur(
        "evaluate", run_dir, "--samples", 7, "--split", "train", "--device", "cpu", "--data-dir", tmp_path
    )
    assert result.exit_code == 0, result.stderr
    assert asked == [(run_dir, {"data_dir": tmp_path, "device": "cpu", "num_samples": 7, "split": "train"})]
    for said in ("on the train set", "mean of 100", "one pass", "0.9051", "0.9043"):
        assert said in result.stdout


def test_a_run_that_is_not_there(secateur, tmp_path):
    result = secateur("evaluate", tmp_path / "none")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "none" in result.stderr


def test_a_split_that_is_none(secateur, run_dir):
    result = secateur("evaluate", run_dir, "--split", "holdout")
    assert result.exit_code in {1, 2}
    assert "expected test or train" in result.stderr
