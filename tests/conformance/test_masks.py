"""Masks that keep names, for every kind of network and optimizer, through all that users do next.

In each cell a network is trained a little, half of its weights are removed, and something happens to it. Then

- removed entries are exact zeros, directly after every optimizer step, without a forward pass between;
- parameters and `state_dict` have the names of the unpruned network;
- a fresh, unpruned network with the same `state_dict` has the same outputs.
"""

import copy
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jaxtyping
import lightning
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import secateur
from secateur.inference import Calibrated
from secateur.modules import evaluation_mode, held_masks, hold, map_tensors, output_parameters
from support.networks import NETWORKS, TRANSFORMERS, TinyNetwork

OPTIMIZERS: dict[str, Callable[[nn.Module], torch.optim.Optimizer]] = {
    "sgd": lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01),
    "adamw": lambda model: torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1),
    "calibrated": lambda model: Calibrated(
        model.named_parameters(), lr=0.01, num_data=50, generator=torch.Generator().manual_seed(3)
    ),
}


# Every kind of network and every optimizer; tracing a network takes a second, so most pairs are slow tests.
COMPILED = [
    pytest.param(name, kind, marks=() if kind == "adamw" or name == "mlp" else pytest.mark.slow)
    for name in NETWORKS
    for kind in OPTIMIZERS
]


@dataclass
class Case:
    """A pruned network in the middle of its training."""

    tiny: TinyNetwork
    kind: str
    model: nn.Module
    optimizer: torch.optim.Optimizer
    masks: dict[str, Tensor]

    def step(self, *, batches: int = 1, autocast: bool = False, compiled: nn.Module | None = None) -> float:
        """Take one step of training, and check the zeros where they could be lost."""
        model = self.model if compiled is None else compiled
        drawn = isinstance(self.optimizer, Calibrated)
        with self.optimizer.sampled_parameters() if drawn else nullcontext():
            self.optimizer.zero_grad()
            for batch in range(batches):
                assert_zeros(self.model, self.masks)  # of the drawn weights too
                with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                    loss = self.tiny.loss(model, self.example(batch))
                (loss / batches).backward()
        self.optimizer.step()
        assert_zeros(self.model, self.masks)
        return loss.item()

    def example(self, seed: int = 0) -> Any:
        """Return inputs in the network's precision."""
        kind = next(self.model.parameters()).dtype
        return map_tensors(lambda x: x.to(kind) if x.is_floating_point() else x, self.tiny.example(seed))

    def goes_on(self, model: nn.Module) -> "Case":
        """Return the case of a copy, with an optimizer of its own."""
        return Case(self.tiny, self.kind, model, OPTIMIZERS[self.kind](model), self.masks)


def assert_zeros(model: nn.Module, masks: dict[str, Tensor]) -> None:
    """Check that removed entries are exact zeros, under every name."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, mask in masks.items():
        assert not parameters[name][~mask].any(), name


def assert_sound(case: Case, model: nn.Module | None = None) -> None:
    """Check zeros, names, that masks are held, and that an unpruned network takes the weights over."""
    model = case.model if model is None else model
    fresh = case.tiny.build(seed=9).to(next(model.parameters()).dtype)
    assert list(model.state_dict()) == list(fresh.state_dict())
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in fresh.named_parameters()]
    assert_zeros(model, case.masks)
    held = held_masks(model)
    assert held.keys() == case.masks.keys()
    assert all(torch.equal(held[name], mask) for name, mask in case.masks.items())
    fresh.load_state_dict(model.state_dict())
    example = case.example()
    with torch.no_grad(), evaluation_mode(model), evaluation_mode(fresh):
        assert torch.equal(case.tiny.outputs(model, example), case.tiny.outputs(fresh, example))


@contextmanager
def unchecked_shapes() -> Iterator[None]:
    """Do without the tests' run-time checks of annotations, which torch cannot compile."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(params=NETWORKS)
def tiny(request: pytest.FixtureRequest) -> TinyNetwork:
    return NETWORKS[request.param]


