"""Data in two parts: the split, the order, and batches drawn from it."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset, WeightedRandomSampler

from secateur.errors import InvalidArgumentError
from secateur.pruning.calibration import CalibrationData

DATA = TensorDataset(torch.arange(40.0).unsqueeze(1), torch.arange(40) % 3)


def read(batches) -> list[list[int]]:
    """The first input of each datum, batch by batch."""
    return [batch[0].flatten().int().tolist() for batch in batches]


def data(batches) -> list[int]:
    return [datum for batch in read(batches) for datum in batch]


class TestCalibrationData:
    @pytest.mark.parametrize("shuffle", [False, True])
    def test_a_loader_of_a_data_set_is_split_by_data(self, shuffle):
        found = CalibrationData.of(DataLoader(DATA, batch_size=8, shuffle=shuffle), held_out=None, seed=0)
        assert len(data(found.held_out)) == 4  # a tenth
        assert sorted(data(found.fit) + data(found.held_out)) == list(range(40))
        assert max(map(len, read(found.fit))) == 8

    @pytest.mark.parametrize("shuffle", [False, True])
    def test_batches_are_the_same_whenever_they_are_read_and_touch_no_random_state(self, shuffle):
        generator = torch.Generator().manual_seed(5)
        loader = DataLoader(DATA, batch_size=8, shuffle=shuffle, generator=generator)
        state, own = torch.random.get_rng_state(), generator.get_state()
        first = CalibrationData.of(loader, held_out=None, seed=3)
        expected = read(first.fit), read(first.held_out)
        assert (read(first.fit), read(first.held_out)) == expected
        again = CalibrationData.of(loader, held_out=None, seed=3)
        assert (read(again.fit), read(again.held_out)) == expected
        other = CalibrationData.of(loader, held_out=None, seed=4)
        assert data(other.held_out) != data(first.held_out)
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.equal(generator.get_state(), own)
        # a data set may be sorted by class, and a few batches are to stand for all
        assert data(first.fit) != sorted(data(first.fit))

    def test_a_second_loader_is_held_out_and_the_first_used_whole(self):
        second = DataLoader(TensorDataset(torch.arange(100.0, 106).unsqueeze(1)), batch_size=4)
        loader = DataLoader(DATA, batch_size=8, shuffle=True)
        found = CalibrationData.of(loader, held_out=second, seed=0)
        assert sorted(data(found.fit)) == list(range(40))
        assert sorted(data(found.held_out)) == list(range(100, 106))
        assert read(found.fit) == read(found.fit)

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        return [(torch.tensor([[float(number)]]), torch.tensor([0])) for number in range(10)]

    def test_any_other_iterable_is_split_by_batches(self):
        found = CalibrationData.of(self.batches(), held_out=None, seed=0)
        assert len(data(found.held_out)) == 1
        assert sorted(data(found.fit) + data(found.held_out)) == list(range(10))
        once = CalibrationData.of(iter(self.batches()), held_out=None, seed=0)
        assert data(once.fit) == data(found.fit)
        assert data(once.fit) == data(found.fit)  # it can be read again
        held = CalibrationData.of(iter(self.batches()), held_out=iter(self.batches()), seed=0)
        assert data(held.fit) == data(held.fit) == data(held.held_out) == list(range(10))

    def test_loaders_that_draw_otherwise_are_read_by_batches(self):
        class Stream(IterableDataset):
            def __iter__(self):
                return iter([(torch.tensor([float(number)]), 0) for number in range(12)])

        streamed = CalibrationData.of(DataLoader(Stream(), batch_size=3), held_out=None, seed=0)
        assert sorted(data(streamed.fit) + data(streamed.held_out)) == list(range(12))
        weights = [0.0] * 30 + [1.0] * 10
        sampler = WeightedRandomSampler(weights, 40, generator=torch.Generator().manual_seed(0))
        sampled = CalibrationData.of(DataLoader(DATA, batch_size=8, sampler=sampler), held_out=None, seed=0)
        assert min(data(sampled.fit)) >= 30
        assert read(sampled.fit) == read(sampled.fit)

    def test_too_few_data_are_refused(self):
        for nothing in ([], iter([]), DataLoader(TensorDataset(torch.zeros(0, 1)), batch_size=2)):
            with pytest.raises(InvalidArgumentError, match="loader: expected at least one batch, got none"):
                CalibrationData.of(nothing, held_out=None, seed=0)
        with pytest.raises(InvalidArgumentError, match=r"expected two batches or more.*give held_out"):
            CalibrationData.of(self.batches()[:1], held_out=None, seed=0)
        two = CalibrationData.of(self.batches()[:2], held_out=None, seed=0)
        assert sorted(data(two.fit) + data(two.held_out)) == [0, 1]
        with pytest.raises(InvalidArgumentError, match="loader: expected at least one batch, got none"):
            CalibrationData.of([], held_out=self.batches(), seed=0).first(nn.Linear(1, 1))

    @pytest.mark.parametrize("plain", [True, False])
    def test_a_few_batches_are_drawn_without_replacement(self, plain):
        loader = DataLoader(DATA, batch_size=4)
        found = CalibrationData.of(loader if plain else list(loader), held_out=list(loader), seed=0)
        drawn = found.sample(1, 3)
        assert len(read(drawn)) == 3
        assert len(set(data(drawn))) == 12
        assert read(found.sample(1, 3)) == read(drawn)
        assert data(found.sample(2, 3)) != data(drawn)
        assert sorted(data(found.sample(1, 99))) == list(range(40))
        assert found.sample(1, None) is found.fit

    def test_inputs_are_the_first_ones_where_there_is_one_tensor(self):
        found = CalibrationData.of(self.batches(), held_out=self.batches(), seed=0)
        assert found.inputs(4).flatten().tolist() == [0, 1, 2, 3]
        assert len(found.inputs(99)) == 10
        pairs = [((torch.zeros(2, 1), torch.zeros(2, 1)), torch.zeros(2))] * 2
        assert CalibrationData.of(pairs, held_out=pairs, seed=0).inputs(4) is None
        named = [{"x": torch.zeros(2, 1)}] * 2
        assert CalibrationData.of(named, held_out=named, seed=0).inputs(4) is None
        single = self.batches()[:1]
        assert CalibrationData.of(single, held_out=single, seed=0).inputs(4) is None
