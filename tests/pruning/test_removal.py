"""Rounds of a removal: what is measured and predicted, where it comes back to, and what interrupts it."""

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import prune_trained
from secateur.errors import InvalidArgumentError
from secateur.likelihoods import Gaussian
from secateur.modules import held_masks
from secateur.modules.batch_norm import moments
from secateur.pruning import PruneResult, PruneRound
from support.correlated import correlated, correlated_batches, trained_on_correlated
from support.networks import NETWORKS


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model: nn.Module, expected: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def prune(model: nn.Module, batches: Any = None, **options: Any) -> PruneResult:
    batches = correlated_batches() if batches is None else batches
    return prune_trained(model, batches, progress=False, **options)


def mean_loss(model: nn.Module, batches: Any) -> float:
    with torch.no_grad():
        losses = [F.cross_entropy(model(inputs), labels, reduction="none") for inputs, labels in batches]
    return float(torch.cat(losses).double().mean())


class TestWhatIsMeasured:
    def test_losses_are_those_of_the_network_before_and_after(self):
        model, held_out = trained_on_correlated(), [correlated(200, 9)]
        before = mean_loss(model, correlated_batches()), mean_loss(model, held_out)
        result = prune(model, sparsity=0.7, rounds=3, held_out=held_out)
        after = mean_loss(model, correlated_batches()), mean_loss(model, held_out)
        assert (result.loss_before, result.held_out_before) == pytest.approx(before, rel=1e-5)
        assert (result.loss_after, result.trace[-1].held_out_loss) == pytest.approx(after, rel=1e-5)
        rises = [each.held_out_loss - result.held_out_before for each in result.trace]
        assert [each.held_out_rise for each in result.trace] == pytest.approx(rises, abs=1e-9)
        assert all(0 < each.held_out_error < 1 for each in result.trace)
        assert result.num_data == 800

    def test_evidence_adds_up_over_rounds_and_layers(self):
        result = prune(trained_on_correlated(), sparsity=0.7, rounds=4)
        assert result.observed_delta_f == pytest.approx(sum(each.observed_delta_f for each in result.trace))
        by_layer = sum(row.predicted_delta_f for row in result.layers)
        assert by_layer == pytest.approx(result.predicted_delta_f)
        assert [row.name for row in result.layers] == ["0", "2"]

    def test_the_loss_counts_as_often_as_there_are_data(self):
        """The same removal by ten times the data: the likelihood part grows, the volume hardly does."""
        options = {"rounds": 1, "sparsity": 1.0, "structure": "diagonal", "include": ["0.weight"]}
        few, many = (prune(trained_on_correlated(), num_data=number, **options) for number in (600, 6000))
        assert (few.num_data, many.num_data) == (600, 6000)
        rise = few.loss_after - few.loss_before
        assert many.loss_after - many.loss_before == pytest.approx(rise, rel=1e-4)
        volumes = [each.observed_delta_f + each.num_data * rise for each in (few, many)]
        assert volumes[0] > 0
        assert volumes[1] > volumes[0]

    def test_a_small_removal_changes_the_evidence_as_predicted(self):
        """Linear regression of one output with known noise: the loss is a parabola, G (x) A its curvature."""
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randn(4000, 8, dtype=torch.float64, generator=generator)
        inputs = inputs @ torch.randn(8, 8, dtype=torch.float64, generator=generator)
        slopes = torch.linspace(-1, 1, 8, dtype=torch.float64).unsqueeze(1)
        targets = inputs @ slopes + 0.5 * torch.randn(4000, 1, dtype=torch.float64, generator=generator)
        model = nn.Linear(8, 1, bias=False).double()
        model.weight.data = torch.linalg.lstsq(inputs, targets).solution.mT.clone()
        data = list(zip(inputs.split(400), targets.split(400), strict=True))
        options = {"likelihood": Gaussian(noise=0.5), "held_out": data, "sparsity": 0.25, "rounds": 1}
        result = prune(model, data, **options)
        kept = result.masks["weight"][0]
        least = torch.linalg.lstsq(inputs[:, kept], targets).solution.mT
        torch.testing.assert_close(model.weight.data[:, kept], least, rtol=0.0, atol=0.01)
        # the curvature is sampled, with a relative error of some 1 / sqrt(4000)
        observed = result.num_data * (result.loss_after - result.loss_before)
        assert observed > 10
        assert result.predicted_delta_f == pytest.approx(result.observed_delta_f, abs=0.1 * observed)

    def test_batch_norm_follows(self):
        tiny = NETWORKS["residual"]
        torch.manual_seed(0)
        model, inputs = tiny.build(), torch.randn(120, 2, 5, 5)
        for _ in range(30):
            model.train()(inputs)
        model.eval()
        labels = model(inputs).argmax(1)
        before, running = moments(model, inputs), state(model)
        parts = list(zip(inputs.split(30), labels.split(30), strict=True))
        prune(model, parts, held_out=parts, sparsity=0.6, rounds=2)
        after = state(model)
        for name, own in moments(model, inputs).items():
            if name.endswith("mean"):
                torch.testing.assert_close(
                    after[name] - running[name], own - before[name], atol=1e-4, rtol=1e-3
                )
            else:
                torch.testing.assert_close(
                    after[name] / running[name], own / before[name], atol=0.01, rtol=0.02
                )
        assert torch.equal(after["stem.1.num_batches_tracked"], running["stem.1.num_batches_tracked"])


