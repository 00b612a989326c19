"""The terminal's ending: complete, within the width, and legible without colours."""

import io
import json

import pytest
from rich.console import Console

from secateur.reports import summary


def shown(run_dir, width=80):
    console = Console(file=io.StringIO(), width=width)
    summary.show(run_dir, console)
    return console.file.getvalue()


@pytest.mark.parametrize("network", ["lenet", "mlp"])
def test_the_essentials_fit_a_narrow_terminal(tmp_path, write_run, network):
    text = shown(write_run(tmp_path / "r", network=network))
    assert "\x1b" not in text
    for said in (
        "Fashion-MNIST", "0.9051", "0.9043", "mean of 100 samples", "one pass", "0 is honest", "never pruned",
        "6 min 24 s", "█",
    ):  # fmt: skip
        assert said in text
    table = [line.rstrip() for line in text.splitlines() if str(tmp_path) not in line]
    assert max(map(len, table)) <= 80
    assert "…" not in text


def test_the_report_is_named_once_it_is_there(run_dir):
    assert "Everything is in" in shown(run_dir)
    (run_dir / "report.html").write_text("")
    assert f"Report: {run_dir / 'report.html'}" in shown(run_dir)


def test_one_network_has_one_column(run_dir):
    metrics = json.loads((run_dir / "metrics.json").read_text()) | {"mean_network": None}
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    text = shown(run_dir)
    assert "one pass" not in text
    assert "0.9051" in text


def test_bars_are_as_long_as_the_share():
    assert summary._bar(1.0, 10).plain == "█" * 10
    assert summary._bar(0.0, 10).plain == "·" * 10
    assert summary._bar(0.5, 10).plain == "█████·····"
    assert summary._bar(1e-9, 10).plain == "▏·········"
    assert all(len(summary._bar(i / 97, 10)) == 10 for i in range(98))
