"""Own networks and data on the command line; no module is imported because a file names it."""

import json
import shlex
import sys

import numpy as np
import pytest
import torch

NETWORKS = """
import torch

with open("imported.txt", "a") as file:
    file.write("x")

class Net(torch.nn.Module):
    def __init__(self, width=12):
        super().__init__()
        self.hidden = torch.nn.Linear(3, width)
        self.middle = torch.nn.Linear(width, width)
        self.output = torch.nn.Linear(width, 1)

    def forward(self, x):
        return self.output(self.middle(self.hidden(x).relu()).relu())

def data():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 3, generator=generator)
    return x, 50 + 10 * x[:, 0] + torch.randn(120, generator=generator)
"""
SHORT = ("--epochs", 2, "--samples", 2, "--device", "cpu", "--no-compile", "--quiet")


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A folder with a module and a table; the module is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ownnets.py").write_text(NETWORKS)
    random = np.random.default_rng(0)
    x = random.normal(size=(120, 3))
    y = 50 + 10 * x[:, 0] + random.normal(size=120)
    np.savetxt("own.csv", np.column_stack([x, y]), delimiter=",", header="a,b,c,y", comments="")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name == "ownnets":
            del sys.modules[name]


def imported(work):
    sys.modules.pop("ownnets", None)
    path = work / "imported.txt"
    times = len(path.read_text()) if path.exists() else 0
    path.write_text("")
    return times


def test_own_network_and_table_through_every_command(secateur, work):
    fitted = secateur("fit", "ownnets:Net", "own.csv", "--target", "y", *SHORT[:-1], "--json", "--out", "run")
    assert fitted.exit_code == 0, fitted.stderr
    values = json.loads(fitted.stdout)
    assert values["directory"] == "run"
    assert values["network"] == "ownnets:Net"
    assert values["root_mean_squared_error"] > 0
    assert "likelihood gaussian: the targets are real numbers" in fitted.stderr
    assert imported(work) == 1
    page = (work / "run" / "report.html").read_text()
    assert "Root mean squared error" in page
    assert "Are the intervals honest?" in page

    own = ("--network", "ownnets:Net")
    judged = secateur("evaluate", "run", *own, "--samples", 2, "--device", "cpu", "--json")
    assert json.loads(judged.stdout)["root_mean_squared_error"] == values["root_mean_squared_error"]
    pruned = secateur("prune", "run", *own, "--sparsity", 0.5, "--samples", 2, "--out", "half")
    assert pruned.exit_code == 0, pruned.stderr
    assert json.loads((work / "half" / "metrics.json").read_text())["sparsity"] == pytest.approx(
        0.5, abs=0.01
    )
    for words in (
        ("export", "half", "--to", "safetensors", *own),
        ("compact", "half", *own),
        ("bench", "half", *own, "--batch", 1, "--seconds", 0.1),
        ("report", "half"),
    ):
        result = secateur(*words)
        assert result.exit_code == 0, result.stderr


def test_a_run_never_imports_what_its_files_name(secateur, work):
    secateur("fit", "ownnets:Net", "ownnets:data", *SHORT, "--out", "run")
    assert imported(work) > 0
    for words in (
        ("evaluate", "run"),
        ("prune", "run"),
        ("compact", "run"),
        ("export", "run", "--to", "safetensors"),
        ("bench", "run"),
    ):
        result = secateur(*words)
        assert result.exit_code == 1
        assert "give --network ownnets:Net, which imports it, if you trust it" in result.stderr
    assert secateur("report", "run").exit_code == 0
    result = secateur("evaluate", "run", "--network", "ownnets:Net")
    assert "give --data ownnets:data, which imports it, if you trust it" in result.stderr
    imported(work)
    result = secateur("evaluate", "run", "--network", "ownnets:Net", "--data", "ownnets:data", "--samples", 2)
    assert result.exit_code == 0, result.stderr
    assert secateur("report", "run").exit_code == 0


