"""What every optimiser promises a loop: draws in a context, complete state, masks, groups, schedules."""

import copy

import pytest
import torch
from torch import nn

from secateur.errors import ArtifactError, InvalidArgumentError
from secateur.inference import IVON, Calibrated, FlatFF, FlatMAP
from secateur.runs.checkpoint import load_nested, save_nested


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_same(found: dict, expected: dict) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name], value), name


def masks_at_random(model: nn.Module, seed: int = 4) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(p.shape, generator=generator) > 0.4 for name, p in model.named_parameters()}


# Drawing -------------------------------------------------------------------------------------------------


def test_means_return_after_a_block_and_differ_inside(build, make_task):
    task = make_task("mlp")
    optimizer = build(task.model.named_parameters())
    before = weights(task.model)
    with optimizer.sampled_parameters():
        moved = any(not torch.equal(before[n], p) for n, p in task.model.named_parameters())
    assert moved is not build.is_point
    assert_same(weights(task.model), before)


def test_means_return_on_error_and_the_failed_block_counts_for_nothing(build, make_task):
    task = make_task("mlp")
    optimizer = build(task.model.named_parameters())
    before = weights(task.model)
    with pytest.raises(RuntimeError, match="out of memory"), optimizer.sampled_parameters():
        raise RuntimeError("out of memory")
    assert_same(weights(task.model), before)
    task.step(optimizer)  # would count two draws otherwise


def test_means_return_when_the_draw_itself_fails(make_task):
    task = make_task("mlp")
    groups = [{"params": [pair]} for pair in task.model.named_parameters()]
    optimizer = Calibrated(groups, num_data=64)
    before = weights(task.model)
    optimizer.param_groups[-1]["temperature"] = None
    with pytest.raises(TypeError), optimizer.sampled_parameters():
        pass
    assert_same(weights(task.model), before)


@pytest.mark.parametrize("place", ["inside", "between"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_prediction_leaves_a_pending_step_undisturbed(build, make_task, place, mode):
    """Only the noise stream moves on, so the same step follows from the same draw."""
    found = []
    for predicts in (False, True):
        task = make_task("mlp")
        optimizer = build(task.model.named_parameters())

        def predict(task=task, optimizer=optimizer):
            outer = weights(task.model)
            with mode(), optimizer.sampled_parameters():
                assert task.loss().isfinite()
            assert_same(weights(task.model), outer)

        with optimizer.sampled_parameters():
            if predicts and place == "inside":
                predict()
            optimizer.zero_grad()
            task.loss().backward()
            if predicts and place == "inside":
                predict()
        if predicts and place == "between":
            predict()
        optimizer.step()
        found.append(weights(task.model))
    assert_same(*found)


def test_the_posterior_inside_a_block_is_that_of_the_means(build, make_task):
    task = make_task("mlp")
    optimizer = build(task.model.named_parameters())
    outside = optimizer.posterior()
    with optimizer.sampled_parameters():
        inside = optimizer.posterior()
    assert_same(inside.mean, outside.mean)
    for name, mean in outside.mean.items():
        torch.testing.assert_close(weights(task.model)[name], mean)


def test_the_posterior_is_a_copy(build, make_task):
    task = make_task("mlp")
    optimizer = build(task.model.named_parameters())
    posterior = optimizer.posterior()
    kept = copy.deepcopy(posterior)
    for _ in range(3):
        task.step(optimizer)
    for kind in ("mean", "precision", "prior_precision"):
        assert_same(getattr(posterior, kind), getattr(kept, kind))


# Stepping ------------------------------------------------------------------------------------------------


def test_a_step_without_a_draw_raises(build, make_task):
    if build.is_point:
        pytest.skip("a point needs no draw")
    task = make_task("mlp")
    optimizer = build(task.model.named_parameters())
    task.loss().backward()
    with pytest.raises(InvalidArgumentError, match=r"expected one sampled_parameters\(\) block .* got 0"):
        optimizer.step()
    task.step(optimizer)
    with pytest.raises(InvalidArgumentError, match="got 0"):
        optimizer.step()


def test_gradients_of_two_draws_raise_and_one_draw_mends_it(build, make_task):
    if build.is_point:
        pytest.skip("a point needs no draw")
    task = make_task("mlp")
    optimizer = build(task.model.named_parameters())
    for _ in range(2):
        with optimizer.sampled_parameters():
            task.loss().backward()
    before = weights(task.model)
    with pytest.raises(InvalidArgumentError, match="got 2; accumulate inside one block"):
        optimizer.step()
    assert_same(weights(task.model), before)
    task.step(optimizer)


def test_a_skipped_step_is_forgotten_once_gradients_are_cleared(build, make_task):
    """As a gradient scaler skips on overflow: the next draw stands alone."""
    task = make_task("mlp")
    optimizer = build(task.model.named_parameters())
    with optimizer.sampled_parameters():
        task.loss().backward()
    task.step(optimizer)


def test_clearing_gradients_between_draw_and_step_raises(make_task):
    task = make_task("mlp")
    optimizer = Calibrated(task.model.named_parameters(), num_data=64)
    with optimizer.sampled_parameters():
        task.loss().backward()
    optimizer.zero_grad()
    with pytest.raises(InvalidArgumentError, match="got 0"):
        optimizer.step()


def test_accumulated_gradients_inside_one_block_are_one_gradient(build, make_task):
    found = []
    for parts in (1, 4):
        task = make_task("mlp")
        optimizer = build(task.model.named_parameters())
        with optimizer.sampled_parameters():
            optimizer.zero_grad()
            for x, y in zip(task.inputs.chunk(parts), task.labels.chunk(parts), strict=True):
                (nn.functional.cross_entropy(task.model(x), y) / parts).backward()
        optimizer.step()
        found.append(weights(task.model))
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], atol=2e-5, rtol=1e-4)


