"""The page of a pruned network: complete, safe with hostile names, and whole where numbers are missing."""

import json
import math
from html.parser import HTMLParser

import pytest
from matplotlib.figure import Figure

from secateur.errors import ArtifactError
from secateur.export.trained_run import FORMAT
from secateur.reports import trained_page
from secateur.reports.style import PAPER, drawing

EVIL = '<script>alert("x")</script>&amp;'


class Text(HTMLParser):
    """Keeps words and tags."""

    def __init__(self, page):
        super().__init__()
        self.words, self.tags = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def a_round(number, **changes):
    return {
        "sparsity": 0.2 * number, "num_removed": 200, "num_units": 0, "predicted_delta_f": 50.0 - number,
        "observed_delta_f": 40.0 - number, "loss": 0.1 + 0.01 * number, "held_out_loss": 0.2 + 0.01 * number,
        "held_out_rise": 0.01 * number, "held_out_error": 0.004,
    } | changes  # fmt: skip


def numbers(**changes):
    layer = {
        "name": "body.0", "shape": [20, 50], "num_weights": 1000, "num_kept": 600, "num_removed": 400,
        "predicted_delta_f": 97.0, "threshold": None,
    }  # fmt: skip
    return {
        "format": FORMAT, "version": 1, "command": "secateur prune-trained --model a:b", "network": "Net",
        "held_out_given": False, "held_out": None, "seed": 0, "device": "cpu",
        "options": {"max_loss_rise": 0.05}, "num_weights": 1000, "num_kept": 600, "num_removed": 400,
        "sparsity": 0.4, "predicted_delta_f": 97.0, "observed_delta_f": 77.0, "loss_before": 0.1,
        "loss_after": 0.12, "held_out_before": 0.2, "chosen_round": 2, "stopped_by": "evidence",
        "num_data": 1234, "seconds": 75.0, "layers": [layer], "trace": [a_round(n) for n in (1, 2, 3, 4)],
        "scores": {"before": {"accuracy": 0.95}, "after": {"accuracy": 0.9412}},
        "costs": {"dense_bytes": 4000, "sparse_bytes": 4000, "batch": 32, "seconds_before": 0.004,
                  "seconds_after": 0.0041, "remarks": []},
    } | changes  # fmt: skip


def page(folder, **changes):
    (folder / "result.json").write_text(json.dumps(numbers(**changes)))
    return Text(trained_page.write(folder).read_text(encoding="utf-8"))


def test_a_reader_finds_removal_stop_scores_and_costs(tmp_path):
    got = page(tmp_path)
    for said in (
        "40.0 %", "Accuracy 0.9500 before, 0.9412 after",
        "stopped by itself where the evidence peaks", "2 of the 4 rounds are in the network",
        "tried and taken",
        "body.0", "20 × 50", "4.0 kB", "4.00", "4.10", "make a network no faster",
        "No whole unit went",
        "Give --held-out data", "secateur report",
        "The dashed line is the rise that was allowed", "1,234 data",
        "secateur prune-trained --model", "1 min 15 s",
    ):  # fmt: skip
        assert said in got.text, said
    assert got.tags.count("figure") == 3
    assert trained_page.write(tmp_path).read_bytes() == trained_page.write(tmp_path).read_bytes()


@pytest.mark.parametrize(
    ("recovery", "said"),
    [
        ([], "no step of training was taken"),
        ([0.25], "it learned for an epoch to answer as before, and was 0.2500 nats per datum from"),
        ([0.25, 0.125], "it learned for 2 epochs to answer as before, and came from 0.2500 to 0.1250 nats"),
        (["<b>"], "no step of training was taken"),
        ("x", "no step of training was taken"),
    ],
)
def test_training_afterwards_is_said(tmp_path, recovery, said):
    assert said in page(tmp_path, recovery=recovery).text


@pytest.mark.parametrize(("chosen", "hollow"), [(2, 2), (4, 0), (0, 4)])
def test_rounds_that_were_taken_back_are_hollow(tmp_path, chosen, hollow):
    got = page(tmp_path, chosen_round=chosen)
    assert ("taken back" in got.text) == (hollow > 0)
    result = trained_page.read(tmp_path).result
    for _, draw, _ in trained_page.FIGURES:
        with drawing():
            axes = Figure().add_subplot()
            draw(axes, result, 0.05)
        lines = axes.lines
        back = [line for line in lines if line.get_marker() == "o" and line.get_markerfacecolor() == PAPER]
        assert {len(line.get_xdata()) for line in back} == {hollow}


def test_hostile_names_stay_text(tmp_path):
    layer = numbers()["layers"][0] | {"name": EVIL}
    costs = numbers()["costs"] | {"remarks": [EVIL]}
    scores = {"before": {EVIL: 1.0}, "after": {}}
    got = page(
        tmp_path, layers=[layer], network=EVIL, command=EVIL, costs=costs, scores=scores, stopped_by=EVIL,
        options={EVIL: EVIL}, held_out_given=True, held_out=EVIL,
        units_before={EVIL: 4}, units_after={EVIL: 3},
    )  # fmt: skip
    assert "script" not in got.tags
    assert got.text.lower().count(EVIL.lower()) >= 9
    assert "3 of 4 units" in got.text


@pytest.mark.parametrize(
    "changes",
    [
        {"trace": [a_round(n, **dict.fromkeys(("loss", "observed_delta_f", "held_out_loss", "held_out_rise",
                                                "held_out_error"))) for n in (1, 2)]},
        {"trace": [a_round(1), a_round(2, observed_delta_f=None, held_out_rise=None)]},
        {"trace": [], "chosen_round": 0, "scores": {}},
        {"chosen_round": 0},
        {"costs": None},
        {"loss_before": None, "held_out_before": None, "observed_delta_f": None, "seconds": None},
    ],
)  # fmt: skip
def test_missing_numbers_are_dashes(tmp_path, changes):
    got = page(tmp_path, **changes)
    assert "nan" not in got.text
    assert "None" not in got.text
    assert got.tags.count("figure") == (0 if changes.get("trace") == [] else 3)


def test_numbers_are_read_back(tmp_path):
    page(tmp_path)
    record = trained_page.read(tmp_path)
    assert trained_page._sparsities(record.result).tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])
    assert record.max_loss_rise == 0.05
    assert math.isnan(record.result.layers[0].threshold)
    assert record.costs.compact_bytes is None
    assert record.result.trace[3].held_out_rise == 0.04


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"format": "other"}, "expected the format"),
        ({"chosen_round": 5}, "expected at most 4 rounds to be chosen, got 5"),
        ({"layers": 3}, "expected a list in 'layers'"),
        ({"trace": [{}]}, "expected the field"),
        ({"num_data": "much"}, "expected a count in 'num_data'"),
        ({"layers": []}, "expected layers with weights"),
    ],
)
def test_damaged_files_are_named_and_an_old_page_stays(tmp_path, change, said):
    page(tmp_path)
    old = (tmp_path / "report.html").read_bytes()
    (tmp_path / "result.json").write_text(json.dumps(numbers(**change)))
    with pytest.raises(ArtifactError, match=rf"result\.json is damaged: {said}"):
        trained_page.write(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == old


def test_a_directory_without_numbers(tmp_path):
    assert not trained_page.is_pruned_network(tmp_path)
    with pytest.raises(ArtifactError, match=r"expected result\.json in .* secateur prune-trained writes it"):
        trained_page.write(tmp_path)
