"""Detection of out-of-distribution images: their format, the measure, what is kept."""

import dataclasses
import json
import math

import pytest
import torch

import secateur
from secateur.data import Dataset, Split, registry
from secateur.errors import ArtifactError, DataError
from secateur.reports import out_of_distribution
from secateur.reports.out_of_distribution import FILE, image_pair, match_format, measure, read_measured


def dataset(name, raw, *, mean, std, num_test=None):
    """A data set of raw bytes (n, c, h, w), standardised with the given moments."""
    moments = [torch.tensor(v).view(-1, 1, 1) for v in (mean, std)]
    images = (raw.float() / 255 - moments[0]) / moments[1]
    labels = torch.zeros(len(raw), dtype=torch.int64)
    cut = len(raw) // 2 if num_test is None else num_test
    parts = Split(images[cut:], labels[cut:]), Split(images[:cut], labels[:cut])
    return Dataset(name, *parts, 10, tuple("0123456789"), tuple(mean), tuple(std))


def raw(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, shape, generator=generator, dtype=torch.uint8)


def pixels(images, like):
    """What bytes the images would be in the data set they are to look like."""
    mean, std = (torch.tensor(v).view(-1, 1, 1) for v in (like.pixel_mean, like.pixel_std))
    return ((images * std + mean) * 255).round().to(torch.uint8)


def test_small_grey_images_are_enlarged_and_framed():
    digits = dataset("digits", raw(6, 1, 8, 8), mean=[0.3], std=[0.4])
    fashion = dataset("fashion-mnist", raw(2, 1, 32, 32), mean=[0.2], std=[0.3])
    dressed = match_format(fashion, digits, own_size=28)
    assert dressed.shape == (6, 1, 32, 32)
    seen = pixels(dressed, fashion)
    assert seen[0, 0, 4:28, 4:28].equal(
        pixels(digits.test.images, digits)[0, 0].repeat_interleave(3, 0).repeat_interleave(3, 1)
    )
    frame = torch.ones(32, 32, dtype=torch.bool)
    frame[4:28, 4:28] = False
    assert (seen[:, 0][:, frame] == 0).all()
    assert dressed[0, 0, 0, 0] == pytest.approx(-0.2 / 0.3)  # black, as the network sees it at home


def test_grey_images_have_the_same_values_in_every_channel_of_a_colour_network():
    grey = dataset("fashion-mnist", raw(4, 1, 28, 28), mean=[0.3], std=[0.4])
    cifar = dataset("cifar10", raw(2, 3, 32, 32), mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.4])
    dressed = match_format(cifar, grey, own_size=32)
    assert dressed.shape == (4, 3, 32, 32)
    seen = pixels(dressed, cifar)
    assert seen[:, 0].equal(seen[:, 1])
    assert seen[:, 0].equal(seen[:, 2])
    assert seen[0, 0, 2:30, 2:30].equal(pixels(grey.test.images, grey)[0, 0])


def test_test_images_come_first_and_two_thousand_are_enough():
    grey = dataset("grey", raw(2100, 1, 2, 2), mean=[0.3], std=[0.4], num_test=100)
    home = dataset("home", raw(2, 1, 2, 2), mean=[0.5], std=[0.5])
    seen = pixels(match_format(home, grey, own_size=2), home)
    assert len(seen) == 2000
    assert seen[:100].equal(pixels(grey.test.images, grey))


def test_images_that_cannot_look_alike_are_refused():
    colour = dataset("cifar10", raw(2, 3, 32, 32), mean=[0.5] * 3, std=[0.2] * 3)
    grey = dataset("digits", raw(2, 1, 32, 32), mean=[0.5], std=[0.2])
    with pytest.raises(DataError, match="expected grey images"):
        match_format(grey, colour, own_size=32)
    with pytest.raises(DataError, match="at most 28 x 28"):
        match_format(grey, grey, own_size=28)


@pytest.fixture(autouse=True)
def _forget_images():
    image_pair.cache_clear()


def digits_against_themselves(monkeypatch):
    entry = dataclasses.replace(registry._TABLE["digits"], out_of_distribution="digits")
    monkeypatch.setitem(registry._TABLE, "digits", entry)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network of one epoch on the digits."""
    out = tmp_path_factory.mktemp("runs") / "mlp"
    with torch.random.fork_rng(devices=[]):
        secateur.fit(
            "mlp", "digits", method="flat-ff", epochs=1, num_samples=2, device="cpu", compile=False, out=out
        )
    return out


def test_more_of_the_same_images_are_not_out_of_distribution(run, monkeypatch):
    monkeypatch.setattr(out_of_distribution, "NUM_SAMPLES", 5)
    digits_against_themselves(monkeypatch)
    found = measure(run, device="cpu")
    assert found.auroc == pytest.approx(0.5, abs=0.06)  # 360 of them against all 1,797
    assert (found.num_inside, found.num_outside, found.num_samples) == (360, 1797, 5)
    assert (sum(found.inside), sum(found.outside)) == (360, 1797)
    assert found.edges[-1] == pytest.approx(math.log(10))
    again = measure(run, device="cpu")
    assert again == found == read_measured(run)


def test_what_was_kept_counts_as_long_as_the_run_is_the_same(run, monkeypatch):
    digits_against_themselves(monkeypatch)
    monkeypatch.setattr(out_of_distribution, "NUM_SAMPLES", 1)
    found = measure(run, device="cpu")
    kept = (run / FILE).read_text()
    for change in ({"format": 2}, {"sha256": {}}, {"inside": [1]}, {"auroc": "high"}, {"edges": [0.0] * 41}):
        (run / FILE).write_text(json.dumps(json.loads(kept) | change))
        assert read_measured(run) is None
    (run / FILE).write_text(kept[:40])
    assert read_measured(run) is None
    (run / FILE).write_text(kept)
    assert read_measured(run) == found
    (run / FILE).unlink()
    assert read_measured(run) is None


def test_a_data_set_without_a_counterpart_says_so(run):
    with pytest.raises(DataError, match=r"\(fashion-mnist, cifar10, cifar100\), got 'digits'"):
        measure(run, device="cpu")
    assert not (run / FILE).exists()


def test_data_that_are_not_on_this_machine_are_not_downloaded(monkeypatch):
    from secateur.data import Source

    monkeypatch.setattr(
        out_of_distribution, "locate", lambda name, data_dir: Source("download", url="http://x")
    )
    monkeypatch.setattr(out_of_distribution, "load", lambda *_, **__: pytest.fail("downloaded"))
    with pytest.raises(DataError, match="secateur data cifar10 --fetch"):
        image_pair("cifar10", 32)


def test_another_version_of_the_data_is_refused(monkeypatch):
    digits_against_themselves(monkeypatch)
    with pytest.raises(DataError, match=r"'digits \(local files\)' of the run"):
        image_pair("digits (local files)", None)


def test_a_damaged_run_is_named(run, tmp_path):
    with pytest.raises(ArtifactError, match="finished run"):
        measure(tmp_path, device="cpu")
