"""Losses on data, paired by datum."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

from secateur.errors import InvalidArgumentError
from secateur.likelihoods import Categorical, Gaussian
from secateur.pruning.measuring import Losses, measure
from support.networks import TRANSFORMERS

DATA = TensorDataset(torch.arange(40.0).unsqueeze(1), torch.arange(40) % 3)


class TestLosses:
    def test_a_rise_is_paired_by_datum(self, generator):
        before = torch.rand(30, dtype=torch.float64, generator=generator)
        step = 0.2 + 0.1 * torch.randn(30, dtype=torch.float64, generator=generator)
        ones = torch.ones(30, dtype=torch.float64)
        found = Losses(before, ones).rise_to(Losses(before + step, ones))
        assert found.mean == pytest.approx(float(step.mean()))
        assert found.standard_error == pytest.approx(float(step.std() / math.sqrt(30)))

    def test_of_sequences_the_tokens_count_but_sequences_are_independent(self, generator):
        """The standard error of a ratio, against draws of the same sequences anew."""
        counts = torch.randint(1, 9, (200,), generator=generator).double()
        step = counts * (0.1 + 0.05 * torch.randn(200, dtype=torch.float64, generator=generator))
        before = torch.zeros(200, dtype=torch.float64)
        found = Losses(before, counts).rise_to(Losses(step, counts))
        assert found.mean == pytest.approx(float(step.sum() / counts.sum()))
        drawn = torch.randint(200, (4000, 200), generator=generator)
        means = step[drawn].sum(1) / counts[drawn].sum(1)
        assert found.standard_error == pytest.approx(float(means.std()), rel=0.05)

    def test_one_datum_has_no_standard_error(self):
        one = torch.ones(1, dtype=torch.float64)
        assert Losses(one, one).rise_to(Losses(2 * one, one)).standard_error == math.inf


class TestMeasure:
    def network(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 3)).train()

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        generator = torch.Generator().manual_seed(1)
        return [
            (torch.randn(size, 3, generator=generator), torch.randint(3, (size,), generator=generator))
            for size in (5, 5, 2)
        ]

    def test_it_is_the_loss_of_each_datum_in_evaluation_mode(self):
        model = self.network()
        found = measure(model, self.batches(), Categorical())
        assert model[1].training
        assert not found.sums.requires_grad
        inputs, labels = (torch.cat(parts) for parts in zip(*self.batches(), strict=True))
        expected = F.cross_entropy(model.eval()(inputs), labels, reduction="none").detach().double()
        torch.testing.assert_close(found.sums, expected, rtol=1e-6, atol=1e-6)
        assert found.num_data == 12
        assert found.mean == pytest.approx(float(expected.mean()))
        assert all(parameter.grad is None for parameter in model.parameters())

    def test_ignored_labels_do_not_count(self):
        inputs, labels = self.batches()[0]
        labels[1:3] = -100
        found = measure(self.network(), [(inputs, labels)], Categorical())
        assert found.counts.tolist() == [1, 0, 0, 1, 1]
        assert found.sums[1] == 0
        with pytest.raises(InvalidArgumentError, match="loader: expected at least one datum with a label"):
            measure(self.network(), [(inputs, torch.full_like(labels, -100))], Categorical())
        beside = [(inputs, torch.full_like(labels, -100)), (inputs, labels)]
        assert torch.equal(measure(self.network(), beside, Categorical()).sums, found.sums)

    def test_tokens_of_a_language_model_are_shifted_and_padding_left_out(self):
        tiny = TRANSFORMERS["gpt2"]
        model, batch = tiny.build().eval(), tiny.example()
        batch["attention_mask"][0, 4:] = 0
        found = measure(model, [{**batch, "labels": batch["input_ids"]}], Categorical())
        assert found.counts.tolist() == [3, 5, 5, 5]
        with torch.no_grad():
            log_probabilities = model(**batch).logits.log_softmax(-1)
        expected = [
            -sum(
                float(log_probabilities[row, place - 1, int(batch["input_ids"][row, place])])
                for place in range(1, 6)
                if batch["attention_mask"][row, place]
            )
            for row in range(4)
        ]
        assert found.sums.tolist() == pytest.approx(expected, rel=1e-5)

    @pytest.mark.parametrize(
        ("batches", "message"),
        [
            ([], "held_out: expected at least one batch, got none"),
            ([torch.zeros(2, 3)], "held_out: expected batches with targets"),
            ([(torch.full((2, 3), math.nan), torch.zeros(2).long())], "held_out: .* got nan in batch 1"),
            ([(torch.zeros(2, 3), torch.tensor([0, 7]))], r"targets: expected class numbers in 0 \.\.\. 2"),
            ([(torch.zeros(2, 3), torch.zeros(2))], "targets: expected class numbers as int64"),
        ],
    )
    def test_what_has_no_loss_is_refused(self, batches, message):
        with pytest.raises(InvalidArgumentError, match=message):
            measure(self.network(), batches, Categorical(), argument="held_out")

    def test_a_loss_that_is_not_finite_is_refused(self):
        """Finite outputs and targets whose squared distance is not."""
        model = nn.Linear(1, 1)
        batches = [(torch.ones(2, 1), torch.full((2, 1), 3e38))]
        with pytest.raises(InvalidArgumentError, match="loader: expected a finite loss, got inf in batch 1"):
            measure(model, batches, Gaussian(noise=1e-3))
