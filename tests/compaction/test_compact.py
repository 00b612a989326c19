"""Compacted networks equal the masked ones, and what the masks made dead is gone."""

import copy
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, fx, nn
from torch.nn.utils import prune

from secateur.compaction import CompactionWarning, compact, plain_copy
from secateur.errors import InvalidArgumentError
from secateur.modules import call, hold, largest_relative_difference
from secateur.networks import build


class Residual(nn.Module):
    """Two convolutions with batch normalisation beside a shortcut; widening pads the shortcut with zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, *, project: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.extra = stride, (outputs - inputs) // 2
        self.project = nn.Conv2d(inputs, outputs, 1, stride=stride) if project else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.project is not None:
            return F.relu(y + self.project(x))
        if self.stride > 1:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra, self.extra))
        return F.relu(y + x)


class SmallResNet(nn.Module):
    def __init__(self, *, project: bool = False) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(8)
        self.blocks = nn.Sequential(Residual(8, 8), Residual(8, 16, 2, project=project), Residual(16, 16))
        self.head = nn.Linear(16, 5)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):  # as after training, so that pruned channels are not zero
                nn.init.normal_(module.bias)
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2.0)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(F.relu(self.bn(self.stem(x))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int, style: str) -> None:
        super().__init__()
        self.heads, self.style = heads, style
        if style == "separate":
            self.q, self.k, self.v = (nn.Linear(width, width) for _ in range(3))
        else:
            self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, t, c = x.shape
        if x.dim() != 3:
            raise ValueError(f"expected (batch, tokens, features), got {x.shape}")
        d = c // self.heads
        if self.style == "fused":
            q, k, v = self.qkv(x).reshape(b, t, 3, self.heads, d).permute(2, 0, 3, 1, 4)
        else:
            separate = self.style == "separate"
            parts = (self.q(x), self.k(x), self.v(x)) if separate else self.qkv(x).chunk(3, dim=-1)
            q, k, v = (part.view(b, t, self.heads, d).transpose(1, 2) for part in parts)
        if self.style == "separate":
            y = ((q @ k.transpose(-2, -1)) * d**-0.5).softmax(-1) @ v
        else:
            y = F.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(b, t, -1))


class Transformer(nn.Module):
    def __init__(self, style: str = "fused", width: int = 16, heads: int = 4) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, stride=4)
        self.position = nn.Parameter(torch.randn(1, 5, width))
        self.start = nn.Parameter(torch.randn(1, 1, width))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.attention = Attention(width, heads, style)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Dropout(0.1), nn.Linear(32, width))
        self.head = nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.start.expand(x.shape[0], -1, -1), x], dim=1) + self.position
        x = x + self.attention(self.norm1(x))
        x = x + self.mlp(self.norm2(x))
        return self.head(self.norm3(x)[:, 0])


class Mixer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 12, 2, stride=2)
        self.norm1, self.norm2 = nn.LayerNorm(12), nn.LayerNorm(12)
        self.tokens = nn.Sequential(nn.Linear(16, 24), nn.GELU(), nn.Linear(24, 16))
        self.channels = nn.Sequential(nn.Linear(12, 20), nn.GELU(), nn.Linear(20, 12))
        self.head = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        x = x + self.channels(self.norm2(x))
        return self.head(x.mean(1))


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(30, 12)
        self.hidden = nn.Linear(12, 9)
        self.head = nn.Linear(9, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(self.embedding(tokens).mean(1))))


def vgg() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8),
        nn.BatchNorm2d(8),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3, padding="same", padding_mode="circular"),
        nn.SiLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(12, 12, 1),
        nn.ELU(),
        nn.Flatten(),
        nn.Linear(48, 10),
        nn.Sigmoid(),
        nn.Linear(10, 5),
    )


IMAGE = (3, 8, 8)
NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (lambda: build("mlp", image_shape=IMAGE, num_classes=5, width=20), IMAGE),
    "lenet": (lambda: build("lenet", image_shape=(1, 32, 32), num_classes=5), (1, 32, 32)),
    "resnet-pad": (SmallResNet, IMAGE),
    "resnet-project": (lambda: SmallResNet(project=True), IMAGE),
    "transformer-fused": (Transformer, IMAGE),
    "transformer-chunk": (lambda: Transformer("chunk"), IMAGE),
    "transformer-separate": (lambda: Transformer("separate"), IMAGE),
    "mixer": (Mixer, IMAGE),
    "vgg": (vgg, IMAGE),
    "text": (Text, (7,)),
}
NOTHING_DEAD = "ignore:.* cannot be made smaller:secateur.compaction.CompactionWarning"
GRANULARITIES = ("weight", "neuron", "channel")


def example(name: str, batch: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, *NETWORKS[name][1])
    if name == "text":
        return torch.randint(30, shape, generator=generator)
    return torch.randn(shape, generator=generator, dtype=dtype)


def make(name: str, seed: int, dtype: torch.dtype = torch.float64) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return NETWORKS[name][0]().to(dtype).eval()


def mask_at_random(model: nn.Module, granularity: str, sparsity: float, seed: int) -> nn.Module:
    """Mask weights, rows (with their bias) or columns, the last layer's weights excepted."""
    generator = torch.Generator().manual_seed(seed)
    layers = [m for m in model.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.Embedding))]
    for layer in layers[:-1]:
        shape = layer.weight.shape
        if granularity == "weight":
            mask = torch.rand(shape, generator=generator) > sparsity
        else:
            axis = 0 if granularity == "neuron" else 1
            kept = torch.rand(shape[axis], generator=generator) > sparsity
            mask = kept.reshape([-1 if a == axis else 1 for a in range(len(shape))]).expand(shape)
        prune.custom_from_mask(layer, "weight", mask)
        bias = getattr(layer, "bias", None)
        if bias is not None and granularity == "neuron" and seed % 2:
            prune.custom_from_mask(layer, "bias", kept)
    return model


