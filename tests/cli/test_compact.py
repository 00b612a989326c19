"""`secateur compact`: the file holds the smaller network; the run is left as it was."""

import torch

from secateur.export import artifact
from secateur.training import load_run
from secateur.training.run import example_images
from support.files import files


def equal(expected, found, tolerance=1e-5):
    return float((expected - found).abs().max()) <= tolerance * float(expected.abs().max())


def test_the_file_holds_the_smaller_network(secateur, trained):
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


def test_units_are_rounded_up(secateur, trained, tmp_path):
    result = secateur("compact", trained, "--multiple-of", 16, "--out", tmp_path / "a" / "net.safetensors")
    assert result.exit_code == 0, result.stderr
    small = artifact.load(tmp_path / "a" / "net.safetensors")
    assert small.get_submodule("conv3").out_channels in {16, 32, 48, 64, 80, 96, 112, 120}
    assert not (trained / "compact.safetensors").exists()
