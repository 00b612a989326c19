"""Saved networks come back, small; damaged, newer and dangerous files do not."""

import json
import os
import warnings
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
from secateur.export.sparse_kernels import CsrLinear
from secateur.networks import build
from secateur.runs import tensors_checksum


def reduced_mlp(sparsity: float = 0.97) -> nn.Module:
    model = build("mlp", image_shape=(1, 12, 12), num_classes=10, seed=0, width=200)
    generator = torch.Generator().manual_seed(1)
    for layer in list(model.hidden)[::2]:
        prune.custom_from_mask(
            layer, "weight", torch.rand(layer.weight.shape, generator=generator) > sparsity
        )
    return compact(model, torch.zeros(1, 1, 12, 12), as_graph=True).eval()


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "net"
    artifact.save(reduced_mlp(), path)
    return path.read_bytes()


@pytest.fixture
def saved(tmp_path: Path, content: bytes) -> Path:
    (tmp_path / "net.safetensors").write_bytes(content)
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
    metadata["sha256"] = tensors_checksum(tensors)
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


def test_a_network_that_a_file_cannot_describe_needs_the_callers(tmp_path: Path) -> None:
    model, path = Branching(6), tmp_path / "net"
    artifact.save(model, path)
    with pytest.raises(ArtifactError, match=r"expected model=\.\.\. for .*control flow"):
        artifact.load(path)
    assert torch.equal(artifact.load(path, Branching(6)).linear.weight, model.linear.weight)
    assert torch.equal(artifact.load(path, Branching(9)).linear.weight, model.linear.weight)
    with pytest.raises(ArtifactError, match="names of Linear's"):
        artifact.load(path, nn.Linear(6, 6))


def test_the_callers_network_gets_the_sizes_of_the_compact_one(tmp_path: Path) -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.values, self.out, self.heads = nn.Linear(4, 6), nn.Linear(6, 2), 2

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.tanh(self.values(x)).view(-1, self.heads, 3).flatten(1))

    model, x = Heads(), torch.randn(4, 4)
    with torch.no_grad():
        model.values.weight[:3] = 0
    small = compact(model, x, as_graph=False)
    artifact.save(small, tmp_path / "net")
    fresh = Heads()
    loaded = artifact.load(tmp_path / "net", fresh)
    assert loaded is fresh
    assert (loaded.heads, loaded.values.out_features) == (1, 3)
    assert torch.equal(loaded(x), small(x))
    artifact.save(compact(model, x, as_graph=True), tmp_path / "graph")
    with pytest.raises(ArtifactError, match="saved as a graph; load it without"):
        artifact.load(tmp_path / "graph", Heads())
    rewrite(tmp_path / "net", lambda _, header: header["numbers"].update(heads=10**12))
    with pytest.raises(ArtifactError, match="expected heads of at most 4, got 1000000000000"):
        artifact.load(tmp_path / "net", Heads())


def test_a_graph_that_no_file_can_hold_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.special.erfcx(self.linear(x))

    model = Odd()
    with pytest.raises(InvalidArgumentError, match=r"special_erfcx.* is no function .*as_graph=False"):
        artifact.save(torch.fx.symbolic_trace(model), tmp_path / "net")
    assert not (tmp_path / "net").exists()
    artifact.save(model, tmp_path / "net")
    with pytest.raises(ArtifactError, match=r"expected model=.*special_erfcx"):
        artifact.load(tmp_path / "net")
    assert torch.equal(artifact.load(tmp_path / "net", Odd()).linear.weight, model.linear.weight)