def assert_equal(masked: nn.Module, small: nn.Module, x: Tensor, tolerance: float) -> None:
    with torch.no_grad():
        expected, found = masked(x), small(x)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.filterwarnings(NOTHING_DEAD)
@pytest.mark.parametrize("granularity", GRANULARITIES)
@pytest.mark.parametrize("name", NETWORKS)
def test_a_compacted_network_equals_the_masked_one(name: str, granularity: str) -> None:
    model = mask_at_random(make(name, 3), granularity, 0.6, seed=5)
    before = copy.deepcopy(model.state_dict())
    small = compact(model, example(name, 2, 0))
    for batch in (1, 3):
        assert_equal(model, small, example(name, batch, 11), 1e-10)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert not any(key.endswith(("_mask", "_orig")) for key in small.state_dict())
    assert not any(module._forward_pre_hooks for module in small.modules())
    if granularity == "neuron":
        assert num_parameters(small) < 0.8 * num_parameters(plain_copy(model))


@pytest.mark.parametrize("name", NETWORKS)
def test_single_precision_keeps_five_digits(name: str) -> None:
    model = mask_at_random(make(name, 3, torch.float32), "neuron", 0.5, seed=4)
    small = compact(model, example(name, 1, 0, torch.float32))
    assert_equal(model, small, example(name, 4, 12, torch.float32), 1e-5)


@pytest.mark.filterwarnings(NOTHING_DEAD)
@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    name=st.sampled_from(sorted(NETWORKS)),
    granularity=st.sampled_from(GRANULARITIES),
    sparsity=st.sampled_from([0.2, 0.8, 0.95, 1.0]),
    seed=st.integers(0, 2**16),
)
def test_any_mask(name: str, granularity: str, sparsity: float, seed: int) -> None:
    model = mask_at_random(make(name, seed), granularity, sparsity, seed)
    assert_equal(model, compact(model, example(name, 2, seed)), example(name, 3, seed + 1), 1e-10)


