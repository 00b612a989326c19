"""`secateur export`: every format gives the outputs of the masked network."""

import pytest
import torch

from secateur.export import artifact
from secateur.export.onnx_graph import onnx_session
from secateur.export.sparse_kernels import CsrLinear
from secateur.training import load_run
from secateur.training.run import example_images
from support.files import change_config, files


def equal(expected, found, tolerance=1e-5):
    return float((expected - found).abs().max()) <= tolerance * float(expected.abs().max())


def test_onnx(secateur, trained):
    result = secateur("export", trained, "--to", "onnx")
    assert result.exit_code == 0, result.stderr
    run = load_run(trained)
    images = example_images(run, 3)
    (found,) = onnx_session(trained / "network.onnx")((images,))
    with torch.no_grad():
        assert equal(run.model(images), found, 1e-4)


def test_sparse_kernels_are_chosen_shown_and_kept(secateur, trained, monkeypatch):
    monkeypatch.setattr(
        "secateur.export.sparse_kernels.alternating_medians",
        lambda layers, x, seconds: [1.0, 0.5][: len(layers)],
    )
    result = secateur("export", trained, "--to", "sparse", "--batch", 4)
    assert result.exit_code == 0, result.stderr
    assert "csr" in result.stdout
    network, run = artifact.load(trained / "sparse.safetensors"), load_run(trained)
    assert CsrLinear in {type(module) for module in network.modules()}
    images = example_images(run, 4)
    with torch.no_grad():
        assert equal(run.model(images), network(images))


def test_the_average_of_samples_is_one_graph(secateur, trained):
    change_config(trained, predictive_temperature=0.5)
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
def test_what_cannot_be(secateur, trained, words, code, said):
    before = files(trained)
    result = secateur("export", trained, *words)
    assert result.exit_code == code
    assert result.stderr.startswith("Error: ")
    assert said in result.stderr
    assert files(trained) == before


def test_a_run_that_predicts_by_its_mean_has_no_samples(secateur, trained):
    change_config(trained, predictive_temperature=0.0)
    result = secateur("export", trained, "--to", "onnx", "--samples", 2)
    assert result.exit_code == 1
    assert "leave --samples away" in result.stderr
