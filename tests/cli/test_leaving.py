"""A finished run leaves: compact, exported, measured, pruned further; what is wrong is said in one line."""

import json

import pytest
import torch

from secateur.compaction import compact, plain_copy
from secateur.export import artifact
from secateur.export.measure import num_macs
from secateur.export.onnx_graph import onnx_session
from secateur.export.sparse_kernels import CsrConv2d, CsrLinear
from secateur.training import load_run
from secateur.training.run import example_images


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def equal(expected, found, tolerance=1e-5):
    return float((expected - found).abs().max()) <= tolerance * float(expected.abs().max())


class TestCompact:
    def test_the_file_holds_the_smaller_network(self, secateur, trained):
        before = files(trained)
        result = secateur("compact", trained)
        assert result.exit_code == 0, result.stderr
        assert "61,706 parameters of tenth became" in result.stdout
        assert "conv3" in result.stdout
        run, small = load_run(trained), artifact.load(trained / "compact.safetensors")
        assert sum(p.numel() for p in small.parameters()) < 61706
        images = example_images(run, 5)
        with torch.no_grad():
            assert equal(run.model(images), small(images))
        after = files(trained)
        assert len(after.pop("compact.safetensors")) < 61706 * 4 / 5
        assert after == before

    def test_units_are_rounded_up(self, secateur, trained, tmp_path):
        result = secateur(
            "compact", trained, "--multiple-of", 16, "--out", tmp_path / "a" / "net.safetensors"
        )
        assert result.exit_code == 0, result.stderr
        small = artifact.load(tmp_path / "a" / "net.safetensors")
        assert small.get_submodule("conv3").out_channels in {16, 32, 48, 64, 80, 96, 112, 120}
        assert not (trained / "compact.safetensors").exists()


class TestExport:
    def test_onnx(self, secateur, trained):
        result = secateur("export", trained, "--to", "onnx")
        assert result.exit_code == 0, result.stderr
        run = load_run(trained)
        images = example_images(run, 3)
        (found,) = onnx_session(trained / "network.onnx")((images,))
        with torch.no_grad():
            assert equal(run.model(images), found, 1e-4)

    def test_sparse_kernels_are_chosen_shown_and_kept(self, secateur, trained, monkeypatch):
        monkeypatch.setattr(
            "secateur.export.sparse_kernels.alternating_medians",
            lambda layers, x, seconds: [1.0, 0.5][: len(layers)],
        )
        result = secateur("export", trained, "--to", "sparse", "--batch", 4)
        assert result.exit_code == 0, result.stderr
        assert "csr" in result.stdout
        network, run = artifact.load(trained / "sparse.safetensors"), load_run(trained)
        assert {CsrConv2d, CsrLinear} <= {type(module) for module in network.modules()}
        images = example_images(run, 4)
        with torch.no_grad():
            assert equal(run.model(images), network(images))

    def test_the_average_of_samples_is_one_graph(self, secateur, trained):
        config = json.loads((trained / "config.json").read_text())
        (trained / "config.json").write_text(json.dumps(config | {"predictive_temperature": 0.5}))
        result = secateur("export", trained, "--to", "onnx", "--samples", 2, "--out", trained / "two.onnx")
        assert result.exit_code == 0, result.stderr
        (found,) = onnx_session(trained / "two.onnx")((example_images(load_run(trained), 3),))
        assert torch.allclose(found.sum(1), torch.ones(3), atol=1e-5)

    @pytest.mark.parametrize(
        ("words", "code", "said"),
        [
            (("--to", "tflite"), 2, "expected one of the formats onnx, safetensors, sparse, got 'tflite'"),
            (("--to", "sparse", "--samples", 3), 1, "samples: expected none for --to sparse"),
        ],
    )
    def test_what_cannot_be(self, secateur, trained, words, code, said):
        before = files(trained)
        result = secateur("export", trained, *words)
        assert result.exit_code == code
        assert result.stderr.startswith("Error: ")
        assert said in result.stderr
        assert files(trained) == before

    def test_a_run_that_predicts_by_its_mean_has_no_samples(self, secateur, trained):
        config = json.loads((trained / "config.json").read_text())
        (trained / "config.json").write_text(json.dumps(config | {"predictive_temperature": 0.0}))
        result = secateur("export", trained, "--to", "onnx", "--samples", 2)
        assert result.exit_code == 1
        assert "leave --samples away" in result.stderr