def test_a_compacted_network_is_ordinary() -> None:
    model = mask_at_random(make("vgg", 0), "neuron", 0.5, seed=1).train()
    small = compact(model, example("vgg", 2, 0))
    assert small.training
    assert all(module.training for module in small.modules())
    x = example("vgg", 2, 1)
    assert type(small) is nn.Sequential
    clone = pickle.loads(pickle.dumps(small)).eval()
    clone.load_state_dict(small.state_dict())
    assert_equal(model.eval(), clone, x, 1e-10)
    small.train()(x).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_compaction_is_complete_after_one_call() -> None:
    model = mask_at_random(make("resnet-pad", 0), "neuron", 0.6, seed=1)
    once = compact(model, example("resnet-pad", 2, 0))
    assert num_parameters(compact(once, example("resnet-pad", 2, 0))) == num_parameters(once)


def test_chains_of_dead_neurons_disappear() -> None:
    model = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    with torch.no_grad():
        model[4].weight[:, 3:] = 0  # nobody reads units 3 to 7 ...
        model[2].weight[:3, 5:] = 0  # ... which alone read 5 and 6
    small = compact(model, torch.zeros(1, 6, dtype=torch.float64))
    shapes = [tuple(small.get_parameter(f"{number}.weight").shape) for number in (0, 2, 4)]
    assert shapes == [(5, 6), (3, 5), (2, 3)]


def test_a_constant_neuron_goes_into_the_next_bias() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Sigmoid(), nn.Linear(3, 2, bias=False)).double()
    with torch.no_grad():
        model[0].weight[1] = 0
    small = compact(model, torch.zeros(1, 4, dtype=torch.float64))
    expected = model[2].weight[:, 1] * torch.sigmoid(model[0].bias[1])
    torch.testing.assert_close(small.get_parameter("2.bias"), nn.Parameter(expected.detach()))
    assert small.get_submodule("0").out_features == 2


def padded(padding: int, mode: str = "zeros") -> nn.Sequential:
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3),
        nn.Sigmoid(),
        nn.Conv2d(6, 4, 3, padding=padding, padding_mode=mode),
        nn.Flatten(),
        nn.LazyLinear(2),
    ).double()
    model(torch.zeros(1, 3, 8, 8, dtype=torch.float64))
    with torch.no_grad():
        model[0].weight[2:] = 0
    return model


@pytest.mark.parametrize(("padding", "mode", "kept"), [(0, "zeros", 2), (1, "reflect", 2), (1, "zeros", 3)])
def test_constants_before_zero_padding_share_one_channel(padding: int, mode: str, kept: int) -> None:
    model = padded(padding, mode)
    small = compact(model, torch.zeros(2, 3, 8, 8, dtype=torch.float64))
    assert small.get_submodule("0").out_channels == kept
    assert_equal(model, small, torch.randn(3, 3, 8, 8, dtype=torch.float64), 1e-12)


@pytest.mark.parametrize("zero", [True, False])
def test_a_constant_residual_branch_disappears(zero: bool) -> None:
    model = make("resnet-pad", 0)
    with torch.no_grad():
        model.blocks[0].conv2.weight.zero_()
        if zero:
            model.blocks[0].bn2.weight.zero_()
            model.blocks[0].bn2.bias.zero_()
    small = compact(model, example("resnet-pad", 2, 0))
    assert_equal(model, small, example("resnet-pad", 3, 1), 1e-12)
    assert not any(name.startswith("blocks.0.") for name, _ in small.named_parameters())


@pytest.mark.parametrize("style", ["fused", "chunk", "separate"])
def test_whole_heads_disappear(style: str) -> None:
    model = make(f"transformer-{style}", 0)
    attention = model.attention
    with torch.no_grad():
        value = attention.v.weight if style == "separate" else attention.qkv.weight[32:]
        value[4:8] = 0  # the second head's values are its bias
        attention.out.weight[:, 12:] = 0  # nobody reads the fourth
    small = compact(model, example("transformer-fused", 2, 0))
    assert_equal(model, small, example("transformer-fused", 3, 1), 1e-12)
    assert small.get_submodule("attention.out").in_features == 8
    assert num_parameters(model) - num_parameters(small) == 2 * (3 * 4 * 17 + 4 * 16)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_with_nothing_left_still_runs(name: str) -> None:
    model = mask_at_random(make(name, 1), "weight", 2.0, seed=2)
    small = compact(model, example(name, 2, 0))
    assert_equal(model, small, example(name, 3, 1), 1e-10)


