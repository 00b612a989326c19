"""Batch norm under sampled weights: each network judged has moments of its own, and keeps them on disk."""

import json
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call

import secateur
from secateur.errors import ArtifactError
from secateur.modules import has_batch_norm, moments, reestimate, spread
from secateur.networks.resnet import ResNet
from secateur.runs.files import file_checksum
from secateur.training import load_run, recipes
from secateur.training.loop import Trainer
from secateur.training.prediction import predictions, scores

METHODS = ("calibrated", "flat-map", "flat-ff")


class TwoNorms(nn.Module):
    """A first layer whose moments are known in closed form, dropout, and a second that depends on them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 2, 1)
        self.norm1 = nn.BatchNorm2d(2)
        self.dropout = nn.Dropout(0.5)
        self.conv2 = nn.Conv2d(2, 3, 1)
        self.norm2 = nn.BatchNorm2d(3)

    def forward(self, x):
        x = self.dropout(self.norm1(self.conv1(x)).relu())
        return self.norm2(self.conv2(x)).mean((2, 3))


@pytest.fixture(scope="module", autouse=True)
def few_temperatures():
    """Choose between two temperatures, not twelve: each is tried with 32 draws."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "PREDICTIVE_TEMPERATURES", (0.0, 0.1))
        yield


@pytest.fixture
def network():
    torch.manual_seed(0)
    return TwoNorms()


@pytest.fixture
def images(generator):
    return 0.3 + 2 * torch.randn(40, 1, 5, 5, generator=generator)


def residual(seed: int = 0, width: int = 4) -> ResNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return ResNet((1, 8, 8), 10, num_blocks=1, width=width)