class TestBench:
    def test_every_form_is_measured_kept_and_reported(self, secateur, trained, monkeypatch):
        monkeypatch.setattr(  # no other form is faster, so one suits both batch sizes
            "secateur.export.streamlining.alternating_medians", lambda forms, inputs, seconds: [1.0, 1.0]
        )
        result = secateur("bench", trained, "--batch", 1, "--batch", 3, "--seconds", 0.01, "--threads", 1)
        assert result.exit_code == 0, result.stderr
        found = json.loads((trained / "bench.json").read_text())
        rows = {row["variant"]: row for row in found["rows"]}
        expected = [
            "dense", "dense, onnxruntime", "masked", "compact", "sparse, for batch 1", "sparse, for batch 3",
            "compact, streamlined", "compact, onnxruntime",
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
        assert (
            rows["compact"]["file_bytes"] < rows["dense"]["file_bytes"] / 4 < rows["masked"]["file_bytes"] / 7
        )
        assert rows["compact"]["num_macs"] <= rows["dense"]["num_macs"]
        page = (trained / "report.html").read_text()
        assert "Smaller and faster for real" in page
        assert all(name in page for name in expected)

    def test_another_run_may_stand_for_the_dense_one(self, secateur, trained):
        words = ("--batch", 2, "--seconds", 0.01, "--no-accuracy", "--dense", trained.with_name("all"))
        result = secateur("bench", trained, *words)
        assert result.exit_code == 0, result.stderr
        found = json.loads((trained / "bench.json").read_text())
        assert found["machine"]["dense_run"] == str(trained.with_name("all"))
        dense = [row for row in found["rows"] if row["variant"].startswith("dense")]
        assert found["rows"][: len(dense)] == dense
        assert len(dense) >= 3
        assert {"dense, onnxruntime"} < {row["variant"] for row in dense}
        assert all(row["largest_difference"] > 1e-3 for row in dense)
        assert {row["accuracy"] for row in found["rows"]} == {None}
        assert "which kept its weights" in (trained / "report.html").read_text()

    def test_without_onnxruntime_the_rest_is_measured(self, secateur, trained, monkeypatch):
        monkeypatch.setattr("secateur.export.measured_run.find_spec", lambda name: None)
        result = secateur("bench", trained, "--batch", 1, "--seconds", 0.01, "--no-accuracy")
        assert result.exit_code == 0, result.stderr
        assert "pip install 'secateur[export]'" in result.stdout

    @pytest.mark.parametrize("words", [("--seconds", 0), ("--seconds", "nan")])
    def test_times_that_cannot_be(self, secateur, trained, words):
        result = secateur("bench", trained, *words)
        assert result.exit_code == 1
        assert "expected positive numbers" in result.stderr
        assert not (trained / "bench.json").exists()


class TestPrune:
    def test_units_go_and_a_new_run_says_so(self, secateur, trained, tmp_path):
        before = files(trained)
        result = secateur(
            "prune", trained, "--granularity", "unit", "--max-loss-rise", 0.05, "--samples", 2,
            "--out", tmp_path / "new",
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        assert "weights that were in. Training loss" in result.stdout
        assert files(trained) == before
        old, new = load_run(trained), load_run(tmp_path / "new")
        assert new.metrics["num_kept"] < old.metrics["num_kept"]
        assert new.metrics["num_kept"] == sum(
            int(new.posterior.keep[name].sum()) if name in new.posterior.keep else mean.numel()
            for name, mean in new.posterior.mean.items()
        )
        assert len(new.metrics["reductions"]) == len(old.metrics["reductions"]) + 1
        removed = new.metrics["reductions"][-1]
        assert removed["num_removed"] == old.metrics["num_kept"] - new.metrics["num_kept"]
        rows = zip(new.metrics["layers"], old.metrics["layers"], strict=True)
        gained = sum(b["delta_f"] - a["delta_f"] for b, a in rows)
        assert gained == pytest.approx(removed["predicted_delta_f"], rel=1e-4)
        assert new.config["pruned"]["granularity"] == "unit"
        assert f"secateur prune {trained} --granularity unit" in new.config["command"]
        assert (tmp_path / "new" / "report.html").is_file()
        again = secateur("evaluate", tmp_path / "new", "--samples", 2, "--device", "cpu")
        assert again.exit_code == 0, again.stderr

    def test_a_share_of_the_work_is_left(self, secateur, trained):
        result = secateur(
            "prune", trained.with_name("all"), "--granularity", "channel", "--multiply-adds", 0.5,
            "--samples", 1, "--out", trained.with_name("quick"),
        )  # fmt: skip
        assert result.exit_code == 0, result.stderr
        run = load_run(trained.with_name("quick"))
        images = example_images(run, 1)
        share = num_macs(compact(run.model, images), (images,)) / num_macs(plain_copy(run.model), (images,))
        assert 0.3 < share <= 0.5
        assert run.config["pruned"]["multiply_adds"] == 0.5

    def test_what_is_left_can_be_trained_on(self, secateur, trained, monkeypatch):
        monkeypatch.setattr("secateur.training.methods.PREDICTIVE_TEMPERATURES", (0.0, 1.0))
        words = ("--granularity", "neuron", "--max-loss-rise", 0.2, "--recover", 1, "--samples", 2)
        result = secateur("prune", trained, *words)
        assert result.exit_code == 0, result.stderr
        old, new = load_run(trained), load_run(trained.with_name("tenth-pruned"))
        assert [row["epoch"] for row in new.history] == [1, 2]
        assert new.config["pruned"]["recover"] == 1
        assert new.metrics["num_kept"] < old.metrics["num_kept"]
        for name, keep in old.posterior.keep.items():
            assert not (new.posterior.keep[name] & ~keep).any()
            assert not new.posterior.mean[name][~new.posterior.keep[name]].any()
        assert len(new.metrics["reductions"]) == len(old.metrics["reductions"]) + 1  # none in recovery
        kept = [~keep for keep in new.posterior.keep.values()]
        assert sum(int(gone.sum()) for gone in kept) == 61706 - new.metrics["num_kept"]
        assert new.metrics["accuracy"] > old.metrics["accuracy"]  # one epoch came before

    def test_a_sparsity_is_met_exactly(self, secateur, trained):
        result = secateur("prune", trained, "--sparsity", 0.95, "--samples", 1)
        assert result.exit_code == 0, result.stderr
        assert load_run(trained.with_name("tenth-pruned")).metrics["num_kept"] == 61706 - round(0.95 * 61706)

    @pytest.mark.parametrize(
        ("words", "code", "said"),
        [
            (
                ("--granularity", "filter"),
                2,
                "granularity: expected one of weight, neuron, channel, head, unit",
            ),
            (("--max-loss-rise", 0.1), 1, "max_loss_rise: expected whole units"),
            (("--multiply-adds", 0.1), 1, "multiply_adds: expected whole units"),
            (("--multiply-adds", 0, "--granularity", "unit"), 1, "multiply_adds: expected a share in (0, 1]"),
            (
                ("--granularity", "head", "--sparsity", 0.95),
                1,
                "sparsity: expected none for granularity 'head'",
            ),
            (("--sparsity", 0.5), 1, "sparsity: expected between 0.9"),
        ],
    )
    def test_what_cannot_be_leaves_nothing(self, secateur, trained, words, code, said):
        result = secateur("prune", trained, *words)
        assert result.exit_code == code
        assert said in result.stderr
        assert not trained.with_name("tenth-pruned").exists()

    def test_a_directory_in_use_is_left_alone(self, secateur, trained):
        before = files(trained)
        result = secateur("prune", trained.with_name("all"), "--out", trained)
        assert result.exit_code == 1
        assert "new or empty directory" in result.stderr
        assert files(trained) == before


@pytest.mark.parametrize("words", [("compact",), ("export", "--to", "onnx"), ("bench",), ("prune",)])
def test_a_run_that_is_not_there(secateur, tmp_path, words):
    result = secateur(words[0], tmp_path / "none", *words[1:])
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert "expected a finished run" in result.stderr
