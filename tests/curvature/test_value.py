"""Sums over processes, posteriors in blocks, and priors at the evidence's maximum."""

import pytest
import torch
from torch import nn

from secateur.curvature import estimate, evidence_priors
from secateur.errors import InvalidArgumentError
from secateur.modules import hold
from secateur.posterior import Diagonal, Kronecker, Rowwise
from support.curvature_oracle import split, whole_ggn

TIGHT = {"rtol": 1e-9, "atol": 1e-12}


def exactly(model, loader, **options):
    return estimate(model, loader, outputs="exact", **options)


@pytest.mark.parametrize("name", ["convolutions", "encoder", "tied", "recurrent"])
def test_two_parts_add_up_to_the_whole(make_kind, name):
    kind = make_kind(name)
    labels = torch.randint(3, (6,))
    whole = exactly(kind.model, [(kind.inputs, labels)], diagonal=True)
    parts = [
        exactly(kind.model, [(kind.inputs[p], labels[p])], diagonal=True) for p in (slice(2), slice(2, 6))
    ]
    both = parts[0] + parts[1]
    assert (both.num_seen, both.num_data) == (6, 6)
    assert both.loss == pytest.approx(whole.loss)
    for layer, expected in whole.layers.items():
        for kind_of in ("A", "G", "row_sums", "diagonal"):
            torch.testing.assert_close(
                getattr(both.layers[layer], kind_of), getattr(expected, kind_of), **TIGHT
            )
        assert both.layers[layer].num_positions == expected.num_positions
    for parameter, expected in whole.diagonal.items():
        torch.testing.assert_close(both.diagonal[parameter], expected, **TIGHT)
    other = exactly(make_kind("mlp").model, [make_kind("mlp").inputs])
    with pytest.raises(InvalidArgumentError, match="expected two of the same layers"):
        whole + other


def test_the_loss_is_that_of_the_targets(make_kind):
    kind = make_kind("convolutions")
    labels = torch.tensor([0, 2, 1, 1, 0, 2])
    found = exactly(kind.model, [(kind.inputs[:4], labels[:4]), (kind.inputs[4:], labels[4:])])
    kind.model.eval()
    assert found.loss == pytest.approx(nn.functional.cross_entropy(kind.model(kind.inputs), labels).item())
    assert exactly(kind.model, [kind.inputs]).loss is None


@pytest.mark.parametrize("structure", ["diagonal", "row", "kronecker"])
def test_a_posterior_has_a_block_of_the_structure_for_each_layer(kind, structure):
    curvature = exactly(kind.model, [kind.inputs], structure=structure, num_data=50)
    posterior = curvature.posterior(kind.model, prior_precision=0.7)
    parameters = dict(kind.model.named_parameters())
    assert posterior.mean.keys() == parameters.keys()
    for name, value in posterior.mean.items():
        assert torch.equal(value, parameters[name])
    expected = {"diagonal": Diagonal, "row": Rowwise, "kronecker": Kronecker}[structure]
    for layer in kind.layers:
        assert type(posterior.blocks[layer]) is expected
    exact = split(kind.model, whole_ggn(kind.model, kind.inputs).diagonal())
    inside = curvature.parameters()
    for name, precision in posterior.precision.items():
        if inside[name] is None or structure == "diagonal":
            torch.testing.assert_close(precision, 50 * exact[name] + 0.7, **TIGHT)


def test_the_precision_of_a_kronecker_block_is_the_product_and_the_prior():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    inputs = torch.randn(1, 4).double()
    whole = 30 * whole_ggn(model, inputs)[:25, :25] + 0.3 * torch.eye(25, dtype=torch.float64)
    posterior = exactly(model, [inputs], num_data=30).posterior(model, prior_precision=0.3)
    variance = torch.linalg.inv(whole).diagonal()
    torch.testing.assert_close(posterior.blocks["0"].variance()["0.weight"].flatten(), variance[:20], **TIGHT)
    torch.testing.assert_close(posterior.blocks["0"].variance()["0.bias"], variance[20:], **TIGHT)


def test_entries_that_are_held_are_out(make_kind):
    kind = make_kind("mlp")
    mask = torch.rand(7, 5) > 0.4
    hold(kind.model, {"0.weight": mask})
    curvature = exactly(kind.model, [kind.inputs])
    for prior in (None, 1.0):
        posterior = curvature.posterior(kind.model, prior_precision=prior)
        assert torch.equal(posterior.keep["0.weight"], mask)
        assert posterior.keep.keys() == {"0.weight"}


@pytest.mark.parametrize("structure", ["diagonal", "row", "kronecker"])
def test_the_prior_is_where_the_evidence_has_its_maximum(make_kind, structure):
    """The log evidence of each layer, by eigenvalues of its precision, has no slope there."""
    kind = make_kind("mlp")
    curvature = exactly(kind.model, [kind.inputs], structure=structure, num_data=2000)
    weights = {name: value.detach() for name, value in kind.model.named_parameters()}
    priors = evidence_priors(curvature, weights, {})
    assert priors["0.weight"] == priors["0.bias"]
    for name, layer in curvature.layers.items():
        if structure == "kronecker":
            whole = torch.kron(layer.output_factor, layer.A)
        elif structure == "row":
            whole = torch.kron(layer.row_scale.diag(), layer.A)
        else:
            whole = layer.diagonal.flatten().diag()
        values = torch.linalg.eigvalsh(2000 * whole).clamp_min(0)
        power = layer.matrix.pack(weights).square().sum()
        log_prior = torch.tensor(priors[f"{name}.weight"], dtype=torch.float64).log()

        def evidence(point, values=values, power=power):
            return 0.5 * (len(values) * point - (values + point.exp()).log().sum() - point.exp() * power)

        slope = torch.func.grad(evidence)(log_prior)
        assert slope.abs() < 1e-6 * len(values)
        assert evidence(log_prior) > max(evidence(log_prior + 0.3), evidence(log_prior - 0.3))


def test_directions_that_go_together_count_once():
    """Inputs that are copies of each other: the diagonal counts every copy, the factors one direction."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(20, 3, bias=False)).double()
    inputs = torch.randn(50, 1).double().expand(50, 20)
    weights = {name: value.detach() for name, value in model.named_parameters()}
    power = weights["0.weight"].square().sum().item()
    gamma = {
        structure: evidence_priors(
            exactly(model, [inputs], structure=structure, num_data=10**6), weights, {}
        )["0.weight"]
        * power
        for structure in ("diagonal", "row", "kronecker")
    }
    assert gamma["diagonal"] == pytest.approx(60, rel=0.01)
    assert gamma["row"] == pytest.approx(3, rel=0.01)
    assert gamma["kronecker"] == pytest.approx(2, rel=0.01)  # adding to all three logits changes nothing


def test_a_prior_that_does_not_fit_is_refused(make_kind):
    kind = make_kind("mlp")
    curvature = exactly(kind.model, [kind.inputs])
    with pytest.raises(InvalidArgumentError, match=r"none for '2\.weight'"):
        curvature.posterior(kind.model, prior_precision={"0.weight": 1.0, "0.bias": 1.0})
    with pytest.raises(InvalidArgumentError, match=r"one without '0\.bias'"):
        curvature.posterior(nn.Sequential(nn.Linear(5, 7, bias=False)))