class TestMoments:
    def test_are_those_of_the_activations_in_use(self, network, images):
        network.eval()
        found = moments(network, images)
        first = network.conv1(images)
        torch.testing.assert_close(found["norm1.running_mean"], first.mean((0, 2, 3)))
        torch.testing.assert_close(found["norm1.running_var"], first.var((0, 2, 3)))
        normal = (first - first.mean((0, 2, 3), keepdim=True)) / (
            first.var((0, 2, 3), keepdim=True, correction=0) + 1e-5
        ).sqrt()
        second = network.conv2(normal.relu())  # no dropout
        torch.testing.assert_close(found["norm2.running_var"], second.var((0, 2, 3)), rtol=1e-4, atol=1e-6)

    def test_leave_the_model_as_it_was(self, network, images):
        network.train()
        network.norm2.eval()
        network.norm2.momentum = 0.3
        network(images)
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        moments(network, images)
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
        assert [network.norm1.training, network.norm2.training, network.dropout.training] == [1, 0, 1]
        assert [network.norm1.momentum, network.norm2.momentum] == [0.1, 0.3]

    def test_are_of_the_weights_given(self, network, images):
        network.eval()
        doubled = moments(network, images, {"conv1.weight": 2 * network.conv1.weight.detach()})
        own = moments(network, images)
        torch.testing.assert_close(doubled["norm1.running_var"], 4 * own["norm1.running_var"])

    def test_count_all_batches_alike(self, network, images, monkeypatch):
        network.eval()
        whole = moments(network, images)["norm1.running_mean"]
        monkeypatch.setattr("secateur.modules.batch_norm.BATCH_SIZE", 13)  # four batches of ten
        torch.testing.assert_close(moments(network, images)["norm1.running_mean"], whole)
        one_more = torch.cat([images, images[:1]])  # never a batch of one
        monkeypatch.setattr("secateur.modules.batch_norm.BATCH_SIZE", 40)
        sizes = []
        network.norm1.register_forward_hook(lambda _module, inputs, _output: sizes.append(len(inputs[0])))
        moments(network, one_more)
        assert sizes == [21, 20]

    def test_there_are_none_without_batch_norm(self, tiny, images):
        for model in (tiny(), nn.BatchNorm2d(1, track_running_stats=False), nn.GroupNorm(1, 1)):
            assert not has_batch_norm(model)
            assert moments(model, images) == {}

    def test_after_reestimation_evaluation_normalises(self, network, images):
        network.train()
        reestimate(network, images)
        assert network.training
        assert network.dropout.training
        network.eval()
        hidden = network.norm1(network.conv1(images))
        torch.testing.assert_close(hidden.mean((0, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
        variance = network.norm1.running_var
        torch.testing.assert_close(hidden.var((0, 2, 3)), variance / (variance + network.norm1.eps))

    def test_images_are_spread_over_a_sorted_data_set(self):
        images = torch.arange(1000.0).view(-1, 1, 1, 1)
        chosen = spread(images, 7).flatten().tolist()
        assert chosen == [0, 142, 285, 428, 571, 714, 857]
        assert spread(images, 1000) is images


@pytest.fixture(scope="module")
def trained(digits, few_temperatures):
    """A residual network fitted to all of the small digits for long enough to be worth judging."""
    return secateur.fit(
        residual(width=8), digits.full.train, digits.full.test, method="calibrated", epochs=6, batch_size=32,
        device="cpu", num_samples=2, compile=False,
    )  # fmt: skip


class TestJudgement:
    def judged(self, run, digits, **options):
        return scores(
            run.model, run.posterior, digits.full.test, temperature=0.5, num_samples=12, seed=1, **options
        )

    def test_draws_need_moments_of_their_own(self, trained, digits):
        """The naive ways: the mean network's moments, or an average over draws."""
        model, posterior = trained.model, trained.posterior.at_temperature(0.5)
        own = self.judged(trained, digits, calibration=trained.calibration)
        naive = self.judged(trained, digits)
        assert own["negative_log_likelihood"] < naive["negative_log_likelihood"] - 0.05
        assert own["mean_network"] == naive["mean_network"]

        shared = [
            moments(model, trained.calibration, posterior.sample(generator=torch.Generator().manual_seed(s)))
            for s in range(16)
        ]
        averaged = {name: torch.stack([each[name] for each in shared]).mean(0) for name in shared[0]}
        generator, total = torch.Generator().manual_seed(1), 0
        for _ in range(12):
            weights = posterior.sample(generator=generator) | averaged
            total = total + predictions(model, digits.full.test.images, weights).exp()
        loss = -(total / 12).log()[torch.arange(len(total)), digits.full.test.labels].mean()
        assert own["negative_log_likelihood"] < float(loss) - 0.05

    def test_the_posterior_mean_has_its_own(self, trained, digits):
        images = digits.full.train.images
        expected = moments(trained.model, spread(images, 2000))
        buffers = dict(trained.model.named_buffers())
        for name, value in expected.items():  # some of the images are held out
            torch.testing.assert_close(buffers[name], value, rtol=0.1, atol=0.1)
        assert trained.metrics["mean_network"]["accuracy"] > 0.9

    def test_few_images_do(self, trained, digits):
        full = self.judged(trained, digits, calibration=digits.full.train.images)
        few = self.judged(trained, digits, calibration=trained.calibration)
        assert len(trained.calibration) == 256
        assert abs(full["negative_log_likelihood"] - few["negative_log_likelihood"]) < 0.05


@pytest.mark.parametrize("method", METHODS)
class TestRun:
    def test_read_back_predicts_as_it_was_judged(self, fit, digits, tmp_path, method):
        run = fit(residual(), method=method, out=tmp_path / "run", epochs=2)
        again = load_run(tmp_path / "run", model=residual(seed=1))
        assert torch.equal(again.calibration, run.calibration)
        for num_samples in (0, 3):
            options = {"num_samples": num_samples, "seed": 5}
            predicted = run.predict(digits.test.images, **options)
            assert torch.equal(again.predict(digits.test.images, **options), predicted)
        judged = scores(
            again.model, again.posterior, digits.test, seed=0, num_samples=4, calibration=again.calibration,
            temperature=run.config["predictive_temperature"],
        )  # fmt: skip
        assert judged == {key: run.metrics[key] for key in judged}
        stored = (tmp_path / "run" / "calibration.safetensors").read_bytes()
        (tmp_path / "run" / "calibration.safetensors").write_bytes(stored[:-1] + b"\x7f")
        with pytest.raises(ArtifactError, match="altered"):
            load_run(tmp_path / "run", model=residual())

    def test_interrupted_goes_on_bit_for_bit(self, fit, stop_at, repeatable, tmp_path, method):
        fit(residual(), method=method, out=tmp_path / "whole", epochs=3)
        with pytest.raises(KeyboardInterrupt):
            fit(residual(), method=method, out=tmp_path / "part", epochs=3, progress=stop_at(50))
        fit(residual(), method=method, out=tmp_path / "part", epochs=3, resume=True)
        assert repeatable(tmp_path / "part") == repeatable(tmp_path / "whole")


def test_each_epoch_and_reduction_is_judged_with_its_own_moments(fit, digits, monkeypatch):
    seen = []
    plain = Trainer._observed_loss

    def watch(trainer, model):
        loss = plain(trainer, model)
        model.eval()
        own = moments(model, trainer.train.images)
        logits = functional_call(model, own, (trainer.train.images,))
        seen.append((loss, float(nn.functional.cross_entropy(logits, trainer.train.labels))))
        return loss

    monkeypatch.setattr(Trainer, "_observed_loss", watch)
    run = fit(residual(), sparsity=0.4, epochs=4)
    assert len(seen) >= 4
    assert all(math.isclose(loss, expected, rel_tol=1e-4) for loss, expected in seen)
    last = run.history[-1]
    for key in ("accuracy", "negative_log_likelihood"):  # of the mean network, as the end judges it
        assert last[key] == run.metrics["mean_network"][key]


def test_scales_and_shifts_have_a_posterior_and_stay(fit):
    run = fit(residual(), sparsity=0.6, epochs=4)
    rows = {row["name"]: row for row in run.metrics["layers"]}
    assert sum(row["num_kept"] < row["num_weights"] for row in rows.values()) >= 3
    for name in ("bn1.weight", "bn1.bias", "layer3.0.bn2.weight"):
        assert name in run.posterior.mean
        assert not rows[name]["prunable"]
        assert rows[name]["num_kept"] == rows[name]["num_weights"]


def test_a_network_without_batch_norm_stores_no_images(fit, tmp_path):
    run = fit(out=tmp_path / "run", epochs=1)
    assert run.calibration is None
    assert load_run(tmp_path / "run", model=run.model).calibration is None
    assert not (tmp_path / "run" / "calibration.safetensors").exists()
    assert (
        "calibration.safetensors" not in json.loads((tmp_path / "run" / "metrics.json").read_text())["sha256"]
    )


def test_a_damaged_file_of_images_is_named(fit, tmp_path):
    fit(residual(), out=tmp_path / "run", epochs=1)
    images, sums = (tmp_path / "run" / name for name in ("calibration.safetensors", "checksums.json"))
    images.write_bytes(b"{}")
    sums.write_text(json.dumps(json.loads(sums.read_text()) | {images.name: file_checksum(images)}))
    with pytest.raises(ArtifactError, match=r"calibration\.safetensors: expected the calibration images"):
        load_run(tmp_path / "run", model=residual())


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_resnet20_from_the_command_line_on_digits(method, tmp_path):
    from typer.testing import CliRunner

    from secateur.cli import app

    out = str(tmp_path / "run")
    words = ["resnet20", "digits", "--method", method, "--epochs", "2", "--samples", "3", "--device", "cpu"]
    result = CliRunner().invoke(app, ["fit", *words, "--no-compile", "--out", out])
    assert result.exit_code == 0, result.stderr
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    judged = CliRunner().invoke(app, ["evaluate", out, "--samples", "3", "--device", "cpu"])
    assert judged.exit_code == 0, judged.stderr
    assert f"{metrics['accuracy']:.4f}" in judged.stdout
    assert metrics["mean_network"]["accuracy"] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_resnet20_on_images_of_the_shape_of_cifar(method, generator):
    labels = torch.randint(10, (60,), generator=generator)
    images = torch.randn(60, 3, 32, 32, generator=generator)
    split = secateur.data.Split(images, labels)
    run = secateur.fit(
        "resnet20", split, split, method=method, epochs=2, batch_size=12, num_samples=2, device="cpu",
        compile=False,
    )  # fmt: skip
    assert run.predict(images[:5], num_samples=2).isfinite().all()
