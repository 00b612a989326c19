"""The callback for Lightning's Trainer: the same steps as an own loop, resumed bit for bit."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, TensorDataset

import secateur
from secateur.curvature import RunningCurvature
from secateur.errors import InvalidArgumentError
from secateur.inference import Calibrated
from secateur.modules import held_masks
from secateur.pruning import Schedule

lightning: Any = pytest.importorskip("lightning")
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint  # noqa: E402

from secateur.integrations.lightning import PruningCallback  # noqa: E402
from support.nested import assert_same  # noqa: E402

NUM_DATA, BATCH, EPOCHS, FIRST = 48, 8, 6, 4
STEPS = NUM_DATA // BATCH
INPUTS = torch.randn(NUM_DATA, 6, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS[:, 0] + INPUTS[:, 1] > 0).long() + (INPUTS[:, 0] > 1).long()
pytestmark = [
    # Lightning 2.6 asks torch's pytree in a way that torch 2.13 deprecates
    pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:The '.*dataloader' does not have many workers"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used"),
    # fewer steps, where batches are accumulated: runs are compared here, no matter what they remove
    pytest.mark.filterwarnings("ignore:GradualPruner.step:secateur.pruning.PruningWarning"),
]


def batches() -> DataLoader[Any]:
    return DataLoader(TensorDataset(INPUTS, LABELS), batch_size=BATCH)


class Classifier(lightning.LightningModule):
    """A network that Lightning trains by itself, or with steps of its own."""

    def __init__(self, *, manual: bool = False, averaged: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.model = nn.Sequential(
                nn.Linear(6, 24), nn.Tanh(), nn.Linear(24, 12), nn.Tanh(), nn.Linear(12, 3)
            )
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(0.9)) if averaged else None
        self.automatic_optimization = not manual
        self.seen: list[Tensor] = []
        self.validated: list[Tensor] = []

    def configure_optimizers(self) -> Calibrated:
        curvature = RunningCurvature(self.model, every=1)
        return Calibrated(
            self.model.named_parameters(),
            lr=0.01,
            num_data=NUM_DATA,
            curvature=curvature,
            generator=torch.Generator().manual_seed(1),
        )

    def training_step(self, batch: Any, _: int) -> Tensor:
        if self.automatic_optimization:
            self.seen.append(self.model[0].weight.detach().clone())
            return F.cross_entropy(self.model(batch[0]), batch[1])
        optimizer = self.optimizers()
        with optimizer.sampled_parameters():
            loss = F.cross_entropy(self.model(batch[0]), batch[1])
            optimizer.zero_grad()
            self.manual_backward(loss)
        optimizer.step()
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        if self.average is not None:
            self.average.update_parameters(self.model)

    def validation_step(self, batch: Any, _: int) -> None:
        self.validated.append(self.model[0].weight.detach().clone())
        self.log("val", F.cross_entropy(self.model(batch[0]), batch[1]))


def pruner_of(model: nn.Module, optimizer: Any) -> secateur.GradualPruner:
    schedule = Schedule(first_epoch=FIRST, last_epoch=EPOCHS - 1, max_fraction=0.3, max_loss_rise=0.3)
    return secateur.GradualPruner(
        model, optimizer, schedule, observe=lambda: float(F.cross_entropy(model(INPUTS), LABELS))
    )


def trainer_of(folder: Path, *callbacks: Any, **options: Any) -> Any:
    chosen = {
        "max_epochs": EPOCHS,
        "accelerator": "cpu",
        "default_root_dir": folder,
        "logger": False,
        "enable_checkpointing": any(isinstance(each, ModelCheckpoint) for each in callbacks),
        "enable_progress_bar": False,
        "enable_model_summary": False,
        **options,
    }
    return lightning.Trainer(callbacks=list(callbacks), **chosen)


def callback_for(module: Classifier, **options: Any) -> PruningCallback:
    return PruningCallback(lambda optimizer: pruner_of(module.model, optimizer), **options)


def by_hand(*, accumulate: int = 1, prune: bool = True, epochs: int = EPOCHS) -> nn.Module:
    """Return the network after a loop of one's own, as in the README."""
    module = Classifier()
    optimizer = module.configure_optimizers()
    pruner = pruner_of(module.model, optimizer)
    for epoch in range(1, epochs + 1):
        loader = list(batches())
        for first in range(0, len(loader), accumulate):
            part = loader[first : first + accumulate]
            with optimizer.sampled_parameters():
                optimizer.zero_grad()
                for x, y in part:
                    (F.cross_entropy(module.model(x), y) / accumulate).backward()
            optimizer.step()
            if prune:
                assert optimizer.curvature is not None
                optimizer.curvature.step(tuple(part[-1]))
        if prune and pruner.due(epoch):
            assert pruner.step().num_removed
    return module.model