def test_closure_form_is_the_same_step(build, make_task):
    """As Lightning calls it: the closure clears, computes, and returns the loss."""
    by_hand, by_closure = make_task("mlp"), make_task("mlp")
    first, second = build(by_hand.model.named_parameters()), build(by_closure.model.named_parameters())

    def closure():
        second.zero_grad()
        loss = by_closure.loss()
        loss.backward()
        return loss

    for _ in range(3):
        expected = by_hand.step(first)
        assert second.step(closure).item() == expected
    assert_same(weights(by_closure.model), weights(by_hand.model))


@pytest.mark.parametrize("ended", ["before", "inside"])
def test_a_closure_takes_the_draw_that_was_begun(build, make_task, ended):
    """As a trainer has it whose accumulated batches are under one draw, or whose closure is empty."""
    by_hand, by_closure = make_task("mlp"), make_task("mlp")
    first, second = build(by_hand.model.named_parameters()), build(by_closure.model.named_parameters())
    for _ in range(3):
        by_hand.step(first)
        block = second.sampled_parameters()
        block.__enter__()
        second.zero_grad()
        by_closure.loss().backward()
        if ended == "before":
            block.__exit__(None, None, None)
            assert second.step(lambda: None) is None
        else:
            second.step(lambda: block.__exit__(None, None, None))  # noqa: B023
    assert_same(weights(by_closure.model), weights(by_hand.model))


def test_a_closure_that_leaves_the_block_open_raises(make_task):
    task = make_task("mlp")
    optimizer = Calibrated(task.model.named_parameters(), num_data=64)
    with (
        pytest.raises(InvalidArgumentError, match="step: expected a call after"),
        optimizer.sampled_parameters(),
    ):
        optimizer.step(lambda: task.loss().backward())


@pytest.mark.parametrize("action", ["step", "hold", "load_state_dict"])
def test_what_would_be_undone_by_the_end_of_a_block_raises_inside(make_task, action):
    task = make_task("mlp")
    optimizer = Calibrated(task.model.named_parameters(), num_data=64)
    arguments = {"step": (), "hold": ({},), "load_state_dict": (optimizer.state_dict(),)}[action]
    with (
        pytest.raises(InvalidArgumentError, match=f"{action}: expected a call after"),
        optimizer.sampled_parameters(),
    ):
        getattr(optimizer, action)(*arguments)


# State ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("exclude", [None, ["2.*"]], ids=["all", "points"])
@pytest.mark.parametrize("through_file", [False, True], ids=["memory", "file"])
def test_resumed_equals_uninterrupted_bit_for_bit(build, make_task, tmp_path, exclude, through_file):
    task = make_task("mlp")
    optimizer = build(task.model.named_parameters(), exclude=exclude)
    for step in range(7):
        if step == 3:
            optimizer.hold({n: m for n, m in masks_at_random(task.model).items() if "weight" in n})
        if step == 5:
            state = {"model": task.model.state_dict(), "optimizer": optimizer.state_dict()}
            if through_file:
                save_nested(tmp_path / "state.safetensors", state)
                state = load_nested(tmp_path / "state.safetensors")
            else:
                state = copy.deepcopy(state)
        task.step(optimizer)

    torch.manual_seed(99)
    again = make_task("mlp")
    for parameter in again.model.parameters():
        nn.init.normal_(parameter)
    resumed = build(again.model.named_parameters(), seed=1, lr=0.5, exclude=exclude)
    with resumed.sampled_parameters():
        again.loss().backward()  # a step that is pending counts no more
    again.model.load_state_dict(state["model"])
    resumed.load_state_dict(state["optimizer"])
    for _ in range(2):
        again.step(resumed)

    assert_same(weights(again.model), weights(task.model))
    for kind in ("mean", "precision", "prior_precision", "keep"):
        assert_same(getattr(resumed.posterior(), kind), getattr(optimizer.posterior(), kind))
    assert torch.equal(resumed.generator.get_state(), optimizer.generator.get_state())


