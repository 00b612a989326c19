"""Networks of the Transformers library, tiny: every way to prune, with padding, ignored labels, tied tables.

The data are dicts as the library's collators make them. Encoder-decoders get labels alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.compaction.units import find_units
from secateur.curvature import RunningCurvature, estimate
from secateur.curvature.batches import read_batch
from secateur.errors import InvalidArgumentError
from secateur.inference import Calibrated, laplace
from secateur.modules import held_masks
from secateur.pruning import Schedule

library: Any = pytest.importorskip("transformers")
NUM_TOKENS, NUM_CLASSES, PADDED = 30, 3, 0
TOKENS = {"vocab_size": NUM_TOKENS, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": PADDED}
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 24, "num_attention_heads": 4}
T5 = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": PADDED}
Batch = dict[str, Tensor]


def sentences(generator: torch.Generator) -> Batch:
    tokens, attended = torch.randint(3, NUM_TOKENS, (4, 7), generator=generator), torch.ones(4, 7).long()
    tokens[1, 5:], attended[1, 5:] = PADDED, 0
    return {"input_ids": tokens, "attention_mask": attended}


def classes(generator: torch.Generator) -> Batch:
    return {**sentences(generator), "labels": torch.randint(NUM_CLASSES, (4,), generator=generator)}


def next_tokens(generator: torch.Generator) -> Batch:
    batch = sentences(generator)
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    labels[0, :3] = -100  # a prompt that nobody asks about
    return {**batch, "labels": labels}


def answers(generator: torch.Generator) -> Batch:
    labels = torch.randint(3, NUM_TOKENS, (4, 5), generator=generator)
    labels[2, 3:] = -100
    return {**sentences(generator), "labels": labels}


def images(generator: torch.Generator) -> Batch:
    pixels = torch.randn(4, 3, 16, 16, generator=generator)
    return {"pixel_values": pixels, "labels": torch.randint(NUM_CLASSES, (4,), generator=generator)}


@dataclass(frozen=True)
class Case:
    """A kind of network, and data for it.

    Attributes:
        config: Name of its config.
        network: Name of its class.
        options: Of the config.
        batch: Draws a batch.
        heads: Whether heads can go one by one.
    """

    config: str
    network: str
    options: dict[str, Any]
    batch: Callable[[torch.Generator], Batch]
    heads: bool = True

    def build(self) -> nn.Module:
        config = getattr(library, self.config)(**self.options)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = getattr(library, self.network)(config).eval()
            with torch.no_grad():
                for parameter in model.parameters():  # none zero or constant by chance
                    parameter += 0.1 * torch.randn(parameter.shape)
        return model

    def data(self) -> list[Batch]:
        return [self.batch(torch.Generator().manual_seed(seed)) for seed in range(3)]


CASES = {
    "bert": Case(
        "BertConfig",
        "BertForSequenceClassification",
        {"num_labels": NUM_CLASSES, "max_position_embeddings": 16, **SIZES, **TOKENS},
        classes,
    ),
    "distilbert": Case(
        "DistilBertConfig",
        "DistilBertForSequenceClassification",
        {
            "vocab_size": NUM_TOKENS, "dim": 16, "n_layers": 2, "n_heads": 4, "hidden_dim": 24,
            "num_labels": NUM_CLASSES, "max_position_embeddings": 16,
        },
        classes,
    ),
    "gpt2": Case(
        "GPT2Config",
        "GPT2LMHeadModel",
        {"n_embd": 16, "n_layer": 2, "n_head": 4, "n_positions": 32, "loss_type": "ForCausalLM", **TOKENS},
        next_tokens,
    ),
    "llama": Case(
        "LlamaConfig", "LlamaForCausalLM", {"num_key_value_heads": 2, **SIZES, **TOKENS}, next_tokens
    ),
    "llama-tied": Case(
        "LlamaConfig",
        "LlamaForCausalLM",
        {"num_key_value_heads": 2, "tie_word_embeddings": True, **SIZES, **TOKENS},
        next_tokens,
    ),
    "vit": Case(
        "ViTConfig",
        "ViTForImageClassification",
        {"image_size": 16, "patch_size": 8, "num_labels": NUM_CLASSES, **SIZES},
        images,
    ),
    # all layers share the relative positions of the first, so a head goes in all of them or in none
    "t5": Case("T5Config", "T5ForConditionalGeneration", {**T5, **TOKENS}, answers, heads=False),
    "t5-gated": Case(
        "T5Config",
        "T5ForConditionalGeneration",
        {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, **T5, **TOKENS},
        answers,
        heads=False,
    ),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def assert_tables_stay(model: nn.Module) -> None:
    """Check that no entry of an embedding is held, nor one of what is tied to it."""
    tables = {id(each.weight) for each in model.modules() if isinstance(each, nn.Embedding)}
    parameters = dict(model.named_parameters(remove_duplicate=False))
    masks = held_masks(model)
    assert masks
    assert not [name for name in masks if id(parameters[name]) in tables]


def call_arguments(model: nn.Module, batch: Batch) -> Batch:
    return read_batch(batch, torch.device("cpu"), model).example[1]


def test_weights_of_a_trained_network_go(case: Case, tmp_path: Path) -> None:
    """And what is left is the same through `save_pretrained` and `from_pretrained`."""
    model, data = case.build(), case.data()
    result = secateur.prune_trained(model, data, sparsity=0.4, rounds=2, held_out=data, progress=False)
    assert result.sparsity == pytest.approx(0.4, abs=0.01)
    assert result.num_data == 2 * sum(int((batch["labels"] != -100).sum()) for batch in data) or (
        case.batch is next_tokens  # whose first tokens nobody predicts
    )
    assert_tables_stay(model)
    model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    own, found = model.state_dict(), loaded.state_dict()
    assert own.keys() == found.keys()
    assert all(torch.equal(own[name], found[name]) for name in own)
    masks = held_masks(model)
    assert all(torch.equal(mask, masks[name]) for name, mask in secateur.hold_zeros(loaded).items())


@pytest.mark.parametrize("kind", ["head", "neuron"])
def test_units_go_and_the_network_shrinks(case: Case, kind: str, tmp_path: Path) -> None:
    """Feed-forward neurons, and heads with the queries that share a key and a value where some do."""
    if kind == "head" and not case.heads:
        pytest.skip("its heads are one by shared positions; see below")
    model, data = case.build(), case.data()
    result = secateur.prune_trained(
        model, data, sparsity=0.3, rounds=1, granularity=kind, held_out=data, progress=False
    )
    assert sum(result.units_after.values()) < sum(result.units_before.values())
    assert_tables_stay(model)
    inputs = call_arguments(model, data[0])
    small = secateur.compact(model, inputs)
    assert type(small) is type(model)
    assert sum(p.numel() for p in small.parameters()) < 0.97 * sum(p.numel() for p in model.parameters())
    secateur.save(small, tmp_path)
    loaded = secateur.load(tmp_path)
    assert type(loaded) is type(model)
    with torch.no_grad():
        expected = model(**inputs).logits
        torch.testing.assert_close(small(**inputs).logits, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(loaded(**inputs).logits, small(**inputs).logits)
    if case.batch in (next_tokens, answers):
        options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": PADDED}
        prompt = {"input_ids": inputs["input_ids"][2:], "attention_mask": inputs["attention_mask"][2:]}
        assert torch.equal(model.generate(**prompt, **options), loaded.generate(**prompt, **options))


def test_heads_that_share_positions_are_refused_in_a_line() -> None:
    case = CASES["t5"]
    with pytest.raises(InvalidArgumentError, match="granularity: expected heads that one layer reads"):
        secateur.prune_trained(case.build(), case.data(), granularity="head", sparsity=0.2, progress=False)


def test_queries_that_share_a_key_and_value_are_one_unit() -> None:
    case = CASES["llama"]
    model = case.build()
    units = find_units(model, call_arguments(model, case.data()[0]))
    assert units.kind.count("head") == 2 * 2  # layers times key-value heads, not query heads


@pytest.mark.parametrize("structure", ["diagonal", "row", "kronecker"])
def test_laplace(case: Case, structure: str) -> None:
    model, data = case.build(), case.data()
    posterior = laplace(model, data, structure=structure, outputs="sampled")
    assert set(posterior.mean) == {name for name, _ in model.named_parameters()}
    result = secateur.prune(model, posterior, sparsity=0.25)
    assert result.sparsity == pytest.approx(0.25, abs=0.01)
    assert_tables_stay(model)


@pytest.mark.filterwarnings("ignore:GradualPruner.step:secateur.pruning.PruningWarning")  # after three looks
def test_gradual_pruning_while_it_trains(case: Case) -> None:
    model, data = case.build().train(), case.data()
    curvature = RunningCurvature(model, every=1)
    optimizer = Calibrated(model.named_parameters(), lr=1e-3, num_data=12, curvature=curvature)
    schedule = Schedule(first_epoch=1, last_epoch=1)
    pruner = secateur.GradualPruner(
        model,
        optimizer,
        schedule,
        observe=lambda: sum(float(model(**batch).loss) for batch in data) / len(data),
        sparsity=0.2,
    )
    for batch in data:
        with optimizer.sampled_parameters():
            optimizer.zero_grad()
            model(**batch).loss.backward()
        optimizer.step()
        curvature.step(batch)
    result = pruner.step()
    assert result.num_removed == pytest.approx(0.2 * sum(p.numel() for p in model.parameters()), rel=0.01)
    assert_tables_stay(model)


def test_labels_alone_are_the_same_as_with_the_decoders_inputs() -> None:
    case = CASES["t5"]
    model = case.build()
    alone = case.data()
    whole = [
        {**batch, "decoder_input_ids": model.prepare_decoder_input_ids_from_labels(batch["labels"])}
        for batch in alone
    ]
    found, expected = (estimate(model, batches, seed=3) for batches in (alone, whole))
    assert found.num_seen == sum(int((batch["labels"] != -100).sum()) for batch in alone)
    for name, layer in expected.layers.items():
        assert torch.equal(found.layers[name].A, layer.A)
        assert torch.equal(found.layers[name].row_sums, layer.row_sums)


def test_a_source_as_long_as_its_target_is_not_taken_for_it() -> None:
    """Padding of the encoder hides no position of the decoder: all of its labels count."""
    case = CASES["t5"]
    model, batch = case.build(), dict(case.data()[0])
    batch["labels"] = torch.randint(3, NUM_TOKENS, (4, 7), generator=torch.Generator().manual_seed(5))
    assert estimate(model, [batch]).num_seen == 4 * 7


def test_rows_of_a_table_are_no_neurons() -> None:
    model = CASES["bert"].build()
    posterior = laplace(model, CASES["bert"].data(), outputs="sampled")
    result = secateur.prune(model, posterior, granularity="neuron", sparsity=0.2)
    assert not [row.name for row in result.layers if "embeddings" in row.name and row.num_removed]
    assert_tables_stay(model)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, each in CASES.items() if each.batch is not answers])
def test_onnx_by_the_names_of_its_arguments(name: str, tmp_path: Path) -> None:
    """For any number of data and tokens, without padding; torch's exporter refuses T5.

    What a decoder answers at padding, where it attends to nothing, differs between the two engines.
    """
    model, data = CASES[name].build(), CASES[name].data()
    options = {"granularity": "neuron", "sparsity": 0.2, "rounds": 1, "held_out": data, "progress": False}
    secateur.prune_trained(model, data, **options)
    inputs = call_arguments(model, data[0])
    if "attention_mask" in inputs:
        inputs["attention_mask"] = torch.ones_like(inputs["attention_mask"])
    written = secateur.export.onnx(secateur.compact(model, inputs), tmp_path / "network.onnx", inputs)
    run = import_module("secateur.export.onnx_graph").onnx_session(written.path)
    shorter = {key: value[:3, :5] if value.dim() == 2 else value[:3] for key, value in inputs.items()}
    with torch.no_grad():
        (found,) = run(shorter)
        torch.testing.assert_close(found, model(**shorter).logits, rtol=1e-4, atol=1e-5)
