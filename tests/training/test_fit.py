"""What a fit promises of its result: exact masks, exact counts, honest data, files that agree."""

import json
import sys

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import prune

import secateur
from secateur import Posterior
from secateur.data import Split
from secateur.errors import ArtifactError, DataError, InvalidArgumentError
from secateur.modules import held_masks
from secateur.pruning import masks_of
from secateur.training import evaluate, load_run
from secateur.training.loop import Trainer
from secateur.training.prediction import best_temperature

KEYS = {
    "accuracy", "negative_log_likelihood", "expected_calibration_error", "brier_score",
    "log_predictive_density", "sparsity", "num_weights", "num_kept", "seconds", "seconds_per_iteration",
}  # fmt: skip


class Convolutions(nn.Module):
    """Somebody else's network: batch norm, `view`, dropout, tied nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 4, 3, padding=1)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(4 * 16, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.norm(self.conv(x))), 2)
        x = self.dropout(F.relu(self.conv2(x)))
        return self.head(x.view(x.size(0), -1))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, digits):
    """A run of our own network on the named data, from which a directory can be read back."""
    from secateur.pruning import schedule
    from secateur.training import recipes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(schedule, "STEPS_OF_WARM_UP", 80)
        patch.setattr(schedule, "STEPS_BETWEEN_REDUCTIONS", 80)
        patch.setattr(recipes, "PREDICTIVE_TEMPERATURES", (0.3, 0.5))  # so that predictions do draw
        out = tmp_path_factory.mktemp("runs") / "run"
        return secateur.fit(
            "lenet", "digits", epochs=3, seed=3, out=out, device="cpu", num_samples=8, compile=False
        )


def test_without_reduction_the_masks_stay_as_they_came(digits, monkeypatch):
    from secateur.training import recipes

    monkeypatch.setattr(recipes, "PREDICTIVE_TEMPERATURES", (0.0,))
    removed = {}
    for reduce in (True, False):
        model = secateur.networks.build("mlp", image_shape=(1, 8, 8), num_classes=10, seed=0, width=20)
        prune.random_unstructured(model.hidden.linear1, "weight", 0.3)
        before = model.hidden.linear1.weight_mask.bool().clone()
        run = secateur.fit(
            model, digits.train, digits.test, method="bmr-spike-and-slab", epochs=3, seed=0, reduce=reduce,
            num_samples=1, compile=False, device="cpu",
        )  # fmt: skip
        removed[reduce] = run.metrics["num_weights"] - run.metrics["num_kept"] - int((~before).sum())
        assert not (held_masks(run.model)["hidden.linear1.weight"] & ~before).any()
    assert removed[True] > 0
    assert removed[False] == 0
    with pytest.raises(InvalidArgumentError, match="sparsity: expected none with reduce=False"):
        secateur.fit(model, digits.full, method="bmr-spike-and-slab", sparsity=0.5, reduce=False)


def test_the_files_hold_what_the_run_returned(finished):
    out = finished.out
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics.keys() >= KEYS
    assert metrics == finished.metrics
    assert (
        json.loads((out / "config.json").read_text())["predictive_temperature"]
        == (finished.config["predictive_temperature"])
    )
    history = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    assert history == finished.history
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert all(row.keys() >= {"step", "train_loss", "accuracy", "sparsity", "seconds"} for row in history)
    assert not list(out.glob("*.partial"))
    assert not any(path.suffix in {".pt", ".pkl", ".pth"} for path in out.iterdir())


def test_counts_agree_with_masks_and_files(finished):
    metrics, stored = finished.metrics, load_file(finished.out / "model.safetensors")
    posterior = Posterior.load(finished.out / "posterior.safetensors")
    assert 0.1 < metrics["sparsity"] < 1
    assert metrics["num_weights"] == sum(p.numel() for p in finished.model.parameters()) == 61706
    assert sum(row["num_kept"] for row in metrics["layers"]) == metrics["num_kept"]
    assert metrics["sparsity"] == 1 - metrics["num_kept"] / metrics["num_weights"]
    masks = masks_of(finished.model)
    for row in metrics["layers"]:
        keep, values = posterior.keep[row["name"]], stored[row["name"]]
        assert int(keep.sum()) == row["num_kept"]
        assert (values[~keep] == 0).all()
        assert (values[keep] != 0).all()
        if not keep.all():
            assert torch.equal(masks[row["name"]], keep)
        assert row["prunable"] == (not row["name"].startswith("output."))
    predicted = sum(row["predicted_delta_f"] for row in metrics["reductions"])
    assert sum(row["delta_f"] for row in metrics["layers"]) == pytest.approx(predicted, rel=1e-4)
    assert all(row["delta_f"] > 0 for row in metrics["layers"] if row["num_kept"] < row["num_weights"])
    assert sum(row["num_removed"] for row in metrics["reductions"]) == (
        metrics["num_weights"] - metrics["num_kept"]
    )


def test_a_run_read_back_predicts_the_same(finished, digits):
    again = load_run(finished.out)
    x = secateur.data.load("digits", image_size=32).test.images[:50]
    for num_samples in (0, 3):
        for predict in (finished.predict, again.predict):
            probabilities = predict(x, num_samples=num_samples)
            assert probabilities.shape == (50, 10)
            assert (probabilities.sum(1) - 1).abs().max() < 1e-5
        assert torch.equal(
            finished.predict(x, num_samples=num_samples), again.predict(x, num_samples=num_samples)
        )
    assert not torch.equal(finished.predict(x, num_samples=3), finished.predict(x, num_samples=0))
    assert not torch.equal(finished.predict(x, num_samples=3), finished.predict(x, num_samples=3, seed=1))
    assert again.history == finished.history


def test_evaluate_gives_the_metrics_again(finished):
    state = torch.get_rng_state()
    found = evaluate(finished.out, device="cpu", num_samples=8)
    assert torch.equal(torch.get_rng_state(), state)
    assert found == {key: finished.metrics[key] for key in found}
    train = evaluate(finished.out, device="cpu", num_samples=2, split="train")
    assert train["reliability"]["count"] != found["reliability"]["count"]


def test_prediction_leaves_the_weights_as_they_were(finished, digits):
    before = {name: value.clone() for name, value in finished.model.state_dict().items()}
    drawn = finished.predict(torch.randn(3, 1, 32, 32), num_samples=2)
    assert torch.isfinite(drawn).all()
    assert all(torch.equal(before[name], value) for name, value in finished.model.state_dict().items())
    assert any((value == 0).any() for value in before.values())  # some are held at zero


def test_prediction_refuses_other_images(finished):
    with pytest.raises(DataError, match=r"\(n, \*\(1, 32, 32\)\), got \(2, 1, 28, 28\)"):
        finished.predict(torch.zeros(2, 1, 28, 28))


class TestSparsity:
    @pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.873])
    def test_is_met_exactly(self, fit, sparsity):
        run = fit(sparsity=sparsity)
        num_weights = run.metrics["num_weights"]
        assert num_weights - run.metrics["num_kept"] == round(sparsity * num_weights)
        removed = sum(int((~mask).sum()) for mask in masks_of(run.model).values())
        assert removed == round(sparsity * num_weights)

    def test_counts_frozen_weights_too(self, fit, tiny):
        network = tiny()
        network.hidden.linear1.requires_grad_(False)
        run = fit(network, sparsity=0.15)
        assert run.metrics["num_weights"] - run.metrics["num_kept"] == round(0.15 * 1482)

    def test_approaches_its_target_by_equal_factors(self, fit):
        kept = [1 - row["sparsity"] for row in fit(sparsity=0.85).history if "num_removed" in row]
        factors = [b / a for a, b in zip([1.0, *kept], kept, strict=False)]
        assert max(factors) - min(factors) < 0.01

    def test_of_the_paper_method_and_ivon(self, fit):
        for method in ("bmr-spike-and-slab", "ivon"):
            assert fit(method=method, sparsity=0.6).metrics["sparsity"] == pytest.approx(0.6, abs=1e-3)


class TestHeldOutData:
    def test_are_not_trained_on(self, fit, digits, monkeypatch):
        seen = {}

        def spy(model, posterior, held_out, temperatures, **options):
            seen["held_out"] = held_out
            return temperatures[0]

        monkeypatch.setattr(sys.modules["secateur.training.fit"], "best_temperature", spy)
        trained = []
        plain = Trainer.__post_init__

        def look(trainer):
            trained.append(trainer.train)
            plain(trainer)

        monkeypatch.setattr(Trainer, "__post_init__", look)
        run = fit(epochs=1)
        held, used = seen["held_out"].images.flatten(1), trained[0].images.flatten(1)
        assert (len(held), len(used)) == (16, 304) == (run.config["num_held_out"], run.config["num_data"])
        rows = lambda images: {tuple(row.tolist()) for row in images}  # noqa: E731
        assert not rows(held) & rows(used)
        assert rows(held) | rows(used) == rows(digits.train.images.flatten(1))

    def test_choose_the_warmest_temperature_they_do_not_speak_against(self, fit, digits, tiny):
        network = tiny()
        fit(network, method="calibrated", epochs=5, learning_rate=1e-2)

        def chosen(precision, temperatures):
            means = {name: p.detach().clone() for name, p in network.named_parameters()}
            posterior = Posterior(
                means,
                {name: torch.full_like(p, precision) for name, p in means.items()},
                {name: torch.tensor(1.0) for name in means},
            )
            return best_temperature(network, posterior, digits.test, temperatures, seed=5)

        temperatures = (0.0, 1e-3, 0.1, 1.0)
        assert chosen(1e12, temperatures) == 1.0  # all alike: no reason against the warmest
        assert chosen(1e12, temperatures[::-1]) == 1.0
        assert chosen(1.0, (0.0, 0.1, 1.0)) == 0.0  # noise of std 0.3 and 1 ruins the network
        assert chosen(1e-3 / 0.05**2, temperatures) in {0.0, 1e-3}  # noise of std 0.05, 0.5, 1.6


class TestAnyModule:
    def test_with_batch_norm_dropout_and_view(self, fit, tmp_path):
        torch.manual_seed(0)
        network = Convolutions()
        run = fit(network, out=tmp_path / "run", method="ivon")
        assert run.model is network
        assert not network.training
        assert run.metrics["sparsity"] > 0
        rows = {row["name"]: row for row in run.metrics["layers"]}
        assert not rows["norm.weight"]["prunable"]
        assert rows["conv.weight"]["prunable"]
        assert not rows["head.weight"]["prunable"]
        again = load_run(tmp_path / "run", model=Convolutions())
        x = torch.randn(4, 1, 8, 8)
        assert torch.equal(again.predict(x, num_samples=3), run.predict(x, num_samples=3))

    def test_without_test_data(self, fit):
        run = fit(test=None, epochs=1)
        assert run.metrics["evaluated_on"] == "train"
        assert "accuracy" not in run.history[0]

    def test_with_tied_weights(self, fit, tmp_path):
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.a, self.b = nn.Linear(64, 64), nn.Linear(64, 64)
                self.b.weight = self.a.weight
                self.head = nn.Linear(64, 10)

            def forward(self, x):
                return self.head(self.b(self.a(x.flatten(1)).relu()).relu())

        run = fit(Tied(), out=tmp_path / "run", epochs=3)
        assert run.metrics["num_weights"] == 64 * 64 + 64 * 2 + 650
        again = load_run(tmp_path / "run", model=Tied())
        x = torch.randn(4, 1, 8, 8)
        assert torch.equal(again.predict(x, num_samples=0), run.predict(x, num_samples=0))

    def test_fitted_a_second_time_keeps_what_was_removed(self, fit, tiny):
        network = tiny()
        fit(network, sparsity=0.7)
        first = {name: mask.clone() for name, mask in masks_of(network).items()}
        before = network.output.weight.detach().clone()
        again = fit(network, epochs=2, method="flat-ff")
        assert again.metrics["sparsity"] == pytest.approx(0.7, abs=1e-3)
        assert not torch.equal(network.output.weight, before)
        for name, mask in masks_of(network).items():
            assert torch.equal(mask, first[name])
            assert (again.posterior.mean[name][~mask] == 0).all()

    def test_is_trained_where_it_stands(self, fit, tiny):
        network = tiny()
        before = [p.detach().clone() for p in network.parameters()]
        fit(network, epochs=1, method="flat-map")
        assert all(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_an_empty_test_set_is_not_replaced(fit, digits):
    empty = Split(digits.test.images[:0], digits.test.labels[:0])
    with pytest.raises(DataError, match="test data: expected at least one image"):
        fit(train=digits.full, test=empty)


def test_evaluation_mode_gives_each_module_its_own_mode_back():
    from secateur.modules import evaluation_mode

    network = Convolutions()
    network.norm.eval()
    with evaluation_mode(network):
        assert not any(module.training for module in network.modules())
    assert network.training
    assert network.dropout.training
    assert not network.norm.training


def test_what_prune_wrote_is_no_run_to_resume(fit, tmp_path):
    fit(out=tmp_path / "run", epochs=1)
    path = tmp_path / "run" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "pruned": {}}))
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    with pytest.raises(ArtifactError, match="secateur prune wrote"):
        fit(out=tmp_path / "run", epochs=1, resume=True)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before
