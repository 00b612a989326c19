"""The terminal's ending: complete, within the width, and legible without colours."""

import io
import json

import pytest
from rich.console import Console

from secateur.reports import terminal
from support.synthetic_run import measurements


def shown(run_dir, width=80):
    console = Console(file=io.StringIO(), width=width)
    terminal.show_run(run_dir, console)
    return console.file.getvalue()


@pytest.mark.parametrize("network", ["lenet", "mlp"])
def test_the_essentials_fit_a_narrow_terminal(tmp_path, write_run, network):
    text = shown(write_run(tmp_path / "r", network=network))
    assert "\x1b" not in text
    for said in (
        "Fashion-MNIST", "0.9051", "0.9043", "mean of 100", "one pass", "dense, epoch 5", "lower",
        "never pruned",
        "6 min 24 s", "█",
    ):  # fmt: skip
        assert said in text
    tables = [line.rstrip() for line in text.splitlines() if line.startswith("  ")]
    assert max(map(len, tables)) <= 80
    assert "…" not in text


def test_the_report_is_named_once_it_is_there(run_dir):
    assert "Everything is in" in shown(run_dir)
    (run_dir / "report.html").write_text("")
    text = shown(run_dir)
    assert f"Report: {run_dir / 'report.html'}" in text
    assert "kB of weights dense" in text
    assert "Beware: The dense column is this network after epoch 5" in text
    assert text.endswith(f"Next, measure bytes and milliseconds: secateur bench {run_dir}\n")


def test_one_network_has_one_column(run_dir):
    metrics = json.loads((run_dir / "metrics.json").read_text()) | {"mean_network": None}
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    text = shown(run_dir)
    assert "one pass" not in text
    assert "0.9051" in text


def test_bars_are_as_long_as_the_share():
    assert terminal._bar(1.0, 10).plain == "█" * 10
    assert terminal._bar(0.0, 10).plain == "·" * 10
    assert terminal._bar(0.5, 10).plain == "█████·····"
    assert terminal._bar(1e-9, 10).plain == "▏·········"
    assert all(len(terminal._bar(i / 97, 10)) == 10 for i in range(98))


def test_names_in_files_are_neither_markup_nor_escape_sequences(run_dir):
    evil = "[red]\x1b[31m\x1b]0;owned\x07[/nothing]\u202e"
    config = json.loads((run_dir / "config.json").read_text()) | {"network": evil, "data": evil}
    (run_dir / "config.json").write_text(json.dumps(config))
    metrics = json.loads((run_dir / "metrics.json").read_text()) | {"evaluated_on": evil}
    metrics["layers"][0]["name"] = evil
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    values = measurements(remarks=[evil])
    values["rows"][1]["variant"] = evil
    values["kernels"][0]["layers"][0]["layer"] = evil
    (run_dir / "bench.json").write_text(json.dumps(values))
    console = Console(file=io.StringIO(), width=300, force_terminal=True, color_system=None)
    terminal.show_run(run_dir, console)
    terminal.show_measured(run_dir, console)
    text = console.file.getvalue()
    assert not {"\x1b", "\x07", "\u202e"} & set(text)
    assert text.count("[red]\ufffd[31m") >= 7
