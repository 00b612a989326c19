"""Streamlined networks give the same outputs, keep their weights, save, load and leave as any other."""

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from secateur.compaction import CompactionWarning, compact
from secateur.export import Streamlining, artifact, measure_streamlining, onnx, streamlined
from secateur.export.inlined import StraightModule
from secateur.export.onnx_graph import onnx_session
from secateur.modules import batch_size
from secateur.networks import build, image_size, names

NETWORKS = [name for name in names() if f"{name}-small" not in names()]  # of two sizes, the smaller


def assert_equal(expected: Tensor, found: Tensor, tolerance: float = 1e-5) -> None:
    assert expected.shape == found.shape
    assert (expected - found).abs().max() <= tolerance * expected.abs().max()


def pruned(name: str) -> tuple[nn.Module, Tensor]:
    size = image_size(name) or 8
    model = build(name, image_shape=(1, size, size), num_classes=4, seed=1)
    generator = torch.Generator().manual_seed(2)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after training
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
        if isinstance(module, (nn.Linear, nn.Conv2d)) and len(module.weight) > 4:
            prune.ln_structured(module, "weight", 0.3, n=1, dim=0)
    return model.eval(), torch.randn(3, 1, size, size, generator=generator)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_gives_the_same_outputs(name: str) -> None:
    model, x = pruned(name)
    convolutions = tuple(n for n, m in model.named_modules() if isinstance(m, nn.Conv2d))
    with torch.no_grad():
        expected = model(x)
        for choice in (Streamlining(), Streamlining(convolutions, channels_last=True)):
            network = streamlined(model, x, choice=choice)
            assert_equal(expected, network(x))
            assert_equal(expected[:1], network(x[:1]))


@pytest.mark.parametrize(
    "pool", [nn.AvgPool2d(2), nn.MaxPool2d(2), nn.AvgPool2d((3, 2)), nn.MaxPool2d((1, 3))]
)
@pytest.mark.parametrize(
    ("stride", "padding", "kernel"), [(1, 0, 3), (2, 1, 3), ((1, 2), (2, 0), (2, 3)), (3, 2, 1)]
)
def test_a_pool_over_phases_is_the_pool(pool: nn.Module, stride: int, padding: int, kernel: int) -> None:
    convolution = nn.Conv2d(2, 5, kernel, stride, padding, bias=stride != 2)
    model = nn.Sequential(convolution, nn.Tanh(), pool).double()
    x = torch.randn(3, 2, 23, 22, dtype=torch.float64)  # windows leave a border
    network = streamlined(model, x, choice=Streamlining(("0",)))
    assert "unflatten" in network.code
    torch.testing.assert_close(network(x), model(x).detach(), rtol=1e-12, atol=1e-12)


OTHERS = {
    "overlapping windows": [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AvgPool2d(3, 2)],
    "a border": [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AvgPool2d(2, padding=1)],
    "another divisor": [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AvgPool2d(2, divisor_override=3)],
    "rounded up": [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2, ceil_mode=True)],
    "gaps in the window": [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2, dilation=2)],
    "gaps in the kernel": [nn.Conv2d(2, 4, 3, dilation=2), nn.ReLU(), nn.AvgPool2d(2)],
    "groups": [nn.Conv2d(2, 4, 3, groups=2), nn.ReLU(), nn.AvgPool2d(2)],
    "another frame": [nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), nn.ReLU(), nn.AvgPool2d(2)],
    "a named frame": [nn.Conv2d(2, 4, 3, padding="same"), nn.ReLU(), nn.AvgPool2d(2)],
    "an activation over channels": [nn.Conv2d(2, 4, 3), nn.Softmax(1), nn.AvgPool2d(2)],
    "an activation per channel": [nn.Conv2d(2, 4, 3), nn.PReLU(4), nn.AvgPool2d(2)],
    "two readers": [nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AvgPool2d(2)],
}