def test_tied_weights_are_written_once(tmp_path: Path) -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.output = nn.Embedding(50, 20), nn.Linear(20, 50, bias=False)
            self.output.weight = self.embedding.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.output(self.embedding(x))

    model, x = Tied().eval(), torch.arange(6)
    assert artifact.save(model, tmp_path / "net") < 1.5 * 4 * 50 * 20
    assert torch.equal(artifact.load(tmp_path / "net")(x), model(x))
    loaded = artifact.load(tmp_path / "net", Tied())
    assert loaded.output.weight is loaded.embedding.weight
    assert torch.equal(loaded(x), model(x))


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
    for version, what_to_do in (("4", "update Secateur"), ("2", "save the network again"), ("", "update")):
        rewrite(saved, lambda metadata, header, version=version: metadata.update(version=version))
        with pytest.raises(ArtifactError, match=rf"expected version 3 in .*got {version}: {what_to_do}"):
            artifact.load(saved)
    save_file({"x": torch.zeros(2)}, saved)
    with pytest.raises(ArtifactError, match="another safetensors file"):
        artifact.load(saved)


def nodes(header: dict[str, Any]) -> list[Any]:
    return header["architecture"]["nodes"]


def insert(node: list[Any]) -> Any:
    return lambda _, header: nodes(header).insert(1, node)


