"""Which weights of a trained network may go, which go next, and new values that a failure takes back."""

import pytest
import torch
from torch import Tensor, nn

from secateur.curvature import estimate
from secateur.curvature.batches import read_batch
from secateur.errors import InvalidArgumentError
from secateur.modules import hold
from secateur.modules.matrix import LayerMatrix
from secateur.pruning.patterns import Pattern
from secateur.pruning.rounds import TrainedWeights, applied, cheapest, joint_layers, removable_weights
from support.networks import NETWORKS, Recurrent, Tied, mlp

CPU = torch.device("cpu")


class TestRemovableWeights:
    def test_they_are_matrices_but_for_the_output_layer_with_the_biases_that_move(self):
        found = removable_weights(mlp(), None, None)
        assert found.names == ("0.weight", "2.weight")
        assert found.moving == ("0.bias", "2.bias")
        assert found.num_weights == 5 * 8 + 8 * 6
        assert found.num_out == 0

    def test_embeddings_and_normalisation_stay(self):
        found = removable_weights(NETWORKS["bert"].build(), None, None)
        assert found.names
        assert not [name for name in found.names if "embedding" in name or "LayerNorm" in name]
        assert "classifier.weight" not in found.names
        assert removable_weights(Tied(), None, None).names == ("middle.weight",)

    def test_patterns_of_names_choose(self):
        model = mlp()
        assert removable_weights(model, ["4.*"], None).names == ("4.weight",)
        assert removable_weights(model, None, ["0.*"]).names == ("2.weight",)
        assert removable_weights(model, ["*.weight"], ["2.weight"]).names == ("0.weight", "4.weight")
        assert removable_weights(Tied(), ["embed.weight"], None).names == ("embed.weight",)

    @pytest.mark.parametrize(
        ("include", "exclude", "message"),
        [
            (["9.*"], None, r"include: expected patterns of parameter names, got '9\.\*'"),
            (None, ["9.*"], r"exclude: expected patterns of parameter names, got '9\.\*'"),
            ("0.weight", None, "include: expected a list of patterns"),
            (["*.bias"], None, "at least one weight matrix that may go"),
            (None, ["*"], "at least one weight matrix that may go"),
        ],
    )
    def test_patterns_that_choose_nothing_are_refused(self, include, exclude, message):
        with pytest.raises(InvalidArgumentError, match=message):
            removable_weights(mlp(), include, exclude)

    def test_a_network_without_a_matrix_has_none(self):
        with pytest.raises(InvalidArgumentError, match="at least one weight matrix that may go"):
            removable_weights(nn.Sequential(nn.LayerNorm(4), nn.Tanh()), None, None)

    def test_a_network_of_one_layer_may_lose_some_of_it(self):
        assert removable_weights(nn.Linear(3, 2), None, None).names == ("weight",)

    def test_frozen_weights_stay_unless_they_are_asked_for(self):
        model = mlp()
        model[0].requires_grad_(False)
        found = removable_weights(model, None, None)
        assert (found.names, found.moving) == (("2.weight",), ("2.bias",))
        with pytest.raises(
            InvalidArgumentError, match=r"0\.weight: .* got a frozen one; call requires_grad_"
        ):
            removable_weights(model, ["0.*"], None)
        with pytest.raises(InvalidArgumentError, match=r"0\.weight: .* got a frozen one"):
            removable_weights(model.requires_grad_(False), None, None)

    def test_a_frozen_bias_does_not_move(self):
        model = mlp()
        model[0].bias.requires_grad_(False)
        assert removable_weights(model, None, None).moving == ("2.bias",)

    def test_a_bias_that_is_excluded_does_not_move(self):
        assert removable_weights(mlp(), None, ["0.bias"]).moving == ("2.bias",)

    def test_what_is_held_is_out(self):
        model = mlp()
        mask = torch.ones(8, 5, dtype=torch.bool)
        mask[:2] = False
        hold(model, {"0.weight": mask, "0.bias": mask[:, 0]})
        found = removable_weights(model, None, None)
        assert torch.equal(found.keep["0.weight"], mask)
        assert torch.equal(found.biases["0.bias"], mask[:, 0])
        assert found.num_out == 10
        matrix = LayerMatrix.of(["0.weight", "0.bias"], [(8, 5), (8,)])
        assert torch.equal(found.present(matrix), torch.cat([mask, mask[:, :1]], 1))

    def test_only_linear_maps_and_convolutions_are_left(self):
        for name, layers in (("lstm", None), ("residual", 3), ("attention", 2)):
            tiny = NETWORKS[name]
            model, batch = tiny.build().eval(), read_batch(tiny.example(), CPU)
            found = removable_weights(model, None, None)
            if layers is None:
                with pytest.raises(InvalidArgumentError, match=r"lstm\.weight_ih_l0: .* uses otherwise"):
                    found.linear_maps(model, batch)
            else:
                assert len(found.linear_maps(model, batch).names) == layers

    def test_other_weights_are_left_out_with_their_biases(self):
        model = nn.Sequential(Recurrent(), nn.Linear(4, 3), nn.Linear(3, 2)).eval()
        found = removable_weights(model, None, None)
        assert "0.lstm.weight_ih_l0" in found.names
        linear = found.linear_maps(model, read_batch(torch.randn(3, 4, 5), CPU))
        assert linear.names == ("0.head.weight", "1.weight")
        assert linear.moving == ("0.head.bias", "1.bias")
        assert linear.keep.keys() | linear.biases.keys() == {*linear.names, *linear.moving}
        with pytest.raises(
            InvalidArgumentError, match=r"0\.lstm\.weight_ih_l0: expected the weight of a linear"
        ):
            found.require(linear.names)