@pytest.fixture(params=OPTIMIZERS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def case(tiny: TinyNetwork, kind: str) -> Iterator[Case]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield pruned(tiny, kind)


def pruned(tiny: TinyNetwork, kind: str) -> Case:
    """Return a network that has taken some steps, whose momentum would bring removed weights back."""
    model = tiny.build()
    case = Case(tiny, kind, model, OPTIMIZERS[kind](model), {})
    for _ in range(3):
        case.step()
    if isinstance(case.optimizer, Calibrated):
        secateur.prune(model, case.optimizer.posterior(), sparsity=0.4)
    else:
        parameters = dict(model.named_parameters())
        matrices = {name.rpartition(".")[0] for name, value in parameters.items() if value.dim() > 1}
        hold(
            model,
            {
                name: torch.rand(value.shape) > 0.5
                for name, value in parameters.items()
                if name.rpartition(".")[0] in matrices
            },
        )
    case.masks = held_masks(model)
    num_removed = sum(int((~mask).sum()) for mask in case.masks.values())
    assert num_removed > 0.3 * sum(parameter.numel() for parameter in model.parameters())
    assert_sound(case)
    return case


def test_ten_more_steps(case: Case) -> None:
    before = copy.deepcopy(case.model.state_dict())
    for _ in range(10):
        case.step()
    after = case.model.state_dict()
    assert all((after[name] != before[name]).any() for name, mask in case.masks.items() if mask.any())
    assert_sound(case)


def test_gradient_accumulation(case: Case) -> None:
    for _ in range(3):
        case.step(batches=3)
    for name, parameter in case.model.named_parameters():
        if name in case.masks:
            assert parameter.grad is not None
            assert not parameter.grad[~case.masks[name]].any(), name
            assert parameter.grad[case.masks[name]].any() or not case.masks[name].any(), name
    assert_sound(case)


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN:UserWarning")  # of setting any flag
def test_autocast(case: Case) -> None:
    with torch.backends.mkldnn.flags(enabled=False):  # it has no LSTM in bfloat16 on some processors
        for _ in range(3):
            case.step(autocast=True)
    assert_sound(case)


@pytest.mark.parametrize(("tiny", "kind"), COMPILED, indirect=True)
def test_compiled(case: Case) -> None:
    """One graph, built once; the compiler behind the graph is slow, and has its test below."""
    torch._dynamo.reset()
    whole = case.tiny.name != "lstm"  # which torch runs between two graphs
    compiled = torch.compile(case.model, backend="aot_eager", fullgraph=whole)
    with torch._dynamo.config.patch(error_on_recompile=True), unchecked_shapes():
        for _ in range(3):
            case.step(compiled=compiled)
        example = case.example()
        found, expected = case.tiny.outputs(compiled, example), case.tiny.outputs(case.model, example)
        assert torch.allclose(found, expected, atol=1e-6)
    assert_sound(case)


def test_exponential_average(case: Case) -> None:
    average = AveragedModel(case.model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    for _ in range(3):
        case.step()
        average.update_parameters(case.model)
        assert_zeros(average.module, case.masks)
    assert_sound(case, average.module)
    assert_sound(case)


def test_deepcopy_after_a_training_forward(case: Case) -> None:
    loss = case.tiny.loss(case.model.train(), case.example())
    twin = case.goes_on(copy.deepcopy(case.model))
    assert_sound(twin)
    loss.backward()
    for _ in range(3):
        twin.step()
    assert_sound(twin)
    name = next(iter(case.masks))
    hold(twin.model, {name: torch.zeros_like(case.masks[name])})
    assert not twin.model.get_parameter(name).any()
    case.step()
    assert case.model.get_parameter(name).any()
    assert_sound(case)


def test_state_dict_into_a_fresh_network(case: Case) -> None:
    case.step()
    fresh = case.tiny.build(seed=5)
    fresh.load_state_dict(case.model.state_dict())
    assert held_masks(fresh) == {}
    found = secateur.hold_zeros(fresh)
    assert found.keys() >= case.masks.keys()
    for name, mask in case.masks.items():
        if mask.dim() > 1:
            assert torch.equal(found[name], mask), name
        else:  # a bias that has not left its initial zeros beside a unit without weights counts too
            assert not (found[name] & ~mask).any(), name
    again = case.goes_on(fresh)
    again.masks = found
    for _ in range(3):
        again.step()
    assert_sound(again)


def test_precision(case: Case) -> None:
    case.model.to(torch.float64)
    twice = case.goes_on(case.model)
    for _ in range(3):
        twice.step()
    assert_sound(twice)
    case.model.to(torch.bfloat16)
    assert_sound(case)


@pytest.mark.parametrize("tiny", TRANSFORMERS, indirect=True)
def test_saved_and_loaded_by_transformers(case: Case, tmp_path: Path) -> None:
    case.step()
    case.model.save_pretrained(tmp_path)
    loaded = type(case.model).from_pretrained(tmp_path)
    again = case.goes_on(loaded)
    again.masks = secateur.hold_zeros(loaded)
    for name, mask in case.masks.items():
        assert torch.equal(again.masks[name], mask) or mask.dim() == 1, name
    assert output_parameters(loaded) == output_parameters(case.model)
    for _ in range(3):
        again.step()
    assert_sound(again)


class Lit(lightning.LightningModule):
    """Trains a case in Lightning's loop, and checks the zeros after each step."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = [case]  # its network is not to be registered twice
        self.model = case.model

    def training_step(self, batch: int, _: int) -> Tensor:
        (case,) = self.case
        assert_zeros(self.model, case.masks)
        return case.tiny.loss(self.model, case.example(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.case[0].optimizer

    def on_train_batch_end(self, *_: Any) -> None:
        assert_zeros(self.model, self.case[0].masks)


def lightning_trainer(folder: Path, max_epochs: int) -> lightning.Trainer:
    return lightning.Trainer(
        max_epochs=max_epochs,
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@pytest.mark.filterwarnings(
    # Lightning 2.6 asks torch's pytree in a way that torch 2.13 deprecates
    "ignore:`isinstance.treespec, LeafSpec.` is deprecated:FutureWarning",
)
def test_resumed_by_lightning(case: Case, tmp_path: Path) -> None:
    trainer = lightning_trainer(tmp_path, max_epochs=1)
    trainer.fit(Lit(case), [0, 1])
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert_sound(case)
    again = case.goes_on(case.tiny.build(seed=5))
    module = Lit(again)
    weights = torch.load(tmp_path / "last.ckpt", weights_only=True)["state_dict"]
    module.load_state_dict(weights)
    again.masks = secateur.hold_zeros(again.model)
    trainer = lightning_trainer(tmp_path, max_epochs=2)
    trainer.fit(module, [0, 1], ckpt_path=tmp_path / "last.ckpt")
    assert trainer.global_step == 4
    assert_sound(again)


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++", "c++"))), reason="no C++ compiler to compile for a CPU"
)
@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")  # torch's own imports for its compiler
@pytest.mark.parametrize("kind", ["adamw", "calibrated"], indirect=True)
def test_compiled_by_inductor(case: Case) -> None:
    torch._dynamo.reset()
    compiled = torch.compile(case.model)
    example = case.example()
    with unchecked_shapes():
        for _ in range(2):
            case.step(compiled=compiled)
        found, expected = case.tiny.outputs(compiled, example), case.tiny.outputs(case.model, example)
    assert torch.allclose(found, expected, atol=1e-5)
    assert_sound(case)
