"""`secateur prune-trained`: networks, data and weights by name; what is written; wrong inputs in a line."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from secateur.data import load
from secateur.networks import build
from support.files import files
from support.trained import classes, language_model_directory, save_classes, trained_mlp, write_module


@pytest.fixture(scope="session")
def llama_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("language")
    language_model_directory(folder, dtype=torch.bfloat16)
    return folder


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The name of a new module in the current directory, with the files that it reads."""
    name = f"own_{tmp_path.name.replace('-', '_')}"
    write_module(tmp_path, name)
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


def result_of(directory):
    return json.loads((directory / "result.json").read_text())


def test_the_installed_command_prunes_a_network_of_the_current_directory(own, tmp_path):
    save_classes(tmp_path / "unseen.safetensors", seed=1)
    command = Path(sys.executable).with_name("secateur")
    words = (
        "prune-trained", "--model", f"{own}:trained", "--data", f"{own}:loader", "--held-out",
        "unseen.safetensors", "--sparsity", "0.6", "--rounds", "3",
        "--include", "0.*", "--include", "2.weight", "--device", "cpu", "--out", "pruned",
    )  # fmt: skip
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SECATEUR")}
    done = subprocess.run([command, *words], capture_output=True, text=True, env=kept, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "all layers" in done.stdout
    assert "Stopped by target: 3 of 3 rounds kept" in done.stdout
    assert sorted(files(tmp_path / "pruned")) == ["network.safetensors", "report.html", "result.json"]
    written, before = load_file(tmp_path / "pruned" / "network.safetensors"), trained_mlp().state_dict()
    assert list(written) == sorted(before)
    zeros = sum(int((written[name] == 0).sum()) for name in ("0.weight", "2.weight"))
    assert zeros == round(0.6 * (6 * 24 + 24 * 12))
    torch.testing.assert_close(written["4.weight"], before["4.weight"])
    assert not torch.equal(written["2.bias"], before["2.bias"])  # what stays has moved

    numbers = result_of(tmp_path / "pruned")
    assert numbers["num_weights"] - numbers["num_kept"] == zeros
    assert len(numbers["trace"]) == numbers["chosen_round"] == 3
    assert numbers["options"]["include"] == ["0.*", "2.weight"]
    inputs, targets = classes(seed=1)
    model = trained_mlp()
    model.load_state_dict(written)
    right = (model(inputs).argmax(1) == targets).float().mean().item()
    assert numbers["scores"]["after"]["accuracy"] == pytest.approx(right)
    loss = torch.nn.functional.cross_entropy(model(inputs), targets).item()
    assert numbers["scores"]["after"]["negative_log_likelihood"] == pytest.approx(loss, rel=1e-5)
    assert numbers["trace"][-1]["held_out_loss"] == pytest.approx(loss, rel=1e-5)
    again = numbers["command"]
    assert again.startswith(f"secateur prune-trained --model {own}:trained --data {own}:loader --out pruned")
    assert "--include '0.*' --include 2.weight" in again


def test_it_stops_by_itself_and_the_page_is_made_again(secateur, own, tmp_path):
    words = ("--model", f"{own}:network", "--weights", "mlp.safetensors", "--data", "data.safetensors")
    result = secateur("prune-trained", *words, "--max-loss-rise", 0.05, "--out", "pruned")
    assert result.exit_code == 0, result.stderr
    numbers = result_of(tmp_path / "pruned")
    assert numbers["stopped_by"] in {"evidence", "held-out loss"}
    assert 0 < numbers["chosen_round"] < len(numbers["trace"])
    kept = numbers["trace"][numbers["chosen_round"] - 1]
    assert kept["held_out_rise"] <= 0.05
    assert numbers["sparsity"] == pytest.approx(kept["sparsity"])
    assert result.stdout.count(" out: loss ") == len(numbers["trace"])
    page = (tmp_path / "pruned" / "report.html").read_bytes()
    (tmp_path / "pruned" / "report.html").unlink()
    assert secateur("report", "pruned").exit_code == 0
    assert (tmp_path / "pruned" / "report.html").read_bytes() == page


def test_recovery_brings_the_answers_back_and_zeros_stay(secateur, own, tmp_path):
    words = ("--model", f"{own}:trained", "--data", "data.safetensors", "--sparsity", 0.9, "--rounds", 2)
    for out, more in (("plain", ()), ("recovered", ("--recover", 20))):
        result = secateur("prune-trained", *words, *more, "--out", out)
        assert result.exit_code == 0, result.stderr
    first, second = (load_file(tmp_path / out / "network.safetensors") for out in ("plain", "recovered"))
    assert torch.equal(first["0.weight"] == 0, second["0.weight"] == 0)
    assert not torch.equal(first["0.weight"], second["0.weight"])
    numbers = result_of(tmp_path / "recovered")
    assert len(numbers["recovery"]) == 20
    assert numbers["recovery"][-1] < numbers["recovery"][0]
    plain = result_of(tmp_path / "plain")
    assert plain["recovery"] == []
    score = "negative_log_likelihood"
    assert numbers["scores"]["after"][score] < plain["scores"]["after"][score]
    assert "learned for 20 epochs" in (tmp_path / "recovered" / "report.html").read_text()


def test_the_library_call_gives_the_same_network(secateur, own, tmp_path):
    from secateur import prune_trained

    words = ("--model", f"{own}:trained", "--data", "data.safetensors", "--sparsity", 0.5, "--rounds", 2)
    result = secateur("prune-trained", *words, "--seed", 3, "--batch-size", 50, "--out", "pruned")
    assert result.exit_code == 0, result.stderr
    data = torch.utils.data.TensorDataset(*classes())
    model = trained_mlp()
    called = prune_trained(
        model,
        torch.utils.data.DataLoader(data, batch_size=50),
        sparsity=0.5,
        rounds=2,
        seed=3,
        progress=False,
    )
    written = load_file(tmp_path / "pruned" / "network.safetensors")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(written[name], value)
    assert result_of(tmp_path / "pruned")["observed_delta_f"] == pytest.approx(called.observed_delta_f)


def test_a_loader_that_can_be_read_once_is_enough(secateur, own, tmp_path):
    words = ("--model", f"{own}:trained", "--data", f"{own}:once", "--pattern", "3:6")
    result = secateur("prune-trained", *words, "--rounds", 2, "--out", "pruned")
    assert result.exit_code == 0, result.stderr
    weight = load_file(tmp_path / "pruned" / "network.safetensors")["0.weight"]
    assert (weight.reshape(24, 1, 6) != 0).sum(-1).le(3).all()


def test_a_network_of_ours_on_a_data_set(secateur, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = load("digits").image_shape
    network = build("mlp", image_shape=images, num_classes=10, seed=0)
    save_file(network.state_dict(), "mlp.safetensors")
    words = ("--model", "mlp", "--weights", "mlp.safetensors", "--data", "digits", "--held-out", "digits")
    fast = ("--sparsity", 0.3, "--rounds", 1, "--max-batches", 1, "--structure", "diagonal")
    result = secateur("prune-trained", *words, *fast, "--out", "pruned")
    assert result.exit_code == 0, result.stderr
    numbers = result_of(tmp_path / "pruned")
    assert numbers["num_data"] == 1437 + 360  # training images to prune by, test images to judge by
    assert numbers["sparsity"] == pytest.approx(0.3, abs=1e-4)


def test_a_regression_learns_its_noise(secateur, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "line_of_noise.py").write_text(
        "from torch import nn\ndef net():\n    return nn.Linear(6, 1)\n"
    )
    inputs, _ = classes()
    noise = 0.1 * torch.randn(400, generator=torch.Generator().manual_seed(5))
    slope = torch.tensor([2.0, 0.0, 0.0, 0.0, 0.0, 0.0])
    save_file({"inputs": inputs, "targets": (inputs @ slope + noise).unsqueeze(1)}, "data.safetensors")
    save_file({"weight": (slope + 1e-3).unsqueeze(0), "bias": torch.zeros(1)}, "line.safetensors")
    words = ("--model", "line_of_noise:net", "--weights", "line.safetensors", "--data", "data.safetensors")
    result = secateur(
        "prune-trained", *words, "--likelihood", "gaussian", "--include", "weight", "--out", "out"
    )
    assert result.exit_code == 0, result.stderr
    weight = load_file(tmp_path / "out" / "network.safetensors")["weight"]
    assert weight.flatten()[1:].count_nonzero() < 5
    assert weight[0, 0].item() == pytest.approx(2, abs=0.05)
    assert result_of(tmp_path / "out")["scores"]["after"]["root_mean_squared_error"] == pytest.approx(
        0.1, rel=0.2
    )


class TestLanguageModel:
    def words(self, folder, out, *more):
        text = ("--model", folder / "llama", "--data", folder / "text.txt", "--window", 32)
        return ("prune-trained", *text, "--batch-size", 16, "--out", out, *more)

    def test_a_directory_comes_back_as_one(self, secateur, llama_folder, tmp_path):
        before = files(llama_folder / "llama")
        result = secateur(*self.words(llama_folder, tmp_path / "out", "--sparsity", 0.5, "--rounds", 2))
        assert result.exit_code == 0, result.stderr
        assert files(llama_folder / "llama") == before
        assert {"config.json", "model.safetensors", "tokenizer.json", "result.json", "report.html"} <= set(
            files(tmp_path / "out")
        )
        transformers = import_module("transformers")
        model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
        assert model.dtype == torch.bfloat16
        matrices = [value for name, value in model.named_parameters() if name.endswith("proj.weight")]
        out = sum(int((value == 0).sum()) for value in matrices)
        assert out == pytest.approx(0.5 * sum(value.numel() for value in matrices), rel=1e-3)
        assert model.lm_head.weight.count_nonzero() == model.lm_head.weight.numel()
        words = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")("the cat saw a dog")["input_ids"]
        assert len(words) == 5
        numbers = result_of(tmp_path / "out")
        for when in ("before", "after"):
            scores = numbers["scores"][when]
            assert torch.tensor(scores["negative_log_likelihood"]).exp().item() == pytest.approx(
                scores["perplexity"], rel=1e-4
            )
        assert 1 < numbers["scores"]["before"]["perplexity"] < 3  # it was trained on these sentences
        assert numbers["num_data"] == numbers["num_data"] // 31 * 31  # a window has no target for its first

    @pytest.mark.parametrize(
        ("more", "code", "said"),
        [
            (("--window", 65), 2, "--window: expected at most the network's 64 positions, got 65"),
            (("--weights", "x.safetensors"), 2, "--weights: expected none, since"),
            (("--held-out", "none.txt"), 1, "--held-out none.txt: expected a text file in UTF-8"),
        ],
    )
    def test_what_does_not_fit_is_said(self, secateur, llama_folder, tmp_path, more, code, said):
        result = secateur(*self.words(llama_folder, tmp_path / "out", *more))
        refused(result, code, said)
        assert not (tmp_path / "out").exists()

    def test_too_little_text(self, secateur, llama_folder, tmp_path):
        (tmp_path / "short.txt").write_text("the cat")
        words = ("--model", llama_folder / "llama", "--data", tmp_path / "short.txt", "--window", 32)
        result = secateur("prune-trained", *words, "--out", tmp_path / "out")
        refused(result, 1, "expected at least one window of 32 tokens, got 2; give more text")

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"architectures": ["os"]}, "first in architectures, got 'os'; code of a directory is not run"),
            ({"architectures": None}, "first in architectures, got None"),
            (
                {"num_hidden_layers": 3},
                "expected all weights of LlamaForCausalLM, got none for model.layers.2.",
            ),
        ],
    )
    def test_a_directory_that_is_not_what_it_says(self, secateur, llama_folder, tmp_path, change, said):
        (tmp_path / "llama").mkdir()
        for name, content in files(llama_folder / "llama").items():
            (tmp_path / "llama" / name).write_bytes(content)
        path = tmp_path / "llama" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        (tmp_path / "text.txt").write_text("the cat saw a dog " * 30)
        refused(secateur(*self.words(tmp_path, tmp_path / "out")), 1, said)

    def test_no_code_of_a_pickle_is_run(self, secateur, llama_folder, tmp_path):
        (tmp_path / "llama").mkdir()
        for name, content in files(llama_folder / "llama").items():
            if name != "model.safetensors":
                (tmp_path / "llama" / name).write_bytes(content)
        torch.save({"lm_head.weight": torch.zeros(3)}, tmp_path / "llama" / "pytorch_model.bin")
        (tmp_path / "text.txt").write_text("the cat saw a dog " * 30)
        refused(secateur(*self.words(tmp_path, tmp_path / "out")), 1, "with weights as safetensors, got")


