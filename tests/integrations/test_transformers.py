"""The callback for the Transformers library's Trainer: the same steps as an own loop, resumed bit for bit."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import secateur
from secateur.curvature import RunningCurvature
from secateur.errors import InvalidArgumentError
from secateur.inference import Calibrated
from secateur.integrations.transformers import PruningCallback
from secateur.modules import held_masks
from secateur.pruning import PruneResult, Schedule
from support.nested import assert_same
from support.networks import bert, gpt2

transformers: Any = pytest.importorskip("transformers")
pytest.importorskip("accelerate")

NUM_DATA, BATCH, EPOCHS = 32, 8, 4
STEPS = NUM_DATA // BATCH
FIRST = 2  # the epoch of the first pruning; the next one has the second
# so early that the curvature has not settled: runs are compared here, no matter what they remove
pytestmark = pytest.mark.filterwarnings("ignore:GradualPruner.step:secateur.pruning.PruningWarning")


def rows(count: int = NUM_DATA) -> list[dict[str, Tensor]]:
    """Return sentences of which every third has padding, with a class each."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for number in range(count):
        tokens, attended = torch.randint(2, 20, (6,), generator=generator), torch.ones(6, dtype=torch.long)
        if number % 3 == 0:
            tokens[4:], attended[4:] = 0, 0
        found.append({"input_ids": tokens, "attention_mask": attended, "labels": tokens[0] % 4})
    return found


DATA = rows()
WHOLE = {key: torch.stack([row[key] for row in DATA]) for key in DATA[0]}


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make()


def calibrated(model: nn.Module, **options: Any) -> Calibrated:
    curvature = RunningCurvature(model, every=1, max_data=4)
    generator = torch.Generator().manual_seed(1)
    chosen = {"lr": 0.01, "num_data": NUM_DATA, "curvature": curvature, "generator": generator, **options}
    return Calibrated(model.named_parameters(), **chosen)


def pruner_of(model: nn.Module, optimizer: Any, **options: Any) -> secateur.GradualPruner:
    schedule = Schedule(first_epoch=FIRST, last_epoch=EPOCHS - 1, max_fraction=0.2, max_loss_rise=0.5)
    return secateur.GradualPruner(
        model,
        optimizer,
        schedule,
        observe=lambda: float(model(**WHOLE).loss),
        exclude=["*.query.*", "*.key.*"],
        num_data=NUM_DATA,
        **options,
    )


def arguments(folder: Path, **options: Any) -> Any:
    chosen = {
        "num_train_epochs": EPOCHS,
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": NUM_DATA,
        "learning_rate": 0.01,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 0.0,
        "train_sampling_strategy": "sequential",
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        **options,
    }
    return transformers.TrainingArguments(output_dir=str(folder), **chosen)


@dataclass
class Run:
    """A Trainer with its callback."""

    trainer: Any
    callback: PruningCallback

    @property
    def model(self) -> nn.Module:
        return self.callback.pruner.model

    def state(self) -> dict[str, Any]:
        """Return all that the next step depends on."""
        optimizer = self.callback.pruner.optimizer
        assert optimizer is not None
        return {
            "model": copy.deepcopy(self.model.state_dict()),
            "optimizer": optimizer.state_dict(),
            "pruner": self.callback.pruner.state_dict(),
        }


def prepared(folder: Path, *, data: Any = None, make: Any = bert, steps: Any = None, **options: Any) -> Run:
    model = seeded(make).train()
    optimizer = calibrated(model)
    callback = PruningCallback(pruner_of(model, optimizer), steps=steps)
    trainer = transformers.Trainer(
        model,
        arguments(folder, **options),
        train_dataset=DATA if data is None else data,
        eval_dataset=DATA,
        optimizers=(optimizer, None),
        callbacks=[callback],
    )
    return Run(trainer, callback)


