"""Load and check data and network of a fit, given by name or as values."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from secateur import networks
from secateur.data import Dataset, OwnData, Split, from_arrays, is_own_data, load, read_own, validate
from secateur.data import names as data_names
from secateur.data.targets import guess_likelihood, likelihood_for
from secateur.errors import DataError, InvalidArgumentError
from secateur.factories import build_module, is_factory
from secateur.likelihoods import Categorical, Likelihood, resolve
from secateur.modules import evaluation_mode
from secateur.training.recipe import Recipe

__all__ = ["Problem", "TrainingData", "build_network", "without_holdout"]

TrainingData = str | Dataset | Split | OwnData | tuple[Any, Any]


@dataclass(frozen=True)
class Problem:
    """Data of a fit.

    Attributes:
        name: Name of the data set, "custom" for data without one.
        train: Data to learn from; there are some.
        test: Data to judge by, if any.
        num_classes: Number of classes, where the data set says.
        likelihood: Distribution of the targets.
        dataset: The data set that they are of, if any.
    """

    name: str
    train: Split
    test: Split | None
    num_classes: int | None
    likelihood: Likelihood
    dataset: Dataset | None = None

    @classmethod
    def of(
        cls,
        network: str | nn.Module,
        train: TrainingData,
        test: Split | tuple[Any, Any] | None,
        data_dir: Path | None,
        likelihood: str | Likelihood | None = None,
    ) -> "Problem":
        """Load data given by name.

        Args:
            network: Network to learn with; one of ours says which image size it needs.
            train: Name of a data set, where own data are, a pair of inputs and targets, or the data.
            test: Data to judge by instead of the data set's own.
            data_dir: Where to look for data sets first.
            likelihood: Distribution of the targets; None takes that of the data.

        Raises:
            DataError: If data are missing or damaged, or there are none.
            InvalidArgumentError: If there is no such likelihood.
            UsageError: If a name does not exist.
        """
        size = networks.image_size(network) if isinstance(network, str) and not is_factory(network) else None
        wanted = None if likelihood is None else resolve(likelihood).name
        if isinstance(train, str) and train not in data_names() and is_own_data(train):
            train = OwnData(path=train)
        if isinstance(train, OwnData):
            train = read_own(
                replace(train, image_size=train.image_size or size, likelihood=wanted or train.likelihood)
            )
        elif isinstance(train, str):
            train = load(train, data_dir=data_dir, image_size=size, likelihood=wanted)
        elif isinstance(train, tuple):
            inputs, targets = test if isinstance(test, tuple) else (None, None)
            train = from_arrays(*train, test_inputs=inputs, test_targets=targets, likelihood=wanted)
            test = None
        if isinstance(test, tuple):
            raise InvalidArgumentError(
                "test: expected a Split, or inputs and targets beside such training data"
            )
        if isinstance(train, Dataset):
            given = train.test if test is None else test
            problem = cls(
                train.name, train.train, given, train.num_classes, train.likelihood or Categorical(), train
            )
        else:
            kind = Categorical() if likelihood is not None else _guessed(train)
            problem = cls("custom", train, test, None, kind)
        if not len(problem.train):
            raise DataError(f"{problem.name} training data: expected at least one image, got none")
        return problem if likelihood is None else replace(problem, likelihood=problem.chosen(likelihood))

    def chosen(self, likelihood: str | Likelihood) -> Likelihood:
        """Return a likelihood by its name; for own data in the unit of the targets.

        Args:
            likelihood: A name or a value.

        Raises:
            InvalidArgumentError: If there is none of that name.
        """
        kind = resolve(likelihood)
        if not isinstance(likelihood, str) or self.dataset is None or self.dataset.inputs is None:
            return kind
        return (
            self.likelihood
            if kind.name == self.likelihood.name
            else likelihood_for(kind.name, self.train.labels)
        )

    @property
    def about_data(self) -> Mapping[str, Any]:
        """What a run keeps of own data: how inputs were standardised, names, and where the data are."""
        data = self.dataset
        if data is None or data.inputs is None:
            return {}
        found: dict[str, Any] = {"inputs": asdict(data.inputs), "source": data.source}
        names = {"class_names": list(data.class_names), "feature_names": list(data.feature_names)}
        return found | {key: value for key, value in names.items() if value}

    def check(self, num_outputs: int) -> None:
        """Check that training data, test data and network fit each other.

        Args:
            num_outputs: Number of the network's outputs.

        Raises:
            DataError: Naming what does not fit.
            InvalidArgumentError: If labels do not fit the likelihood.
        """
        of_classes = num_outputs if isinstance(self.likelihood, Categorical) else None
        if of_classes is not None and self.num_classes is not None and of_classes < self.num_classes:
            raise DataError(
                f"network: expected an output for each of the {self.num_classes} classes of {self.name}, got "
                f"{of_classes}"
            )
        for split, kind in ((self.train, "training"), (self.test, "test")):
            if split is not None:
                name, shape = f"{self.name} {kind} data", self.train.image_shape
                validate(split, num_classes=of_classes, image_shape=shape, name=name)
                self.likelihood.check(torch.zeros(()).expand(len(split), num_outputs), split.labels)


def _guessed(split: Split) -> Likelihood:
    """Return the likelihood of labels that nobody says anything of: classes, where they are whole numbers."""
    if split.labels.dtype == torch.int64 and split.labels.dim() == 1:
        return Categorical()
    return likelihood_for(guess_likelihood(split.labels.cpu().numpy())[0], split.labels)


def build_network(
    network: str | nn.Module, problem: Problem, recipe: Recipe, seed: int
) -> tuple[nn.Module, int]:
    """Build or check the network; return it with its number of outputs.

    Args:
        network: Name of one of ours, `package.module:function` (which is imported and called), or a module.
        problem: What it is to learn.
        recipe: Says how much dropout.
        seed: Seeds the initial weights of a network that is built here.

    Raises:
        DataError: If the network does not take the inputs, or the labels cannot be class numbers.
        InvalidArgumentError: If a module has no parameters, or its output is not one row for each input.
        UsageError: If a function cannot be imported and called.
    """
    if isinstance(network, str) and not is_factory(network):
        num_outputs = _num_outputs(problem)
        model = networks.build(
            network,
            image_shape=problem.train.image_shape,
            num_classes=num_outputs,
            dropout=recipe.dropout,
            seed=seed,
        )
        return model, num_outputs
    name = "network"
    if isinstance(network, str):
        name, network = f"network {network}", build_module("network", network, seed=seed)
    first = next(network.parameters(), None)
    if first is None:
        raise InvalidArgumentError(f"network: expected parameters to train, got none in {type(network)}")
    example = problem.train.images[:1].to(first.device)
    try:
        with evaluation_mode(network), torch.no_grad():
            outputs = network(example)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        kind = "images" if example.ndim == 4 else "rows"
        raise DataError(
            f"{problem.name}: expected {kind} that the network takes, got "
            f"shape {problem.train.image_shape}: {reason}"
        ) from error
    numbers = not isinstance(problem.likelihood, Categorical)
    fits = isinstance(outputs, Tensor) and (outputs.dim() == 2 or (numbers and outputs.dim() == 1))
    if not fits or len(outputs) != 1:
        got = str(tuple(outputs.shape)) if isinstance(outputs, Tensor) else type(outputs).__name__
        expected = "outputs of shape (n, values)" if numbers else "logits of shape (n, classes)"
        raise InvalidArgumentError(f"{name}: expected {expected} for n = 1, got {got}")
    problem.likelihood.check(outputs)
    return network, outputs.shape[1] if outputs.dim() == 2 else 1


def _num_outputs(problem: Problem) -> int:
    """Return how many outputs a network of ours is to have."""
    labels = problem.train.labels
    if not isinstance(problem.likelihood, Categorical):
        return labels.shape[1] if labels.dim() == 2 else 1
    if problem.num_classes is not None:
        return problem.num_classes
    num_classes = int(labels.max()) + 1
    if not 1 <= num_classes <= len(labels):
        raise DataError(
            f"{problem.name} training data: expected labels from 0 to fewer than the "
            f"{len(problem.train)} images, got {num_classes - 1}"
        )
    return num_classes


def without_holdout(train: Split, num_held_out: int, seed: int) -> tuple[Split, Split | None]:
    """Split off the data held out for the choice of temperature, if any.

    Args:
        train: All training data.
        num_held_out: How many are held out.
        seed: Seeds which.
    """
    if num_held_out == 0:
        return train, None
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
    held_out, rest = order[:num_held_out], order[num_held_out:]
    return (
        Split(train.images[rest], train.labels[rest]),
        Split(train.images[held_out], train.labels[held_out]),
    )