def test_units_are_rounded_up_to_a_multiple() -> None:
    model = mask_at_random(make("mlp", 0), "neuron", 0.6, seed=1)
    x = example("mlp", 2, 0)
    exact, rounded = compact(model, x), compact(model, x, multiple_of=8)
    for number in range(1, 5):
        few, more = (net.get_submodule(f"hidden.linear{number}").out_features for net in (exact, rounded))
        assert more == min(-(-few // 8) * 8, 20)
    assert_equal(model, rounded, x, 1e-10)


def test_unread_pixels_are_not_read() -> None:
    model = make("mlp", 0)
    with torch.no_grad():
        model.hidden.linear1.weight[:, 50:] = 0
    small = compact(model, example("mlp", 2, 0))
    assert small.get_submodule("hidden.linear1").in_features == 50
    assert_equal(model, small, example("mlp", 3, 1), 1e-12)
    again = compact(small, example("mlp", 2, 0))
    assert sorted(again.state_dict()) == sorted(small.state_dict())


def test_embedding_rows_of_zeros_become_one() -> None:
    model = make("text", 0)
    prune.custom_from_mask(model.embedding, "weight", (torch.arange(30) % 3 == 0).unsqueeze(1).expand(30, 12))
    small = compact(model, example("text", 2, 0))
    assert small.get_submodule("embedding").num_embeddings == 11
    assert_equal(model, small, example("text", 3, 1), 1e-12)


class DataDependent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y if y.sum() > 0 else -y


def test_a_part_that_cannot_be_traced_stays_whole_and_is_named() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 6), DataDependent(), nn.Linear(6, 2))
    model.double()
    prune.random_structured(model[0], "weight", amount=5, dim=0)
    prune.random_unstructured(model[3].linear, "weight", 0.5)
    with pytest.warns(CompactionWarning, match=r"^3 \(DataDependent\) .*depends on the data"):
        small = compact(model, torch.zeros(2, 6, dtype=torch.float64))
    assert small.get_submodule("0").out_features == 3
    x = torch.randn(4, 6, dtype=torch.float64)
    assert_equal(model, small, x, 1e-12)
    assert_equal(model, small, -x, 1e-12)


def test_a_network_that_cannot_be_traced_keeps_its_masks_for_good() -> None:
    model = DataDependent()
    prune.random_unstructured(model.linear, "weight", 0.5)
    model(torch.randn(2, 6)).sum().backward()  # the masked weight is no leaf now
    with pytest.warns(CompactionWarning, match="DataDependent cannot be traced .* truth of gt"):
        small = compact(model, torch.zeros(2, 6))
    assert type(small) is DataDependent
    assert sorted(small.state_dict()) == ["linear.bias", "linear.weight"]
    assert torch.equal(small.linear.weight, model.linear.weight)


@pytest.mark.parametrize("name", ["resnet-pad", "resnet-project", "vgg"])
def test_batch_normalisation_is_folded_on_request(name: str) -> None:
    model = mask_at_random(make(name, 0), "neuron", 0.4, seed=1)
    small = compact(model, example(name, 2, 0), fold_batch_norm=True)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in small.modules())
    assert_equal(model, small, example(name, 3, 1), 1e-10)


