"""Every kind of network keeps its class when whole units go: the outputs of the zeroed one, fewer weights.

In each cell units of feed-forward layers, and whole heads where there are any, are removed by zeros, and the
network is compacted. The parameters that it loses are counted by hand.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from secateur import networks
from secateur.compaction import changed_widths, compact, resize_like
from secateur.modules import batch_size, call, largest_relative_difference, map_tensors

NUM_TOKENS = 30
IMAGE = (3, 16, 16)
ZEROS = dict[str, tuple[int, Iterable[int]]]


class Recurrent(nn.Module):
    """An embedding, one LSTM and a head on its last output and state."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(NUM_TOKENS, 6)
        self.lstm = nn.LSTM(6, 10, batch_first=True)
        self.head = nn.Linear(10, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        outputs, (hidden, _) = self.lstm(self.embedding(tokens))
        return self.head(outputs[:, -1] + hidden[-1])


def ours(name: str, image: tuple[int, int, int], **options: Any) -> Callable[[], nn.Module]:
    return lambda: networks.build(name, image_shape=image, num_classes=4, seed=0, **options)


def transformer(kind: str, **options: Any) -> Callable[[], nn.Module]:
    library = import_module("transformers")
    config, network = {
        "bert": (library.BertConfig, library.BertForSequenceClassification),
        "gpt2": (library.GPT2Config, library.GPT2LMHeadModel),
        "llama": (library.LlamaConfig, library.LlamaForCausalLM),
        "vit": (library.ViTConfig, library.ViTForImageClassification),
    }[kind]
    return lambda: network(config(**options))


def images(*shape: int) -> Callable[[torch.Generator], Tensor]:
    return lambda generator: torch.randn(2, *shape, generator=generator)


def sentences(generator: torch.Generator) -> dict[str, Tensor]:
    tokens = torch.randint(3, NUM_TOKENS, (2, 7), generator=generator)
    return {"input_ids": tokens, "attention_mask": torch.tensor([[1] * 7, [1] * 5 + [0] * 2])}


def gates(count: int, units: Iterable[int]) -> list[int]:
    return [gate * count + unit for gate in range(4) for unit in units]


@dataclass(frozen=True)
class Case:
    """A network, its inputs, what is zeroed, and how many parameters that makes superfluous.

    Attributes:
        make: Builds the network.
        example: Draws a batch.
        zeros: Axis and positions of the zeros, by parameter.
        gone: Parameters that the compact network has less.
        sizes: Some attributes of its modules.
    """

    make: Callable[[], nn.Module]
    example: Callable[[torch.Generator], Any]
    zeros: ZEROS
    gone: int
    sizes: dict[str, int]


HEAD = range(8, 16)  # the second of four heads of eight, or two query heads of four
LSTM_PARAMETERS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
TOKENS = {"vocab_size": NUM_TOKENS, "bos_token_id": 1, "eos_token_id": 2}
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 48}
CASES = {
    "mlp": Case(
        ours("mlp", (1, 4, 4), width=20, depth=2),
        images(1, 4, 4),
        {"hidden.linear1.weight": (0, (1, 3)), "output.weight": (1, (5,))},
        2 * (17 + 19) + (21 + 4),
        {"hidden.linear2.out_features": 19},
    ),
    "lenet": Case(
        ours("lenet", (1, 32, 32)),
        images(1, 32, 32),
        {"conv1.weight": (0, (2,)), "conv3.weight": (1, (0, 4)), "dense.weight": (0, (7,))},
        (26 + 16 * 25) + 2 * (5 * 25 + 1 + 120 * 25) + (121 + 4),
        {"conv1.out_channels": 5, "conv3.in_channels": 14, "output.in_features": 83},
    ),
    "resnet20": Case(
        ours("resnet20", IMAGE, num_blocks=1, width=8),
        images(*IMAGE),
        {"layer2.0.conv2.weight": (1, (0, 5, 6))},
        3 * (8 * 9 + 2 + 16 * 9),
        {"layer2.0.conv1.out_channels": 13, "layer2.0.bn1.num_features": 13},
    ),
    "vit": Case(
        ours("vit", IMAGE, width=32, depth=1, num_heads=4),
        images(*IMAGE),
        {"blocks.0.attention.projection.weight": (1, HEAD), "blocks.0.expand.weight": (0, (9,))},
        8 * (3 * 33 + 32) + (33 + 32),
        {"blocks.0.attention.query.out_features": 24, "blocks.0.contract.in_features": 63},
    ),
    "mlp-mixer": Case(
        ours("mlp-mixer", IMAGE, width=12, token_width=10, channel_width=14, depth=1),
        images(*IMAGE),
        {
            "blocks.0.mix_tokens.contract.weight": (1, (3,)),
            "blocks.0.mix_channels.expand.weight": (0, (1, 2)),
        },
        (17 + 16) + 2 * (13 + 12),
        {"blocks.0.mix_tokens.expand.out_features": 9},
    ),
    "lstm": Case(
        Recurrent,
        lambda generator: torch.randint(NUM_TOKENS, (2, 6), generator=generator),
        {
            **{f"lstm.{kind}_l0": (0, gates(10, (1, 4))) for kind in LSTM_PARAMETERS},
            "embedding.weight": (1, (2,)),
        },
        2 * (4 * (6 + 2) + 4) + (4 * 10 + 4 * 8) * 2 + (NUM_TOKENS + 4 * 8),
        {"lstm.hidden_size": 8, "lstm.input_size": 5, "head.in_features": 8},
    ),
    "bert": Case(
        transformer("bert", num_attention_heads=4, num_labels=4, **TINY, **TOKENS),
        sentences,
        {
            "bert.encoder.layer.0.intermediate.dense.weight": (0, (1, 5)),
            "bert.encoder.layer.1.attention.output.dense.weight": (1, HEAD),
        },
        2 * (33 + 32) + 8 * (3 * 33 + 32),
        {
            "bert.encoder.layer.1.attention.self.num_attention_heads": 3,
            "bert.encoder.layer.1.attention.self.all_head_size": 24,
            "bert.encoder.layer.0.attention.self.all_head_size": 32,
        },
    ),
    "gpt2": Case(
        transformer("gpt2", n_embd=32, n_layer=2, n_head=4, n_positions=32, **TOKENS),
        sentences,
        {"transformer.h.0.mlp.c_fc.weight": (1, (1, 5)), "transformer.h.1.attn.c_proj.weight": (0, HEAD)},
        2 * (33 + 32) + 8 * (3 * 33 + 32),
        {"transformer.h.1.attn.num_heads": 3, "transformer.h.1.attn.split_size": 24},
    ),
    "llama": Case(
        transformer("llama", num_attention_heads=8, num_key_value_heads=4, **TINY, **TOKENS),
        sentences,
        {
            "model.layers.0.mlp.gate_proj.weight": (0, (1, 5)),
            "model.layers.1.self_attn.o_proj.weight": (1, HEAD),
        },
        2 * 3 * 32 + (8 * 32 + 2 * 4 * 32 + 32 * 8),
        {"model.layers.0.mlp.intermediate_size": 46, "model.layers.1.self_attn.k_proj.out_features": 12},
    ),
    "transformers-vit": Case(
        transformer("vit", num_attention_heads=4, image_size=16, patch_size=8, num_labels=4, **TINY),
        lambda generator: {"pixel_values": torch.randn(2, *IMAGE, generator=generator)},
        {"vit.layers.0.mlp.fc1.weight": (0, (1, 5)), "vit.layers.1.attention.o_proj.weight": (1, HEAD)},
        2 * (33 + 32) + 8 * (3 * 33 + 32),
        {"vit.layers.1.attention.num_attention_heads": 3},
    ),
}  # fmt: skip
GENERATING = ("gpt2", "llama")
LIBRARY = ("bert", "gpt2", "llama", "transformers-vit")


