"""Tiny networks of many kinds, each with an input: from an MLP to a tied GPT-2, built from seeds alone."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from secateur import networks
from secateur.modules import call

__all__ = ["NETWORKS", "TRANSFORMERS", "Attention", "Recurrent", "Tied", "TinyNetwork", "bert", "gpt2", "mlp"]

NUM_TOKENS = 20


@dataclass(frozen=True)
class TinyNetwork:
    """A kind of network, and what it is called with.

    Attributes:
        name: Of the kind.
        make: Builds the network from torch's global random state.
        make_example: Draws a batch of inputs by a generator.
    """

    name: str
    make: Callable[[], nn.Module]
    make_example: Callable[[torch.Generator], Any]

    def build(self, seed: int = 0) -> nn.Module:
        """Return the network with weights of a seed; torch's global random state stays."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.make()

    def example(self, seed: int = 0) -> Any:
        """Return a batch of inputs."""
        return self.make_example(torch.Generator().manual_seed(seed))

    def outputs(self, model: nn.Module, example: Any) -> Tensor:
        """Return the outputs of a call as a tensor, also where they are a Transformers `ModelOutput`."""
        outputs = call(model, example)
        return outputs if isinstance(outputs, Tensor) else outputs.logits

    def loss(self, model: nn.Module, example: Any) -> Tensor:
        """Return a loss that every weight of the network matters to: cross-entropy of fixed labels."""
        outputs = self.outputs(model, example).flatten(0, -2)
        labels = torch.arange(len(outputs), device=outputs.device) % outputs.shape[-1]
        return F.cross_entropy(outputs, labels)


class Recurrent(nn.Module):
    """Two layers of an LSTM and a linear layer on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(5, 6, num_layers=2, batch_first=True)
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class Attention(nn.Module):
    """An `nn.MultiheadAttention`, which reads its output projection without calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(x + self.attention(x, x, x, need_weights=False)[0]).mean(1))


class Tied(nn.Module):
    """An embedding that is also the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 5)
        self.middle = nn.Linear(5, 5)
        self.head = nn.Linear(5, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.middle(self.embed(tokens)).tanh())


class Residual(nn.Module):
    """Convolutions with batch normalisation around a skip connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(6, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 6, 3, padding=1, bias=False),
            nn.BatchNorm2d(6),
        )
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head((x + self.body(x)).relu().mean((2, 3)))


def mlp() -> nn.Module:
    """Return an MLP of three layers."""
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 3))


def lenet() -> nn.Module:
    """Return our LeNet."""
    return networks.build("lenet", image_shape=(1, 32, 32), num_classes=4, seed=int(torch.randint(99, ())))


def bert() -> nn.Module:
    """Return a BERT of one layer with a head for four classes."""
    transformers = import_module("transformers")
    config = transformers.BertConfig(
        vocab_size=NUM_TOKENS,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=12,
        max_position_embeddings=8,
        num_labels=4,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=None,
    )
    return transformers.BertForSequenceClassification(config)


def gpt2() -> nn.Module:
    """Return a GPT-2 of one layer, its head tied to its embedding."""
    transformers = import_module("transformers")
    config = transformers.GPT2Config(
        vocab_size=NUM_TOKENS,
        n_positions=8,
        n_embd=8,
        n_layer=1,
        n_head=2,
        bos_token_id=0,
        eos_token_id=1,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    return transformers.GPT2LMHeadModel(config)


def _numbers(*shape: int) -> Callable[[torch.Generator], Tensor]:
    return lambda generator: torch.randn(*shape, generator=generator)


def _tokens(generator: torch.Generator) -> dict[str, Tensor]:
    tokens = torch.randint(2, NUM_TOKENS, (4, 6), generator=generator)
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}


TRANSFORMERS = {
    "bert": TinyNetwork("bert", bert, _tokens),
    "gpt2": TinyNetwork("gpt2", gpt2, _tokens),
}

NETWORKS = {
    "mlp": TinyNetwork("mlp", mlp, _numbers(6, 5)),
    "lenet": TinyNetwork("lenet", lenet, _numbers(3, 1, 32, 32)),
    "residual": TinyNetwork("residual", Residual, _numbers(6, 2, 5, 5)),
    "lstm": TinyNetwork("lstm", Recurrent, _numbers(6, 4, 5)),
    "attention": TinyNetwork("attention", Attention, _numbers(6, 4, 8)),
    **TRANSFORMERS,
}