def by_hand(accumulate: int = 1) -> tuple[nn.Module, list[PruneResult]]:
    """Return the network after a loop of one's own, as in the README."""
    model = seeded(bert).train()
    optimizer = calibrated(model)
    assert optimizer.curvature is not None
    pruner, results = pruner_of(model, optimizer), []
    batches = [
        {key: value[start : start + BATCH] for key, value in WHOLE.items()} for start in range(0, 32, 8)
    ]
    for epoch in range(1, EPOCHS + 1):
        for first in range(0, len(batches), accumulate):
            part = batches[first : first + accumulate]
            with optimizer.sampled_parameters():
                optimizer.zero_grad()
                for batch in part:
                    (model(**batch).loss / len(part)).backward()
            optimizer.step()
            optimizer.curvature.step(part[-1])
        if pruner.due(epoch):
            results.append(pruner.step())
    return model, results


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run that was never interrupted, with a checkpoint after each epoch."""
    run = prepared(tmp_path_factory.mktemp("whole"), save_strategy="epoch")
    run.trainer.train()
    return run


def checkpoint(run: Run, epoch: int) -> Path:
    return Path(run.trainer.args.output_dir) / f"checkpoint-{epoch * STEPS}"


def test_it_is_the_same_as_an_own_loop(finished: Run) -> None:
    model, results = by_hand()
    assert_same(finished.model.state_dict(), dict(model.state_dict()))
    assert [found.sparsity for found in finished.callback.results] == [each.sparsity for each in results]
    assert results[-1].sparsity > 0.1
    told = [row for row in finished.trainer.state.log_history if "sparsity" in row]
    assert [row["epoch"] for row in told] == [2.0, 3.0]
    assert told[-1]["sparsity"] == results[-1].sparsity


def test_checkpoints_hold_means_and_zeros(finished: Run) -> None:
    last = type(finished.model).from_pretrained(checkpoint(finished, EPOCHS))
    assert_same(dict(last.state_dict()), dict(finished.model.state_dict()))
    masks = held_masks(finished.model)
    assert masks
    for name, mask in secateur.hold_zeros(last).items():
        assert torch.equal(mask, masks[name]), name
    with torch.no_grad():
        loss = float(finished.model.eval()(**WHOLE).loss)
    assert finished.trainer.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-6)


@pytest.mark.parametrize("epoch", [FIRST - 1, FIRST])
def test_resumed_equals_uninterrupted_bit_for_bit(finished: Run, epoch: int, tmp_path: Path) -> None:
    """Before the first pruning and after it, in the process's own new network."""
    again = prepared(tmp_path)
    again.trainer.train(resume_from_checkpoint=str(checkpoint(finished, epoch)))
    assert_same(again.state(), finished.state())
    assert len(again.callback.results) == EPOCHS - max(epoch, FIRST - 1) - 1


def test_resumed_in_the_same_network_after_more_was_removed(finished: Run, tmp_path: Path) -> None:
    """Masks of later prunings do not cut the weights of the checkpoint."""
    run = prepared(tmp_path)
    run.trainer.train(resume_from_checkpoint=str(checkpoint(finished, EPOCHS - 1)))
    run.trainer.train(resume_from_checkpoint=str(checkpoint(finished, FIRST - 1)))
    assert_same(run.state(), finished.state())


def test_accumulated_batches_are_seen_under_one_draw(tmp_path: Path) -> None:
    run = prepared(tmp_path, gradient_accumulation_steps=2)
    run.trainer.loss_is_scaled_for_ga = False  # as it takes it to be of BERT, whose loss is a mean
    weight = next(run.model.parameters())
    seen: list[Tensor] = []
    before = run.model.register_forward_pre_hook(
        lambda module, _: seen.append(weight.detach().clone()) if module.training else None
    )
    run.trainer.train()
    before.remove()
    assert len(seen) == EPOCHS * STEPS
    for first, second in zip(seen[::2], seen[1::2], strict=True):
        assert torch.equal(first, second)
    assert not any(torch.equal(one, other) for one, other in zip(seen[1::2], seen[2::2], strict=False))
    assert_same(dict(run.model.state_dict()), dict(by_hand(accumulate=2)[0].state_dict()))


