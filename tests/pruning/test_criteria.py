"""The criteria evidence is compared with: numbers by hand, order of removal, what a point can and cannot."""

import math

import pytest
import torch

from secateur import Posterior
from secateur.errors import InvalidArgumentError
from secateur.posterior import Diagonal
from secateur.pruning import reduce
from secateur.pruning.criteria import CRITERIA, scores

MEAN = torch.tensor([0.5, -2.0, 1.0, 0.1])
PRECISION = torch.tensor([100.0, 4.0, 9.0, 0.5])
PRIOR = torch.tensor(1.0)

BY_HAND = {
    "magnitude": [-0.5, -2.0, -1.0, -0.1],
    "signal-to-noise": [-5.0, -4.0, -3.0, -0.1 * math.sqrt(0.5)],
    "obd": [
        -0.5 * 99 * 0.25,
        -0.5 * 3 * 4.0,
        -0.5 * 8 * 1.0,
        0.0,
    ],  # below the prior's precision: no curvature
}


@pytest.mark.parametrize("name", BY_HAND)
def test_scores_by_hand(name):
    block = Diagonal("fc", {"fc.bias": MEAN}, {"fc.bias": PRECISION}, {"fc.bias": PRIOR})
    torch.testing.assert_close(scores(block, name)["fc.bias"], torch.tensor(BY_HAND[name]))


def posterior(*, point: bool = False) -> Posterior:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (5, 4), "a.bias": (5,), "b.weight": (3, 5)}
    mean = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    precision = {
        name: torch.full(shape, math.inf) if point else 1 + 50 * torch.rand(shape, generator=generator)
        for name, shape in shapes.items()
    }
    return Posterior(mean, precision, dict.fromkeys(shapes, PRIOR))


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("sparsity", [0.2, 0.7])
def test_the_highest_scores_go_first_to_the_entry(name, sparsity):
    given = posterior()
    result = reduce(given, sparsity=sparsity, criterion=name)
    found = {key: each for block in given.blocks.values() for key, each in scores(block, name).items()}
    gone = torch.cat([found[key][~mask] for key, mask in result.masks.items()])
    stays = torch.cat([found[key][mask] for key, mask in result.masks.items()])
    assert len(gone) == round(sparsity * 40)
    assert gone.min() >= stays.max()


@pytest.mark.parametrize("name", sorted(CRITERIA.keys() - {"magnitude"}))
def test_a_point_has_no_precision_to_judge_by(name):
    with pytest.raises(InvalidArgumentError, match="a point estimate has no evidence"):
        reduce(posterior(point=True), sparsity=0.5, criterion=name)


def test_a_point_has_magnitudes_and_its_result_claims_no_evidence():
    result = reduce(posterior(point=True), sparsity=0.5, criterion="magnitude")
    assert result.num_removed == 20
    assert math.isnan(result.predicted_delta_f)


def test_the_evidence_of_what_another_criterion_removes_is_resulted():
    given = posterior()
    result = reduce(given, sparsity=0.5, criterion="magnitude")
    gone = [result.delta_f[key][~mask] for key, mask in result.masks.items()]
    assert result.predicted_delta_f == pytest.approx(float(torch.cat(gone).double().sum()), rel=1e-5)
    assert result.predicted_delta_f < reduce(given, sparsity=0.5).predicted_delta_f


@pytest.mark.parametrize("options", [{"criterion": "luck"}, {"criterion": "obd"}])
def test_only_the_evidence_knows_where_to_stop(options):
    with pytest.raises(InvalidArgumentError, match="criterion: expected evidence, or with a sparsity one of"):
        reduce(posterior(), **options)
