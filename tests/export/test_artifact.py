"""Saved networks come back, small; damaged, newer and dangerous files do not."""

import json
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.utils import prune

from secateur.compaction import compact
from secateur.errors import ArtifactError, InvalidArgumentError
from secateur.export import KernelRow, artifact, sparse
from secateur.export.csr import CsrConv2d, CsrLinear
from secateur.networks import build


def reduced_mlp(sparsity: float = 0.97) -> nn.Module:
    model = build("mlp", image_shape=(1, 12, 12), num_classes=10, seed=0, width=200)
    generator = torch.Generator().manual_seed(1)
    for layer in list(model.hidden)[::2]:
        prune.custom_from_mask(
            layer, "weight", torch.rand(layer.weight.shape, generator=generator) > sparsity
        )
    return compact(model, torch.zeros(1, 1, 12, 12)).eval()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    artifact.save(reduced_mlp(), tmp_path / "net.safetensors")
    return tmp_path / "net.safetensors"


def rewrite(path: Path, change: Any) -> None:
    """Change a file's metadata and description, and make its checksum right again."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    header = json.loads(zlib.decompress(tensors["network"].numpy().tobytes()))
    change(metadata, header)
    put_back(path, tensors, json.dumps(header).encode(), metadata)


def put_back(path: Path, tensors: dict[str, Any], text: bytes, metadata: dict[str, str]) -> None:
    tensors["network"] = torch.frombuffer(bytearray(zlib.compress(text)), dtype=torch.uint8)
    metadata["sha256"] = artifact._checksum(tensors)
    save_file(tensors, path, metadata)


def test_weights_come_back_bit_for_bit(saved: Path) -> None:
    before, after = reduced_mlp(), artifact.load(saved)
    assert after.state_dict().keys() == before.state_dict().keys()
    assert all(torch.equal(after.state_dict()[key], value) for key, value in before.state_dict().items())
    assert str(after.get_submodule("hidden.linear1")) == str(before.get_submodule("hidden.linear1"))
    assert type(after).__name__ == "MLP"


@pytest.mark.parametrize(("values", "value_bytes"), [("float32", 4), ("float16", 2), ("bfloat16", 2)])
def test_a_file_is_hardly_larger_than_its_entropy(tmp_path: Path, values: str, value_bytes: int) -> None:
    network = reduced_mlp(0.98)  # some 15 kB: the description weighs most in a small file
    num_bytes = artifact.save(network, tmp_path / "net", values=values)
    bound = artifact.entropy_bound(network, value_bytes=value_bytes)
    assert bound < num_bytes == (tmp_path / "net").stat().st_size <= 1.2 * bound
    x = torch.randn(4, 1, 12, 12, generator=torch.Generator().manual_seed(2))
    difference = (artifact.load(tmp_path / "net")(x) - network(x)).abs().max() / network(x).abs().max()
    assert difference <= {"float32": 0, "float16": 2e-3, "bfloat16": 2e-2}[values]


def test_networks_of_torch_layers_need_no_compaction(tmp_path: Path) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same", padding_mode="circular", bias=False),
        nn.BatchNorm2d(4, eps=1e-3),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(36, 5, dtype=torch.float32),
        nn.Softmax(-1),
    )
    prune.random_unstructured(model[4], "weight", 0.7)
    model(torch.randn(4, 3, 5, 5))
    artifact.save(model, tmp_path / "net")
    x = torch.randn(2, 3, 5, 5)
    assert torch.equal(artifact.load(tmp_path / "net")(x), model.eval()(x))


class Branching(nn.Module):
    """A network that no graph can express."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) if x.sum() > 0 else x


def test_other_networks_need_a_confirmed_factory(tmp_path: Path) -> None:
    model, path = Branching(6), tmp_path / "net"
    with pytest.raises(InvalidArgumentError, match="factory"):
        artifact.save(model, path)
    assert not path.exists()
    artifact.save(model, path, factory="torch.nn:Identity", factory_arguments={"width": 6})
    with pytest.raises(ArtifactError, match=r"confirmation that 'torch.nn:Identity'"):
        artifact.load(path)
    with pytest.raises(ArtifactError, match="confirmation"):
        artifact.load(path, factory="torch.nn:Linear")
    with pytest.raises(ArtifactError, match="weights for what"):
        artifact.load(path, factory="torch.nn:Identity")
    assert torch.equal(artifact.load(path, factory=Branching).linear.weight, model.linear.weight)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        artifact.load(tmp_path / "none")


@pytest.mark.parametrize("at", [0.0, 0.3, 0.6, 0.99])
def test_one_changed_byte_is_noticed(saved: Path, at: float) -> None:
    content = bytearray(saved.read_bytes())
    content[int(at * len(content))] ^= 0x11
    saved.write_bytes(bytes(content))
    with pytest.raises(ArtifactError):
        artifact.load(saved)


