"""Load and check data and network of a fit, given by name or as values."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from secateur import networks
from secateur.data import Dataset, Split, load, validate
from secateur.errors import DataError, InvalidArgumentError
from secateur.likelihoods import Categorical, Likelihood
from secateur.modules import evaluation_mode
from secateur.training.recipe import Recipe

__all__ = ["Problem", "build_network", "without_holdout"]


@dataclass(frozen=True)
class Problem:
    """Data of a fit.

    Attributes:
        name: Name of the data set, "custom" for data without one.
        train: Data to learn from; there are some.
        test: Data to judge by, if any.
        num_classes: Number of classes, where the data set says.
    """

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
    ) -> "Problem":
        """Load data given by name.

        Args:
            network: Network to learn with; one of ours says which image size it needs.
            train: Name of a data set, or the data.
            test: Data to judge by instead of the data set's own.
            data_dir: Where to look for data sets first.

        Raises:
            DataError: If data are missing or damaged, or there are none.
            UsageError: If a name does not exist.
        """
        size = networks.image_size(network) if isinstance(network, str) else None
        if isinstance(train, str):
            train = load(train, data_dir=data_dir, image_size=size)
        if isinstance(train, Dataset):
            given = train.test if test is None else test
            problem = cls(train.name, train.train, given, train.num_classes)
        else:
            problem = cls("custom", train, test, None)
        if not len(problem.train):
            raise DataError(f"{problem.name} training data: expected at least one image, got none")
        return problem

    def check(self, num_classes: int, likelihood: Likelihood) -> None:
        """Check that training data, test data and network fit each other.

        Args:
            num_classes: Number of the network's outputs.
            likelihood: Distribution of the labels given the outputs.

        Raises:
            DataError: Naming what does not fit.
            InvalidArgumentError: If labels do not fit the likelihood.
        """
        of_classes = num_classes if isinstance(likelihood, Categorical) else None
        for split, kind in ((self.train, "training"), (self.test, "test")):
            if split is not None:
                name, shape = f"{self.name} {kind} data", self.train.image_shape
                validate(split, num_classes=of_classes, image_shape=shape, name=name)
                likelihood.check(torch.zeros(()).expand(len(split), num_classes), split.labels)


def build_network(
    network: str | nn.Module, problem: Problem, recipe: Recipe, seed: int, likelihood: Likelihood
) -> tuple[nn.Module, int]:
    """Build or check the network; return it with its number of classes.

    Args:
        network: Name of one of ours, or a module.
        problem: What it is to learn.
        recipe: Says how much dropout.
        seed: Seeds the initial weights of a named network.
        likelihood: Distribution of the labels given the network's outputs.

    Raises:
        DataError: If the network does not take the images, or the labels cannot be class numbers.
        InvalidArgumentError: If a module has no parameters, or its output is not one row of logits per image.
    """
    if isinstance(network, str):
        num_classes = problem.num_classes if isinstance(likelihood, Categorical) else 1  # a number per image
        if num_classes is None:
            num_classes = int(problem.train.labels.max()) + 1
            if not 1 <= num_classes <= len(problem.train):
                raise DataError(
                    f"{problem.name} training data: expected labels from 0 to fewer than the "
                    f"{len(problem.train)} images, got {num_classes - 1}"
                )
        model = networks.build(
            network,
            image_shape=problem.train.image_shape,
            num_classes=num_classes,
            dropout=recipe.dropout,
            seed=seed,
        )
        return model, num_classes
    first = next(network.parameters(), None)
    if first is None:
        raise InvalidArgumentError(f"network: expected parameters to train, got none in {type(network)}")
    example = problem.train.images[:1].to(first.device)
    try:
        with evaluation_mode(network), torch.no_grad():
            outputs = network(example)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{problem.name}: expected images that the network takes, got "
            f"shape {problem.train.image_shape}: {reason}"
        ) from error
    if not isinstance(outputs, Tensor) or outputs.dim() != 2 or len(outputs) != 1:
        got = str(tuple(outputs.shape)) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise InvalidArgumentError(f"network: expected logits of shape (n, classes) for n = 1, got {got}")
    likelihood.check(outputs)
    return network, outputs.shape[1]


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