class Counting(nn.Module):
    """A network that asks Python for its batch size."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(12, 9), nn.Linear(9, 2)

    def forward(self, x: Tensor) -> Tensor:
        parts = x.reshape(len(x) * 3, 4).reshape(int(x.shape[0]), 12)
        return self.output(torch.relu(self.hidden(parts))).view(len(x), 2)


def test_sizes_that_python_took_follow_the_batch() -> None:
    model = mask_at_random(Counting().double(), "neuron", 0.6, seed=1)
    small = compact(model, torch.zeros(2, 12, dtype=torch.float64))
    assert small.get_submodule("hidden").out_features < 9
    for batch in (1, 2, 5):
        assert_equal(model, small, torch.randn(batch, 12, dtype=torch.float64), 1e-12)


def test_shared_layers_keep_their_size_and_are_named() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.again = nn.Linear(4, 5), nn.Linear(5, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.first(x))
            return self.again(torch.relu(self.again(x)))

    model = Tied().double()
    with torch.no_grad():
        model.again.weight[1:3] = 0
        model.first.weight[1:3] = 0
    with pytest.warns(CompactionWarning, match=r"Tied cannot .*: 2 dead units at first .* again \(Linear\)"):
        small = compact(model, torch.zeros(1, 4, dtype=torch.float64))
    assert num_parameters(small) == num_parameters(model)
    assert_equal(model, small, torch.randn(3, 4, dtype=torch.float64), 1e-12)


def test_torch_s_own_transformer_layer_loses_its_dead_units() -> None:
    model = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).double().eval()
    removed = {"linear1.weight": (torch.arange(32) % 2 == 0).unsqueeze(1).expand(32, 16)}
    removed["self_attn.out_proj.weight"] = torch.arange(16).unsqueeze(1).expand(16, 16) % 3 > 0
    hold(model, removed)
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    small = compact(model, x)
    assert small.get_submodule("linear1").out_features == 16
    assert not any(module._forward_pre_hooks for module in small.modules())
    assert_equal(model, small, torch.randn(3, 5, 16, dtype=torch.float64), 1e-10)


class Fixed(nn.Module):
    """Two heads of three, by numbers in the code or by an attribute."""

    def __init__(self, heads: int | None) -> None:
        super().__init__()
        self.values, self.out = nn.Linear(4, 6), nn.Linear(6, 2)
        if heads is not None:
            self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        heads = getattr(self, "heads", 2)
        return self.out(torch.tanh(self.values(x)).view(-1, heads, 3).flatten(1))


@pytest.mark.parametrize("heads", [None, 2])
def test_a_size_in_the_code_makes_a_graph_and_an_attribute_is_changed(heads: int | None) -> None:
    model = Fixed(heads).double()
    with torch.no_grad():
        model.values.weight[:3] = 0
    x = torch.randn(4, 4, dtype=torch.float64)
    kept = compact(model, x, as_graph=False) if heads else None
    small, graph = compact(model, x), compact(model, x, as_graph=True)
    for network in (small, graph, *([kept] if kept else [])):
        assert_equal(model, network, torch.randn(5, 4, dtype=torch.float64), 1e-12)
        assert network.get_submodule("values").out_features == 3
    assert isinstance(graph, fx.GraphModule)
    assert type(small) is (Fixed if heads else type(small))
    assert isinstance(small, Fixed if heads else fx.GraphModule)
    assert heads is None or (small.heads, model.heads) == (1, 2)


def test_where_sizes_stay_the_code_that_holds_them_is_named() -> None:
    model = nn.Sequential(Fixed(None), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].values.weight[:3] = 0
    with pytest.warns(CompactionWarning, match=r"3 dead units at 0.values .* written out in the code of 0"):
        small = compact(model, torch.zeros(2, 4), as_graph=False)
    assert type(small) is nn.Sequential
    assert num_parameters(small) == num_parameters(model)


def test_where_nothing_is_dead_that_is_said() -> None:
    with pytest.warns(CompactionWarning, match="Linear cannot be made smaller: no neuron, channel or head"):
        compact(nn.Linear(4, 2), torch.zeros(1, 4))


def test_torch_s_attention_keeps_its_heads_and_is_named() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.attention = nn.Linear(4, 8), nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.attention(x, x, x, need_weights=False)[0]

    model = Attending()
    with torch.no_grad():
        model.first.weight[2] = 0
    with pytest.warns(CompactionWarning, match=r"1 dead units at first .* attention \(MultiheadAttention\)"):
        compact(model, torch.randn(2, 3, 4))


class Flexible(nn.Module):
    """Takes a tensor, a pair, a dict, and answers in kind."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden, self.output = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Any, mask: Tensor | None = None, *, scale: float = 1.0, extra: Any = None) -> Any:
        if isinstance(x, tuple):
            x = x[0] + x[1]
        hidden = torch.relu(self.hidden(x))
        if mask is not None:
            if not mask.bool().all():  # a question about whole numbers is answered by the example
                hidden = hidden * mask[:, None]
            hidden = hidden + 0.0
        return {"y": self.output(hidden) * scale, "more": (x.sum(1), None)} if extra else self.output(hidden)


