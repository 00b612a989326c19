"""`secateur.save` and `secateur.load`: what is saved comes back, small, of its class where that is known."""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import secateur
from secateur.errors import ArtifactError
from secateur.export import transformers_network
from secateur.export.class_network import build_named, fit, numbers_of, registered_name
from secateur.networks import build, names
from support.files import files

transformers: Any = pytest.importorskip("transformers")
IDS = torch.arange(16).reshape(2, 8)


def bert() -> nn.Module:
    config = transformers.BertConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        vocab_size=40,
        max_position_embeddings=16,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network: nn.Module = transformers.BertForSequenceClassification(config).eval()
    return network


def small_bert() -> nn.Module:
    network = bert()
    with torch.no_grad():
        layer = network.bert.encoder.layer[1].intermediate.dense  # type: ignore[union-attr, index]
        layer.weight[5:15], layer.bias[5:15] = 0, 0
    return secateur.compact(network, {"input_ids": IDS})


def test_a_compact_network_comes_back_without_its_code(tmp_path: Path) -> None:
    model = build("lenet", image_shape=(1, 32, 32), num_classes=10, seed=0).eval()
    with torch.no_grad():
        model.conv2.weight[3:9], model.conv2.bias[3:9] = 0, 0
    x = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    small = secateur.compact(model, x)
    assert secateur.save(small, tmp_path / "a" / "small") == tmp_path / "a" / "small" / "network.safetensors"
    torch.testing.assert_close(secateur.load(tmp_path / "a" / "small")(x), model(x))
    for fresh in (None, build("lenet", image_shape=(1, 32, 32), num_classes=10)):
        loaded = secateur.load(tmp_path / "a" / "small", fresh)
        assert type(loaded) is type(model)
        torch.testing.assert_close(loaded(x), model(x))
        assert loaded.conv2.out_channels == 10


@pytest.mark.parametrize("name", names())
def test_networks_of_ours_are_known_by_name(name: str) -> None:
    model = build(name, image_shape=(3, 32, 32), num_classes=7, seed=1).eval()
    assert registered_name(model) == name
    rebuilt = fit(build_named(name), model.state_dict(), numbers_of(model))
    x = torch.randn(2, 3, 32, 32)
    assert torch.equal(rebuilt(x), model(x))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mlp", {"dropout": 0.1}),
        ("mlp", {"activation": "relu"}),
        ("mlp", {"depth": 2}),
        ("vit", {"depth": 5}),
    ],
)
def test_networks_of_other_options_are_not(name: str, options: dict[str, Any]) -> None:
    assert registered_name(build(name, image_shape=(1, 32, 32), num_classes=7, **options)) is None


def test_masks_are_zeros_in_the_file(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 3))
    mask = torch.rand(200, 200, generator=torch.Generator().manual_seed(0)) > 0.95
    secateur.modules.hold(model, {"0.weight": mask})
    path = secateur.save(model, tmp_path)
    assert path.stat().st_size < 200 * 200  # a byte for each weight of the dense one
    x = torch.randn(2, 200)
    assert torch.equal(secateur.load(tmp_path)(x), model(x))


def test_where_sizes_fit_the_library_reads_the_directory_itself(tmp_path: Path) -> None:
    model = bert().bfloat16()
    secateur.save(model, tmp_path)
    theirs = transformers.BertForSequenceClassification.from_pretrained(tmp_path, dtype="auto")
    for loaded in (theirs, secateur.load(tmp_path)):
        assert type(loaded) is type(model)
        assert all(torch.equal(model.state_dict()[name], x) for name, x in loaded.state_dict().items())
        assert loaded.dtype == torch.bfloat16
    with pytest.raises(ArtifactError, match="model: expected none"):
        secateur.load(tmp_path, bert())


def test_where_they_do_not_the_class_comes_back_by_our_file(tmp_path: Path) -> None:
    small = small_bert()
    secateur.save(bert(), tmp_path)
    assert secateur.save(small, tmp_path).name == "network.safetensors"
    assert "model.safetensors" not in files(tmp_path)  # a directory holds one network
    loaded = secateur.load(tmp_path)
    assert type(loaded) is type(small)
    assert loaded.bert.encoder.layer[1].intermediate.dense.out_features == 14
    assert torch.equal(loaded(IDS).logits, small(IDS).logits)
    secateur.save(bert(), tmp_path)
    assert secateur.load(tmp_path).bert.encoder.layer[1].intermediate.dense.out_features == 24


def test_types_of_weights_come_back(tmp_path: Path) -> None:
    for network in (small_bert().bfloat16(), build("mlp", image_shape=(1, 4, 4), num_classes=2).double()):
        secateur.save(network, tmp_path)
        found = secateur.load(tmp_path).state_dict()
        assert {name: x.dtype for name, x in network.state_dict().items()} == {
            n: x.dtype for n, x in found.items()
        }


def test_a_directory_without_a_network_is_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="no such file"):
        secateur.load(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_hidden_layers": 10**9}, "config that asks for more"),
        ({"vocab_size": 10**10}, "config that asks for more"),
        (
            {"attn_implementation": "someone/kernels"},
            "names no code, got attn_implementation 'someone/kernels'",
        ),
        ({"_attn_implementation_internal": "some/one"}, "names no code"),
    ],
)
@pytest.mark.parametrize("small", [True, False])
def test_a_config_neither_builds_without_end_nor_names_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bool, change: dict[str, Any], said: str
) -> None:
    if small:
        told = transformers_network.describe

        def changed(network: nn.Module) -> dict[str, Any]:
            found = told(network)
            assert found is not None
            return {**found, "config": found["config"] | change}

        network = small_bert()
        monkeypatch.setattr(transformers_network, "describe", changed)
        import_module("secateur.export.artifact").save(network, tmp_path / "network.safetensors")
    else:
        secateur.save(bert(), tmp_path)
        path = tmp_path / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ArtifactError, match=said):
        secateur.load(tmp_path)
