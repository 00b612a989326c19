"""A comparison on disk: everything is written, from what the runs say, whatever some of them lack."""

import csv
import io
import json
import math
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import pytest

from secateur.errors import ArtifactError, InvalidArgumentError
from secateur.reports import comparison
from support.synthetic_comparison import make_run

VOID = {"meta", "br", "link", "img", "hr", "input"}
FIGURES = ("epochs", "pareto", "weights", "first-layer", "reliability", "out-of-distribution", "cost")
SMALL = {"conv1": (4, 1, 3, 3), "dense": (6, 20), "output": (10, 6)}


class Page(HTMLParser):
    """Keeps what a page holds; fails where a tag is not closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.words = [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [v for k, v in attributes if k == "id"]
        self.links += [v for k, v in attributes if k in {"href", "src", "xlink:href"}]
        assert not [k for k, _ in attributes if k.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(out) -> Page:
    return Page((out / "comparison.html").read_text(encoding="utf-8"))


def rows_of(out):
    return list(csv.DictReader(io.StringIO((out / "comparison.csv").read_text())))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Two methods with two seeds and one baseline of one seed, written once for all who only look."""
    out = tmp_path_factory.mktemp("comparison")
    cells = [("flat-map", 0), ("flat-map", 1), ("calibrated", 0), ("calibrated", 1), ("magnitude", 0)]
    for method, seed in cells:
        make_run(out, method=method, seed=seed, shapes=SMALL)
    unfinished = shutil.copytree(out / "runs" / "run4-lenet-fashion-mnist-seed0", out / "runs" / "left-off")
    (unfinished / "metrics.json").unlink()
    assert comparison.write(out) == out / "comparison.html"
    return out