def test_a_comparison_never_imports_what_only_its_record_names(secateur, work):
    grid = ("--networks", "ownnets:Net", "--data", "own.csv", "--target", "y", "--methods", "flat-map")
    assert secateur("compare", *grid, "--out", "both", "--dry-run").exit_code == 0
    (work / "both").mkdir()
    record = {
        "grids": [{"networks": ["ownnets:Net"], "data": ["own.csv"], "methods": ["flat-map"], "seeds": [0]}],
        "options": {"target": ["y"]},
    }
    (work / "both" / "comparison.json").write_text(json.dumps(record))
    result = secateur("compare", "--out", "both", "--dry-run")
    assert result.exit_code == 2
    assert "got ownnets:Net from comparison.json alone" in result.stderr
    assert imported(work) == 0
    assert secateur("compare", "--networks", "ownnets:Net", "--out", "both", "--dry-run").exit_code == 0


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("fashion-mnist", "lenet"),
            "expected a network and then data, got fashion-mnist lenet; type lenet fashion",
        ),
        (("own.csv", "ownnets:Net"), "expected a network and then data"),
        (("mlp", "mnist"), "did you mean fashion-mnist?"),
        (("MyNet", "iris"), "your own network is package.module:function"),
        (("mlp", "nowhere.csv"), "expected a file or a folder of images, got none of that name"),
        (("mlp", "own.csv"), "--target: expected the column of own.csv to predict, one of a, b, c, y"),
        (("mlp", "own.csv", "--target", "x"), "--target: expected a column of own.csv"),
        (("mlp", "iris", "--target", "x"), "--target: expected own data, got the data set iris"),
        (
            ("mlp", "own.csv", "--target", "y", "--task", "regresion"),
            "--task: expected one of classification",
        ),
        (
            ("mlp", "own.csv", "--target", "y", "--task", "counts", "--likelihood", "gaussian"),
            "--likelihood: expected poisson for --task counts",
        ),
        (
            ("mlp", "own.csv", "--target", "y", "--test-share", 1.5),
            "--test-share: expected a share between 0 and 1",
        ),
        (("ownnets:Nett", "own.csv", "--target", "y"), "expected a function 'Nett' in ownnets"),
        (("ownnets:data", "own.csv", "--target", "y"), "expected a torch.nn.Module, got tuple"),
        (("mlp", "ownnets:Net"), "a mapping of arrays, or a loader of such pairs, got Net"),
    ],
)
def test_mistakes_get_one_line_with_the_remedy(secateur, work, words, says):
    result = secateur("fit", *words, *SHORT, "--out", "run")
    assert result.exit_code in {1, 2}
    assert says in result.stderr
    assert result.stderr.count("\n") == 1
    assert not (work / "run").exists()


@pytest.mark.parametrize("command", [("fit", "mlp", "iris"), ("prune", "run"), ("compare",)])
def test_a_sparsity_in_per_cent_gets_the_share(secateur, command):
    result = secateur(*command, "--sparsity", 90)
    assert result.exit_code == 2
    assert "90 % is 0.9" in " ".join(result.stderr.replace("│", " ").split())


def test_a_config_file_gives_options_and_typed_ones_win(secateur, work):
    printed = secateur(
        "fit", "mlp-50", "own.csv", "--target", "y", "--lr", 0.01, "--seed", 3, *SHORT[:-1], "--print-config"
    )
    assert printed.exit_code == 0
    (work / "run.toml").write_text(printed.stdout)
    assert 'target = ["y"]' in printed.stdout
    assert "learning_rate = 0.01" in printed.stdout
    result = secateur(
        "fit", "mlp-50", "own.csv", "--config", "run.toml", "--seed", 4, "--quiet", "--out", "run"
    )
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    config = json.loads((work / "run" / "config.json").read_text())
    assert (config["seed"], config["epochs"], config["recipe"]["learning_rate"]) == (4, 2, 0.01)
    # the record holds what was asked for, whichever way
    words = shlex.split(config["command"])
    assert "--config" not in words
    assert words[words.index("--learning-rate") + 1] == "0.01"


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("epoch = 3", "expected options of this command, got 'epoch'; did you mean epochs?"),
        ('network = "os:getcwd"', "expected options only, got 'network'; type it after the command"),
        ("epochs = ", "expected TOML"),
        ("[fit]\nepochs = 3", "expected options of this command, got 'fit'"),
    ],
)
def test_a_faulty_config_file_is_refused(secateur, work, content, says):
    (work / "run.toml").write_text(content)
    result = secateur("fit", "mlp", "iris", "--config", "run.toml")
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_config_file_that_is_not_there(secateur, work):
    result = secateur("fit", "mlp", "iris", "--config", "none.toml")
    assert result.exit_code == 1
    assert "none.toml" in result.stderr


def test_exports_take_and_give_numbers_in_own_units(secateur, work):
    import pandas

    import secateur as library

    secateur("fit", "mlp-50", "own.csv", "--target", "y", "--epochs", 30, *SHORT[2:], "--out", "run")
    assert secateur("export", "run", "--to", "safetensors").exit_code == 0
    network = library.export.artifact.load("run/network.safetensors")
    frame = pandas.read_csv("own.csv")
    x = torch.tensor(frame[["a", "b", "c"]].to_numpy(), dtype=torch.float32)
    expected = library.training.load_run("run").predict(x, num_samples=0)
    torch.testing.assert_close(network(x), expected, rtol=1e-4, atol=1e-3)
    assert (network(x)[:, 0] - torch.tensor(frame["y"])).abs().mean() < 8
