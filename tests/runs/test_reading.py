"""The JSON files of a run as values: what they say, or which field of which file is wrong."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from secateur.errors import ArtifactError
from secateur.runs.reading import decode, read_run
from secateur.runs.records import Bench, Config, Epoch, Scores

BENCH = {
    "rows": [
        {
            "variant": name, "file_bytes": 10, "num_parameters": None, "num_macs": None, "peak_memory": None,
            "largest_difference": 0.0, "latencies": [{"batch": 1, "median": 2, "lower": 1, "upper": 3}],
        }
        for name in ("dense", "compact")
    ],
    "machine": {"machine": "x86_64", "num_threads": 2, "torch": "2.13.0", "dense_run": None},
    "entropy_bound": 5.0,
    "remarks": [],
}  # fmt: skip


def changed(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_a_run_is_what_its_files_say(run_dir: Path) -> None:
    (run_dir / "bench.json").write_text(json.dumps(BENCH))
    run = read_run(run_dir)
    assert (run.config.network, run.config.seed, run.config.device) == ("lenet", 0, "cpu")
    assert run.scores().accuracy == run.metrics_values["accuracy"] == 0.9051
    assert run.scores(of_mean_network=True).accuracy == 0.9043
    assert run.metrics.num_weights == sum(layer.num_weights for layer in run.metrics.layers) == 61706
    assert run.metrics.layers[0].shape == (6, 1, 5, 5)
    assert (
        [epoch.epoch for epoch in run.epochs] == [row["epoch"] for row in run.history] == list(range(1, 41))
    )
    assert run.bench is not None
    assert [variant.name for variant in run.bench.variants] == ["dense", "compact"]
    assert math.isnan(run.bench.variants[0].num_macs)
    assert run.config_values["recipe"] == run.config.recipe


def test_a_run_of_a_likelihood_without_classes_has_no_scores_of_classes(run_dir: Path) -> None:
    metrics = json.loads((run_dir / "metrics.json").read_text())
    del metrics["accuracy"]
    (run_dir / "metrics.json").write_text(json.dumps(metrics))
    run = read_run(run_dir)
    with pytest.raises(ArtifactError, match="expected the field 'accuracy', got none"):
        run.scores()
    changed(run_dir / "metrics.json", mean_network=None)
    with pytest.raises(ArtifactError, match="expected a JSON object in mean_network, got NoneType"):
        read_run(run_dir).scores(of_mean_network=True)


@pytest.mark.parametrize(
    ("kind", "content", "said"),
    [
        (Epoch, b"{", "expected JSON, got an error in line 3"),
        (Epoch, b"\xff", "expected JSON, got an error in line 3"),
        (Epoch, b'{"epoch": 1, "x": ' + b"[" * 100_000, "expected JSON, got an error in line 3"),
        (Epoch, b"[]", "expected a JSON object in line 3, got list"),
        (Epoch, b"{}", "expected the field 'epoch' in line 3, got none"),
        (Epoch, b'{"epoch": true}', "expected a count in 'epoch' in line 3, got True"),
        (Epoch, b'{"epoch": -1}', "expected a count in 'epoch' in line 3, got -1"),
        (Epoch, b'{"epoch": 1, "seconds": "1"}', "expected a number in 'seconds' in line 3, got '1'"),
        (
            Epoch,
            b'{"epoch": 1, "seconds": 1e300}',
            r"expected a number below 1e\+30, got 1e\+300 in 'seconds'",
        ),
        (Epoch, b'{"epoch": 1e99}', "expected a count"),
        (Epoch, b'{"epoch": 99999999999999999999}', "expected a count of a possible size in 'epoch'"),
        (Scores, b'{"accuracy": [1]}', "expected a number in 'accuracy'"),
        (Config, b'{"network": "a", "data": "b", "method": 3}', "expected text in 'method' in line 3, got 3"),
        (
            Config,
            b'{"network": "a", "data": "b", "method": "c", "image_shape": [1, 2, 100000]}',
            r"'image_shape\[2\]'",
        ),
    ],
)
def test_what_is_wrong_is_named(kind: type, content: bytes, said: str) -> None:
    with pytest.raises(ArtifactError, match=rf"run/x is damaged: .*{said}") as caught:
        decode(Path("run/x"), content, kind, " in line 3")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_null_is_a_number_that_could_not_be_computed() -> None:
    row, values = decode(Path("x"), b'{"epoch": 1, "accuracy": null, "more": [1]}', Epoch)
    assert math.isnan(row.accuracy)
    assert values == {"epoch": 1, "accuracy": None, "more": [1]}


def test_measurements_have_the_same_batch_sizes_in_every_row() -> None:
    first, second = BENCH["rows"]
    values = BENCH | {"rows": [first, second | {"latencies": []}]}
    with pytest.raises(ArtifactError, match="expected the same batch sizes in every row"):
        decode(Path("bench.json"), json.dumps(values).encode(), Bench)
