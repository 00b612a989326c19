"""A finished run is judged again by the data set it names, wherever that was found."""

import pytest

import secateur
from secateur.errors import ArtifactError
from secateur.training import evaluate
from support.files import change_config


@pytest.fixture
def finished(tmp_path):
    out = tmp_path / "run"
    secateur.fit("mlp", "digits", method="flat-map", epochs=1, out=out, device="cpu", compile=False)
    return out


def test_unpacked_files_are_the_data_set_they_were_unpacked_from(finished):
    before = evaluate(finished, device="cpu")
    change_config(finished, data="digits (local files)")
    assert evaluate(finished, device="cpu") == before


def test_data_without_a_name_are_refused(finished):
    change_config(finished, data="custom")
    with pytest.raises(ArtifactError, match=r"expected a run on one of the data sets .* got one on 'custom'"):
        evaluate(finished, device="cpu")