HOSTILE = {
    "function": insert(["call_function", "os.system", ["true"]]),
    "torch function": insert(["call_function", "torch.load", ["x"]]),
    "method": insert(["call_method", "__reduce__", [{"node": 0}]]),
    "attribute": insert(["call_function", "getattr", [{"node": 0}, "__class__"]]),
    "layer": lambda _, h: h["architecture"]["layers"].update(x=["Module.__init__", {}]),
    "no layer": lambda _, h: h["architecture"]["layers"].update(x=["functional", {}]),
    "shape": lambda _, h: h["tensors"][0].__setitem__(2, [1, 1]),
    "missing": lambda _, h: h["tensors"].pop(),
    "kept": lambda _, h: next(t for t in h["tensors"] if len(t) > 4).__setitem__(4, 10**9),
    "bits": lambda _, h: next(t for t in h["tensors"] if len(t) > 4).__setitem__(5, 10**9),
    "type": lambda _, h: h["tensors"][0].__setitem__(1, "load"),
    "argument of a layer": lambda _, h: h["architecture"]["layers"].update(
        x=["Linear", {"in_features": 1, "out_features": 1, "device": "cpu"}]
    ),
    "keyword that the function lacks": insert(["call_function", "F.relu", [{"node": 0}], {"dict": {"x": 1}}]),
    "keyword that the method lacks": insert(["call_method", "sum", [{"node": 0}], {"dict": {"to": 1}}]),
    "keyword that the layer lacks": lambda _, h: next(
        node for node in nodes(h) if node[0] == "call_module"
    ).append({"dict": {"to": 1}}),
    "keyword of Python": insert(["call_method", "sum", [{"node": 0}], {"dict": {"class": 1}}]),
    "keywords that are no dictionary": insert(["call_method", "sum", [{"node": 0}], "dim=1"]),
    "method of the network": insert(["call_module", "to_folder", ["folder"]]),
    "method of the module": insert(["call_module", "register_forward_hook", [{"node": 0}]]),
    "tensor that is none": insert(["get_attr", "__init__.__globals__", []]),
    "calling a number": insert(["call_method", "sum", [5]]),
    "layer's name": lambda _, h: h["architecture"]["layers"].update(forward=["ReLU", {}]),
    "no list": lambda _, h: h["architecture"].update(nodes=[[]]),
    "a node that is not there yet": insert(["call_method", "sum", [{"node": 50}]]),
    "a device by its name": insert(["call_method", "to", [{"node": 0}, "meta"]]),
    "a device as a keyword": insert(["call_function", "torch.zeros", [2], {"dict": {"device": "meta"}}]),
    "a device of its own kind": insert(["call_method", "to", [{"node": 0}, {"device": "cpu"}]]),
    "a type of a layer": lambda _, h: h["architecture"]["layers"].update(
        x=["Linear", {"in_features": 1, "out_features": 1, "dtype": {"dtype": "torch.float64"}}]
    ),
    "a layer without end": lambda _, h: h["architecture"]["layers"].update(
        x=["Linear", {"in_features": 10**9, "out_features": 10**9}]
    ),
    "a padding without end": lambda _, h: h["architecture"]["layers"].update(
        x=["ZeroPad2d", {"padding": 10**7}]
    ),
    "layers in a layer": lambda _, h: h["architecture"]["layers"].update(
        x=["Transformer", {"num_encoder_layers": 10**9}]
    ),
    "recurrent layers": lambda _, h: h["architecture"]["layers"].update(
        x=["LSTM", {"input_size": 1, "hidden_size": 1, "num_layers": 10**9}]
    ),
    "a tensor made of nothing": insert(["call_function", "torch.zeros", [10**6, 10**6]]),
    "a copy of copies": insert(["call_method", "repeat", [{"node": 0}, 10**4, 10**4, 10**4]]),
    "a shape that is none": lambda _, h: h["tensors"][0].__setitem__(2, [-1, -1]),
    "a shape of fractions": lambda _, h: h["tensors"][0].__setitem__(2, [0.5, 4]),
    "a shape of too many axes": lambda _, h: h["tensors"][0].__setitem__(2, [1] * 10_000),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_files_made_to_harm_are_refused(saved: Path, name: str) -> None:
    rewrite(saved, HOSTILE[name])
    with pytest.raises(ArtifactError, match="damaged") as caught:
        artifact.load(saved)
    assert "\n" not in str(caught.value)


def rename_tensor(header: dict[str, Any], code: str) -> None:
    nodes(header).insert(1, ["get_attr", code, []])
    header["tensors"][0][0] = code


# Every place of a file whose text an author chooses, and that could come to stand in the text of a forward.
WRITTEN_OUT = {
    "class": lambda h, code: h["architecture"].update({"class": code}),
    "kind of a layer": lambda h, code: h["architecture"]["layers"].update(x=[code, {}]),
    "argument's name of a layer": lambda h, code: h["architecture"]["layers"].update(x=["ReLU", {code: 1}]),
    "argument of a layer": lambda h, code: h["architecture"]["layers"].update(x=["Upsample", {"mode": code}]),
    "path of a layer": lambda h, code: (
        h["architecture"]["layers"].update({code: ["ReLU", {}]}),
        nodes(h).insert(1, ["call_module", code, [{"node": 0}]]),
    ),
    "tensor": lambda h, code: rename_tensor(h, code),
    "type of a tensor": lambda h, code: h["tensors"][0].__setitem__(1, code),
    "parameter": lambda h, code: h["parameters"].append(code),
    "CSR layer": lambda h, code: h.update(csr=[code]),
    "operation": lambda h, code: nodes(h).insert(1, [code, "x", []]),
    "placeholder": lambda h, code: nodes(h).insert(1, ["placeholder", code, []]),
    "default of a placeholder": lambda h, code: nodes(h)[0].__setitem__(2, [code]),
    "function": lambda h, code: nodes(h).insert(1, ["call_function", code, []]),
    "method": lambda h, code: nodes(h).insert(1, ["call_method", code, [{"node": 0}]]),
    "called layer": lambda h, code: nodes(h).insert(1, ["call_module", code, [{"node": 0}]]),
    "attribute of the network": lambda h, code: nodes(h).insert(1, ["get_attr", code, []]),
    "attribute of a tensor": lambda h, code: nodes(h).insert(
        1, ["call_function", "getattr", [{"node": 0}, code]]
    ),
    "text": lambda h, code: nodes(h).insert(1, ["call_function", "torch.einsum", [code, {"node": 0}]]),
    "text in a list": lambda h, code: nodes(h).insert(1, ["call_function", "torch.cat", [[code]]]),
    "key of a dictionary": lambda h, code: nodes(h).insert(
        1, ["call_function", "torch.cat", [{"dict": {code: {"node": 0}}}]]
    ),
    "slice": lambda h, code: nodes(h).insert(
        1, ["call_function", "operator.getitem", [{"node": 0}, {"slice": [code, None, None]}]]
    ),
    "dtype": lambda h, code: nodes(h).insert(1, ["call_method", "to", [{"node": 0}, {"dtype": code}]]),
    "device": lambda h, code: nodes(h).insert(1, ["call_method", "to", [{"node": 0}, {"device": code}]]),
    "float": lambda h, code: nodes(h).insert(1, ["call_method", "mul", [{"node": 0}, {"float": code}]]),
    "kind of an argument": lambda h, code: nodes(h).insert(1, ["call_method", "mul", [{code: 1}]]),
    "keyword of a function": lambda h, code: nodes(h).insert(
        1, ["call_function", "F.relu", [{"node": 0}], {"dict": {code: False}}]
    ),
    "keyword of a method": lambda h, code: nodes(h).insert(
        1, ["call_method", "sum", [{"node": 0}], {"dict": {code: 1}}]
    ),
    "keyword of a layer": lambda h, code: next(n for n in nodes(h) if n[0] == "call_module").append({
        "dict": {code: 1}
    }),
    "keyword of an output": lambda h, code: nodes(h)[-1].append({"dict": {code: 1}}),
    "keyword's text": lambda h, code: nodes(h).insert(
        1, ["call_function", "F.interpolate", [{"node": 0}], {"dict": {"mode": code}}]
    ),
}
SHAPES_OF_CODE = {
    "expression": "{run}",
    "argument": "a={run}, b",
    "end of a call": "x)\n    {run}\n    (y",
    "end of a text": "'+{run}+'",
    "end of a longer text": '"+{run}+"',
    "statement": "x; {run}; y",
    "line": "x\n    {run}",
    "default": "x={run}",
}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("saved") / "net"
    artifact.save(nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), path)
    return path.read_bytes()