@pytest.mark.parametrize("left", [0, 5, 1000, -1])
def test_a_cut_file_is_noticed(saved: Path, left: int) -> None:
    saved.write_bytes(saved.read_bytes()[:left])
    with pytest.raises(ArtifactError, match="damaged or other"):
        artifact.load(saved)


def test_a_newer_or_foreign_file_is_named(saved: Path) -> None:
    for version, what_to_do in (("3", "update Secateur"), ("1", "save the network again"), ("", "update")):
        rewrite(saved, lambda metadata, header, version=version: metadata.update(version=version))
        with pytest.raises(ArtifactError, match=rf"expected version 2 in .*got {version}: {what_to_do}"):
            artifact.load(saved)
    save_file({"x": torch.zeros(2)}, saved)
    with pytest.raises(ArtifactError, match="another safetensors file"):
        artifact.load(saved)


def nodes(header: dict[str, Any]) -> list[Any]:
    return header["architecture"]["nodes"]


HOSTILE = {
    "function": lambda _, h: nodes(h).insert(1, ["call_function", "os.system", ["true"]]),
    "torch function": lambda _, h: nodes(h).insert(1, ["call_function", "torch.load", ["x"]]),
    "method": lambda _, h: nodes(h).insert(1, ["call_method", "__reduce__", [{"node": 0}]]),
    "attribute": lambda _, h: nodes(h).insert(1, ["call_function", "getattr", [{"node": 0}, "__class__"]]),
    "layer": lambda _, h: h["architecture"]["layers"].update(x=["Module.__init__", {}]),
    "no layer": lambda _, h: h["architecture"]["layers"].update(x=["functional", {}]),
    "class": lambda _, h: h["architecture"].update({"class": "X):\n  import os\nclass Y("}),
    "target": lambda _, h: nodes(h).insert(1, ["get_attr", "x; import os", []]),
    "placeholder": lambda _, h: nodes(h).insert(0, ["placeholder", "x=print(1)", []]),
    "shape": lambda _, h: h["tensors"][0].__setitem__(2, [1, 1]),
    "missing": lambda _, h: h["tensors"].pop(),
    "kept": lambda _, h: next(t for t in h["tensors"] if len(t) > 4).__setitem__(4, 10**9),
    "type": lambda _, h: h["tensors"][0].__setitem__(1, "load"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_files_made_to_harm_are_refused(saved: Path, name: str) -> None:
    rewrite(saved, HOSTILE[name])
    with pytest.raises(ArtifactError, match="damaged"):
        artifact.load(saved)


def test_a_description_that_unfolds_without_end_is_refused(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact, "_LARGEST_TEXT", 50_000)
    assert artifact.load(saved) is not None
    put_back(saved, load_file(saved), b" " * 50_001, {"format": "secateur-network", "version": "2"})
    with pytest.raises(ArtifactError, match="damaged one: the description is cut off or longer than 50000"):
        artifact.load(saved)


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[]"])
def test_a_description_that_is_none_is_damage(saved: Path, text: bytes) -> None:
    put_back(saved, load_file(saved), text, {"format": "secateur-network", "version": "2"})
    with pytest.raises(ArtifactError, match="damaged one"):
        artifact.load(saved)


def test_without_a_description_the_file_is_damaged(saved: Path) -> None:
    tensors = {name: tensor for name, tensor in load_file(saved).items() if name != "network"}
    metadata = {"format": "secateur-network", "version": "2", "sha256": artifact._checksum(tensors)}
    save_file(tensors, saved, metadata)
    with pytest.raises(ArtifactError, match="damaged one"):
        artifact.load(saved)


def test_unknown_value_types_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="values: expected one of float32"):
        artifact.save(reduced_mlp(), tmp_path / "net", values="int8")


def test_a_failed_save_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def broken(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(artifact, "save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        artifact.save(reduced_mlp(), saved)
    assert saved.read_bytes() == before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_sparse_kernels_come_back_and_cost_no_bytes(tmp_path):
    layers = [
        nn.Conv2d(2, 6, (3, 2), (2, 1), (1, 0), (1, 2)),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6 * 4 * 6, 5),
    ]
    model = nn.Sequential(*layers).double().eval()
    for layer in (model[0], model[3]):
        prune.random_unstructured(layer, "weight", 0.8)
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    small = compact(model, x)
    kernels = [KernelRow(n, (), 0.8, 1.0, 0.5, "csr") for n in ("0", "3")]
    plain = artifact.save(small, tmp_path / "plain.safetensors")
    named = artifact.save(sparse(small, x, kernels=kernels), tmp_path / "sparse.safetensors")
    assert named - plain < 64
    loaded = artifact.load(tmp_path / "sparse.safetensors")
    assert isinstance(loaded.get_submodule("0"), CsrConv2d)
    assert isinstance(loaded.get_submodule("3"), CsrLinear)
    torch.testing.assert_close(loaded(x), model(x), rtol=1e-12, atol=1e-12)
