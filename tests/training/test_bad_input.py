"""Bad input is one line that says what was expected and got; nothing that was there is overwritten."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import secateur
from secateur.data import Split
from secateur.errors import (
    ArtifactError,
    DataError,
    InvalidArgumentError,
    UsageError,
)
from secateur.training import evaluate, load_run


def one_line(caught) -> str:
    text = str(caught.value)
    assert "\n" not in text
    assert "expected" in text
    assert "got" in text
    return text


def with_label(split, value):
    labels = split.labels.clone()
    labels[7] = value
    return replace(split, labels=labels)


def with_pixel(split, value):
    images = split.images.clone()
    images[5, 0, 2, 2] = value
    return replace(split, images=images)


class TestData:
    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            (lambda s: with_label(s, 10), r"labels in 0 \.\.\. 9, got 10 for image 7"),
            (lambda s: with_label(s, -1), r"labels in 0 \.\.\. 9, got -1 for image 7"),
            (lambda s: with_pixel(s, float("nan")), "finite pixels.*first in image 5"),
            (lambda s: with_pixel(s, float("inf")), "finite pixels.*first in image 5"),
            (lambda s: Split(s.images[:0], s.labels[:0]), "at least one image"),
        ],
    )
    @pytest.mark.parametrize("which", ["train", "test"])
    def test_is_refused_before_anything_is_written(self, fit, digits, tmp_path, spoil, said, which):
        data = {"train": digits.train, "test": digits.test} | {which: spoil(getattr(digits, which))}
        with pytest.raises(DataError, match=said) as caught:
            fit(**data, out=tmp_path / "run")
        assert which in one_line(caught)
        assert not (tmp_path / "run").exists()

    def test_of_another_shape_than_the_network_takes(self, fit, digits, tmp_path):
        wide = Split(torch.randn(50, 1, 9, 8), digits.train.labels[:50])
        with pytest.raises(DataError, match=r"shape \(1, 9, 8\)") as caught:
            fit(train=wide, test=None, out=tmp_path / "run")
        one_line(caught)
        with pytest.raises(DataError, match=r"images of shape \(1, 8, 8\), got \(1, 9, 8\)"):
            fit(test=wide)
        assert not (tmp_path / "run").exists()

    def test_with_labels_that_cannot_be_class_numbers(self, digits):
        for value in (10**12, 400):
            with pytest.raises(DataError, match=f"got {value}") as caught:
                secateur.fit("mlp", with_label(digits.train, value), digits.test, device="cpu", epochs=1)
            one_line(caught)

    def test_smaller_than_a_batch(self, fit, tmp_path):
        with pytest.raises(DataError, match="at most the 304 training examples, got 305") as caught:
            fit(batch_size=305, out=tmp_path / "run")
        one_line(caught)
        assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"device": "nonsense"}, InvalidArgumentError, "device: expected auto, cpu"),
        ({"device": "meta"}, InvalidArgumentError, "got 'meta'"),
        ({"device": "privateuseone"}, InvalidArgumentError, "got 'privateuseone'"),
        ({"device": "cuda:99"}, InvalidArgumentError, "got 'cuda:99'"),
        ({"method": "calibrate"}, UsageError, "did you mean calibrated"),
        ({"epochs": 0}, InvalidArgumentError, "epochs: expected at least 1, got 0"),
        ({"epochs": -3}, InvalidArgumentError, "epochs: expected at least 1, got -3"),
        ({"batch_size": 0}, InvalidArgumentError, "batch_size: expected at least 1, got 0"),
        ({"learning_rate": -1.0}, InvalidArgumentError, "learning_rate: expected a positive"),
        ({"learning_rate": float("nan")}, InvalidArgumentError, "learning_rate: expected a positive"),
        ({"sparsity": 1.0}, InvalidArgumentError, r"sparsity: expected a fraction in \[0, 1\), got 1.0"),
        ({"sparsity": 0.97}, InvalidArgumentError, "everything that may go"),
        ({"sparsity": 0.5, "method": "flat-map"}, InvalidArgumentError, "a run that reduces"),
        ({"num_samples": 0}, InvalidArgumentError, "num_samples: expected at least 1, got 0"),
        ({"seed": -1}, InvalidArgumentError, "seed: expected a whole number"),
        ({"seed": 2**70}, InvalidArgumentError, "seed: expected a whole number"),
    ],
)
def test_options_are_refused_before_anything_is_written(fit, tmp_path, options, error, said):
    with pytest.raises(error, match=said) as caught:
        fit(out=tmp_path / "run", **options)
    one_line(caught)
    assert not (tmp_path / "run").exists()


class TestNetwork:
    def test_without_parameters(self, fit):
        with pytest.raises(InvalidArgumentError, match="expected parameters to train") as caught:
            fit(nn.Flatten())
        one_line(caught)

    def test_whose_output_is_no_logits(self, fit):
        network = nn.Conv2d(1, 10, 3)
        with pytest.raises(InvalidArgumentError, match=r"logits of shape \(n, classes\)") as caught:
            fit(network)
        one_line(caught)

    def test_with_too_few_logits(self, fit):
        with pytest.raises(DataError, match=r"labels in 0 \.\.\. 6"):
            fit(nn.Sequential(nn.Flatten(), nn.Linear(64, 7)))


class TestOut:
    def test_in_use_is_left_alone(self, fit, contents, tmp_path):
        fit(out=tmp_path, epochs=1)
        before = contents(tmp_path)
        with pytest.raises(ArtifactError, match="--resume") as caught:
            fit(out=tmp_path, epochs=1)
        one_line(caught)
        assert contents(tmp_path) == before

    def test_with_other_files_is_no_run_to_resume(self, fit, contents, tmp_path):
        (tmp_path / "thesis.tex").write_text("years of work")
        for resume in (False, True):
            with pytest.raises(ArtifactError) as caught:
                fit(out=tmp_path, resume=resume)
            one_line(caught)
        assert contents(tmp_path) == {"thesis.tex": b"years of work"}

    @pytest.mark.parametrize("below", ["", "deeper/run"])
    def test_that_is_a_file(self, fit, tmp_path, below):
        file = tmp_path / "file"
        file.write_text("mine")
        for resume in (False, True):
            with pytest.raises(ArtifactError, match=r"--out .*expected a writable directory") as caught:
                fit(out=file / below, resume=resume)
            one_line(caught)
        assert file.read_text() == "mine"

    @pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="needs a place where even root cannot write")
    def test_where_nobody_can_write(self, fit):
        with pytest.raises(ArtifactError, match="expected a writable directory") as caught:
            fit(out="/proc/self/run")
        one_line(caught)

    def test_that_must_not_be_written(self, fit, tmp_path, monkeypatch):
        monkeypatch.setattr(os, "access", lambda path, mode, **_: False)  # as for a user who is not root
        with pytest.raises(ArtifactError, match="expected a writable directory"):
            fit(out=tmp_path)
        assert not list(tmp_path.iterdir())


@pytest.fixture
def unfinished(fit, stop_at, tmp_path):
    """A run stopped in its third epoch."""
    out = tmp_path / "unfinished"
    with pytest.raises(KeyboardInterrupt):
        fit(out=out, progress=stop_at(50))
    return out


class TestResume:
    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"seed": 1}, r"own seed \(0\), got 1"),
            ({"method": "ivon"}, r"own method \(calibrated\), got ivon"),
            ({"epochs": 6}, r"own epochs \(5\), got 6"),
            ({"learning_rate": 1e-3}, r"own learning_rate \(0.003\), got 0.001"),
            ({"batch_size": 20}, r"own batch_size \(16\), got 20"),
            ({"sparsity": 0.5}, r"own sparsity \(None\), got 0.5"),
        ],
    )
    def test_with_other_options(self, fit, unfinished, contents, options, said):
        before = contents(unfinished)
        with pytest.raises(ArtifactError, match=said) as caught:
            fit(out=unfinished, resume=True, **options)
        assert len(one_line(caught)) < 300
        assert contents(unfinished) == before

    def test_of_another_network(self, fit, tiny, unfinished, contents):
        before = contents(unfinished)
        with pytest.raises(ArtifactError, match="own num_weights") as caught:
            fit(tiny(width=17), out=unfinished, resume=True)
        one_line(caught)

        class MLP(nn.Sequential):
            """Of the same name and number of weights, 64 * 16 + 16 + 16 * 16 + 16 + 170."""

        layers = [nn.Linear(64, 16), nn.Linear(16, 16), nn.Linear(16, 10)]
        with pytest.raises(ArtifactError, match="expected one of this network") as caught:
            fit(MLP(nn.Flatten(), *layers), out=unfinished, resume=True)
        one_line(caught)
        assert contents(unfinished) == before

    def test_on_other_data(self, fit, digits, unfinished, contents):
        before = contents(unfinished)
        fewer = Split(digits.train.images[:310], digits.train.labels[:310])
        with pytest.raises(ArtifactError, match=r"own num_data \(304\), got"):
            fit(train=fewer, out=unfinished, resume=True)
        assert contents(unfinished) == before

    def test_before_the_first_checkpoint_is_held_to_its_config_too(self, fit, stop_at, contents, tmp_path):
        with pytest.raises(KeyboardInterrupt):
            fit(out=tmp_path, progress=stop_at(3))
        assert contents(tmp_path).keys() == {"config.json", ".lock"}
        with pytest.raises(ArtifactError, match="own seed"):
            fit(out=tmp_path, seed=9, resume=True)

    def test_of_an_altered_config(self, fit, unfinished):
        for text in ("{", "[]", ""):
            (unfinished / "config.json").write_text(text)
            with pytest.raises(ArtifactError, match=r"config.json") as caught:
                fit(out=unfinished, resume=True)
            one_line(caught)

    def test_of_a_checkpoint_of_another_method(self, fit, stop_at, unfinished, contents, tmp_path):
        other = tmp_path / "other"
        with pytest.raises(KeyboardInterrupt):
            fit(out=other, method="flat-ff", progress=stop_at(50))
        (unfinished / "checkpoint.safetensors").write_bytes((other / "checkpoint.safetensors").read_bytes())
        before = contents(unfinished)
        with pytest.raises(ArtifactError) as caught:
            fit(out=unfinished, resume=True)
        one_line(caught)
        assert contents(unfinished) == before


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def flipped(data: bytes) -> bytes:
    """Change a single bit in the tensors, which safetensors itself does not notice."""
    return data[:-40] + bytes([data[-40] ^ 1]) + data[-39:]


def other_header(data: bytes) -> bytes:
    return data[:8] + b"#" + data[9:]


@pytest.mark.parametrize(
    "damage", [truncated, flipped, other_header, lambda data: b"", lambda data: b"x" * 99]
)
class TestDamage:
    def test_of_a_checkpoint(self, fit, unfinished, contents, damage):
        path = unfinished / "checkpoint.safetensors"
        path.write_bytes(damage(path.read_bytes()))
        before = contents(unfinished)
        with pytest.raises(ArtifactError, match=r"checkpoint\.safetensors: expected") as caught:
            fit(out=unfinished, resume=True)
        one_line(caught)
        assert contents(unfinished) == before

    @pytest.mark.parametrize("name", ["model.safetensors", "posterior.safetensors"])
    def test_of_a_finished_run(self, fit, tiny, contents, tmp_path, damage, name):
        fit(out=tmp_path, epochs=1)
        path = tmp_path / name
        path.write_bytes(damage(path.read_bytes()))
        before = contents(tmp_path)
        with pytest.raises(ArtifactError, match=name) as caught:
            load_run(tmp_path, model=tiny())
        one_line(caught)
        assert contents(tmp_path) == before


class TestReadingBack:
    def test_what_is_no_run(self, tmp_path):
        for function in (load_run, evaluate):
            with pytest.raises(ArtifactError, match=r"finished run \(metrics.json\)") as caught:
                function(tmp_path / "none")
            one_line(caught)

    def test_an_unfinished_run(self, unfinished):
        with pytest.raises(ArtifactError, match="--resume"):
            load_run(unfinished)

    def test_a_network_of_its_own_is_asked_for(self, fit, tiny, tmp_path):
        fit(out=tmp_path, epochs=1)
        with pytest.raises(ArtifactError, match="expected the run's own network as `model`"):
            load_run(tmp_path)
        with pytest.raises(ArtifactError, match="expected the weights of this network") as caught:
            load_run(tmp_path, model=tiny(width=20))
        one_line(caught)

    def test_data_without_a_name_cannot_be_loaded_again(self, digits, early_reductions, tmp_path):
        secateur.fit("mlp", digits.train, epochs=1, out=tmp_path, device="cpu", num_samples=2, compile=False)
        with pytest.raises(ArtifactError, match="got one on 'custom'") as caught:
            evaluate(tmp_path, device="cpu")
        one_line(caught)

    def test_files_with_fields_missing(self, fit, tiny, tmp_path):
        fit(out=tmp_path, epochs=1)
        config = json.loads((tmp_path / "config.json").read_text())
        for name, text in {
            "history.jsonl": "{nonsense",
            "config.json": json.dumps({k: v for k, v in config.items() if k != "predictive_temperature"}),
            "metrics.json": "[1, 2]",
        }.items():
            whole = (tmp_path / name).read_bytes()
            (tmp_path / name).write_text(text)
            with pytest.raises(ArtifactError, match=name) as caught:
                load_run(tmp_path, model=tiny())
            one_line(caught)
            (tmp_path / name).write_bytes(whole)

    def test_another_posterior(self, fit, tiny, tmp_path):
        fit(out=tmp_path / "a", epochs=1)
        fit(tiny(width=20), out=tmp_path / "b", epochs=1)
        name = "posterior.safetensors"
        (tmp_path / "a" / name).write_bytes((tmp_path / "b" / name).read_bytes())
        sums, other = (json.loads((tmp_path / run / "checksums.json").read_text()) for run in "ab")
        (tmp_path / "a" / "checksums.json").write_text(json.dumps(sums | {name: other[name]}))
        with pytest.raises(ArtifactError, match="expected the posterior of this network") as caught:
            load_run(tmp_path / "a", model=tiny())
        one_line(caught)