@pytest.mark.parametrize("place", WRITTEN_OUT)
def test_no_text_of_a_file_is_run(tiny: bytes, tmp_path: Path, place: str) -> None:
    path, marker = tmp_path / "net", tmp_path / "it ran"
    run = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    for shape in SHAPES_OF_CODE.values():
        path.write_bytes(tiny)
        rewrite(path, lambda _, header, shape=shape: WRITTEN_OUT[place](header, shape.format(run=run)))
        try:
            network = artifact.load(path)
        except ArtifactError as error:
            assert "\n" not in str(error)  # noqa: PT017 (both ways are right: values are only ever values)
        else:
            assert place in {"text", "text in a list", "key of a dictionary", "slice", "parameter"} | {
                "default of a placeholder",
                "keyword's text",
                "argument of a layer",
            }
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                if place not in {"parameter", "argument of a layer", "default of a placeholder"}:
                    with pytest.raises((TypeError, ValueError, RuntimeError, NotImplementedError)):
                        network(torch.zeros(1, 1, 2, 2))
                else:
                    network(torch.zeros(1, 1, 2, 2))
        assert not marker.exists()


def test_keywords_that_torch_takes_come_back(tmp_path: Path) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.attention(query=x, key=x, value=x, need_weights=False)[0]
            x = torch.nn.functional.softmax(x, dim=-1).sum(axis=1, keepdim=True).flatten(start_dim=1)
            x = torch.nn.functional.max_pool1d(x, kernel_size=2, return_indices=False)
            return torch.add(input=x, other=x, alpha=2).to(dtype=torch.float64).mean(dim=0, keepdims=True)

    network, x = Network().eval(), torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    artifact.save(network, tmp_path / "net")
    assert torch.equal(artifact.load(tmp_path / "net")(x), network(x))


