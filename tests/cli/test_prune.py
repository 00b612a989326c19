"""`secateur prune`: a run is pruned further, as a new run; the old one is left as it was."""

import pytest

from secateur.compaction import compact, plain_copy
from secateur.export.measure import num_macs
from secateur.training import load_run
from secateur.training.run import example_images
from support.files import files


def test_units_go_and_a_new_run_says_so(secateur, trained, tmp_path):
    before = files(trained)
    result = secateur(
        "prune", trained, "--granularity", "unit", "--max-loss-rise", 0.05, "--rounds", 6, "--samples", 2,
        "--out", tmp_path / "new",
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "predicted nats" in result.stdout
    assert "Accuracy of averaged predictions:" in result.stdout
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


def test_a_share_of_the_work_is_left(secateur, trained):
    result = secateur(
        "prune", trained.with_name("all"), "--granularity", "channel", "--multiply-adds", 0.5,
        "--rounds", 3, "--samples", 1, "--out", trained.with_name("quick"),
    )  # fmt: skip
    assert result.exit_code == 0, result.stderr
    run = load_run(trained.with_name("quick"))
    images = example_images(run, 1)
    share = num_macs(compact(run.model, images), (images,)) / num_macs(plain_copy(run.model), (images,))
    assert share == pytest.approx(0.5, abs=0.01)  # to within a unit
    assert run.config["pruned"]["multiply_adds"] == 0.5


def test_what_is_left_can_be_trained_on(secateur, trained, monkeypatch):
    monkeypatch.setattr("secateur.training.recipes.PREDICTIVE_TEMPERATURES", (0.0, 1.0))
    words = ("--granularity", "neuron", "--sparsity", 0.97, "--rounds", 2, "--recover", 1, "--samples", 2)
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


def test_a_sparsity_is_met_exactly(secateur, trained):
    result = secateur("prune", trained, "--sparsity", 0.95, "--rounds", 2, "--samples", 1)
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
        (("--multiply-adds", 0.1), 1, "multiply_adds: expected whole units"),
        (("--multiply-adds", 0, "--granularity", "unit"), 1, "multiply_adds: expected at least 0."),
        (("--cost", "time", "--granularity", "unit"), 1, "cost: expected one of weights, multiply-adds"),
        (("--granularity", "head"), 1, "granularity: expected heads that one layer reads"),
        (("--sparsity", 0.95, "--max-loss-rise", 0.1), 1, "max_loss_rise: expected no target beside it"),
        (("--sparsity", 0.5), 1, "sparsity: expected between 0.9"),
    ],
)
def test_what_cannot_be_leaves_nothing(secateur, trained, words, code, said):
    result = secateur("prune", trained, *words)
    assert result.exit_code == code
    assert said in result.stderr
    assert not trained.with_name("tenth-pruned").exists()


def test_a_directory_in_use_is_left_alone(secateur, trained):
    before = files(trained)
    result = secateur("prune", trained.with_name("all"), "--out", trained)
    assert result.exit_code == 1
    assert "new or empty directory" in result.stderr
    assert files(trained) == before