def test_saved_state_does_not_move_with_the_optimizer(build, make_task):
    task = make_task("mlp")
    optimizer = build(task.model.named_parameters())
    task.step(optimizer)
    own = optimizer.state_dict()["posterior"]
    before = copy.deepcopy(own["blocks"])
    task.step(optimizer)
    for saved, kept in zip(own["blocks"], before, strict=True):
        assert_same(saved, kept)


def narrower() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 10), nn.Tanh(), nn.Linear(10, 7), nn.Tanh(), nn.Linear(7, 3))


def transposed() -> nn.Module:
    """As many weights under other names."""
    return nn.Sequential(nn.Identity(), nn.Linear(6, 10), nn.Linear(10, 8), nn.Linear(8, 3))


@pytest.mark.parametrize("other", [narrower, transposed, lambda: nn.Linear(2, 2)])
def test_state_of_another_network_is_refused_and_changes_nothing(build, make_task, other):
    task = make_task("mlp")
    optimizer = build(task.model.named_parameters())
    task.step(optimizer)
    before = optimizer.state_dict()
    foreign = build(other().named_parameters(), lr=0.7).state_dict()
    with pytest.raises(ArtifactError, match="belongs to another network"):
        optimizer.load_state_dict(foreign)
    after = optimizer.state_dict()
    assert after["param_groups"] == before["param_groups"]
    for found, expected in zip(after["posterior"]["blocks"], before["posterior"]["blocks"], strict=True):
        assert_same(found, expected)


def test_state_of_another_method_is_refused(make_task):
    parameters = list(make_task("mlp").model.named_parameters())
    optimizer = Calibrated(parameters, num_data=64)
    with pytest.raises(ArtifactError, match="another method"):
        optimizer.load_state_dict(IVON(parameters, num_data=64).state_dict())
    with pytest.raises(ArtifactError, match="another optimizer's"):
        optimizer.load_state_dict(torch.optim.Adam(parameters).state_dict())
    with pytest.raises(ArtifactError, match=r"got 1; include or exclude differ|another network"):
        optimizer.load_state_dict(Calibrated(parameters, num_data=64, exclude=["0.*"]).state_dict())
    with_sgd = Calibrated(parameters, num_data=64, inner=lambda p: torch.optim.SGD(p, lr=1.0))
    with_adam = Calibrated(parameters, num_data=64, inner=torch.optim.Adam)
    with pytest.raises(ArtifactError, match="same inner optimizer"):
        with_sgd.load_state_dict(with_adam.state_dict())


# Masks ---------------------------------------------------------------------------------------------------


def test_held_weights_never_come_back(build, make_task):
    task = make_task("mlp")
    optimizer = build(task.model.named_parameters())
    for _ in range(3):
        task.step(optimizer)  # momentum that would carry removed weights on
    masks = masks_at_random(task.model)
    optimizer.hold(masks)

    def all_out():
        return all((p[~masks[name]] == 0).all() for name, p in task.model.named_parameters())

    assert all_out()
    for _ in range(4):
        with optimizer.sampled_parameters():
            assert all_out()
            optimizer.zero_grad()
            task.loss().backward()
        optimizer.step()
        assert all_out()
        with torch.no_grad(), optimizer.sampled_parameters():
            assert all_out()
    posterior = optimizer.posterior()
    assert_same(posterior.keep, masks)
    assert all((posterior.sample()[name][~mask] == 0).all() for name, mask in masks.items())


def test_a_second_hold_keeps_what_both_keep(build, make_task):
    task = make_task("mlp")
    optimizer = build(task.model.named_parameters())
    first, second = masks_at_random(task.model, 1), masks_at_random(task.model, 2)
    optimizer.hold(first)
    optimizer.hold({name: mask.float() for name, mask in second.items()})
    assert_same(optimizer.posterior().keep, {name: first[name] & second[name] for name in first})