def test_every_file_is_there(written):
    names = {f"lenet-fashion-mnist-{figure}" for figure in FIGURES}
    assert {path.name for path in (written / "figures").iterdir()} == {
        f"{name}.{ending}" for name in names for ending in ("svg", "pdf", "png")
    }
    for name in names:
        ET.parse(written / "figures" / f"{name}.svg")
        assert (written / "figures" / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (written / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert not list(written.rglob("*.partial"))


def test_the_csv_has_one_row_per_finished_run_with_its_own_numbers(written):
    rows = rows_of(written)
    assert [(row["method"], row["seed"]) for row in rows] == [
        ("flat-map", "0"), ("flat-map", "1"), ("calibrated", "0"), ("calibrated", "1"), ("magnitude", "0"),
    ]  # fmt: skip
    for row in rows:
        run = written / "runs" / row["run"]
        metrics = json.loads((run / "metrics.json").read_text())
        for name in (
            "sparsity", "accuracy", "negative_log_likelihood", "expected_calibration_error", "brier_score",
            "log_predictive_density", "seconds", "seconds_per_iteration",
        ):  # fmt: skip
            assert float(row[name]) == metrics[name], name
        assert float(row["mean_network_accuracy"]) == metrics["mean_network"]["accuracy"]
        assert float(row["out_of_distribution_auroc"]) == 0.8
        assert (row["network"], row["data"], row["epochs"]) == ("lenet", "fashion-mnist", "6")


def test_time_is_relative_to_the_mean_of_flat_map(written):
    rows = rows_of(written)
    reference = sum(float(r["seconds_per_iteration"]) for r in rows if r["method"] == "flat-map") / 2
    for row in rows:
        expected = float(row["seconds_per_iteration"]) / reference
        assert float(row["relative_seconds_per_iteration"]) == pytest.approx(expected)


def test_the_table_has_means_and_standard_errors_over_seeds(written):
    text = (written / "comparison.md").read_text()
    values = [float(r["accuracy"]) for r in rows_of(written) if r["method"] == "calibrated"]
    mean, error = sum(values) / 2, abs(values[0] - values[1]) / 2  # s / sqrt(2) for two values
    row = next(line for line in text.splitlines() if line.startswith("| calibrated"))
    assert f"{mean:.4f} ± {error:.4f}" in row
    assert row.split("|")[2].strip() == "2"
    alone = next(line for line in text.splitlines() if line.startswith("| magnitude"))
    assert "±" not in alone
    paper = next(line for line in text.splitlines() if line.startswith("| *published* bmr-spike-and-slab"))
    assert [cell.strip() for cell in paper.split("|") if cell.strip()][1:] == [
        "1",
        "81.1",
        "0.902",
        "0.283",
        "0.014",
    ]
    assert "left-off: expected metrics.json" in text


def test_the_page_says_everything_and_needs_nothing_else(written):
    text = (written / "comparison.html").read_text(encoding="utf-8")
    got = page(written)
    for said in (
        "3 methods compared: LeNet on Fashion-MNIST", "5 finished runs", "1 more", "Epoch by epoch",
        "What a sparsity costs", "How large the weights are", "The first layer", "Is the confidence honest?",
        "Does it notice out-of-distribution images?", "What it costs", "left-off", "not finished",
        "read off the paper's figures", "baselines", "1,797 images of digits", "There is no dense baseline",
        "One pass, bytes and time", "no run here was measured by", "What to type next",
        "secateur compare --out",
        "1 of 3 methods ran with one seed", "6 epochs or fewer",
    ):  # fmt: skip
        assert said in got.text, said
    assert len(got.ids) == len(set(got.ids))
    inner = {link[1:] for link in got.links if link.startswith("#")}
    assert inner <= set(got.ids)
    outer = {link for link in got.links if not link.startswith(("#", "data:image/png;base64,"))}
    assert all((written / link).is_file() for link in outer)
    assert len(outer) == 3 * len(FIGURES)
    assert not re.search(r"https?://(?!www\.w3\.org/)", text)
    assert not {"script", "link", "iframe", "object", "img"} & set(got.tags)
    assert "nan" not in got.text.split()


def without_place(path, folder):
    """What a file holds, but for its directory and for links to files that were not written again."""
    links = re.compile(r'<a href="figures/[^"]*\.(pdf|png)">[^<]*</a>')
    return links.sub("", path.read_text()).replace(str(folder), "here")


def test_the_same_runs_give_the_same_files(written, tmp_path, monkeypatch):
    shutil.copytree(written / "runs", tmp_path / "runs")
    monkeypatch.setattr(comparison, "FORMATS", ("svg",))  # the others: tests of the figures
    comparison.write(tmp_path)
    for path in [
        written / "comparison.html",
        written / "comparison.csv",
        *(written / "figures").glob("*.svg"),
    ]:
        again = tmp_path / path.relative_to(written)
        assert without_place(again, tmp_path) == without_place(path, written), path.name


def test_several_groups_get_an_overview_and_odd_runs_do_not_stop_the_page(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "FORMATS", ("svg",))
    make_run(tmp_path, method="flat-map", shapes=SMALL)
    evil = make_run(tmp_path, method="<b>mine</b>", network="mlp", shapes={"dense": (5, 9)})
    metrics = json.loads((evil / "metrics.json").read_text())
    metrics |= {
        "reliability": None,
        "mean_network": None,
        "num_samples": 1,
        "expected_calibration_error": None,
    }
    (evil / "metrics.json").write_text(json.dumps(metrics))
    (evil / "out_of_distribution.json").unlink()
    history = [json.loads(line) for line in (evil / "history.jsonl").read_text().splitlines()]
    (evil / "history.jsonl").write_text("\n".join(json.dumps({"epoch": row["epoch"]}) for row in history))
    for name, content in (("bad", "{"), ("empty", None)):
        (tmp_path / "runs" / name).mkdir()
        if content:
            (tmp_path / "runs" / name / "config.json").write_text(content)
    (tmp_path / "runs" / "a.log").write_text("not a run")
    comparison.write(tmp_path)
    got = page(tmp_path)
    assert "All results" in got.text
    assert "2 methods compared on 2 networks and 1 data set" in got.text
    assert "<b>mine</b>" in got.text  # as text, not as markup
    assert "further" in got.text
    assert "bad : bad/config.json is damaged" in got.text
    assert "empty : expected config.json in" in got.text
    assert "was not measured for" in got.text
    assert [row["method"] for row in rows_of(tmp_path)] == ["<b>mine</b>", "flat-map"]
    assert math.isnan(float(rows_of(tmp_path)[0]["relative_seconds_per_iteration"]))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics.json", b"{", "metrics.json is damaged"),
        ("metrics.json", b'{"num_kept": ' + b"9" * 5000 + b"}", "metrics.json is damaged"),
        ("model.safetensors", b"x" * 40, "model.safetensors is damaged"),
        ("history.jsonl", b"\xff", "history.jsonl is damaged"),
        ("bench.json", b"[]", "bench.json is damaged"),
    ],
)
def test_one_damaged_run_among_good_ones_is_named(tmp_path, monkeypatch, name, content, said):
    monkeypatch.setattr(comparison, "FORMATS", ())
    make_run(tmp_path, method="flat-map", shapes={"dense": (2, 2)}, num_epochs=2)
    bad = make_run(tmp_path, method="calibrated", shapes={"dense": (2, 2)}, num_epochs=2)
    (bad / name).write_bytes(content)
    comparison.write(tmp_path)
    text = page(tmp_path).text
    assert f"{bad.name} : {bad.name}/{said}" in text
    assert "1 method compared" in text
    assert not re.search(r"\b[A-Z]\w*Error\b|Traceback|Expecting|codec", text)


def test_names_can_write_neither_markup_nor_formulas(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "FORMATS", ("svg",))
    evil = '=HYPERLINK("x")|<img src=x onerror=y>\x1b[31m`**$\\frac{'
    run = make_run(tmp_path, method=evil, network=evil, data=evil, shapes={"dense": (2, 2)}, num_epochs=2)
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["evaluated_on"] = evil
    metrics["layers"][0]["name"] = evil
    (run / "metrics.json").write_text(json.dumps(metrics))
    (run / "out_of_distribution.json").unlink()
    comparison.write(tmp_path)
    assert "\x1b" not in (tmp_path / "comparison.html").read_text()
    assert not {"img", "script"} & set(page(tmp_path).tags)
    text = (tmp_path / "comparison.md").read_text()
    assert "<img" not in text
    assert "\x1b" not in text
    heads = [line for line in text.splitlines() if line.startswith("|---")]
    rows = [line for line in text.splitlines() if line.startswith("| =")]
    assert len(rows) == 2
    for head, row in zip(heads, rows, strict=True):
        assert head.count("|") == len(re.findall(r"(?<!\\)\|", row))
    (row,) = rows_of(tmp_path)
    assert all(row[key].startswith("'=HYPERLINK") for key in ("network", "data", "method"))


def test_nothing_finished_is_an_error_that_says_why(tmp_path):
    with pytest.raises(ArtifactError, match="no folder 'runs'"):
        comparison.write(tmp_path)
    (tmp_path / "runs" / "one").mkdir(parents=True)
    with pytest.raises(ArtifactError, match=r"at least one finished run.*one: expected config\.json"):
        comparison.write(tmp_path)
    assert not (tmp_path / "comparison.html").exists()


def test_a_wrong_device_is_refused_first(tmp_path):
    with pytest.raises(InvalidArgumentError, match="device"):
        comparison.write(tmp_path, device="abacus")


def test_drawing_leaves_no_trace_in_the_process(tmp_path):
    make_run(tmp_path, method="flat-map", shapes=SMALL)
    code = (
        "import sys, secateur; assert 'matplotlib' not in sys.modules\n"
        "from pathlib import Path; from secateur.reports import comparison\n"
        "import matplotlib; matplotlib.rcParams['font.size'] = 7\n"
        "own = lambda: {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != 'backend'}\n"
        "before = own()\n"
        "assert comparison.write(Path(sys.argv[1])).read_text().count('<svg class=\"figure\"') > 5\n"
        "assert own() == before; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(tmp_path)], check=True)
