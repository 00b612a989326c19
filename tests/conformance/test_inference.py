"""Every optimiser on every kind of network: it learns, is pruned, and stays pruned."""

import torch
from torch import nn

from secateur.modules import held_masks, hold, release
from secateur.pruning import prune


def test_trains_prunes_and_masks_hold(build, any_task):
    """The optimiser follows masks held in the model, for points as for weights with a posterior."""
    task = any_task
    # as if each example were seen a hundred times: so few data would not tell the weights from their prior
    optimizer = build(task.model.named_parameters(), num_data=6400, exclude=["*norm*", "1.*"])
    loss_before = task.loss().item()
    for _ in range(40):
        task.step(optimizer)
    assert task.loss().item() < 0.9 * loss_before

    posterior = optimizer.posterior()
    parameters = dict(task.model.named_parameters())
    assert {name: mean.shape for name, mean in posterior.mean.items()} == {
        name: each.shape for name, each in parameters.items() if "norm" not in name and name[:2] != "1."
    }
    if build.is_point:  # has no evidence; masks by size
        cut = torch.cat([mean.abs().flatten() for mean in posterior.mean.values()]).median()
        hold(task.model, {name: mean.abs() > cut for name, mean in posterior.mean.items()})
    else:
        found = prune(task.model, posterior, sparsity=0.5)
        assert abs(found.sparsity - 0.5) < 1 / found.num_weights
    masks = held_masks(task.model)
    assert sum(int((~mask).sum()) for mask in masks.values()) > 0

    first = {name: parameters[name].detach().clone() for name in masks}
    for _ in range(3):
        with optimizer.sampled_parameters():
            assert all((parameters[name][~mask] == 0).all() for name, mask in masks.items())
            optimizer.zero_grad()
            task.loss().backward()
        optimizer.step()
        for name, mask in masks.items():
            assert (parameters[name][~mask] == 0).all(), name
            assert not mask.any() or not torch.equal(parameters[name], first[name]), f"{name} learns no more"
    again = optimizer.posterior()
    assert all(torch.equal(again.keep[name], mask) for name, mask in masks.items())
    if not build.is_point:
        assert prune(task.model, again, sparsity=0.6).num_removed > 0
        for name, mask in masks.items():
            assert not (held_masks(task.model)[name] & ~mask).any()


def test_released_entries_move_again_but_those_given_to_hold_do_not(build, make_task):
    task = make_task("mlp")
    optimizer = build(task.model.named_parameters(), exclude=["4.*"])
    by_model = {"0.weight": torch.ones(10, 6).bool(), "4.weight": torch.ones(3, 8).bool()}
    by_model["0.weight"][0] = by_model["4.weight"][0] = False
    by_optimizer = {"0.weight": torch.ones(10, 6).bool()}
    by_optimizer["0.weight"][1] = False
    hold(task.model, by_model)
    optimizer.hold(by_optimizer)
    task.step(optimizer)
    weights = {name: each.detach() for name, each in task.model.named_parameters()}
    assert (weights["0.weight"][:2] == 0).all()
    assert (weights["4.weight"][0] == 0).all()
    release(task.model)
    for _ in range(2):
        task.step(optimizer)
    assert (weights["0.weight"][1] == 0).all()
    assert (weights["0.weight"][0] != 0).any()
    assert (weights["4.weight"][0] != 0).any()


def test_masks_of_another_model_change_nothing(build, make_task):
    found = []
    for disturbed in (False, True):
        task = make_task("mlp")
        optimizer = build(task.model.named_parameters())
        for _ in range(3):
            task.step(optimizer)
            if disturbed:
                other = nn.Linear(3, 2)
                hold(other, {"weight": torch.eye(3).bool()[:2]})
        found.append([each.detach().clone() for each in task.model.parameters()])
    assert all(map(torch.equal, *found))
