"""A run directory is read whole or refused by the name of the file that is wrong."""

import json
import math

import numpy as np
import pytest

from secateur.errors import ArtifactError
from secateur.reports.record import read


def edit(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_everything_is_read_back(run_dir):
    record = read(run_dir)
    assert record.averaged.accuracy == 0.9051
    assert record.mean_network.accuracy == 0.9043
    assert record.num_weights == 61706 == record.layers["num_weights"].sum()
    assert record.num_kept == record.layers["num_kept"].sum()
    assert record.layers["shape"][0] == (6, 1, 5, 5)
    assert record.history["epoch"].tolist() == list(range(1, 41))
    reduced = record.history["epoch"][record.history["num_removed"] > 0]
    assert reduced.tolist() == record.reductions["epoch"].tolist()
    assert record.first_layer == "conv1.weight"
    weight = record.weights(["conv1.weight", "none"])["conv1.weight"]
    assert weight.dtype == np.float32
    assert np.count_nonzero(weight) == record.layers["num_kept"][0]
    assert record.last_dense_epoch["epoch"] == reduced.iloc[0] - 1
    assert record.dense_bytes == 4 * 61706
    assert 4 * record.num_kept < record.least_bytes < record.dense_bytes


@pytest.mark.parametrize("name", ["config.json", "metrics.json", "history.jsonl", "model.safetensors"])
class TestEachFile:
    def test_missing(self, run_dir, name):
        (run_dir / name).unlink()
        with pytest.raises(ArtifactError, match=name):
            read(run_dir)

    def test_truncated(self, run_dir, name):
        path = run_dir / name
        path.write_bytes(path.read_bytes()[:-7])
        with pytest.raises(ArtifactError, match=f"{name}.* is damaged"):
            read(run_dir)

    def test_not_even_text(self, run_dir, name):
        (run_dir / name).write_bytes(b"\xff\xfe\x00garbage")
        with pytest.raises(ArtifactError, match=name) as error:
            read(run_dir)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda m: m.pop("accuracy"), "'accuracy'"),
        (lambda m: m.update(accuracy="high"), "'accuracy'"),
        (lambda m: m.update(accuracy=True), "'accuracy'"),
        (lambda m: m.update(num_kept=-3), "'num_kept'"),
        (lambda m: m.update(num_kept=2.5), "'num_kept'"),
        (lambda m: m.update(accuracy=1e40), "'accuracy'"),
        (lambda m: m.update(num_weights=10**400), "'num_weights'"),
        (lambda m: m["layers"][0].update(num_kept=10**6), "keeps at most its weights"),
        (lambda m: m.update(num_samples=None), "'num_samples'"),
        (lambda m: m.update(layers={}), "'layers'"),
        (lambda m: m["layers"].append(3), r"in layers\[10\]"),
        (lambda m: m["layers"][2].pop("num_kept"), r"'num_kept' in layers\[2\]"),
        (lambda m: m["layers"][2].update(shape=[2, "x"]), r"'shape\[1\]' in layers\[2\]"),
        (lambda m: m["mean_network"].pop("brier_score"), "'brier_score' in mean_network"),
        (lambda m: m["reliability"]["count"].pop(), "'reliability'"),
        (lambda m: m["reductions"][0].update(epoch="first"), r"'epoch' in reductions\[0\]"),
    ],
)
def test_wrong_metrics_are_named(run_dir, change, said):
    edit(run_dir / "metrics.json", change)
    with pytest.raises(ArtifactError, match=rf"metrics\.json is damaged.*{said}"):
        read(run_dir)


def test_a_wrong_line_of_the_history_is_named(run_dir):
    path = run_dir / "history.jsonl"
    lines = path.read_text().splitlines()
    lines[3] = '{"accuracy": 0.3}'
    path.write_text("\n".join(lines))
    with pytest.raises(ArtifactError, match=r"history\.jsonl is damaged.*'epoch' in line 4"):
        read(run_dir)


def test_json_that_is_no_object(run_dir):
    (run_dir / "config.json").write_text("[1, 2]")
    with pytest.raises(ArtifactError, match=r"config\.json is damaged: expected a JSON object, got list"):
        read(run_dir)


def test_no_directory(tmp_path):
    with pytest.raises(ArtifactError, match="nowhere"):
        read(tmp_path / "nowhere")


def test_what_was_not_measured_is_nan(run_dir):
    edit(run_dir / "metrics.json", lambda m: m.update(accuracy=None, mean_network=None, reliability=None))
    record = read(run_dir)
    assert math.isnan(record.averaged.accuracy)
    assert record.mean_network is None
    assert record.reliability.empty


def test_what_is_nested_or_written_beyond_any_run_is_damage(run_dir):
    path = run_dir / "config.json"
    for text in ("[" * 100_000, '{"a": ' * 5_000 + "1" + "}" * 5_000, '{"seed": ' + "9" * 5_000 + "}"):
        path.write_text(text)
        with pytest.raises(ArtifactError, match=r"config\.json is damaged"):
            read(run_dir)


def test_control_characters_in_text_are_replaced(run_dir):
    edit(run_dir / "config.json", lambda c: c.update(network="a\x1b[2J\u202eb", recipe={"x\x07": ["\x9b1m"]}))
    config = read(run_dir).config
    assert config["network"] == "a\ufffd[2J\ufffdb"
    assert config["recipe"] == {"x\ufffd": ["\ufffd1m"]}


def test_tensors_of_another_shape_than_the_metrics_are_damage(run_dir):
    edit(run_dir / "metrics.json", lambda m: m["layers"][0].update(shape=[6, 1, 5, 4]))
    with pytest.raises(
        ArtifactError, match=r"model\.safetensors is damaged: expected conv1\.weight of shape"
    ):
        read(run_dir)
