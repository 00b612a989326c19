"""`augment`: other images in every epoch, the same ones for the same seed, and none but training's."""

import json

import pytest
import torch

import secateur
from secateur.curvature import RunningCurvature
from secateur.data import crop_and_flip
from secateur.errors import ArtifactError, InvalidArgumentError
from secateur.training import loop

STEPS_PER_EPOCH = 20  # 320 images in batches of 16, where none are held out


@pytest.fixture
def crops(monkeypatch):
    """Every batch that was cropped and mirrored: before, after."""
    seen = []

    def watch(images, **options):
        drawn = crop_and_flip(images, **options)
        seen.append((images, drawn))
        return drawn

    monkeypatch.setattr(loop, "crop_and_flip", watch)
    return seen


def test_is_off_unless_asked_for(fit, crops, tmp_path):
    run = fit(out=tmp_path / "run", epochs=1)
    assert not crops
    assert run.config["augment"] is False
    assert json.loads((tmp_path / "run" / "config.json").read_text())["augment"] is False


def test_changes_each_training_batch_and_nothing_else(fit, crops, digits):
    run = fit(augment=True, epochs=2, method="flat-ff")
    assert run.config["augment"] is True
    assert len(crops) == 2 * STEPS_PER_EPOCH  # no evaluation, observation or choice of temperature
    assert all(before.shape == after.shape == (16, 1, 8, 8) for before, after in crops)
    assert all(not torch.equal(before, after) for before, after in crops)


def test_the_curvature_looks_at_the_images_that_the_step_has_seen(fit, crops, monkeypatch):
    looked = []
    whole = RunningCurvature.step

    def noted(curvature, batch):
        looked.append(batch[0])
        return whole(curvature, batch)

    monkeypatch.setattr(RunningCurvature, "step", noted)
    fit(augment=True, epochs=1, method="joint")
    assert looked
    assert all(torch.equal(images, drawn) for images, (_, drawn) in zip(looked, crops, strict=True))


def test_follows_from_seed_and_epoch(fit, crops):
    for seed in (3, 3, 4):
        fit(augment=True, epochs=2, seed=seed, method="flat-map")
    first, second, other = (
        crops[i : i + 2 * STEPS_PER_EPOCH] for i in range(0, 6 * STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH)
    )
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(first, second, strict=True))
    assert not torch.equal(first[0][1], other[0][1])

    def shifts(pairs):
        """The left-most column that is all frame tells shift and mirror apart well enough."""
        return [tuple((after[:, 0].abs().sum(1) == 0).flatten().tolist()) for _, after in pairs]

    assert shifts(first[:STEPS_PER_EPOCH]) != shifts(first[STEPS_PER_EPOCH:])


def test_leaves_the_noise_of_the_posterior_alone(fit, monkeypatch):
    """With crops that change nothing, the run is the one without them."""
    plain = fit(epochs=2)
    monkeypatch.setattr(loop, "crop_and_flip", lambda images, **_: images)
    same = fit(epochs=2, augment=True)
    assert all(torch.equal(plain.posterior.mean[n], same.posterior.mean[n]) for n in plain.posterior.mean)


@pytest.mark.parametrize("method", ["calibrated", "flat-map"])
def test_an_interrupted_run_goes_on_bit_for_bit(fit, stop_at, repeatable, tmp_path, method):
    options = {"augment": True, "method": method, "epochs": 4}
    fit(out=tmp_path / "whole", **options)
    with pytest.raises(KeyboardInterrupt):
        fit(out=tmp_path / "part", progress=stop_at(50), **options)
    fit(out=tmp_path / "part", resume=True, **options)
    assert repeatable(tmp_path / "part") == repeatable(tmp_path / "whole")


@pytest.mark.parametrize("option", ["augment", "autocast"])
def test_another_choice_is_another_run(fit, tmp_path, option):
    fit(out=tmp_path, epochs=1)
    with pytest.raises(ArtifactError, match=rf"the run's own {option} \(False\), got True") as caught:
        fit(out=tmp_path, epochs=1, resume=True, **{option: True})
    assert "\n" not in str(caught.value)


def test_digits_are_not_mirrored(tmp_path):
    with pytest.raises(InvalidArgumentError, match=r"augment: expected .* got digits") as caught:
        secateur.fit("mlp", "digits", augment=True, out=tmp_path / "run", device="cpu")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_crops_keep_the_memory_format(channels, memory_format, generator):
    images = torch.randn(4, channels, 8, 6, generator=generator).to(memory_format=memory_format)
    drawn = crop_and_flip(images, generator=generator)
    assert drawn.is_contiguous(memory_format=memory_format)
    assert drawn.stride() == images.stride()