def test_holding_unknown_names_or_shapes_raises_and_holds_nothing(build, make_task):
    task = make_task("mlp")
    optimizer = build(task.model.named_parameters())
    good = torch.zeros(10, 6, dtype=torch.bool)
    with pytest.raises(InvalidArgumentError, match=r"names of the optimizer's parameters, got '0.weigth'"):
        optimizer.hold({"0.weight": good, "0.weigth": good})
    with pytest.raises(InvalidArgumentError, match=r"masks\['2.weight'\]: expected shape \(8, 10\)"):
        optimizer.hold({"0.weight": good, "2.weight": good})
    assert optimizer.posterior().keep == {}


# Groups and choices --------------------------------------------------------------------------------------


def test_patterns_choose_and_the_rest_is_trained_as_points(build, make_task):
    task = make_task("mlp")
    optimizer = build(task.model.named_parameters(), include=["0.*", "4.*"], exclude=["*.bias"])
    assert list(optimizer.posterior().mean) == ["0.weight", "4.weight"]
    with optimizer.sampled_parameters():
        drawn = weights(task.model)
    points = ["0.bias", "2.weight", "2.bias", "4.bias"]
    assert all(torch.equal(drawn[name], weights(task.model)[name]) for name in points)
    before = weights(task.model)
    for _ in range(2):
        task.step(optimizer)
    assert all(not torch.equal(before[name], weights(task.model)[name]) for name in before)


def test_points_follow_adam_exactly(make_task):
    task, oracle = make_task("mlp"), make_task("mlp")
    optimizer = FlatMAP(task.model.named_parameters(), lr=3e-3, num_data=64, include=["0.weight"])
    adam = torch.optim.Adam([oracle.model[2].weight], lr=3e-3)
    for _ in range(5):
        oracle.model[2].weight.grad = None
        with torch.no_grad():
            for name, parameter in oracle.model.named_parameters():
                if name != "2.weight":
                    parameter.copy_(dict(task.model.named_parameters())[name])
        oracle.loss().backward()
        task.step(optimizer)
        adam.step()
    torch.testing.assert_close(task.model[2].weight, oracle.model[2].weight, atol=1e-6, rtol=1e-5)


def test_frozen_parameters_stay(build, make_task):
    task = make_task("mlp")
    task.model[0].weight.requires_grad_(False)
    frozen = task.model[0].weight.clone()
    optimizer = build(task.model.named_parameters())
    task.step(optimizer)
    assert torch.equal(task.model[0].weight, frozen)
    assert "0.weight" not in optimizer.posterior().mean


def test_groups_have_their_own_learning_rate(build, make_task):
    task = make_task("mlp")
    pairs = list(task.model.named_parameters())
    optimizer = build([{"params": pairs[:2], "lr": 1e-30}, {"params": pairs[2:]}])
    before = weights(task.model)
    for _ in range(3):
        task.step(optimizer)
    after = weights(task.model)
    for name in before:
        moved = (after[name] - before[name]).abs().max()
        assert moved < 1e-6 if name.startswith("0.") else moved > 1e-4, name


@pytest.mark.parametrize("kind", [FlatFF, FlatMAP])
def test_the_output_layer_has_its_own_scale_whatever_the_groups(kind, make_task):
    pairs = list(make_task("mlp").model.named_parameters())
    expected = {name: 1.0 if name.startswith("4.") else 100.0 for name, _ in pairs}
    split = [{"params": pairs[:2]}, {"params": pairs[2:]}]
    for groups, exclude in ((pairs, None), (split, None), (pairs, ["4.*"])):
        prior = kind(groups, num_data=64, exclude=exclude).posterior().prior_precision
        assert prior
        assert all(value.item() == pytest.approx(expected[name]) for name, value in prior.items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_everything_stays_in_the_parameters_dtype(build, dtype):
    model = nn.Linear(3, 2, dtype=dtype)
    optimizer = build(model.named_parameters())
    with optimizer.sampled_parameters():
        optimizer.zero_grad()
        model(torch.ones(4, 3, dtype=dtype)).square().mean().backward()
    optimizer.step()
    posterior = optimizer.posterior()
    assert {t.dtype for t in (*posterior.mean.values(), *posterior.precision.values())} == {dtype}
    assert {t.dtype for t in posterior.prior_precision.values()} == {dtype}


def test_kinds_of_numbers_that_cannot_be_mixed_or_averaged_raise(build):
    mixed = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2, dtype=torch.float64))
    with pytest.raises(
        InvalidArgumentError, match=r"one dtype and device.*torch.float32 on cpu, torch.float64"
    ):
        build(mixed.named_parameters())
    with pytest.raises(InvalidArgumentError, match=r"expected float32 or float64, got torch\.bfloat16"):
        build(nn.Linear(2, 2, dtype=torch.bfloat16).named_parameters())
    build([{"params": list(layer.named_parameters(str(i)))} for i, layer in enumerate(mixed)])