def refused(result, code, said):
    assert said in result.stderr, result.stderr
    assert result.exit_code == code
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    assert "not one of Secateur's own errors" not in result.stderr


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"--model": "lenet5"}, 2, "--model: expected package.module:function, a directory, or one of mlp,"),
        ({"--model": "nowhere_to_be:found"}, 2, "got no module 'nowhere_to_be'"),
        ({"--model": "OWN:missing"}, 2, "expected a function 'missing' in"),
        ({"--model": "OWN:nothing"}, 2, "expected a function that is called without arguments, got NoneType"),
        ({"--model": "OWN:loader"}, 2, "expected a torch.nn.Module, got DataLoader"),
        ({"--model": "OWN:broken"}, 2, "got RuntimeError: first line"),
        ({"--model": "lenet"}, 2, "--weights: expected the trained weights of lenet, got none"),
        ({"--model": "."}, 1, "--model .: expected config.json of the Transformers library in it"),
        ({"--weights": "none.safetensors"}, 1, "expected a safetensors file, got no such file"),
        ({"--weights": "junk.safetensors"}, 1, "junk.safetensors: expected a safetensors file, got:"),
        ({"--weights": "data.safetensors"}, 1, "expected a tensor 0.weight, got none of that name"),
        ({"--weights": "wide.safetensors"}, 1, "expected 0.weight of shape (24, 6), got (24, 7)"),
        ({"--weights": "more.safetensors"}, 1, "expected tensors of the network only, got extra as well"),
        ({"--data": "mnist"}, 2, "--data: expected package.module:function, or one of digits, fashion-mnist"),
        ({"--data": "text.txt"}, 2, "expected text only for a network in a directory of the Transformers"),
        ({"--data": "none.safetensors"}, 1, "--data none.safetensors: expected a safetensors file, got:"),
        ({"--data": "mlp.safetensors"}, 1, "expected tensors inputs and targets, got 0.bias, 0.weight"),
        ({"--data": "uneven.safetensors"}, 1, "one target for each input, got shapes (3, 6) and (2,)"),
        ({"--data": "OWN:empty"}, 1, "--data: expected at least one batch, got none"),
        ({"--data": "OWN:untargeted"}, 1, "--data: expected batches with targets, got inputs alone"),
        ({"--data": "OWN:wide"}, 1, "--data: expected batches that the network takes, got for the first"),
        ({"--data": "OWN:trained"}, 2, "expected a loader, batches of inputs and targets, got Sequential"),
        ({"--held-out": "OWN:wide"}, 1, "--held-out: expected batches that the network takes"),
        ({"--likelihood": "cauchy"}, 1, "likelihood: expected one of categorical"),
        ({"--pattern": "4:2"}, 1, 'pattern: expected "N:M" with 0 < N < M'),
        ({"--granularity": "filter"}, 1, "granularity: expected one of weight"),
        ({"--include": "7.*"}, 1, "7.*"),
        ({"--sparsity": "1.5"}, 2, None),
        ({"--out": "used"}, 1, "--out used: expected a new or empty directory, got one with files"),
        ({"--out": "junk.safetensors"}, 1, "--out junk.safetensors: expected a new or empty directory, got:"),
        ({"--out": "junk.safetensors/in"}, 1, "--out junk.safetensors/in: expected a"),
    ],
)  # fmt: skip
def test_wrong_inputs_are_one_line_and_nothing_is_written(secateur, own, tmp_path, change, code, said):
    (tmp_path / "junk.safetensors").write_bytes(b"junk")
    (tmp_path / "text.txt").write_text("words")
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").write_text("kept")
    state = load_file("mlp.safetensors")
    save_file(state | {"0.weight": torch.zeros(24, 7)}, "wide.safetensors")
    save_file(state | {"extra": torch.zeros(1)}, "more.safetensors")
    save_file({"inputs": torch.zeros(3, 6), "targets": torch.zeros(2)}, "uneven.safetensors")
    usual = {"--model": f"{own}:network", "--data": f"{own}:loader", "--out": "pruned"}
    if change.get("--model") is None:
        usual["--weights"] = "mlp.safetensors"
    words = [
        word for option, value in (usual | change).items() for word in (option, value.replace("OWN", own))
    ]
    result = secateur("prune-trained", *words)
    if said is None:
        assert result.exit_code == code
    else:
        refused(result, code, said)
    assert not (tmp_path / "pruned").exists()
    assert list(files(tmp_path / "used")) == ["file"]


def test_a_missing_library_is_named(secateur, llama_folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    words = (
        "--model",
        llama_folder / "llama",
        "--data",
        llama_folder / "text.txt",
        "--out",
        tmp_path / "out",
    )
    refused(secateur("prune-trained", *words), 2, "pip install 'secateur[transformers]'")
