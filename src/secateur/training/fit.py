"""`secateur.fit`: train and prune a network, given by name or as a module."""

import math
import shutil
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur import networks
from secateur.curvature import RunningCurvature
from secateur.data import Split
from secateur.data.augment import NO_HORIZONTAL_FLIP
from secateur.distributed import facts_of, gathered, rank, require_same, together
from secateur.errors import InvalidArgumentError
from secateur.likelihoods import Likelihood, resolve
from secateur.modules import from_torch_prune, held_masks
from secateur.runs import RunDirectory, as_json, save_nested
from secateur.training.device import compiles_network, layout, placed, resolve_device
from secateur.training.finish import finish
from secateur.training.loop import Trainer
from secateur.training.methods import Method, method_named
from secateur.training.prediction import best_temperature
from secateur.training.problem import Problem, TrainingData, build_network, without_holdout
from secateur.training.progress import Progress, SilentProgress
from secateur.training.recipe import Recipe
from secateur.training.resuming import identity_of, open_run, restore
from secateur.training.run import Run, versions
from secateur.training.step import StepOptions
from secateur.training.tensorboard import TensorBoard, require_tensorboard

__all__ = ["fit"]

COMPILE_FROM_STEPS = 5000  # compiling takes some ten seconds, a step saves about a millisecond
STEPS_OF_OWN_DATA = 6000  # of a fit whose epochs nobody gave: some seven removals
MOST_EPOCHS_TO_SAY = 2000
MAX_SEED = 2**32 - 1