class TwiceRead(nn.Module):
    def __init__(self, layers: list[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers[1](self.layers[0](x))
        return self.layers[2](y) + y.mean()


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_no_plain_pool_stays_as_it_is(name: str) -> None:
    layers = copy.deepcopy(OTHERS[name])
    model = TwiceRead(layers) if name == "two readers" else nn.Sequential(*layers)
    x = torch.randn(2, 2, 12, 12)
    network = streamlined(model, x, choice=Streamlining(("0", "layers.0")))
    assert "unflatten" not in network.code
    with torch.no_grad():
        assert_equal(model(x), network(x))


def test_layers_become_functions_and_keep_their_weights() -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(8, 6), nn.SiLU(), nn.Dropout(0.5), nn.LayerNorm(6), nn.GELU("tanh"),
        nn.Linear(6, 6, bias=False), nn.Tanh(), nn.Identity(), nn.Hardswish(), nn.Linear(6, 2),
    )  # fmt: skip
    x = torch.randn(3, 2, 4)
    network = streamlined(model, x)
    assert [type(module).__name__ for module in network.children()] == ["Hardswish"]
    assert {name for name, _ in network.named_parameters()} == {
        "_1_weight", "_1_bias", "_4_weight", "_4_bias", "_6_weight", "_10_weight", "_10_bias",
    }  # fmt: skip
    assert not network.training
    before = x.clone()
    with torch.no_grad():
        assert_equal(model.eval()(x), network(x))
    assert torch.equal(x, before)
    assert torch.equal(model[1].weight, network.get_parameter("_1_weight"))
    network.get_parameter("_1_weight").data.zero_()
    assert model[1].weight.any()


class Overlapping(nn.Module):
    """Activations whose input somebody else reads, or is the network's own input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act, self.tanh = nn.Linear(4, 4), nn.ReLU(), nn.Tanh()

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(self.act(x))
        return self.act(y) + self.tanh(y) * y


def test_nothing_is_overwritten_that_others_read() -> None:
    model, x = Overlapping(), torch.randn(5, 4)
    before = x.clone()
    network = streamlined(model, x)
    with torch.no_grad():
        assert_equal(model(x), network(x))
        assert_equal(model(x), network(x))
    assert torch.equal(x, before)


def test_weights_that_layers_share_are_shared() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    model[2].weight = model[0].weight
    x = torch.randn(4, 3)
    network = streamlined(model, x)
    assert sum(p.numel() for p in network.parameters()) == sum(p.numel() for p in model.parameters())
    with torch.no_grad():
        assert_equal(model(x), network(x))


def test_it_saves_copies_loads_and_exports(tmp_path: Path) -> None:
    model, x = pruned("lenet")
    network = streamlined(model, x, choice=Streamlining(("conv1", "conv2")))
    with torch.no_grad():
        expected = model(x)
        artifact.save(network, tmp_path / "net.safetensors")
        assert_equal(expected, artifact.load(tmp_path / "net.safetensors")(x))
        assert_equal(expected, copy.deepcopy(network)(x))
        torch.save(network, tmp_path / "net.pt")
        assert_equal(expected, torch.load(tmp_path / "net.pt", weights_only=False)(x))
        other = streamlined(model, x, choice=Streamlining(("conv1", "conv2")))
        for parameter in other.parameters():
            parameter.zero_()
        other.load_state_dict(network.state_dict())
        assert_equal(expected, other(x))
        assert_equal(expected.double(), network.double()(x.double()), 1e-5)
        written = onnx(network.float(), tmp_path / "net.onnx", x)
        (found,) = onnx_session(written.path)((x,))
        assert_equal(expected, found, 1e-4)


def test_weights_are_read_when_called() -> None:
    network, x = streamlined(nn.Linear(3, 2), torch.zeros(1, 3)), torch.ones(1, 3)
    (weight, bias) = (name for name, _ in network.named_parameters())
    other = {weight: torch.full((2, 3), 2.0), bias: torch.ones(2)}
    assert torch.func.functional_call(network, other, (x,)).tolist() == [[7.0, 7.0]]
    setattr(network, weight, nn.Parameter(torch.zeros(2, 3)))
    setattr(network, bias, nn.Parameter(torch.full((2,), 3.0)))
    assert network(x).tolist() == [[3.0, 3.0]]
    network.load_state_dict(other, assign=True)
    assert network(x).tolist() == [[7.0, 7.0]]


def test_hooks_of_the_network_itself_run() -> None:
    network, seen = streamlined(nn.Linear(3, 2), torch.zeros(1, 3)), []
    assert isinstance(network, StraightModule)
    network.register_forward_hook(lambda *_: seen.append(1))
    network(torch.zeros(1, 3))
    assert seen == [1]


def test_what_is_faster_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def measured(times: list[list[float]]) -> Streamlining:
        answers = iter(times)

        def medians(forms: list[nn.Module], inputs: tuple[Tensor], seconds: float) -> list[float]:
            asked.append(batch_size(inputs[0]))
            for form in forms:
                form(*inputs)
            return next(answers)

        monkeypatch.setattr("secateur.export.streamlining.alternating_medians", medians)
        return measure_streamlining(model, x)

    model, x = pruned("lenet")
    # The first pool, the second, then channels last: each beside the best so far.
    assert measured([[0.5, 1.0], [0.97, 1.0], [2.0, 1.0]]) == Streamlining(("conv1",))
    assert measured([[1.0, 1.0], [0.5, 1.0], [0.5, 1.0]]) == Streamlining(channels_last=True)
    assert measured([[0.5, 1.0], [0.5, 1.0], [1.0, 1.0]]) == Streamlining(("conv1", "conv2"))
    assert asked == [3] * 9


def test_without_convolutions_nothing_has_to_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("secateur.export.streamlining.alternating_medians", None)
    model, x = pruned("mlp")
    assert measure_streamlining(model, x) == Streamlining()


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


def test_what_cannot_be_traced_stays_whole() -> None:
    with pytest.warns(CompactionWarning, match="cannot be traced"):
        network = streamlined(Branching().train(), torch.ones(1, 2))
    assert isinstance(network, Branching)
    assert not network.training
    with pytest.warns(CompactionWarning, match="cannot be traced"):
        assert measure_streamlining(Branching(), torch.ones(1, 2)) == Streamlining()


def test_it_is_no_larger_than_the_compact_network() -> None:
    model, x = pruned("resnet20")
    small, network = compact(model, x), streamlined(model, x, choice=Streamlining())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())
    assert sum(p.numel() for p in network.parameters()) <= sum(p.numel() for p in small.parameters())