def test_code_that_reads_shapes_is_saved_by_an_example(tmp_path: Path) -> None:
    class Network(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.reshape(len(x) // 2, -1) if len(x) > 1 else x

    network, x = Network().eval(), torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    artifact.save(network, tmp_path / "net")
    with pytest.raises(ArtifactError, match="expected model="):
        artifact.load(tmp_path / "net")
    artifact.save(network, tmp_path / "net", example_input=x)
    assert torch.equal(artifact.load(tmp_path / "net")(x), network(x))


def test_one_byte_of_a_type_is_noticed(tmp_path: Path) -> None:
    artifact.save(nn.Linear(3, 2), tmp_path / "net")
    content = (tmp_path / "net").read_bytes()
    assert content.count(b'"F32"') == 1
    (tmp_path / "net").write_bytes(content.replace(b'"F32"', b'"I32"'))
    with pytest.raises(ArtifactError, match="another checksum"):
        artifact.load(tmp_path / "net")


def test_a_description_that_unfolds_without_end_is_refused(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(artifact, "_LARGEST_TEXT", 50_000)  # of any file
    assert artifact.load(saved) is not None
    put_back(saved, load_file(saved), b" " * 50_001, {"format": "secateur-network", "version": "3"})
    with pytest.raises(ArtifactError, match="damaged one: the description is cut off or longer than 50000"):
        artifact.load(saved)


@pytest.mark.parametrize("shape", [[10**12], [1 << 40, 1 << 40], [0, 10**12, 10**12], [4097, 4097]])
def test_zeros_without_end_are_not_unfolded(tiny: bytes, tmp_path: Path, shape: list[int]) -> None:
    path = tmp_path / "net"
    path.write_bytes(tiny)
    more = ["more", "float64", shape, "float32", 0, 0, 0, 0]
    rewrite(path, lambda _, header: header["tensors"].append(more))
    if 0 in shape:
        assert artifact.load(path)(torch.zeros(1, 4)).shape == (1, 2)
        return
    with pytest.raises(
        ArtifactError, match=r"at most 16,777,216 weights in a file of this size.*max_weights="
    ):
        artifact.load(path)
    if shape == [4097, 4097]:
        assert artifact.load(path, max_weights=1 << 25)(torch.zeros(1, 4)).shape == (1, 2)


def test_a_small_file_holds_no_sixty_megabytes_of_text(saved: Path) -> None:
    tensors, metadata = load_file(saved), {"format": "secateur-network", "version": "3"}
    put_back(saved, tensors, b'{"tensors":[' + b"[]," * 20_000_000, metadata)
    assert saved.stat().st_size < 100_000
    with pytest.raises(ArtifactError, match="longer than"):
        artifact.load(saved)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net")
    with pytest.raises(ArtifactError, match="no ordinary file"):
        artifact.load(tmp_path / "net")


@pytest.mark.parametrize("text", [b"", b"{", b"\xff", b"[]"])
def test_a_description_that_is_none_is_damage(saved: Path, text: bytes) -> None:
    put_back(saved, load_file(saved), text, {"format": "secateur-network", "version": "3"})
    with pytest.raises(ArtifactError, match="damaged one"):
        artifact.load(saved)


def test_without_a_description_the_file_is_damaged(saved: Path) -> None:
    tensors = {name: tensor for name, tensor in load_file(saved).items() if name != "network"}
    metadata = {"format": "secateur-network", "version": "3", "sha256": tensors_checksum(tensors)}
    save_file(tensors, saved, metadata)
    with pytest.raises(ArtifactError, match="damaged one"):
        artifact.load(saved)


def test_unknown_value_types_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="values: expected one of float32"):
        artifact.save(reduced_mlp(), tmp_path / "net", values="int8")


def test_a_failed_save_leaves_the_old_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = saved.read_bytes()

    def broken(descriptor: int) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(ArtifactError, match="disk full; free space"):
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
    kernels = [KernelRow(n, (), 0.8, 1.0, 0.5, "csr") for n in ("3",)]
    plain = artifact.save(small, tmp_path / "plain.safetensors")
    named = artifact.save(sparse(small, x, kernels=kernels), tmp_path / "sparse.safetensors")
    assert named - plain < 64
    loaded = artifact.load(tmp_path / "sparse.safetensors")
    assert isinstance(loaded.get_submodule("3"), CsrLinear)
    torch.testing.assert_close(loaded(x), model(x), rtol=1e-12, atol=1e-12)
