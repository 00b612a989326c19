"""`secateur bench`: every form is measured, kept beside the run, and on its report."""

import json

import pytest


def test_every_form_is_measured_kept_and_reported(secateur, trained, monkeypatch):
    monkeypatch.setattr(  # the sparse kernel is the faster one where there is one
        "secateur.export.sparse_kernels.alternating_medians",
        lambda forms, inputs, seconds: [1.0, 0.5][: len(forms)],
    )
    result = secateur("bench", trained, "--batch", 1, "--batch", 3, "--seconds", 0.01, "--threads", 1)
    assert result.exit_code == 0, result.stderr
    found = json.loads((trained / "bench.json").read_text())
    rows = {row["variant"]: row for row in found["rows"]}
    expected = [
        "dense", "dense, onnxruntime", "masked", "compact", "compact, sparse", "compact, onnxruntime",
    ]  # fmt: skip
    assert list(rows) == expected
    assert found["machine"]["num_threads"] == 1
    accuracy = json.loads((trained / "metrics.json").read_text())["mean_network"]
    for name, row in rows.items():
        assert name in result.stdout
        assert row["largest_difference"] <= (1e-4 if "onnxruntime" in name else 1e-5)
        assert [each["batch"] for each in row["latencies"]] == [1, 3]
        if accuracy is not None:
            assert row["accuracy"] == pytest.approx(accuracy["accuracy"], abs=0.006)
    assert rows["compact"]["file_bytes"] < rows["dense"]["file_bytes"] / 4
    assert rows["masked"]["file_bytes"] == rows["dense"]["file_bytes"]  # masks are zeros of the weights
    assert rows["compact"]["num_macs"] <= rows["dense"]["num_macs"]
    page = (trained / "report.html").read_text()
    assert "Smaller and faster" in page
    assert all(name in page for name in expected)


def test_another_run_may_stand_for_the_dense_one(secateur, trained):
    words = ("--batch", 2, "--seconds", 0.01, "--no-accuracy", "--dense", trained.with_name("all"))
    result = secateur("bench", trained, *words)
    assert result.exit_code == 0, result.stderr
    found = json.loads((trained / "bench.json").read_text())
    assert found["machine"]["dense_run"] == str(trained.with_name("all"))
    dense = [row for row in found["rows"] if row["variant"].startswith("dense")]
    assert found["rows"][: len(dense)] == dense
    assert {row["variant"] for row in dense} == {"dense", "dense, onnxruntime"}
    assert all(row["largest_difference"] > 1e-3 for row in dense)
    assert {row["accuracy"] for row in found["rows"]} == {None}
    assert "which kept its weights" in (trained / "report.html").read_text()


def test_without_onnxruntime_the_rest_is_measured(secateur, trained, monkeypatch):
    monkeypatch.setattr("secateur.export.finished_run.find_spec", lambda name: None)
    result = secateur("bench", trained, "--batch", 1, "--seconds", 0.01, "--no-accuracy")
    assert result.exit_code == 0, result.stderr
    assert "pip install 'secateur[export]'" in result.stdout


@pytest.mark.parametrize("words", [("--seconds", 0), ("--seconds", "nan")])
def test_times_that_cannot_be(secateur, trained, words):
    result = secateur("bench", trained, *words)
    assert result.exit_code == 1
    assert "expected positive numbers" in result.stderr
    assert not (trained / "bench.json").exists()
