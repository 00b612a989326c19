"""Every optimiser on every kind of network: it learns, is pruned, and stays pruned."""

import torch

from secateur.pruning import apply_masks, masks_of, prune, reduce


def test_trains_prunes_and_masks_hold(build, any_task):
    task = any_task
    # as if each example were seen a hundred times: so few data would not tell the weights from their prior
    optimizer = build(task.model.named_parameters(), num_data=6400, exclude=["*norm*", "1.*"])
    loss_before = task.loss().item()
    for _ in range(40):
        task.step(optimizer)
    assert task.loss().item() < 0.9 * loss_before

    posterior = optimizer.posterior()
    shapes = {name: parameter.shape for name, parameter in task.model.named_parameters()}
    assert {name: mean.shape for name, mean in posterior.mean.items()} == {
        name: shape for name, shape in shapes.items() if "norm" not in name and not name.startswith("1.")
    }
    if build.is_point:  # has no evidence; masks by size
        cut = torch.cat([mean.abs().flatten() for mean in posterior.mean.values()]).median()
        apply_masks(task.model, {name: mean.abs() > cut for name, mean in posterior.mean.items()})
    else:
        report = prune(task.model, posterior, sparsity=0.5)
        assert abs(report.sparsity - 0.5) < 1 / report.num_weights
    masks = masks_of(task.model)
    assert sum(int((~mask).sum()) for mask in masks.values()) > 0

    def weight(name):
        module, _, attribute = name.rpartition(".")
        return getattr(task.model.get_submodule(module), attribute)

    first = {name: weight(name).detach().clone() for name in masks}
    for _ in range(3):
        task.step(optimizer)
        with torch.no_grad():
            task.model(task.inputs)
        for name, mask in masks.items():
            assert (weight(name)[~mask] == 0).all(), name
            assert not mask.any() or not torch.equal(weight(name), first[name]), f"{name} no longer learns"
    again = optimizer.posterior()
    if not build.is_point:
        assert prune(task.model, again, sparsity=0.6).num_removed > 0
        for name, mask in masks.items():
            assert not (masks_of(task.model)[name] & ~mask).any()


def test_held_by_the_optimizer_is_the_same_network_as_masked(build, any_task):
    """The loop holds removed weights at zero; `prune` masks them: both compute the same."""
    task = any_task
    optimizer = build(task.model.named_parameters())
    for _ in range(3):
        task.step(optimizer)
    posterior = optimizer.posterior()
    if build.is_point:
        masks = {name: mean.abs() > mean.abs().median() for name, mean in posterior.mean.items()}
    else:
        masks = reduce(posterior, sparsity=0.4, exclude=["head.*"]).masks
    optimizer.hold(masks)
    task.model.eval()
    with torch.no_grad():
        held = task.model(task.inputs)
        apply_masks(task.model, masks)
        torch.testing.assert_close(task.model(task.inputs), held)