def weights_of(**masks: Tensor) -> TrainedWeights:
    return TrainedWeights(dict(masks), {})


class TestCheapest:
    def test_all_layers_compete_and_what_is_out_stays_out(self, generator):
        costs = {"a": torch.rand(4, 5, generator=generator), "b": torch.rand(3, 4, generator=generator) / 2}
        keep = {name: torch.rand(cost.shape, generator=generator) > 0.2 for name, cost in costs.items()}
        weights = weights_of(**keep)
        found = cheapest(costs, weights, 20)
        assert sum(int((~mask).sum()) for mask in found.values()) == 20
        assert all((~found[name] | keep[name]).all() for name in keep)
        gone = torch.cat([costs[name][keep[name] & ~found[name]] for name in costs])
        left = torch.cat([costs[name][found[name]] for name in costs])
        assert gone.max() < left.min()
        assert len(gone) == 20 - weights.num_out

    def test_nothing_goes_where_as_many_are_out_already(self):
        keep = torch.tensor([[True, False, True]])
        found = cheapest({"a": torch.ones(1, 3)}, weights_of(a=keep), 1)
        assert torch.equal(found["a"], keep)

    def test_of_equal_costs_the_number_is_exact(self):
        found = cheapest({"a": torch.zeros(6, 7)}, weights_of(a=torch.ones(6, 7, dtype=torch.bool)), 17)
        assert int((~found["a"]).sum()) == 17

    def pattern(self, costs: Tensor, keep: Tensor, num_out: int) -> Tensor:
        matrices = {"a": LayerMatrix.of(["a", "bias"], [costs.shape, costs.shape[:1]])}
        return cheapest({"a": costs}, weights_of(a=keep), num_out, pattern=Pattern(2, 4), matrices=matrices)[
            "a"
        ]

    def test_a_pattern_is_reached_in_rounds(self, generator):
        costs = torch.rand(6, 8, generator=generator)
        keep = torch.ones(6, 8, dtype=torch.bool)
        for num_out in (7, 15, 24):
            after = self.pattern(costs, keep, num_out)
            assert int((~after).sum()) == num_out
            assert (after.reshape(-1, 4).sum(1) >= 2).all()
            assert (after <= keep).all()
            keep, costs = after, torch.rand(6, 8, generator=generator)
        assert (keep.reshape(-1, 4).sum(1) == 2).all()

    def test_zeros_that_a_pattern_would_not_have_chosen_count_in_their_group(self):
        costs = torch.tensor([[1.0, 2, 3, 4, 1, 2, 3, 4]])
        keep = torch.tensor([[True, True, True, False, True, False, False, False]])
        found = self.pattern(costs, keep, 8)
        assert found.int().tolist() == [[0, 1, 1, 0, 1, 0, 0, 0]]


class TestJointLayers:
    def test_layers_are_as_the_network_has_them(self):
        model = mlp()
        inputs = torch.randn(20, 5, generator=torch.Generator().manual_seed(0))
        weights = removable_weights(model, None, ["0.weight"])
        curvature = estimate(model, [inputs])
        (found,) = joint_layers(curvature, dict(model.named_parameters()), weights)
        name, own, layer = found
        assert name == "2"
        expected = torch.cat([model[2].weight, model[2].bias.unsqueeze(1)], 1).detach()
        assert torch.equal(layer.weights, expected)
        assert layer.present.all()
        torch.testing.assert_close(layer.row_scale, 20 * own.row_scale)

    def test_half_precision_is_widened(self):
        model = mlp().bfloat16()
        weights = removable_weights(model, None, None)
        curvature = estimate(model, [torch.randn(20, 5).bfloat16()])
        for _, _, layer in joint_layers(curvature, dict(model.named_parameters()), weights):
            assert layer.weights.dtype == torch.float32
            assert layer.misfit(1.0).dtype == torch.float32


class TestApplied:
    def test_new_values_stay_and_a_failure_takes_them_back(self):
        model = NETWORKS["residual"].build()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        new = {"stem.0.weight": torch.ones(6, 2, 3, 3), "stem.1.running_mean": torch.full((6,), 2.0)}

        def fail(error: type[BaseException]) -> None:
            assert (model.stem[0].weight == 1).all()
            assert (model.stem[1].running_mean == 2).all()
            raise error

        for error in (RuntimeError, KeyboardInterrupt):
            with pytest.raises(error), applied(model, new):
                fail(error)
            assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        with applied(model, new):
            pass
        assert (model.stem[0].weight == 1).all()

    def test_a_value_that_does_not_fit_takes_all_back(self):
        model = mlp()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        with (
            pytest.raises(RuntimeError),
            applied(model, {"0.weight": torch.ones(8, 5), "0.bias": torch.ones(3)}),
        ):
            pass
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        with (
            pytest.raises(InvalidArgumentError, match="expected a parameter 9, got none"),
            applied(model, {"0.weight": torch.ones(8, 5), "9": torch.ones(3)}),
        ):
            pass
        assert torch.equal(model[0].weight, before["0.weight"])
