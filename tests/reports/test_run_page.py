"""The page: complete, self-contained, well formed, safe, and written whole or not at all."""

import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from secateur.errors import ArtifactError
from secateur.reports import run_page
from support.synthetic_run import measurements

VOID = {"meta", "br", "link", "img", "hr", "input"}


class Page(HTMLParser):
    """Keeps what a page holds; raises where a tag is not closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.words, self.headings = [], [], [], [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.ids += [v for k, v in attributes if k == "id"]
        self.links += [v for k, v in attributes if k in {"href", "src", "xlink:href", "data", "action"}]
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
        if self.open and self.open[-1] in {"h1", "h2", "b"}:
            self.headings.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def page(run_dir: Path) -> Page:
    return Page(run_page.write(run_dir).read_text(encoding="utf-8"))


def edit(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("network", ["lenet", "mlp"])
def test_everything_a_reader_wants_is_there(tmp_path, write_run, network):
    got = page(write_run(tmp_path, network=network))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    for said in (
        "on Fashion-MNIST", f"{metrics['num_weights']:,}", f"{100 * metrics['sparsity']:.1f}", "0.9051",
        "0.9043", "average of 100 samples", "Accuracy", "Negative log-likelihood", "Calibration error",
        "Brier score", "Log predictive density", "Weights removed, %", "confidence", "predicted",
        "observed", "optimistic", "posterior mean", "learning rate", "0.002",
        f"secateur fit {network} fashion-mnist --epochs 40 --seed 0", "torch", "2.13.0", "6 min 24 s",
        "never pruned",
    ):  # fmt: skip
        assert said in got.text, said
    assert all(layer["name"] in got.text for layer in metrics["layers"])
    assert got.tags.count("svg") == 4 + len(metrics["layers"]) + 3
    assert "dense, epoch 5, one pass" in got.text
    assert "Milliseconds are not known" in got.text
    assert f"secateur bench {tmp_path}" in got.text
    assert "The two did not train equally long." in got.text


def test_the_page_needs_nothing_but_itself(run_dir):
    text = run_page.write(run_dir).read_text(encoding="utf-8")
    got = Page(text)
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in got.links)
    assert not re.search(r"https?://(?!www\.w3\.org/)", text)
    assert not re.search(r"@import|url\((?!#)", text)
    assert not {"script", "link", "iframe", "object", "img"} & set(got.tags)
    assert len(text) < 200_000


def test_identifiers_are_unique_and_references_resolve(run_dir):
    got = page(run_dir)
    assert len(got.ids) == len(set(got.ids))
    assert {link[1:] for link in got.links if link.startswith("#")} <= set(got.ids)


def test_names_from_the_run_cannot_break_the_page(run_dir):
    evil = '<script>alert("x")</script>&amp;'
    edit(run_dir / "config.json", lambda c: c.update(network=evil, command=evil, recipe={evil: evil}))
    edit(run_dir / "metrics.json", lambda m: m["layers"][1].update(name=evil))
    edit(run_dir / "metrics.json", lambda m: m.update(evaluated_on=evil))
    got = page(run_dir)
    assert "script" not in got.tags
    assert got.text.count(evil) >= 6


def test_the_same_run_gives_the_same_page(run_dir):
    first = run_page.write(run_dir).read_bytes()
    assert run_page.write(run_dir).read_bytes() == first


def test_a_failed_write_leaves_the_old_report_and_no_litter(run_dir, monkeypatch):
    old = run_page.write(run_dir).read_bytes()
    before = sorted(run_dir.iterdir())

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(ArtifactError, match=r"report\.html: .*No space left"):
        run_page.write(run_dir)
    assert sorted(run_dir.iterdir()) == before
    assert (run_dir / "report.html").read_bytes() == old


def test_a_damaged_run_leaves_the_old_report(run_dir):
    old = run_page.write(run_dir).read_bytes()
    (run_dir / "metrics.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"metrics\.json"):
        run_page.write(run_dir)
    assert (run_dir / "report.html").read_bytes() == old


def test_a_method_that_removes_nothing_and_has_one_network(run_dir):
    def plain(metrics):
        metrics.update(mean_network=None, reductions=[], num_samples=1, num_kept=61706, sparsity=0.0)
        for layer in metrics["layers"]:
            layer.update(num_kept=layer["num_weights"], delta_f=0.0)

    edit(run_dir / "metrics.json", plain)
    lines = [json.loads(line) for line in (run_dir / "history.jsonl").read_text().splitlines()]
    for row in lines:
        row.pop("num_removed", None)
    (run_dir / "history.jsonl").write_text("\n".join(map(json.dumps, lines)))
    got = page(run_dir)
    assert "all 61,706 weights kept" in got.text
    assert "promise" not in got.text
    assert "posterior mean, one pass" not in got.text
    assert "marks an epoch" not in got.text


def test_a_sparsity_that_was_asked_for_is_said(run_dir):
    edit(run_dir / "config.json", lambda c: c.update(sparsity=0.9))
    text = page(run_dir).text
    assert "90.0 % that was asked for" in text
    assert "No final sparsity" not in text


def test_a_cap_on_each_reduction_is_said(run_dir):
    assert "at most 15.0 % of what was left at a time. No final sparsity was set." in page(run_dir).text
    edit(run_dir / "config.json", lambda c: c.update(recipe={}))
    assert "where the evidence favoured it. No final sparsity was set." in page(run_dir).text


def test_scores_on_the_training_data_are_called_so(run_dir):
    edit(run_dir / "metrics.json", lambda m: m.update(evaluated_on="train"))
    assert "On the training set, for want of a test set." in page(run_dir).text


def test_a_run_without_a_test_set(run_dir):
    scores = (
        "accuracy",
        "negative_log_likelihood",
        "expected_calibration_error",
        "brier_score",
        "log_predictive_density",
    )
    edit(
        run_dir / "metrics.json",
        lambda m: m.update(dict.fromkeys(scores), mean_network=None, reliability=None),
    )
    path = run_dir / "history.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("\n".join(json.dumps({k: v for k, v in r.items() if k not in scores}) for r in rows))
    got = page(run_dir)
    assert "Weights removed, %" in got.text
    assert "honest?" not in got.text
    assert "nan" not in got.text


def test_a_run_from_python_has_no_command(run_dir):
    edit(run_dir / "config.json", lambda c: c.pop("command"))
    assert "started from Python" in page(run_dir).text


def test_drawing_leaves_no_trace_in_the_process(run_dir):
    code = (
        "import sys, secateur; assert 'matplotlib' not in sys.modules\n"
        "from pathlib import Path; from secateur.reports import run_page\n"
        "import matplotlib; matplotlib.rcParams['font.size'] = 7\n"
        "own = lambda: {k: matplotlib.rcParams[k] for k in matplotlib.rcParams if k != 'backend'}\n"
        "before = own()\n"
        "assert run_page.write(Path(sys.argv[1])).read_text().count('<svg class=\"figure\"') > 5\n"
        "assert own() == before; assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code, str(run_dir)], check=True)


def test_what_was_measured_is_shown(run_dir):
    assert "18.0x" not in page(run_dir).text
    (run_dir / "bench.json").write_text(json.dumps(measurements()))
    got = page(run_dir)
    for said in (
        "Smaller and faster",
        "247 kB",
        "13.7 kB",
        "18.0x",
        "4.0x",
        "128.000",
        "12.4 kB",
        "2 threads",
    ):
        assert said in got.text, said
    assert "which kept its weights" not in got.text
    assert "nan" not in got.text


def test_remarks_on_measurements_cannot_break_the_page(run_dir):
    evil = '<script>alert("x")</script>'
    values = measurements(remarks=[evil])
    values["rows"][1]["variant"] = evil
    values["machine"]["dense_run"] = evil
    (run_dir / "bench.json").write_text(json.dumps(values))
    got = page(run_dir)
    assert "script" not in got.tags
    assert got.text.count(evil) == 4
    assert "which kept its weights" in got.text


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"rows": []}, "expected at least one entry in 'rows'"),
        ({"machine": None}, "expected a JSON object in machine"),
        ({"kernels": 3}, "expected a list in 'kernels'"),
        (
            {"rows": [measurements()["rows"][0], measurements()["rows"][1] | {"latencies": []}]},
            "same batch sizes",
        ),
    ],
)
def test_damaged_measurements_are_named(run_dir, change, said):
    (run_dir / "bench.json").write_text(json.dumps(measurements(**change)))
    with pytest.raises(ArtifactError, match=rf"bench\.json is damaged: .*{said}"):
        run_page.write(run_dir)
