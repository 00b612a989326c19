"""One network for every way in which a parameter can enter a forward pass."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

BATCH, TOKENS, WIDTH, VOCABULARY = 6, 4, 8, 9


class Of(nn.Module):
    """A network written as one function of itself and its inputs."""

    def __init__(self, run: Callable[["Of", Tensor], Tensor], **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = run

    def forward(self, inputs: Tensor) -> Tensor:
        return self.run(self, inputs)


class TransposedLinear(nn.Module):
    """A linear map stored (inputs, outputs), as in GPT-2."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)
        self.bias = nn.Parameter(torch.randn(outputs) / 10)

    def forward(self, x: Tensor) -> Tensor:
        rows = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return rows.view(*x.shape[:-1], -1)


class Projections(nn.Module):
    """Attention with a query that is not the key."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(WIDTH, 2, batch_first=True, **options)
        self.query = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        memory = x[..., : self.attention.kdim]
        return self.attention(self.query(x[:, :3]), memory, memory)[0]


@dataclass(frozen=True)
class Kind:
    """A network, inputs for it, and which parameters have factors (by layer)."""

    model: nn.Module
    inputs: Tensor
    layers: set[str]


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) / 2)


def tokens() -> Tensor:
    return torch.randint(VOCABULARY, (BATCH, TOKENS))


def sequences(length: int = TOKENS) -> Tensor:
    return torch.randn(BATCH, length, WIDTH)


def head() -> nn.Module:
    return nn.Linear(WIDTH, 3)


def mlp() -> Kind:
    return Kind(
        nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=True), nn.Linear(7, 3, bias=False)),
        torch.randn(BATCH, 5),
        {"0", "2"},
    )


def convolutions() -> Kind:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, (3, 2), stride=2, padding=(1, 0), groups=2),
        nn.GroupNorm(2, 6),
        nn.Tanh(),
        nn.Conv2d(6, 6, 2, dilation=2, padding="same", groups=6, bias=False),
        nn.Flatten(),
        nn.Linear(54, 3),
    )
    model(torch.randn(32, 2, 6, 6))  # running moments that are not the initial ones
    return Kind(model, torch.randn(BATCH, 2, 6, 6), {"0", "3", "6", "8"})


def convolutions_1d() -> Kind:
    model = nn.Sequential(
        nn.Conv1d(3, 4, 3, padding=1, padding_mode="circular"), nn.Tanh(), nn.Conv1d(4, 2, 2), nn.Flatten()
    )
    return Kind(model, torch.randn(BATCH, 3, 5), {"0", "2"})


def positions() -> Kind:
    model = nn.Sequential(nn.Linear(WIDTH, 6), nn.Tanh(), nn.Linear(6, 3), nn.Flatten())
    return Kind(model, sequences(), {"0", "2"})


def transposed() -> Kind:
    model = nn.Sequential(TransposedLinear(WIDTH, 5), nn.Tanh(), TransposedLinear(5, 2), nn.Flatten())
    return Kind(model, sequences(), {"0", "2"})


def self_attention(length: int = TOKENS, *, batch_first: bool = True) -> Kind:
    def run(net: Of, x: Tensor) -> Tensor:
        x = x if batch_first else x.transpose(0, 1)
        x = net.attention(x, x, x, need_weights=False)[0]
        return net.head(x.mean(1 if batch_first else 0))

    model = Of(run, attention=nn.MultiheadAttention(WIDTH, 2, batch_first=batch_first), head=head())
    nn.init.normal_(model.attention.in_proj_bias)
    return Kind(model, sequences(length), {"attention", "attention.out_proj", "head"})


def cross_attention() -> Kind:
    model = nn.Sequential(Projections(), nn.Flatten(), nn.Linear(3 * WIDTH, 3))
    nn.init.normal_(model[0].attention.in_proj_bias)
    return Kind(model, sequences(), {"0.attention", "0.attention.out_proj", "0.query", "2"})


def separate_projections() -> Kind:
    model = nn.Sequential(
        Projections(kdim=5, vdim=5, add_bias_kv=True), nn.Flatten(), nn.Linear(3 * WIDTH, 3)
    )
    weights = {f"0.attention.{name}_proj_weight" for name in "qkv"}
    return Kind(model, sequences(), {*weights, "0.attention.out_proj", "0.query", "2"})


def encoder(length: int = TOKENS, *, batch_first: bool = True) -> Kind:
    def run(net: Of, ids: Tensor) -> Tensor:
        x = net.embed(ids) + net.position[:, : ids.shape[1]]
        x = x if batch_first else x.transpose(0, 1)
        x = net.block(x)
        return net.head(x.mean(1 if batch_first else 0))

    model = Of(
        run,
        embed=nn.Embedding(VOCABULARY, WIDTH, padding_idx=0),
        position=parameter(1, TOKENS + 4, WIDTH),
        block=nn.TransformerEncoderLayer(WIDTH, 2, 12, dropout=0.1, batch_first=batch_first),
        head=head(),
    )
    layers = {"block.self_attn", "block.self_attn.out_proj", "block.linear1", "block.linear2", "head"}
    return Kind(model, torch.randint(VOCABULARY, (BATCH, length)), layers)


def tied() -> Kind:
    """The head is the embedding, as in language models."""

    def run(net: Of, ids: Tensor) -> Tensor:
        return net.head(net.hidden(net.embed(ids)).tanh().mean(1))

    model = Of(
        run,
        embed=nn.Embedding(VOCABULARY, WIDTH),
        hidden=nn.Linear(WIDTH, WIDTH),
        head=nn.Linear(WIDTH, VOCABULARY),
    )
    model.head.weight = model.embed.weight
    nn.init.normal_(model.head.weight, std=0.3)
    return Kind(model, tokens(), {"hidden", "embed"})


def called_twice() -> Kind:
    def run(net: Of, x: Tensor) -> Tensor:
        return net.head(net.step(net.step(x).tanh()).tanh())

    return Kind(
        Of(run, step=nn.Linear(WIDTH, WIDTH), head=head()), torch.randn(BATCH, WIDTH), {"step", "head"}
    )


def convolution_called_twice() -> Kind:
    def run(net: Of, x: Tensor) -> Tensor:
        x = net.step(net.step(x).relu_())
        return net.head(x.flatten(1))

    model = Of(run, step=nn.Conv2d(2, 2, 3, padding=1), head=nn.Linear(32, 3))
    return Kind(model, torch.randn(BATCH, 2, 4, 4), {"step", "head"})


def autoencoder() -> Kind:
    """One weight, used forwards and transposed."""

    def run(net: Of, x: Tensor) -> Tensor:
        return F.linear(net.encode(x).tanh(), net.encode.weight.t())

    return Kind(Of(run, encode=nn.Linear(WIDTH, 5)), torch.randn(BATCH, WIDTH), {"encode"})


def shared_bias() -> Kind:
    def run(net: Of, x: Tensor) -> Tensor:
        return net.second(net.first(x).tanh())

    model = Of(run, first=nn.Linear(WIDTH, WIDTH), second=nn.Linear(WIDTH, WIDTH))
    model.second.bias = model.first.bias
    return Kind(model, sequences().mean(1), {"first", "second"})


def bare() -> Kind:
    """Class token, positions by lookup, gains: parameters that no layer owns."""

    def run(net: Of, x: Tensor) -> Tensor:
        x = torch.cat([net.token.expand(len(x), -1, -1), x], 1)
        x = x + net.position(torch.arange(x.shape[1], device=x.device))
        x = x + net.second(torch.arange(x.shape[1])[None])[:, :, :WIDTH]
        x = net.norm(x) * net.gain + net.shift
        x = (x / net.divisor.exp()).tanh()
        return x[:, 0] @ net.out

    model = Of(
        run,
        token=parameter(1, 1, WIDTH),
        position=nn.Embedding(TOKENS + 1, WIDTH),
        second=nn.Embedding(TOKENS + 1, WIDTH),
        norm=nn.RMSNorm(WIDTH),
        gain=parameter(WIDTH),
        shift=parameter(),
        divisor=parameter(WIDTH),
        out=parameter(WIDTH, 3),
    )
    return Kind(model, sequences(), {""})


def as_many_positions_as_data() -> Kind:
    """Positions by lookup where their number is that of the data: one layout fits as well as the other."""

    def run(net: Of, x: Tensor) -> Tensor:
        x = x + net.position(torch.arange(x.shape[1], device=x.device))
        return net.head(net.map(x.transpose(0, 1)).tanh().mean(0))

    model = Of(run, position=nn.Embedding(BATCH, WIDTH), map=nn.Linear(WIDTH, WIDTH), head=head())
    return Kind(model, sequences(BATCH), {"map", "head"})


def merged() -> Kind:
    def run(net: Of, x: Tensor) -> Tensor:
        rows = net.norm(net.map(x.flatten(0, 1))) + net.shift
        return net.head(rows.tanh().unflatten(0, (len(x), -1)).sum(1))

    model = Of(
        run, map=nn.Linear(WIDTH, WIDTH), norm=nn.LayerNorm(WIDTH), shift=parameter(WIDTH), head=head()
    )
    return Kind(model, sequences(), {"map", "head"})


def recurrent() -> Kind:
    def run(net: Of, x: Tensor) -> Tensor:
        return net.head(net.cell(x)[0][:, -1])

    return Kind(
        Of(run, cell=nn.LSTM(WIDTH, 4, batch_first=True), head=nn.Linear(4, 3)), sequences(), {"head"}
    )


def reparametrised() -> Kind:
    model = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Linear(WIDTH, 5)), nn.Tanh(), nn.Linear(5, 3)
    )
    return Kind(model, torch.randn(BATCH, WIDTH), {"2"})


def unused() -> Kind:
    """A layer that nothing calls, and one that reaches no output."""

    def run(net: Of, x: Tensor) -> Tensor:
        net.aside(x)
        return net.head(x)

    model = Of(run, head=head(), aside=nn.Linear(WIDTH, 2), never=nn.Linear(WIDTH, 2))
    return Kind(model, torch.randn(BATCH, WIDTH), {"head", "aside"})


KINDS: dict[str, Callable[[], Kind]] = {
    "mlp": mlp,
    "convolutions": convolutions,
    "convolutions-1d": convolutions_1d,
    "positions": positions,
    "transposed": transposed,
    "self-attention": self_attention,
    "self-attention-square": lambda: self_attention(BATCH),
    "self-attention-sequence-first": lambda: self_attention(batch_first=False),
    "self-attention-sequence-first-square": lambda: self_attention(BATCH, batch_first=False),
    "cross-attention": cross_attention,
    "separate-projections": separate_projections,
    "encoder": encoder,
    "encoder-sequence-first": lambda: encoder(batch_first=False),
    "encoder-square": lambda: encoder(BATCH),
    "tied": tied,
    "called-twice": called_twice,
    "convolution-called-twice": convolution_called_twice,
    "autoencoder": autoencoder,
    "shared-bias": shared_bias,
    "bare": bare,
    "square": as_many_positions_as_data,
    "merged": merged,
    "recurrent": recurrent,
    "reparametrised": reparametrised,
    "unused": unused,
}


@pytest.fixture
def make_kind() -> Callable[[str], Kind]:
    def make(name: str) -> Kind:
        torch.manual_seed(3)
        kind = KINDS[name]()
        inputs = kind.inputs.double() if kind.inputs.is_floating_point() else kind.inputs
        return Kind(kind.model.double(), inputs, kind.layers)

    return make


@pytest.fixture(params=KINDS)
def kind(request, make_kind) -> Kind:
    return make_kind(request.param)