@together()
def fit(
    network: str | nn.Module,
    train: TrainingData,
    test: Split | tuple[Any, Any] | None = None,
    *,
    method: str = "calibrated",
    likelihood: str | Likelihood | None = None,
    epochs: int | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    resume: bool = False,
    device: str = "auto",
    data_dir: Path | None = None,
    sparsity: float | None = None,
    reduce: bool = True,
    num_samples: int = 100,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    compile: bool | None = None,
    augment: bool = False,
    autocast: bool = False,
    tensorboard: bool = False,
    command: str | None = None,
    progress: Progress | None = None,
) -> Run:
    """Train a posterior over weights, prune by evidence during training, and evaluate the result.

    In a process group every rank is given the same; each trains on its part of each batch, and rank 0 writes.

    Args:
        network: Name of one of `secateur.networks`, any module from inputs to outputs, whose parameters are
            trained in place, or `package.module:function` that returns one; that imports its module.
        train: Name of a data set, a pair of arrays (inputs, targets), where own data are
            (`secateur.data.OwnData`), or the data. All but a `Split` are standardised.
        test: Data to judge by, as a `Split` or a pair like `train`; a data set brings its own. The training
            data when there is none.
        method: Name of the method; see `secateur.training.method_names()`.
        likelihood: Distribution of the labels given the network's outputs, a name or a value of
            `secateur.likelihoods`; when None that of the data, which is guessed for own data.
        epochs: Passes over the training data; the method's default when None, and more for small own data.
        seed: Seeds initial weights (of a named network), order of data, and noise.
        out: Directory for all results, new or empty; nothing is written when None.
        resume: Go on with the run in `out`.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        data_dir: Where to look for data sets first.
        sparsity: Exact fraction of all weights to be out at the end; the evidence decides when None.
        reduce: Whether the method may remove weights; else the network keeps those that it comes with.
        num_samples: Posterior samples the final figures average over.
        learning_rate: Instead of the method's.
        batch_size: Instead of the method's.
        compile: Compile the optimiser's update, and on CUDA the network; when None, if the run is long enough
            to gain by it.
        augment: Crop and mirror each batch at random (`secateur.data.crop_and_flip`); refused for data whose
            mirror images mean something else.
        autocast: Train in bfloat16; parameters, posterior, loss and all predictions stay in float32.
        tensorboard: Also write scalars under `out`/tensorboard.
        command: Command line to keep in `config.json`.
        progress: What to tell of each step and epoch; nothing when None.

    Returns:
        The run; its `model` is masked, its `metrics` are those of `metrics.json`.

    Raises:
        UsageError: If a name does not exist.
        DataError: If data are missing, damaged, or do not fit the network.
        ArtifactError: If `out` is in use, cannot be written, or belongs to another run.
        DivergenceError: If the loss is not finite.
        InvalidArgumentError: If an argument is out of range.
    """
    # Everything that can be wrong is looked at before the first file is touched.
    chosen = method_named(method)
    if likelihood is not None:
        resolve(likelihood)
    if sparsity is not None and not 0 <= sparsity < 1:
        raise InvalidArgumentError(f"sparsity: expected a fraction in [0, 1), got {sparsity}")
    if num_samples < 1:
        raise InvalidArgumentError(f"num_samples: expected at least 1, got {num_samples}")
    if tensorboard and out is None:
        raise InvalidArgumentError("tensorboard: expected a directory to write to, got out=None")
    if not 0 <= seed <= MAX_SEED:
        raise InvalidArgumentError(f"seed: expected a whole number in 0 ... {MAX_SEED}, got {seed}")
    if tensorboard:
        require_tensorboard()
    if sparsity is None and reduce:
        sparsity = chosen.default_sparsity
    where = resolve_device(device)
    problem = Problem.of(network, train, test, data_dir, likelihood)
    likelihood = problem.likelihood
    if augment and (problem.name in NO_HORIZONTAL_FLIP or problem.train.images.ndim != 4):
        raise InvalidArgumentError(
            f"augment: expected images whose mirror images mean the same, got {problem.name}; leave it away"
        )
    recipe = chosen.recipe(_num_epochs(chosen, problem) if epochs is None else epochs, len(problem.train))
    recipe = _with_overrides(recipe, learning_rate, batch_size)
    if not reduce:
        if sparsity is not None:
            raise InvalidArgumentError(f"sparsity: expected none with reduce=False, got {sparsity}")
        recipe = replace(recipe, schedule=None)
    elif sparsity is not None and recipe.schedule is None:
        raise InvalidArgumentError(
            f"sparsity: expected a run that reduces, got method {method!r} for {recipe.epochs} epochs of "
            f"{len(problem.train)} data, which does not; choose another method or more epochs"
        )
    model, num_classes = build_network(network, problem, recipe, seed)
    problem.check(num_classes)
    train_split, held_out = without_holdout(problem.train, recipe.num_held_out(len(problem.train)), seed)
    memory_format = layout(where, named=isinstance(network, str) and network in networks.names())
    train_split = placed(train_split, where, memory_format)
    test_split = None if problem.test is None else placed(problem.test, where, memory_format)
    from_torch_prune(model)
    already_out = held_masks(model)
    model.to(where, memory_format=memory_format)  # type: ignore[call-overload]
    steps = recipe.epochs * (len(train_split) // recipe.batch_size)
    compiled = steps >= COMPILE_FROM_STEPS and _can_compile(where) if compile is None else compile
    optimizer = chosen.optimizer(
        model.named_parameters(),
        recipe,
        lr=recipe.learning_rate,
        num_data=len(train_split),
        generator=torch.Generator(where).manual_seed(seed),
        compile=compiled,
        **_curvature(model, recipe, likelihood, seed),
    )
    if already_out:
        optimizer.hold(already_out)
    require_same(
        facts_of(model) | {"seed": seed, "number of data": len(train_split), "recipe": str(recipe)},
        advice="give every rank the same network, data and options",
    )
    options = StepOptions(
        augment=augment, autocast=autocast, compile_network=compiled and compiles_network(where)
    )
    trainer = Trainer(
        model, optimizer, recipe, train_split, test_split, seed, sparsity, options, likelihood=likelihood
    )
    config = {
        "network": network if isinstance(network, str) else type(network).__name__,
        "data": problem.name,
        "method": method,
        "likelihood": likelihood.describe(),
        "epochs": recipe.epochs,
        "seed": seed,
        "device": str(where),
        "sparsity": sparsity,
        "num_samples": num_samples,
        "image_shape": list(train_split.images.shape[1:]),
        "num_classes": num_classes,
        "num_data": len(train_split),
        "num_held_out": 0 if held_out is None else len(held_out),
        "num_weights": sum(parameter.numel() for parameter in model.parameters()),
        "recipe": asdict(recipe),
        "compile": optimizer.compiled,
        "compile_network": options.compile_network,
        "augment": augment,
        "autocast": autocast,
        "num_threads": torch.get_num_threads(),
        "command": command,
        "versions": versions(),
        **problem.about_data,
    }
    directory = None if out is None or rank() else RunDirectory(Path(out))
    with ExitStack() as stack:
        shown = stack.enter_context(SilentProgress() if progress is None else progress)
        if directory is not None:
            stack.enter_context(directory.claimed(resume=resume))
            open_run(directory, config, trainer)
        if out is not None and gathered(trainer.epoch)[0] > trainer.epoch:  # rank 0 goes on from a checkpoint
            restore(RunDirectory(Path(out)), identity_of(as_json(config)), trainer)
        require_same({"epoch": trainer.epoch}, advice="let every rank read the directory of the run")
        boards = []
        if tensorboard and directory is not None:
            board = TensorBoard(directory.path / "tensorboard", resumed_epoch=trainer.epoch)
            boards.append(stack.enter_context(board))

        def after_epoch(trainer: Trainer) -> None:
            for board in boards:
                board.epoch(trainer.history[-1])
            if directory is not None:
                directory.write_history(trainer.history)
                state = {"run": identity_of(as_json(config)), "trainer": trainer.state()}
                save_nested(directory.checkpoint, state)

        for remark in problem.dataset.remarks if problem.dataset is not None else ():
            shown.message(remark)
        if reduce and recipe.schedule is None and (enough := _enough_epochs(chosen, problem, recipe.epochs)):
            shown.message(
                "too few steps for the evidence to be judged: nothing is removed; take at least "
                f"{enough} epochs"
            )
        trainer.run(shown, after_epoch)
        if test_split is None:
            shown.message("no test data: the figures are those of the training data")
        temperature = recipe.predictive_temperatures[0]
        if held_out is not None:
            shown.message(f"choosing the predictive temperature on {len(held_out)} held-out examples")
            temperature = best_temperature(
                model,
                trainer.posterior(),
                held_out,
                recipe.predictive_temperatures,
                seed=seed,
                likelihood=trainer.learned_likelihood(),
                calibration=trainer.calibration,
                on_pass=shown.averaging,
            )
        config["predictive_temperature"] = temperature
        config["predictive_likelihood"] = trainer.learned_likelihood().describe()
        if temperature > 0 and not trainer.posterior().is_point:
            shown.message(
                f"averaging predictions over {num_samples} samples at temperature {temperature:.2g}"
            )
        judged = train_split if test_split is None else test_split
        return finish(trainer, config, judged, num_samples, directory, shown.averaging)


def _num_epochs(method: Method, problem: Problem) -> int:
    """Return the method's epochs, or as many as small own data need for the evidence to be judged."""
    if problem.dataset is None or problem.dataset.inputs is None:
        return method.default_epochs
    batch_size = method.recipe(method.default_epochs, len(problem.train)).batch_size
    return max(method.default_epochs, math.ceil(STEPS_OF_OWN_DATA / max(1, len(problem.train) // batch_size)))


def _enough_epochs(method: Method, problem: Problem, epochs: int) -> int | None:
    """Return how many epochs a method needs on these data to remove anything; None if it never does."""
    longer = range(epochs, max(MOST_EPOCHS_TO_SAY, 2 * epochs))
    return next((each for each in longer if method.recipe(each, len(problem.train)).schedule), None)


def _with_overrides(recipe: Recipe, learning_rate: float | None, batch_size: int | None) -> Recipe:
    changes: dict[str, Any] = {}
    if learning_rate is not None:
        # both stretches keep their proportion
        settled = recipe.settle_learning_rate * learning_rate / recipe.learning_rate
        changes |= {"learning_rate": learning_rate, "settle_learning_rate": settled}
    if batch_size is not None:
        changes["batch_size"] = batch_size
    return replace(recipe, **changes)


def _curvature(model: nn.Module, recipe: Recipe, likelihood: Likelihood, seed: int) -> dict[str, Any]:
    """Return the running curvature as an option of the optimizer, where the recipe asks for one."""
    if recipe.steps_between_looks is None:
        return {}
    device = next(model.parameters()).device
    found = RunningCurvature(
        model,
        likelihood=likelihood,
        every=recipe.steps_between_looks,
        generator=torch.Generator(device).manual_seed(seed),
    )
    return {"curvature": found}


def _can_compile(device: torch.device) -> bool:
    return device.type == "cuda" or any(map(shutil.which, ("g++", "clang++", "c++")))