@pytest.mark.parametrize("manual", [False, True], ids=["automatic", "manual"])
def test_it_is_the_same_as_an_own_loop(tmp_path: Path, manual: bool) -> None:
    module = Classifier(manual=manual)
    callback = callback_for(module)
    trainer_of(tmp_path, callback).fit(module, batches())
    assert_same(dict(module.model.state_dict()), dict(by_hand().state_dict()))
    assert callback.results[-1].sparsity > 0.3
    assert len(callback.results) == 2


def test_automatic_optimisation_needs_no_callback(tmp_path: Path) -> None:
    """Lightning gives the optimizer a closure, which is called under a draw."""
    module, expected = Classifier(), Classifier()
    first, second = (
        Calibrated(
            each.model.named_parameters(), num_data=NUM_DATA, generator=torch.Generator().manual_seed(1)
        )
        for each in (module, expected)
    )
    module.configure_optimizers = lambda: first  # type: ignore[method-assign]
    trainer_of(tmp_path, max_epochs=2).fit(module, batches())
    for _ in range(2):
        for x, y in batches():
            with second.sampled_parameters():
                second.zero_grad()
                F.cross_entropy(expected.model(x), y).backward()
            second.step()
    assert_same(first.state_dict(), second.state_dict())
    assert_same(dict(module.model.state_dict()), dict(expected.model.state_dict()))


def test_accumulated_batches_are_seen_under_one_draw(tmp_path: Path) -> None:
    module = Classifier()
    callback = PruningCallback(lambda optimizer: pruner_of(module.model, optimizer))
    trainer_of(tmp_path, callback, accumulate_grad_batches=2).fit(module, batches())
    for first, second in zip(module.seen[::2], module.seen[1::2], strict=True):
        assert torch.equal(first, second)
    assert not any(
        torch.equal(one, other) for one, other in zip(module.seen[1::2], module.seen[2::2], strict=False)
    )
    assert_same(dict(module.model.state_dict()), dict(by_hand(accumulate=2).state_dict()))


def test_validation_amid_accumulated_batches_sees_the_means(tmp_path: Path) -> None:
    module = Classifier()
    options = {"accumulate_grad_batches": 4, "val_check_interval": 3, "num_sanity_val_steps": 0}
    trainer = trainer_of(tmp_path, callback_for(module), max_epochs=1, **options)
    before = module.model[0].weight.detach().clone()
    trainer.fit(module, batches(), batches())
    assert torch.equal(module.validated[0], before)  # no step had been taken
    assert not torch.equal(module.seen[2], before)  # though the third batch was seen under a draw
    assert torch.equal(module.validated[-1], module.model[0].weight)
    assert trainer.global_step == 2


def saved_runs(folder: Path, **options: Any) -> tuple[Classifier, PruningCallback, Any]:
    module = Classifier()
    callback = callback_for(module)
    every = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1, monitor="val")
    trainer = trainer_of(folder, callback, every, *options.pop("callbacks", ()), **options)
    trainer.fit(module, batches(), batches())
    return module, callback, trainer


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"accumulate_grad_batches": 2, "gradient_clip_val": 1.0},
        {"precision": "bf16-mixed"},
        {"ema": True},
    ],
    ids=["plain", "accumulated", "bfloat16", "average"],
)
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    """Before the first reduction and after it."""

    def chosen() -> dict[str, Any]:
        found = dict(options)
        return {"callbacks": [EMAWeightAveraging(decay=0.9)], **found} if found.pop("ema", False) else found

    module, callback, _ = saved_runs(tmp_path, **chosen())
    assert callback.results[-1].sparsity > 0.3
    for epoch in (FIRST - 2, FIRST - 1):  # counted from 0: the latter was pruned at its end
        again = Classifier()
        second = callback_for(again)
        rest = chosen()
        trainer = trainer_of(tmp_path / "again", second, *rest.pop("callbacks", ()), **rest)
        trainer.fit(again, batches(), batches(), ckpt_path=tmp_path / f"epoch={epoch}.ckpt")
        assert_same(dict(again.state_dict()), dict(module.state_dict()))
        assert_same(second.state_dict(), callback.state_dict())
        assert len(second.results) == FIRST - epoch
        optimizers = [each.pruner.optimizer.state_dict() for each in (callback, second)]  # type: ignore[union-attr]
        assert_same(*optimizers)


