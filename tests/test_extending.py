"""The examples of docs/extending.md run as shown, and what they add is known under its name."""

import pytest
import torch

import secateur
from secateur.training import METHODS, load_run
from support.pages import ROOT, blocks, registries_restored

EXAMPLES = blocks(ROOT / "docs" / "extending.md", "python")


@pytest.fixture
def run_example(tmp_path, monkeypatch):
    """Run an example in an empty directory; what it puts into the tables is taken out again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SECATEUR_DATA", raising=False)

    def run(number: int) -> dict[str, object]:
        names: dict[str, object] = {"__name__": "__main__"}
        exec(compile(EXAMPLES[number], f"extending.md, example {number + 1}", "exec"), names)
        return names

    with registries_restored():
        yield run


def test_there_are_five_examples():
    assert len(EXAMPLES) == 5


def test_a_method_is_a_recipe(run_example):
    run = run_example(0)["run"]
    assert "calibrated-sgd" in secateur.training.method_names()
    assert run.metrics["accuracy"] > 0.9
    assert 0.05 < run.metrics["sparsity"] < 0.95


def test_a_method_is_an_optimiser(run_example, tmp_path):
    names = run_example(1)
    model, optimizer, report = names["model"], names["optimizer"], names["report"]
    test = secateur.data.load("digits").test
    assert 0.05 < report.sparsity < 0.301
    with torch.no_grad():
        assert (model(test.images).argmax(1) == test.labels).float().mean() > 0.9
    state = optimizer.state_dict()  # complete: the two draw alike
    again = names["SquaredGradients"](model.named_parameters(), num_data=optimizer.num_data, batch_size=32)
    again.load_state_dict(state)
    drawn = []
    for each in (optimizer, again):
        with torch.no_grad(), each.sampled_parameters():
            drawn.append(torch.cat([p.flatten() for p in model.parameters()]))
    assert torch.equal(*drawn)


def test_a_network_is_a_class(run_example):
    run = run_example(2)["run"]
    assert "pooled" in secateur.networks.names()
    assert run.config["network"] == "pooled"
    assert run.metrics["num_weights"] == 25 * 16 + 16 + 256 * 10 + 10
    assert run.metrics["accuracy"] > 0.5


def test_a_data_set_is_two_functions(run_example, tmp_path):
    run = run_example(3)["run"]
    assert "bars" in secateur.data.names()
    assert run.config["data"] == "bars"
    assert run.metrics["accuracy"] > 0.9
    (tmp_path / "bars.npz").unlink()
    with pytest.raises(secateur.errors.DataError, match=r"expected bars\.npz, got none"):
        secateur.data.load("bars")


def test_nothing_is_added_for_an_own_module_and_tensors(run_example, tmp_path):
    before = (set(METHODS), secateur.networks.names(), secateur.data.names())
    names = run_example(4)
    assert (set(METHODS), secateur.networks.names(), secateur.data.names()) == before
    assert names["probabilities"].shape == (3, 10)
    again = load_run(tmp_path / "runs" / "mine", model=names["network"]())
    assert torch.equal(
        again.predict(names["test"].images, num_samples=2),
        names["run"].predict(names["test"].images, num_samples=2),
    )
    assert names["run"].metrics["mean_network"]["accuracy"] > 0.8