def test_sparse_gradients_are_taken(build):
    embedding = nn.Embedding(5, 3, sparse=True)
    optimizer = build(embedding.named_parameters())
    before = embedding.weight.detach().clone()
    with optimizer.sampled_parameters():
        optimizer.zero_grad()
        embedding(torch.tensor([1, 1, 4])).square().sum().backward()
    optimizer.step()
    assert not torch.equal(embedding.weight[1], before[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (lambda m: {"params": m.parameters()}, "expected named parameters"),
        (lambda m: {"params": [*m.named_parameters(), *nn.Linear(2, 2).named_parameters("0")]}, "name once"),
        (lambda m: {"params": m.named_parameters(), "include": ["nothing*"]}, "at least one parameter"),
        (
            lambda m: {"params": m.named_parameters(), "exclude": "2.*"},
            r"exclude: expected a list of patterns",
        ),
        (lambda m: {"params": m.named_parameters(), "num_data": 0}, "num_data: expected a positive"),
        (lambda m: {"params": m.named_parameters(), "lr": -1.0}, "lr: expected a positive"),
        (
            lambda m: {"params": [{"params": list(m.named_parameters()), "lr": 0.0}]},
            "lr: expected a positive",
        ),
    ],
)
def test_wrong_arguments_are_named(build, make_task, arguments, message):
    given = arguments(make_task("mlp").model)
    with pytest.raises(InvalidArgumentError, match=message):
        build(given.pop("params"), **given)


@pytest.mark.parametrize("kind", [Calibrated, IVON])
def test_wrong_hyper_parameters_are_named(make_task, kind):
    model = make_task("mlp").model
    wrong = {"weight_decay": 0.0, "temperature": -1.0, "hessian_init": float("nan"), "betas": (0.9, 1.0)}
    for name, value in {**wrong, "noise": "laplace"}.items():
        with pytest.raises(InvalidArgumentError, match=f"{name}: expected"):
            kind(model.named_parameters(), num_data=64, **{name: value})
    group = {"params": list(model.named_parameters()), "weight_decay": 0.0}
    with pytest.raises(InvalidArgumentError, match="weight_decay: expected"):
        kind([group], num_data=64)


def test_a_late_group_is_refused(build, make_task):
    optimizer = build(make_task("mlp").model.named_parameters())
    with pytest.raises(InvalidArgumentError, match="all groups at construction"):
        optimizer.add_param_group({"params": [("late", nn.Parameter(torch.ones(2)))]})


def test_without_a_generator_the_global_seed_decides(make_task):
    found = []
    for _ in range(2):
        task = make_task("mlp")  # seeds
        optimizer = Calibrated(task.model.named_parameters(), num_data=64)
        task.step(optimizer)
        found.append(weights(task.model))
    assert_same(*found)


SCHEDULERS = {
    "one-cycle": lambda o: torch.optim.lr_scheduler.OneCycleLR(o, max_lr=0.02, total_steps=6),
    "cosine": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, T_max=6),
    "warm-up": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o,
        [
            torch.optim.lr_scheduler.LinearLR(o, start_factor=0.1, total_iters=2),
            torch.optim.lr_scheduler.ExponentialLR(o, gamma=0.9),
        ],
        milestones=[2],
    ),
}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_torch_schedulers_move_the_learning_rate(build, make_task, scheduler):
    task = make_task("mlp")
    optimizer = build(task.model.named_parameters())
    if scheduler == "one-cycle" and "betas" not in optimizer.defaults:
        pytest.skip("cycles betas or momentum, which these groups do not have")
    schedule = SCHEDULERS[scheduler](optimizer)
    rates, steps = [], []
    for _ in range(5):
        before = weights(task.model)
        task.step(optimizer)
        rates.append(optimizer.param_groups[0]["lr"])
        steps.append(max((weights(task.model)[n] - before[n]).abs().max().item() for n in before))
        schedule.step()
    assert len(set(rates)) > 3
    assert all(step > 0 for step in steps)
