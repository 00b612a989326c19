"""Small trained networks, their data and a language model's directory, as files that a user would have."""

from importlib import import_module
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

__all__ = ["classes", "language_model_directory", "save_classes", "trained_mlp", "write_module"]

WORDS = ("the", "cat", "dog", "saw", "chased", "a", "mouse", "and", "then", "slept")
MODULE = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from safetensors.torch import load_file


def network():
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 3))


def trained():
    model = network()
    model.load_state_dict(load_file("mlp.safetensors"))
    return model


def loader():
    data = load_file("data.safetensors")
    return DataLoader(TensorDataset(data["inputs"], data["targets"]), batch_size=50)


def once():
    return iter(list(loader()))


def empty():
    return []


def untargeted():
    return [{"input": torch.zeros(3, 6)}]


def wide():
    return [(torch.zeros(3, 7), torch.zeros(3, dtype=torch.long))] * 4


def broken():
    raise RuntimeError("first line\\nsecond line")


nothing = None
"""


def classes(seed: int = 0, count: int = 400) -> tuple[Tensor, Tensor]:
    """Return points of six numbers, of which two matter, and their three classes."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, 6, generator=generator)
    noise = 0.3 * torch.randn(count, generator=generator)
    return inputs, (inputs[:, 0] + inputs[:, 1] + noise > 0).long() + (inputs[:, 0] > 1).long()


def trained_mlp() -> nn.Sequential:
    """Return an MLP of three layers trained on `classes`."""
    inputs, targets = classes()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 12), nn.ReLU(), nn.Linear(12, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
    return model.eval()


def save_classes(path: Path, *, seed: int = 0, count: int = 400) -> None:
    """Write data as `--data` takes them."""
    inputs, targets = classes(seed, count)
    save_file({"inputs": inputs, "targets": targets}, path)


def write_module(folder: Path, name: str) -> None:
    """Write a module with functions for networks and loaders, and the files that they read."""
    (folder / f"{name}.py").write_text(MODULE)
    save_file(trained_mlp().state_dict(), folder / "mlp.safetensors")
    save_classes(folder / "data.safetensors")


def language_model_directory(folder: Path, *, dtype: torch.dtype = torch.float32) -> Path:
    """Write a Llama that was trained on sentences of ten words, with a tokenizer of its own, and a text."""
    transformers, tokenizers = import_module("transformers"), import_module("tokenizers")
    vocabulary = {word: number for number, word in enumerate(("<unk>", "<s>", "</s>", *WORDS))}
    plain = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    plain.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=plain, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    config = transformers.LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        bos_token_id=1,
        eos_token_id=2,
    )
    text = _text(600)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config)
    tokens = torch.tensor(tokenizer(text)["input_ids"])
    rows = tokens[: len(tokens) // 32 * 32].reshape(-1, 32)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(40):
        optimizer.zero_grad()
        model(input_ids=rows, labels=rows).loss.backward()
        optimizer.step()
    directory = folder / "llama"
    model.to(dtype).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (folder / "text.txt").write_text(text)
    return directory


def _text(num_sentences: int) -> str:
    generator = torch.Generator().manual_seed(3)
    picks = torch.randint(0, 3, (num_sentences, 3), generator=generator).tolist()
    nouns, verbs = ("cat", "dog", "mouse"), ("saw", "chased", "slept and then chased")
    return "\n".join(f"the {nouns[one]} {verbs[two]} a {nouns[three]}" for one, two, three in picks)