def test_the_best_checkpoint_comes_back_whole(tmp_path: Path) -> None:
    """Masks of later reductions do not cut it, in the same network and in a new one."""
    module, _, trainer = saved_runs(tmp_path)
    masks = held_masks(module.model)
    for epoch in (FIRST - 2, FIRST - 1):
        path = tmp_path / f"epoch={epoch}.ckpt"
        saved = torch.load(path, weights_only=True)["state_dict"]
        (found,) = trainer.validate(module, batches(), ckpt_path=path, verbose=False)
        assert_same(dict(module.state_dict()), dict(saved))
        held = held_masks(module.model)
        assert bool(held) == (epoch == FIRST - 1)
        for name, mask in held.items():
            assert torch.equal(mask, module.model.get_parameter(name) != 0) or mask.dim() == 1
            assert not (masks[name] & ~mask).any()  # less had gone
        fresh = Classifier.load_from_checkpoint(path)
        secateur.hold_zeros(fresh)
        assert held_masks(fresh.model).keys() == held.keys()
        (again,) = trainer.validate(fresh, batches(), verbose=False)
        assert again == found


@pytest.mark.parametrize("kind", ["lightning", "module"])
def test_averages_hold_the_zeros(tmp_path: Path, kind: str) -> None:
    module = Classifier(averaged=kind == "module")
    callback = callback_for(module)
    callbacks = [EMAWeightAveraging(decay=0.9)] if kind == "lightning" else []
    trainer_of(tmp_path, callback, *callbacks).fit(module, batches(), batches())
    masks = held_masks(module.model)
    assert masks
    network = module.model if module.average is None else module.average.module
    for name, mask in masks.items():
        assert not network.get_parameter(name)[~mask].any()
        assert not mask.any() or network.get_parameter(name)[mask].any()
    if kind == "lightning":
        assert not torch.equal(module.validated[-1], by_hand()[0].weight)  # the average was validated
        assert not module.validated[-1][~masks["0.weight"]].any()


def test_an_interrupted_step_leaves_no_noise(tmp_path: Path) -> None:
    module = Classifier()
    step = module.training_step
    before = copy.deepcopy(module.model.state_dict())

    def failing(batch: Any, batch_idx: int) -> Tensor:
        step(batch, batch_idx)
        raise RuntimeError("no")

    module.training_step = failing  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="no"):
        trainer_of(tmp_path, callback_for(module)).fit(module, batches())
    assert not torch.equal(module.seen[0], before["0.weight"])
    assert_same(dict(module.model.state_dict()), dict(before))


def test_steps_in_place_of_epochs(tmp_path: Path) -> None:
    module = Classifier()
    callback = callback_for(module, steps=STEPS)
    trainer_of(tmp_path, callback, max_epochs=1).fit(module, DataLoader(batches().dataset, batch_size=2))
    assert len(callback.results) == 1  # 24 steps are four times six
    assert callback.results[0].num_removed


class TestBadInput:
    def test_an_optimizer_without_a_posterior(self, tmp_path: Path) -> None:
        module = Classifier()
        module.configure_optimizers = lambda: torch.optim.AdamW(module.parameters())  # type: ignore[method-assign, assignment, return-value]
        with pytest.raises(InvalidArgumentError, match=r"expected a posterior optimizer.*got AdamW"):
            trainer_of(tmp_path, callback_for(module)).fit(module, batches())

    def test_another_optimizer_than_the_pruners(self, tmp_path: Path) -> None:
        module = Classifier()
        pruner = pruner_of(module.model, module.configure_optimizers())
        with pytest.raises(
            InvalidArgumentError, match=r"expected the pruner's Calibrated, got another Calib"
        ):
            trainer_of(tmp_path, PruningCallback(pruner)).fit(module, batches())

    def test_an_optimizer_of_parameters_that_were_replaced(self, tmp_path: Path) -> None:
        module = Classifier()
        optimizer = module.configure_optimizers()
        module.configure_optimizers = lambda: optimizer  # type: ignore[method-assign]
        pruner = pruner_of(module.model, optimizer)
        module.model[4] = nn.Linear(12, 3)
        with pytest.raises(InvalidArgumentError, match=r"got one without 4\.weight; build it after"):
            trainer_of(tmp_path, PruningCallback(pruner)).fit(module, batches())

    def test_a_network_whose_forward_is_not_called(self, tmp_path: Path) -> None:
        module = Classifier()

        def inner(batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(module.model.forward(batch[0]), batch[1])

        module.training_step = inner  # type: ignore[method-assign]
        with pytest.raises(InvalidArgumentError, match="to be called in each training step, got no call"):
            trainer_of(tmp_path, callback_for(module)).fit(module, batches())

    def test_no_optimizer(self, tmp_path: Path) -> None:
        module = Classifier()
        module.configure_optimizers = lambda: []  # type: ignore[method-assign, assignment, return-value]
        with pytest.raises(InvalidArgumentError, match="expected an optimizer, got none"):
            trainer_of(tmp_path, callback_for(module)).fit(module, batches())

    def test_steps_below_one(self) -> None:
        with pytest.raises(InvalidArgumentError, match="steps: expected at least 1, got 0"):
            callback_for(Classifier(), steps=0)