class TestWhereItStops:
    @pytest.fixture
    def rounds(self) -> list[dict[str, Tensor]]:
        return []

    def looking(self, model: nn.Module, rounds: list) -> Callable[[PruneRound], None]:
        return lambda _: rounds.append(state(model))

    @pytest.mark.parametrize("options", [{}, {"max_loss_rise": 0.05}, {"max_loss_rise": 0.0}, {"rounds": 9}])
    def test_the_network_is_exactly_as_after_the_chosen_round(self, rounds, options):
        model, held_out = trained_on_correlated(), [correlated(400, 9)]
        rounds.append(state(model))
        result = prune(model, held_out=held_out, on_round=self.looking(model, rounds), **options)
        assert result.stopped_by in {"evidence", "held-out loss"}
        assert len(result.trace) == len(rounds) - 1
        assert result.chosen_round < len(result.trace)  # some rounds were taken back
        assert same(model, rounds[result.chosen_round])
        assert result.rounds == result.trace[: result.chosen_round]
        masks = held_masks(model)
        for name, mask in result.masks.items():
            assert torch.equal(masks.get(name, torch.ones_like(mask)), mask)
            assert torch.equal(model.get_parameter(name) == 0, ~mask)
        if result.rounds:
            assert result.sparsity == pytest.approx(result.rounds[-1].sparsity)
            assert result.loss_after == result.rounds[-1].loss
        if "max_loss_rise" in options:
            assert all(each.held_out_rise <= options["max_loss_rise"] for each in result.rounds[-1:])
        assert f"Stopped by {result.stopped_by}" in str(result)

    def test_it_says_where_rounds_ran_out(self, rounds):
        model = trained_on_correlated()
        result = prune(model, rounds=[0.05, 0.1], max_loss_rise=9.0, on_round=self.looking(model, rounds))
        assert result.stopped_by == "rounds"
        assert result.chosen_round == 2
        assert same(model, rounds[-1])

    def test_a_larger_rise_removes_more(self):
        held_out = [correlated(400, 9)]  # and so few data that the evidence peaks late
        options = {"num_data": 60, "held_out": held_out, "spread": "row"}
        found = [
            prune(trained_on_correlated(), max_loss_rise=rise, **options).sparsity
            for rise in (0.0, 0.02, 9.0)
        ]
        assert found[0] <= found[1] <= found[2]
        assert found[0] < found[2]

    def test_a_network_that_may_lose_nothing_stays(self):
        """Inputs that matter alike, and no doubt about their weights."""
        torch.manual_seed(0)
        inputs = torch.randn(2000, 4)
        model = nn.Linear(4, 1)
        model.weight.data[:] = 1
        model.bias.data[:] = 0
        targets = inputs.sum(1, keepdim=True) + 0.1 * torch.randn(2000, 1)
        before = state(model)
        parts = list(zip(inputs.split(200), targets.split(200), strict=True))
        result = prune(model, parts, likelihood=Gaussian(noise=0.1))
        assert result.chosen_round == 0
        assert result.sparsity == 0
        assert result.stopped_by in {"evidence", "held-out loss"}
        assert same(model, before)
        assert held_masks(model) == {}
        assert "before any removal" in str(result)


class Failing(nn.Module):
    """A network that fails at a call of its forward pass."""

    def __init__(self, at: int | None, error: type[BaseException]) -> None:
        super().__init__()
        self.body = trained_on_correlated()
        self.at, self.error, self.calls = at, error, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.at:
            raise self.error
        return self.body(x)


class FailingLoader:
    """Batches that fail at one of those ever read."""

    def __init__(self, at: int, error: type[BaseException]) -> None:
        self.at, self.error, self.read = at, error, 0

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in correlated_batches():
            self.read += 1
            if self.read == self.at:
                raise self.error
            yield batch


def states_after_rounds(**options: Any) -> list[dict[str, Tensor]]:
    model = Failing(None, KeyboardInterrupt)
    found = [state(model)]
    prune(model, on_round=lambda _: found.append(state(model)), **options)
    return found