@pytest.mark.parametrize(
    "example",
    [
        torch.ones(2, 4),
        (torch.ones(2, 4), torch.tensor([1, 0])),
        {"x": torch.ones(1, 4), "scale": 2.0},
        {"x": torch.ones(2, 4), "mask": torch.tensor([1, 0]), "extra": {"any": 1}},
        ((torch.ones(3, 4),), {"mask": torch.ones(3, dtype=torch.int64)}),
        ((((torch.ones(2, 4), torch.zeros(2, 4))),), {}),
        (((torch.ones(2, 4), torch.zeros(2, 4)),), {"mask": None}),
    ],
)
def test_inputs_of_any_kind(example: Any) -> None:
    model = Flexible()
    with torch.no_grad():
        model.hidden.weight[1:3] = 0
        model.hidden.bias[1:3] = 0
    small = compact(model, example)
    assert type(small) is Flexible
    assert small.hidden.out_features == 4
    assert largest_relative_difference(call(model, example), call(small, example)) < 1e-6


class Odd(nn.Module):
    def __init__(self, returned: Any) -> None:
        super().__init__()
        self.returned = returned

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.returned


@pytest.mark.parametrize(
    "example", [torch.zeros(()), torch.zeros(0, 3), (), {}, None, 3, "text", [1], (1, {"a": 2})]
)
@pytest.mark.parametrize("returned", [None, 3, "text", {"a": torch.ones(2)}, (torch.ones(2), None), []])
def test_networks_without_parameters_and_odd_examples(example: Any, returned: Any) -> None:
    model = Odd(returned)
    with pytest.warns(CompactionWarning, match="Odd cannot be "):
        assert type(compact(model, example)).__name__ == "Odd"


@pytest.mark.parametrize(
    "example", [torch.zeros(()), torch.zeros(2, 5), (), {}, None, 3, {"y": 1}, "text", [1], ((), {})]
)
def test_examples_that_the_network_does_not_take(example: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="example_input: expected a batch that Linear takes, got"):
        compact(nn.Linear(4, 2), example)


def test_a_network_on_meta_is_refused() -> None:
    with torch.device("meta"), pytest.raises(InvalidArgumentError, match="on meta: load its weights first"):
        compact(nn.Linear(4, 2), torch.zeros(1, 4))


def test_bad_arguments_are_named() -> None:
    model = nn.Linear(4, 2)
    with pytest.raises(InvalidArgumentError, match="example_input"):
        compact(model, torch.zeros(1, 5))
    with pytest.raises(InvalidArgumentError, match="multiple_of"):
        compact(model, torch.zeros(1, 4), multiple_of=0)


def test_a_compact_network_is_compacted_in_silence(capsys: pytest.CaptureFixture[str]) -> None:
    # Its shortcuts are padded by numbers written out in the code, which no longer suit the smaller weights.
    model = build("resnet20", image_shape=(1, 32, 32), num_classes=3, seed=0, num_blocks=1, width=8)
    model = model.double().eval()
    for name, layer in model.named_modules():
        if isinstance(layer, (nn.Conv2d, nn.BatchNorm2d)):
            gone = torch.arange(len(layer.weight)) % 8 > (2 if "1" in name.split(".")[-1] else 4)
            for parameter in layer.parameters():
                parameter.data[gone] = 0
    x = torch.randn(2, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    rounded = compact(model, x, multiple_of=4)
    capsys.readouterr()
    small = compact(rounded, x)
    assert capsys.readouterr().err == ""  # where torch.fx tells of a forward that fails
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in rounded.parameters())
    torch.testing.assert_close(small(x), model(x), rtol=1e-10, atol=1e-12)


def test_nothing_is_warned_about_what_can_be_compacted() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        compact(mask_at_random(make("mixer", 0), "neuron", 0.5, seed=0), example("mixer", 1, 0))