def made(name: str) -> nn.Module:
    """Return the network of a case, its units zeroed, nothing else zero or constant by chance."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = CASES[name].make().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1 * torch.randn(parameter.shape)
            for path, (axis, positions) in CASES[name].zeros.items():
                model.get_parameter(path).index_fill_(axis, torch.tensor(list(positions)), 0.0)
    return model


def batch(name: str, seed: int) -> Any:
    return CASES[name].example(torch.Generator().manual_seed(seed))


def num_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@torch.no_grad()
def assert_same_outputs(model: nn.Module, small: nn.Module, inputs: Any) -> None:
    assert batch_size(inputs)
    assert largest_relative_difference(call(model, inputs), call(small, inputs)) < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_the_class_is_kept_and_the_units_are_gone(name: str) -> None:
    model = made(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    small = compact(model, batch(name, 0))
    assert type(small) is type(model)
    assert small.state_dict().keys() == model.state_dict().keys()
    assert num_parameters(model) - num_parameters(small) == CASES[name].gone
    for path, size in CASES[name].sizes.items():
        owner, _, attribute = path.rpartition(".")
        assert getattr(small.get_submodule(owner), attribute) == size
    for seed in (1, 2):
        assert_same_outputs(model, small, batch(name, seed))
    assert_same_outputs(model, small, map_tensors(lambda x: torch.cat([x, x[:1]]), batch(name, 3)))
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", CASES)
def test_a_fresh_network_takes_the_smaller_shapes(name: str) -> None:
    small = compact(made(name), batch(name, 0))
    fresh = CASES[name].make().eval()
    shapes = {key: tuple(value.shape) for key, value in small.state_dict().items()}
    resize_like(fresh, shapes, changed_widths(small, fresh))
    fresh.load_state_dict(small.state_dict())
    assert_same_outputs(small, fresh, batch(name, 1))
    assert num_parameters(fresh) == num_parameters(small)


@pytest.mark.parametrize("name", CASES)
def test_it_trains_on(name: str) -> None:
    small = compact(made(name).train(), batch(name, 0))
    assert all(module.training for module in small.modules())
    outputs = call(small, batch(name, 1))
    (outputs if isinstance(outputs, Tensor) else outputs.logits).square().sum().backward()
    used = [p.grad is not None for n, p in small.named_parameters() if "mask_token" not in n]
    assert all(used)


@pytest.mark.parametrize("name", GENERATING)
def test_the_same_tokens_are_generated(name: str) -> None:
    model = made(name)
    small = compact(model, batch(name, 0))
    tokens = batch(name, 4)["input_ids"]
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    whole, few = (
        net.generate(tokens, attention_mask=torch.ones_like(tokens), **options) for net in (model, small)
    )
    assert whole.shape == (2, 15)
    assert torch.equal(whole, few)


@pytest.mark.parametrize("name", LIBRARY)
def test_save_pretrained_writes_the_smaller_weights(name: str, tmp_path: Any) -> None:
    small = compact(made(name), batch(name, 0))
    small.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert sum(tensor.numel() for tensor in saved.values()) == num_parameters(small)


def test_a_tied_head_stays_tied() -> None:
    small = compact(made("gpt2"), batch("gpt2", 0))
    assert small.lm_head.weight is small.transformer.wte.weight
