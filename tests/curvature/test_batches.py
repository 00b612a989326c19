"""Batches of every kind, padding, and labels that a network shifts itself."""

from collections import OrderedDict
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from secateur.curvature import estimate
from secateur.curvature.batches import Dealt, read_batch
from secateur.distributed import Share

TIGHT = {"rtol": 1e-9, "atol": 1e-12}


class Encoder(nn.Module):
    """Predicts a class for each token, or the next token, with the interface of the Transformers library."""

    def __init__(self, *, shifts: bool = False, pools: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(9, 6)
        self.block = nn.TransformerEncoderLayer(6, 2, 8, dropout=0.0, batch_first=True)
        self.head = nn.Linear(6, 9)
        self.shifts, self.pools = shifts, pools
        self.double()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None):
        padding = None if attention_mask is None else attention_mask == 0
        causal = torch.ones(input_ids.shape[1], input_ids.shape[1]).triu(1).bool() if self.shifts else None
        x = self.block(self.embed(input_ids), src_mask=causal, src_key_padding_mask=padding)
        result = OrderedDict(logits=self.head(x[:, 0] if self.pools else x))
        if labels is not None:
            logits = result["logits"]
            if self.shifts:
                logits, labels = logits[:, :-1], labels[:, 1:]
            result["loss"] = nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())
        return result


IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 0], [8, 3, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 0, 0]])
LABELS = torch.where(MASK == 1, IDS, -100)


def same(one, other) -> None:
    for name, value in one.diagonals().items():
        torch.testing.assert_close(value, other.diagonals()[name], **TIGHT)
    for name, layer in one.layers.items():
        torch.testing.assert_close(layer.A, other.layers[name].A, **TIGHT)
        torch.testing.assert_close(layer.G, other.layers[name].G, **TIGHT)
    assert one.num_seen == other.num_seen


def test_all_kinds_of_batches_say_the_same():
    model = nn.Sequential(nn.Linear(4, 3)).double()
    inputs, labels = torch.randn(6, 4).double(), torch.tensor([0, 1, 2, 0, 1, 2])
    expected = estimate(model, [(inputs, labels)])
    assert expected.loss is not None
    for batch in (
        [inputs, labels],
        (inputs, {"labels": labels}),
        {"input": inputs, "labels": labels},
        inputs,
    ):
        if isinstance(batch, tuple | dict):
            module = nn.Sequential(nn.Linear(4, 3))
            module.forward = lambda input, m=module: m[0](input)
            module.double().load_state_dict(model.state_dict())
        else:
            module = model
        same(estimate(module, [batch]), expected)


def test_two_inputs_and_targets_come_in_one_tuple():
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(4, 3)

        def forward(self, first: Tensor, second: Tensor) -> Tensor:
            return self.map(first + second)

    first, second, labels = torch.randn(6, 4), torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    model = Sum()
    together = estimate(model, [(first, second, labels)])
    nested = estimate(model, [((first, second), labels)])
    assert (
        together.loss
        == nested.loss
        == pytest.approx(nn.functional.cross_entropy(model(first, second), labels).item())
    )


@pytest.mark.parametrize("pools", [False, True])
def test_padding_is_left_out_of_all_sums(pools):
    """A padded batch has the curvature of its sequences one at a time, without any padding."""
    model = Encoder(pools=pools)
    labels = torch.tensor([1, 2, 3]) if pools else LABELS
    batch = {"input_ids": IDS, "attention_mask": MASK, "labels": labels}
    found = estimate(model, [batch], outputs="exact") if pools else None
    alone = [
        {"input_ids": IDS[i : i + 1, :n], "labels": labels[i : i + 1] if pools else labels[i : i + 1, :n]}
        for i, n in enumerate((4, 3, 2))
    ]
    if found is not None:
        single = estimate(model, alone, outputs="exact")
        same(found, single)
        return
    # Targets are drawn in the order of the tokens: compare what does not depend on them, and the counts.
    found, single = estimate(model, [batch]), estimate(model, alone)
    assert found.num_seen == single.num_seen == 9
    assert found.loss == pytest.approx(single.loss)
    for name, layer in found.layers.items():
        torch.testing.assert_close(layer.A, single.layers[name].A, **TIGHT)
        assert layer.num_positions == single.layers[name].num_positions == 9
    unlabelled = estimate(model, [{"input_ids": IDS, "attention_mask": MASK}])
    assert unlabelled.num_seen == 9


def test_labels_that_a_network_shifts_itself_are_shifted():
    model = Encoder(shifts=True)
    batch = {"input_ids": IDS, "attention_mask": MASK, "labels": LABELS}
    found = estimate(model, [batch])
    assert found.num_seen == 6
    assert found.loss == pytest.approx(model(**batch)["loss"].item())
    plain = estimate(Encoder(), [batch])
    assert plain.num_seen == 9
    assert plain.loss == pytest.approx(Encoder()(**batch)["loss"].item())


class Translator(nn.Module):
    """What the Transformers library says of an encoder and decoder."""

    config = SimpleNamespace(is_encoder_decoder=True)

    def prepare_decoder_input_ids_from_labels(self, labels: Tensor) -> Tensor:
        return labels.roll(1, -1)


def test_a_decoder_reads_its_inputs_off_the_labels_in_a_part_of_a_batch_too():
    batch = {"input_ids": torch.arange(6).view(2, 3), "labels": torch.arange(8).view(2, 4)}
    device, expected = torch.device("cpu"), batch["labels"].roll(1, -1)
    whole = read_batch(batch, device, Translator())
    part = read_batch(Dealt(batch, Share((1,), 3)), device, Translator())
    assert torch.equal(whole.example[1]["decoder_input_ids"], expected)
    assert torch.equal(part.example[1]["decoder_input_ids"], expected[:1])
    assert part.share == Share((1,), 3)
