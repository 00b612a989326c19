"""What goes: a threshold per layer, one ranking over the network, whole units, exact counts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from secateur import Posterior
from secateur.errors import InvalidArgumentError
from secateur.pruning import reduce
from secateur.reduction import delta_f, spike_and_slab

SHAPES = {
    "conv.weight": (4, 2, 3, 3),
    "conv.bias": (4,),
    "norm.weight": (4,),
    "norm.bias": (4,),
    "fc.weight": (6, 5),
    "fc.bias": (6,),
    "head.weight": (3, 6),
}


def make(seed: int = 0, *, out: float = 0.0, shapes: dict = SHAPES, spread: float = 1.0) -> Posterior:
    """Random posterior under a prior of variance 1/2, a share `out` of each parameter already removed."""
    generator = torch.Generator().manual_seed(seed)
    mean, precision, keep = {}, {}, {}
    for name, shape in shapes.items():
        mean[name] = 0.4 * spread * torch.randn(shape, generator=generator)
        precision[name] = 2 + 30 * torch.rand(shape, generator=generator)
        if out:
            keep[name] = torch.rand(shape, generator=generator) >= out
            mean[name] *= keep[name]
    return Posterior(mean, precision, {name: torch.tensor(2.0) for name in shapes}, keep)


def evidence_of(posterior: Posterior) -> dict[str, torch.Tensor]:
    return {
        name: delta_f(mean, posterior.precision[name], prior_precision=posterior.prior_precision[name])
        for name, mean in posterior.mean.items()
    }


def keep_of(posterior: Posterior, name: str) -> torch.Tensor:
    return posterior.keep.get(name, torch.ones_like(posterior.mean[name], dtype=torch.bool))


def count_out(masks: dict[str, torch.Tensor]) -> int:
    return sum(int((~mask).sum()) for mask in masks.values())


# The evidence stops the reduction ------------------------------------------------------------------------


@pytest.mark.parametrize("out", [0.0, 0.3])
def test_evidence_stop_is_spike_and_slab_layer_by_layer(out):
    posterior = make(1, out=out)
    result = reduce(posterior)
    evidence = evidence_of(posterior)
    for layer in ("conv", "fc", "head"):
        names = [name for name in SHAPES if name.startswith(layer)]
        inside = torch.cat([evidence[name][keep_of(posterior, name)] for name in names])
        removed = sum(int((~keep_of(posterior, name)).sum()) for name in names)
        decided = spike_and_slab(inside, num_removed=removed)
        (row,) = [row for row in result.layers if row.name == layer]
        assert row.threshold == decided.log_odds.item()
        assert row.num_removed == int((~decided.keep).sum()) > 0
        for name in names:
            goes = keep_of(posterior, name) & (evidence[name] > decided.log_odds)
            assert torch.equal(result.masks[name], keep_of(posterior, name) & ~goes)
    for name in ("norm.weight", "norm.bias"):
        assert torch.equal(result.masks[name], keep_of(posterior, name))


def test_the_sparser_a_layer_the_more_evidence_it_takes_to_stay():
    bare = make(2)
    keep = {name: torch.ones(shape, dtype=torch.bool) for name, shape in SHAPES.items()}
    keep["fc.weight"][2:] = False
    sparser = Posterior(bare.mean, bare.precision, bare.prior_precision, keep)
    before, after = ({row.name: row for row in reduce(p).layers} for p in (bare, sparser))
    assert after["fc"].threshold < before["fc"].threshold
    assert after["conv"].threshold == before["conv"].threshold


def test_a_layer_that_is_all_out_stays_out():
    posterior = make(3)
    keep = {"fc.weight": torch.zeros(6, 5, dtype=torch.bool), "fc.bias": torch.zeros(6, dtype=torch.bool)}
    result = reduce(Posterior(posterior.mean, posterior.precision, posterior.prior_precision, keep))
    (row,) = [row for row in result.layers if row.name == "fc"]
    assert (row.num_kept, row.num_removed, row.sparsity) == (0, 0, 1.0)
    assert math.isnan(row.threshold)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.floats(0, 1), st.sampled_from([0.0, 0.4]))
def test_caps_take_the_best_evidence_first(seed, max_fraction, max_sparsity, out):
    posterior = make(seed, out=out)
    free = reduce(posterior)
    capped = reduce(posterior, max_fraction=max_fraction, max_sparsity=max_sparsity)
    total, before = free.num_weights, count_out(posterior.keep)
    limit = min(math.floor(max_fraction * (total - before)), max(0, round(max_sparsity * total) - before))
    assert capped.num_removed == min(free.num_removed, limit)
    evidence = evidence_of(posterior)
    gone, left = [], []
    for name in SHAPES:
        wanted = keep_of(posterior, name) & ~free.masks[name]
        assert not (~capped.masks[name] & keep_of(posterior, name) & ~wanted).any()
        gone.append(evidence[name][wanted & ~capped.masks[name]])
        left.append(evidence[name][wanted & capped.masks[name]])
    gone, left = torch.cat(gone), torch.cat(left)
    if len(gone) and len(left):
        assert gone.min() >= left.max()


# A target cuts the same ranking --------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 1), st.sampled_from([0.0, 0.3]))
def test_a_target_is_met_to_the_entry(seed, share, out):
    posterior = make(seed, out=out)
    total, before = sum(math.prod(shape) for shape in SHAPES.values()), count_out(posterior.keep)
    norm = sum(int(keep_of(posterior, f"norm.{kind}").sum()) for kind in ("weight", "bias"))
    most = (total - norm) / total
    target = before / total + share * (most - before / total)
    result = reduce(posterior, sparsity=target)
    assert count_out(result.masks) == round(target * total)
    assert result.sparsity == pytest.approx(round(target * total) / total)
    evidence = evidence_of(posterior)
    gone = [evidence[n][keep_of(posterior, n) & ~result.masks[n]] for n in SHAPES]
    left = [evidence[n][result.masks[n]] for n in SHAPES if not n.startswith("norm")]
    gone, left = torch.cat(gone), torch.cat(left)
    if len(gone) and len(left):
        assert gone.min() >= left.max()


def test_a_target_that_cannot_be_met_names_what_can():
    posterior = make(4, out=0.5)
    with pytest.raises(InvalidArgumentError, match=r"sparsity: expected between 0\.\d+ \(already out\)"):
        reduce(posterior, sparsity=0.1)
    with pytest.raises(InvalidArgumentError, match=r"and 0\.\d+ \(everything that may go\), got 0.99"):
        reduce(posterior, sparsity=0.99)


def test_ties_are_cut_to_the_entry():
    shapes = {"fc.weight": (7, 9)}
    mean = {"fc.weight": torch.zeros(7, 9)}
    flat = Posterior(mean, {"fc.weight": torch.full((7, 9), 5.0)}, {"fc.weight": torch.tensor(1.0)})
    assert count_out(reduce(flat, sparsity=0.3).masks) == round(0.3 * math.prod(shapes["fc.weight"]))


# Whole units ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["neuron", "channel"])
@pytest.mark.parametrize("out", [0.0, 0.3])
def test_units_go_whole_with_their_bias_and_their_evidence_adds_up(granularity, out):
    posterior = make(5, out=out, spread=0.5)
    result = reduce(posterior, granularity=granularity)
    assert result.num_removed > 0
    evidence = evidence_of(posterior)
    for layer in ("conv", "fc", "head"):
        names = [name for name in SHAPES if name.startswith(layer)]
        keep = torch.cat([keep_of(posterior, n).flatten(1) if keep_of(posterior, n).dim() > 1
                          else keep_of(posterior, n)[:, None] for n in names], 1)  # fmt: skip
        each = torch.cat([evidence[n].view(len(evidence[n]), -1) for n in names], 1)
        summed = (each * keep).sum(1)
        here = keep.any(1)
        decided = spike_and_slab(summed[here], num_removed=int((~here).sum()))
        gone = here & (summed > decided.log_odds)
        after = torch.cat([result.masks[n].view(len(gone), -1) for n in names], 1)
        assert torch.equal(after, keep & ~gone[:, None])
        (row,) = [row for row in result.layers if row.name == layer]
        assert row.predicted_delta_f == pytest.approx(summed[gone].sum().item(), rel=1e-5, abs=1e-5)
        assert row.num_removed == int(keep[gone].sum())


def test_a_target_in_units_is_approached_from_below():
    posterior = make(6)
    result = reduce(posterior, sparsity=0.5, granularity="neuron")
    largest = 2 * 3 * 3 + 1
    assert 0.5 - largest / result.num_weights < result.sparsity <= 0.5
    for name in ("conv.weight", "fc.weight", "head.weight"):
        rows = result.masks[name].view(len(result.masks[name]), -1)
        assert (rows.all(1) | ~rows.any(1)).all()


def test_layers_without_common_rows_are_named():
    shapes = {"odd.weight": (4, 3), "odd.scale": (3,)}
    with pytest.raises(InvalidArgumentError, match=r"same rows, got: odd.weight has 4, odd.scale has 3"):
        reduce(make(7, shapes=shapes), granularity="neuron")
    reduce(make(7, shapes=shapes))
    reduce(make(7, shapes=shapes), granularity="neuron", exclude=["*.scale"])


def test_scalars_are_units_of_one():
    shapes = {"gain": (), "fc.weight": (3, 2)}
    posterior = make(8, shapes=shapes)
    for granularity in ("weight", "neuron"):
        result = reduce(posterior, sparsity=1.0, include=["*"], granularity=granularity)
        assert result.sparsity == 1.0
        assert result.masks["gain"].shape == ()


# Choice and result ---------------------------------------------------------------------------------------


def test_patterns_choose_what_may_go():
    posterior = make(9)
    result = reduce(posterior, sparsity=0.05, include=["norm.*", "fc.*"], exclude=["*.bias"])
    gone = {name for name, mask in result.masks.items() if not mask.all()}
    assert gone <= {"norm.weight", "fc.weight"}
    asked = {name for name, each in result.delta_f.items() if not each.isnan().all()}
    assert asked == {"norm.weight", "fc.weight"}


@pytest.mark.parametrize("granularity", ["weight", "neuron"])
@pytest.mark.parametrize("options", [{}, {"sparsity": 0.6}, {"max_fraction": 0.2}])
def test_rows_add_up(granularity, options):
    posterior = make(10, out=0.2, spread=0.5)
    result = reduce(posterior, granularity=granularity, **options)
    total = sum(mean.numel() for mean in posterior.mean.values())
    assert result.num_weights == sum(row.num_weights for row in result.layers) == total
    assert result.num_kept == total - count_out(result.masks)
    assert result.num_removed == count_out(result.masks) - count_out(posterior.keep)
    assert result.sparsity == pytest.approx(count_out(result.masks) / total)
    gone = {n: keep_of(posterior, n) & ~mask for n, mask in result.masks.items()}
    summed = sum(float(result.delta_f[n][gone[n]].double().sum()) for n in gone)
    assert result.predicted_delta_f == pytest.approx(summed, rel=1e-5)
    assert [row.name for row in result.layers] == ["conv", "norm", "fc", "head"]
    assert [row.shape for row in result.layers] == [(4, 2, 3, 3), (4,), (6, 5), (3, 6)]
    assert result.layers[0].num_weights == 4 * 2 * 3 * 3 + 4
    for name, each in result.delta_f.items():
        expected_nan = ~keep_of(posterior, name) if "norm" not in name else torch.ones_like(gone[name])
        assert torch.equal(each.isnan(), expected_nan)


def test_the_row_of_a_masked_layer_has_the_shape_of_its_weight():
    """After masking, a module lists its bias before its weight."""
    posterior = make(11, shapes={"fc.bias": (6,), "fc.weight": (6, 5)})
    assert reduce(posterior).layers[0].shape == (6, 5)


def test_nothing_is_changed():
    posterior = make(12, out=0.2)
    kept = {name: mask.clone() for name, mask in posterior.keep.items()}
    result = reduce(posterior, sparsity=0.7)
    assert all(torch.equal(posterior.keep[name], mask) for name, mask in kept.items())
    result.masks["fc.bias"].zero_()
    assert torch.equal(posterior.keep["fc.bias"], kept["fc.bias"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granularity": "row"}, "granularity: expected one of weight, neuron, channel, got 'row'"),
        ({"sparsity": 1.2}, "sparsity: expected a fraction between 0 and 1"),
        ({"sparsity": math.nan}, "sparsity: expected a fraction between 0 and 1"),
        ({"max_fraction": -0.1}, "max_fraction: expected a fraction"),
        ({"max_sparsity": 2.0}, "max_sparsity: expected a fraction"),
        ({"sparsity": 0.5, "max_fraction": 0.1}, "sparsity: expected no cap beside a target"),
        ({"include": ["nothing"]}, "include: expected patterns of parameter names, got 'nothing'"),
        ({"exclude": ["*"]}, "at least one parameter to reduce"),
        ({"include": "fc.*"}, "include: expected a list of patterns"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises(InvalidArgumentError, match=message):
        reduce(make(), **options)


def test_a_point_estimate_has_no_evidence():
    posterior = make()
    precision = posterior.precision | {"fc.bias": torch.full((6,), math.inf)}
    with pytest.raises(
        InvalidArgumentError, match=r"precision\['fc.bias'\]: .* a point estimate has no evidence"
    ):
        reduce(Posterior(posterior.mean, precision, posterior.prior_precision))


def test_what_is_out_counts_for_sparsity_or_is_undecided():
    """Counted, it lowers the threshold (more goes); undecided, it enters with evidence 0."""
    posterior = make(3, out=0.6)
    counted, undecided = reduce(posterior), reduce(posterior, count_removed=False)
    assert undecided.num_removed < counted.num_removed
    for row in undecided.layers:
        if math.isnan(row.threshold):
            continue
        names = [name for name in SHAPES if name.rpartition(".")[0] == row.name]
        evidence = torch.cat([
            torch.where(keep_of(posterior, name), evidence_of(posterior)[name], 0.0).flatten()
            for name in names
        ])
        assert row.threshold == pytest.approx(float(spike_and_slab(evidence).log_odds), abs=1e-4)