class TestInterruption:
    OPTIONS: ClassVar = {"sparsity": 0.6, "rounds": 3, "held_out": correlated_batches()[:1]}

    def check(self, model: nn.Module, result: PruneResult | None, whole: list, number: int) -> None:
        assert same(model, whole[number])
        zero = {name: value == 0 for name, value in whole[number].items() if (value == 0).any()}
        held = held_masks(model)
        assert held.keys() == zero.keys()
        assert all(torch.equal(~held[name], zero[name]) for name in zero)
        if result is not None:
            assert result.stopped_by == "interruption"
            assert len(result.trace) == number

    @pytest.mark.parametrize("number", [1, 2])
    def test_from_the_callback_it_is_as_after_that_round(self, number):
        whole, seen = states_after_rounds(**self.OPTIONS), []

        def interrupt(row: PruneRound) -> None:
            seen.append(row)
            if len(seen) == number:
                raise KeyboardInterrupt

        model = Failing(None, KeyboardInterrupt)
        result = prune(model, on_round=interrupt, **self.OPTIONS)
        self.check(model, result, whole, number)
        assert "Stopped by interruption" in str(result)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
    def test_from_the_forward_pass_it_is_as_before_or_after_a_whole_round(self, error):
        whole = states_after_rounds(**self.OPTIONS)
        counting = Failing(None, error)
        calls = [0]
        prune(counting, on_round=lambda _: calls.append(counting.calls), **self.OPTIONS)
        places = [
            (1, 0),
            (calls[1] - 1, 0),
            (calls[1], 0),
            (calls[1] + 2, 1),
            (calls[2], 1),
            (calls[3] - 3, 2),
        ]
        for at, number in places:
            model = Failing(at, error)
            if error is KeyboardInterrupt and number:
                self.check(model, prune(model, **self.OPTIONS), whole, number)
            else:
                said = KeyboardInterrupt if error is KeyboardInterrupt else InvalidArgumentError
                with pytest.raises(said):
                    prune(model, **self.OPTIONS)
                self.check(model, None, whole, number)

    @pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
    def test_from_the_loader_in_the_middle_of_a_round(self, error):
        whole = states_after_rounds(**self.OPTIONS)
        counting, read = FailingLoader(0, error), []
        prune(Failing(None, error), counting, on_round=lambda _: read.append(counting.read), **self.OPTIONS)
        for at, number in ((read[0] - 1, 0), (read[0] + 3, 1), (read[1] - 2, 1)):
            model = Failing(None, error)
            loader = FailingLoader(at, error)
            if error is KeyboardInterrupt and number:
                self.check(model, prune(model, loader, **self.OPTIONS), whole, number)
            else:
                with pytest.raises(error):
                    prune(model, loader, **self.OPTIONS)
                self.check(model, None, whole, number)

    def test_where_the_evidence_stops_it_keeps_what_it_has(self):
        options = {"rounds": 6, "held_out": correlated_batches()[:1]}
        whole, seen = states_after_rounds(**options), []

        def interrupt(row: PruneRound) -> None:
            seen.append(row)
            if len(seen) == 2:
                raise KeyboardInterrupt

        model = Failing(None, KeyboardInterrupt)
        result = prune(model, on_round=interrupt, **options)
        self.check(model, result, whole, 2)

    def test_a_loss_that_is_not_finite_in_a_round_takes_the_round_back(self):
        """The first round goes well; from then on the outputs are nan."""

        class Diverging(Failing):
            def forward(self, x: Tensor) -> Tensor:
                return super().forward(x) * (torch.nan if self.at is None else 1.0)

        whole = states_after_rounds(**self.OPTIONS)
        model = Diverging(-1, KeyboardInterrupt)

        def diverge(_: PruneRound) -> None:
            model.at = None

        with pytest.raises(InvalidArgumentError, match="finite"):
            prune(model, on_round=diverge, **self.OPTIONS)
        self.check(model, None, whole, 1)


class TwoMatrices(nn.Module):
    """A module with two weight matrices of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(6, 4))
        self.second = nn.Parameter(torch.randn(3, 6))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(nn.functional.linear(x, self.first).relu(), self.second)


def test_predictions_of_all_rounds_and_matrices_add_up():
    torch.manual_seed(0)
    model = nn.Sequential(TwoMatrices(), nn.Linear(3, 3))
    batches = [(torch.randn(20, 4), torch.arange(20) % 3) for _ in range(4)]
    result = prune_trained(model, batches, sparsity=0.6, rounds=3, progress=False)
    assert [row.name for row in result.layers] == ["0"]
    assert len(result.trace) == 3
    by_layer = sum(row.predicted_delta_f for row in result.layers)
    assert by_layer == pytest.approx(result.predicted_delta_f, rel=1e-9)
    assert all(round.predicted_delta_f for round in result.trace)