def test_what_is_evaluated_and_saved_has_no_noise(tmp_path: Path) -> None:
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    run = prepared(tmp_path, num_train_epochs=1, gradient_accumulation_steps=2, **options)
    name, weight = next(iter(run.model.named_parameters()))
    drawn: list[Tensor] = []
    seen: list[Tensor] = []
    run.model.register_forward_pre_hook(
        lambda module, _: (
            (drawn if module.training else seen).append(weight.detach().clone())
            if module.training or not torch.is_grad_enabled()  # the curvature looks in between
            else None
        )
    )
    run.trainer.train()
    assert len(drawn) == STEPS
    assert len(seen) == STEPS // 2 + 1  # once more to know what the labels are
    for number, mean in enumerate(seen[-STEPS // 2 :], 1):
        saved = import_module("safetensors.torch").load_file(
            tmp_path / f"checkpoint-{number}" / "model.safetensors"
        )
        assert torch.equal(saved[name], mean)
        assert not any(torch.equal(mean, each) for each in drawn)
    assert torch.equal(seen[-1], weight)


def test_bfloat16(tmp_path: Path) -> None:
    run = prepared(tmp_path, bf16=True, save_strategy="epoch")
    run.trainer.train()
    assert run.callback.results[-1].sparsity > 0.1
    masks = held_masks(run.model)
    for name, parameter in run.model.named_parameters():
        assert parameter.dtype == torch.float32
        assert name not in masks or not parameter[~masks[name]].any()
    again = prepared(tmp_path / "again", bf16=True)
    again.trainer.train(resume_from_checkpoint=str(checkpoint(run, FIRST)))
    assert_same(again.state(), run.state())
    # the Trainer leaves its autocast around the forward pass
    halves = [{key: value[part] for key, value in WHOLE.items()} for part in (slice(16), slice(16, 32))]
    result = secateur.prune_trained(run.model, halves, sparsity=0.5, rounds=1, progress=False)
    assert result.sparsity == pytest.approx(0.5, abs=0.01)


def test_steps_in_place_of_epochs(tmp_path: Path) -> None:
    run = prepared(tmp_path, steps=STEPS, max_steps=EPOCHS * STEPS - 2, num_train_epochs=1)
    run.trainer.train()
    told = [row["step"] for row in run.trainer.state.log_history if "sparsity" in row]
    assert told == [FIRST * STEPS, (FIRST + 1) * STEPS]


class Interrupted(nn.Module):
    """A BERT that fails in the training pass of a number."""

    def __init__(self) -> None:
        super().__init__()
        self.bert, self.left = bert(), 6

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor | None = None) -> Any:
        if self.training and torch.is_grad_enabled():
            self.left -= 1
            if not self.left:
                raise KeyboardInterrupt
        return self.bert(input_ids=input_ids, attention_mask=attention_mask, labels=labels)


@pytest.mark.parametrize("way", ["state_dict", "evaluation", "training"])
def test_an_interrupted_step_leaves_no_noise(tmp_path: Path, way: str) -> None:
    run = prepared(
        tmp_path, make=Interrupted, gradient_accumulation_steps=2, save_strategy="steps", save_steps=1
    )
    with pytest.raises(KeyboardInterrupt):
        run.trainer.train()
    saved = import_module("safetensors.torch").load_file(tmp_path / "checkpoint-2" / "model.safetensors")
    own = dict(run.model.named_parameters())
    assert not torch.equal(next(iter(own.values())), saved[next(iter(own))])  # the draw is still in
    if way == "state_dict":
        run.model.state_dict()
    elif way == "evaluation":
        run.trainer.evaluate()
    else:
        optimizer = run.callback.pruner.optimizer
        assert optimizer is not None
        run.trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        assert run.trainer.state.global_step == EPOCHS * STEPS // 2
        return
    assert all(torch.equal(own[name], saved[name]) for name in own)


def test_the_best_model_comes_back_whole(tmp_path: Path) -> None:
    counter = iter(range(EPOCHS))
    run = prepared(
        tmp_path,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="eval_order",
        greater_is_better=False,
    )
    run.trainer.compute_metrics = lambda _: {"order": next(counter)}
    run.trainer.train()
    first = type(run.model).from_pretrained(checkpoint(run, 1))
    assert run.callback.results[-1].num_removed > 0
    assert_same(dict(run.model.state_dict()), dict(first.state_dict()))
    assert held_masks(run.model) == {}


def halves() -> list[dict[str, Tensor]]:
    return [{key: value[start::2] for key, value in WHOLE.items()} for start in (0, 1)]


def test_plain_training_of_a_pruned_network_keeps_its_zeros(tmp_path: Path) -> None:
    model = seeded(bert)
    secateur.prune_trained(model, halves(), sparsity=0.5, rounds=1, progress=False)
    masks, before = held_masks(model), copy.deepcopy(dict(model.state_dict()))
    options = {"num_train_epochs": 2, "weight_decay": 0.1, "max_grad_norm": 1.0, "save_strategy": "epoch"}
    trainer = transformers.Trainer(model, arguments(tmp_path, **options), train_dataset=DATA)
    trainer.train()
    for name, mask in masks.items():
        value = model.get_parameter(name)
        assert not value[~mask].any()
        assert (value != before[name])[mask].any() or not mask.any()
    loaded = type(model).from_pretrained(tmp_path / f"checkpoint-{2 * STEPS}")
    assert_same(dict(loaded.state_dict()), dict(model.state_dict()))


def test_a_pruner_by_laplace_beside_plain_training(tmp_path: Path) -> None:
    """Its state travels with any optimizer's that is given to the Trainer."""

    def run(folder: Path, **options: Any) -> Run:
        model = seeded(bert).train()
        callback = PruningCallback(
            pruner_of(model, lambda: secateur.inference.laplace(model, halves()), sparsity=0.3)
        )
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        trainer = transformers.Trainer(
            model,
            arguments(folder, **options),
            train_dataset=DATA,
            optimizers=(optimizer, None),
            callbacks=[callback],
        )
        return Run(trainer, callback)

    whole = run(tmp_path / "whole", save_strategy="epoch")
    whole.trainer.train()
    assert whole.callback.results[-1].sparsity > 0.1
    again = run(tmp_path / "again")
    again.trainer.train(resume_from_checkpoint=str(checkpoint(whole, FIRST)))
    assert_same(dict(again.model.state_dict()), dict(whole.model.state_dict()))
    assert_same(again.callback.pruner.state_dict(), whole.callback.pruner.state_dict())


def test_labels_that_are_ignored_are_not_looked_at(tmp_path: Path) -> None:
    """A batch reaches the curvature with its labels, and without the argument of the Trainer's own."""
    data = [{**row, "labels": torch.where(row["attention_mask"] > 0, row["input_ids"], -100)} for row in DATA]
    run = prepared(tmp_path, make=gpt2, data=data, num_train_epochs=1, gradient_accumulation_steps=2)
    run.trainer.train()
    optimizer = run.callback.pruner.optimizer
    assert optimizer is not None
    assert optimizer.curvature is not None
    assert optimizer.curvature.num_looks == STEPS // 2
    seen = optimizer.curvature.state_dict()["num_seen"]
    # of the last batch of each step its first four, each without its first token
    looked = [data[start : start + 4] for start in (BATCH, 3 * BATCH)]
    assert seen == sum(int((row["labels"][1:] != -100).sum()) for part in looked for row in part)


class TestBadInput:
    def build(self, folder: Path, model: nn.Module, optimizer: Any, callback: PruningCallback) -> Any:
        return transformers.Trainer(
            model,
            arguments(folder, num_train_epochs=1),
            train_dataset=DATA,
            optimizers=(optimizer, None),
            callbacks=[callback],
        )

    def test_a_trainer_without_the_pruners_optimizer(self, tmp_path: Path) -> None:
        model = seeded(bert)
        callback = PruningCallback(pruner_of(model, calibrated(model)))
        plain = torch.optim.AdamW(model.parameters())
        for optimizer, got in ((None, "none"), (plain, "AdamW"), (calibrated(model), "Calibrated")):
            with pytest.raises(
                InvalidArgumentError, match=f"Trainer: expected the pruner's Calibrated .*got {got}; give Tra"
            ):
                self.build(tmp_path, model, optimizer, callback)

    def test_a_trainer_without_an_optimizer(self, tmp_path: Path) -> None:
        model = seeded(bert)
        callback = PruningCallback(pruner_of(model, lambda: secateur.inference.laplace(model, halves())))
        with pytest.raises(InvalidArgumentError, match=r"expected one as its optimizer, got none; give"):
            self.build(tmp_path, model, None, callback)

    def test_another_network(self, tmp_path: Path) -> None:
        model, other = seeded(bert), seeded(bert)
        optimizer = calibrated(model)
        with pytest.raises(InvalidArgumentError, match="give both the same network"):
            self.build(tmp_path, other, calibrated(other), PruningCallback(pruner_of(model, optimizer)))

    def test_an_optimizer_of_parameters_that_were_replaced(self, tmp_path: Path) -> None:
        model = seeded(bert)
        optimizer = calibrated(model)
        callback = PruningCallback(pruner_of(model, optimizer))
        model.classifier = nn.Linear(8, 4)
        with pytest.raises(InvalidArgumentError, match=r"one without classifier\.weight; build it after"):
            self.build(tmp_path, model, optimizer, callback)

    def test_a_callback_that_comes_late(self, tmp_path: Path) -> None:
        model = seeded(bert)
        optimizer = calibrated(model)
        trainer = transformers.Trainer(
            model, arguments(tmp_path), train_dataset=DATA, optimizers=(optimizer, None)
        )
        trainer.add_callback(PruningCallback(pruner_of(model, optimizer)))
        with pytest.raises(InvalidArgumentError, match="to be there when the Trainer is built"):
            trainer.train()

    def test_a_module_that_the_step_does_not_call(self, tmp_path: Path) -> None:
        model = seeded(Interrupted)
        inner = model.bert
        optimizer = calibrated(inner, curvature=RunningCurvature(inner))
        run = PruningCallback(pruner_of(inner, optimizer))
        with pytest.raises(InvalidArgumentError, match="give both the same network"):
            self.build(tmp_path, model, optimizer, run)

    def test_masks_held_before_and_after_the_optimizer_was_built(self, tmp_path: Path) -> None:
        """No bad input at all: the optimizer follows the masks of the network."""
        model = seeded(bert)
        first, second = "bert.pooler.dense.weight", "bert.encoder.layer.0.output.dense.weight"
        mask = torch.ones(8, 8, dtype=torch.bool)
        mask[0] = False
        secateur.modules.hold(model, {first: mask})
        optimizer = calibrated(model)
        secateur.modules.hold(model, {second: torch.arange(96).view(8, 12) % 2 == 0})
        callback = PruningCallback(pruner_of(model, optimizer))
        self.build(tmp_path, model, optimizer, callback).train()
        for name, kept in held_masks(model).items():
            assert not model.get_parameter(name)[~kept].any()
        assert {first, second} <= held_masks(model).keys()

    def test_steps_below_one(self) -> None:
        model = seeded(bert)
        with pytest.raises(InvalidArgumentError, match="steps: expected at least 1, got 0"):
            PruningCallback(pruner_of(model, calibrated(model)), steps=0)
