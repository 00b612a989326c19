"""`secateur.fit`: names or values in, a finished run out."""

import shutil
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur import networks
from secateur.data import Dataset, Split, load, validate
from secateur.errors import ArtifactError, DataError, InvalidArgumentError
from secateur.pruning import apply_masks, output_layer
from secateur.training.checkpoint import load_nested, save_nested
from secateur.training.device import resolve_device
from secateur.training.files import RunDirectory, read_json
from secateur.training.loop import Trainer
from secateur.training.methods import method_named
from secateur.training.prediction import evaluation_mode
from secateur.training.progress import Progress, SilentProgress
from secateur.training.recipe import Recipe
from secateur.training.run import Run, best_temperature, figures, versions
from secateur.training.tensorboard import TensorBoard

__all__ = ["fit"]

COMPILE_FROM_STEPS = 5000  # compiling takes some ten seconds, a step saves about a millisecond
SAME_RUN = ("network", "data", "method", "seed", "sparsity", "recipe", "num_weights")


def fit(
    network: str | nn.Module,
    train: str | Dataset | Split,
    test: Split | None = None,
    *,
    method: str = "calibrated",
    epochs: int | None = None,
    seed: int = 0,
    out: Path | str | None = None,
    resume: bool = False,
    device: str = "auto",
    data_dir: Path | None = None,
    sparsity: float | None = None,
    num_samples: int = 100,
    learning_rate: float | None = None,
    batch_size: int | None = None,
    compile: bool | None = None,
    tensorboard: bool = False,
    command: str | None = None,
    progress: Progress | None = None,
) -> Run:
    """Fit a posterior, reduce it by evidence as training goes, and judge the result.

    Args:
        network: Name of one of `secateur.networks`, or any module from images to logits; its parameters
            are trained in place.
        train: Name of a data set, or the data.
        test: Data to judge by; a named data set brings its own. The training data when there is none.
        method: Name of the method; see `secateur.training.method_names()`.
        epochs: Passes over the training data; the method's default when None.
        seed: Seeds initial weights (of a named network), order of data, and noise.
        out: Directory for all results, new or empty; nothing is written when None.
        resume: Go on with the run in `out`.
        device: "auto", "cpu", "cuda", "cuda:1", ...
        data_dir: Where to look for data sets first.
        sparsity: Exact fraction of all weights to be out at the end; the evidence decides when None.
        num_samples: Posterior samples the final figures average over.
        learning_rate: Instead of the method's.
        batch_size: Instead of the method's.
        compile: Compile the optimiser's update; when None, if the run is long enough to gain by it.
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
    if sparsity is not None and not 0 <= sparsity < 1:
        raise InvalidArgumentError(f"sparsity: expected a fraction in [0, 1), got {sparsity}")
    if num_samples < 1:
        raise InvalidArgumentError(f"num_samples: expected at least 1, got {num_samples}")
    if tensorboard and out is None:
        raise InvalidArgumentError("tensorboard: expected a directory to write to, got out=None")
    where = resolve_device(device)
    problem = _Problem.of(network, train, test, data_dir)
    recipe = chosen.recipe(chosen.default_epochs if epochs is None else epochs, max(1, len(problem.train)))
    recipe = _with_overrides(recipe, learning_rate, batch_size)
    if sparsity is not None and recipe.schedule is None:
        raise InvalidArgumentError(
            f"sparsity: expected a run that reduces, got method {method!r} for {recipe.epochs} epochs of "
            f"{len(problem.train)} data, which does not; choose another method or more epochs"
        )
    model, num_classes = _network(network, problem, recipe, seed)
    problem.checked(num_classes)
    train_split, held_out = _without_holdout(problem.train, recipe, seed)
    train_split = _placed(train_split, where)
    test_split = None if problem.test is None else _placed(problem.test, where)
    model.to(where)
    if where.type == "cpu":
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = recipe.epochs * (len(train_split) // recipe.batch_size)
    optimizer = chosen.optimizer(
        model.named_parameters(),
        recipe,
        lr=recipe.learning_rate,
        num_data=len(train_split),
        generator=torch.Generator(where).manual_seed(seed),
        compile=steps >= COMPILE_FROM_STEPS and _can_compile(where) if compile is None else compile,
    )
    trainer = Trainer(model, optimizer, recipe, train_split, test_split, seed, sparsity)
    config = {
        "network": network if isinstance(network, str) else type(network).__name__,
        "data": problem.name,
        "method": method,
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
        "num_threads": torch.get_num_threads(),
        "command": command,
        "versions": versions(),
    }
    directory = None if out is None else RunDirectory(Path(out))
    with ExitStack() as stack:
        shown = stack.enter_context(SilentProgress() if progress is None else progress)
        if directory is not None:
            _open(directory, config, trainer, resume=resume)
        boards = []
        if tensorboard and directory is not None:
            board = TensorBoard(directory.path / "tensorboard", resumed_epoch=trainer.epoch)
            boards.append(stack.enter_context(board))

        def after_epoch(trainer: Trainer) -> None:
            for board in boards:
                board.epoch(trainer.history[-1])
            if directory is not None:
                directory.write_history(trainer.history)
                save_nested(directory.checkpoint, trainer.state())

        trainer.run(shown, after_epoch)
        if test_split is None:
            shown.message("no test data: the figures are those of the training data")
        temperature = recipe.predictive_temperatures[0]
        if held_out is not None:
            shown.message(f"choosing the predictive temperature on {len(held_out)} held-out examples")
            temperature = best_temperature(
                model, trainer.posterior(), held_out, recipe.predictive_temperatures, seed=seed
            )
        config["predictive_temperature"] = temperature
        shown.message(f"averaging predictions over {num_samples} samples at temperature {temperature:.2g}")
        return _finish(trainer, config, test_split or train_split, num_samples, directory)


def _with_overrides(recipe: Recipe, learning_rate: float | None, batch_size: int | None) -> Recipe:
    changes: dict[str, Any] = {}
    if learning_rate is not None:
        # both stretches keep their proportion
        settled = recipe.settle_learning_rate * learning_rate / recipe.learning_rate
        changes |= {"learning_rate": learning_rate, "settle_learning_rate": settled}
    if batch_size is not None:
        changes["batch_size"] = batch_size
    return replace(recipe, **changes)


@dataclass(frozen=True)
class _Problem:
    """What to learn, by name and as tensors."""

    name: str
    train: Split
    test: Split | None
    num_classes: int | None

    @classmethod
    def of(
        cls,
        network: str | nn.Module,
        train: str | Dataset | Split,
        test: Split | None,
        data_dir: Path | None,
    ) -> "_Problem":
        if isinstance(train, str):
            size = networks.image_size(network) if isinstance(network, str) else None
            train = load(train, data_dir=data_dir, image_size=size)
        if isinstance(train, Dataset):
            return cls(train.name, train.train, test or train.test, train.num_classes)
        return cls("custom", train, test, None)

    def checked(self, num_classes: int) -> None:
        """Refuse data that do not fit each other or the network."""
        shape = self.train.image_shape
        validate(self.train, num_classes=num_classes, image_shape=shape, name=f"{self.name} training data")
        if self.test is not None:
            validate(self.test, num_classes=num_classes, image_shape=shape, name=f"{self.name} test data")


def _network(network: str | nn.Module, problem: _Problem, recipe: Recipe, seed: int) -> tuple[nn.Module, int]:
    """Return the network and its number of classes."""
    if isinstance(network, str):
        num_classes = problem.num_classes or int(problem.train.labels.max()) + 1
        model = networks.build(
            network,
            image_shape=problem.train.image_shape,
            num_classes=num_classes,
            dropout=recipe.dropout,
            seed=seed,
        )
        return model, num_classes
    example = problem.train.images[:1].to(next(network.parameters()).device)
    try:
        with evaluation_mode(network), torch.no_grad():
            outputs = network(example)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        got = problem.train.image_shape
        raise DataError(
            f"{problem.name}: expected images the network takes, got shape {got}: {reason}"
        ) from error
    if outputs.dim() != 2:
        raise DataError(f"network: expected logits of shape (n, classes), got {tuple(outputs.shape)}")
    return network, outputs.shape[1]


def _without_holdout(train: Split, recipe: Recipe, seed: int) -> tuple[Split, Split | None]:
    """Return the data to train on, and those held out for the choice of temperature, if any."""
    num_held_out = recipe.num_held_out(len(train))
    if num_held_out == 0:
        return train, None
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    held_out, rest = order[:num_held_out], order[num_held_out:]
    return Split(train.images[rest], train.labels[rest]), Split(
        train.images[held_out], train.labels[held_out]
    )


def _placed(split: Split, device: torch.device) -> Split:
    # channels last, with a network in the same format, halves the time of a convolution on CPU
    layout = torch.channels_last if device.type == "cpu" else torch.contiguous_format
    return Split(split.images.to(device, memory_format=layout), split.labels.to(device))


def _can_compile(device: torch.device) -> bool:
    return device.type == "cuda" or any(map(shutil.which, ("g++", "clang++", "c++")))


def _open(directory: RunDirectory, config: dict[str, Any], trainer: Trainer, *, resume: bool) -> None:
    """Claim the directory, and go on from its checkpoint if there is one."""
    if directory.claim(resume=resume):
        earlier = read_json(directory.config)
        for key in SAME_RUN:
            if earlier.get(key) != config[key]:
                raise ArtifactError(
                    f"--resume {directory.path}: expected the run's own {key} ({earlier.get(key)}), got "
                    f"{config[key]}; give the options it was started with"
                )
        trainer.restore(load_nested(directory.checkpoint))
        directory.write_history(trainer.history)  # an epoch may have been written after its checkpoint
    directory.write_json(directory.config, config)


def _finish(
    trainer: Trainer, config: dict[str, Any], judged: Split, num_samples: int, directory: RunDirectory | None
) -> Run:
    """Judge the result, mask the network, write the artefacts."""
    posterior = trainer.posterior()
    results = figures(
        trainer.model,
        posterior,
        judged,
        temperature=config["predictive_temperature"],
        num_samples=num_samples,
        seed=trainer.seed,
    )
    num_weights, num_kept = trainer.counts()
    last = output_layer(trainer.model)
    layers: list[dict[str, Any]] = [
        {
            "name": name,
            "shape": list(parameter.shape),
            "num_weights": parameter.numel(),
            "num_kept": int(keep.sum())
            if (keep := posterior.keep.get(name)) is not None
            else parameter.numel(),
            "delta_f": trainer.removed_delta_f.get(name, 0.0),
            "prunable": name in posterior.mean and name.rpartition(".")[0] != last,
        }
        for name, parameter in trainer.model.named_parameters()
    ]
    for row in layers:
        row["sparsity"] = 1 - row["num_kept"] / row["num_weights"]
    steps = trainer.epoch * trainer.steps_per_epoch
    metrics = {
        **results,
        "sparsity": 1 - num_kept / num_weights,
        "num_weights": num_weights,
        "num_kept": num_kept,
        "num_prunable": sum(row["num_weights"] for row in layers if row["prunable"]),
        "seconds": trainer.seconds,
        "seconds_per_iteration": trainer.training_seconds / steps,
        "evaluated_on": "train" if trainer.test is None else "test",
        "layers": layers,
        "reductions": trainer.reductions,
    }
    if directory is not None:
        directory.write_json(directory.config, config)
        directory.write_tensors(directory.model, trainer.model.state_dict())
        posterior.save(directory.posterior)
        directory.write_json(directory.metrics, metrics)
    apply_masks(trainer.model, posterior.keep)
    trainer.model.eval()
    return Run(
        model=trainer.model,
        posterior=posterior,
        metrics=metrics,
        config=config,
        history=trainer.history,
        out=None if directory is None else directory.path,
    )
