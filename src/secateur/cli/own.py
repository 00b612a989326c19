"""Own networks and own data of commands: what was typed, as values."""

from typing import Annotated, Any

import typer

from secateur import networks
from secateur.data import Dataset, OwnData, is_own_data
from secateur.data import names as data_names
from secateur.data.own import TEST_FRACTION, prepare_own
from secateur.data.returned import examples_from
from secateur.errors import InvalidArgumentError, UsageError
from secateur.factories import build_module, call_factory, is_factory

__all__ = [
    "DATA_HELP",
    "NETWORK_HELP",
    "TASKS",
    "Ignore",
    "ImageSize",
    "LikelihoodName",
    "RunData",
    "RunNetwork",
    "Target",
    "Task",
    "TestData",
    "TestShare",
    "check_order",
    "likelihood_of",
    "own_parts",
    "training_data",
]

TASKS = {
    "classification": "categorical",
    "regression": "gaussian",
    "counts": "poisson",
    "multilabel": "bernoulli",
}
NETWORK_HELP = (
    f"One of {', '.join(networks.names())}, or your own as package.module:function, called without arguments "
    "(this runs its code; the current directory is looked into first)."
)
DATA_HELP = (
    f"One of {', '.join(data_names())}; a .csv, .tsv or .parquet table; a .npz or .safetensors file of "
    "inputs and targets; a folder of images with a subfolder for each class; or package.module:function that "
    "returns inputs and targets (this runs its code)."
)
RunNetwork = Annotated[
    str | None,
    typer.Option(
        metavar="MODULE:FUNCTION", help="The run's own network, if it has one; this imports and calls it."
    ),
]
RunData = Annotated[
    str | None,
    typer.Option(
        metavar="DATA", help="The run's own data, if they are elsewhere now or come from a function."
    ),
]
Target = Annotated[
    list[str] | None,
    typer.Option(metavar="COLUMN", help="Column of a table to predict; may be repeated."),
]
Ignore = Annotated[
    list[str] | None, typer.Option(metavar="COLUMN", help="Column of a table to leave out; may be repeated.")
]
Task = Annotated[
    str | None, typer.Option(metavar="NAME", help=f"{', '.join(TASKS)}; guessed from the targets by default.")
]
LikelihoodName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Of the targets, instead of --task: categorical, gaussian (its noise is learned), poisson, "
        "bernoulli.",
    ),
]
TestData = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Own data to judge by; else a share of DATA is kept for it."),
]
TestShare = Annotated[
    float, typer.Option(metavar="SHARE", help="Share of own data to judge by, between 0 and 1.")
]
ImageSize = Annotated[
    int | None, typer.Option(min=1, help="Height and width to resize the images of a folder to.")
]


def check_order(network: str, data: str) -> None:
    """Refuse a network and data that were typed in the wrong order.

    Args:
        network: What stands first.
        data: What stands second.

    Raises:
        UsageError: If they are swapped.
    """
    is_data = network in data_names() or is_own_data(network)
    if is_data and network not in networks.names() and (data in networks.names() or is_factory(data)):
        raise UsageError(f"expected a network and then data, got {network} {data}; type {data} {network}")


def likelihood_of(task: str | None, likelihood: str | None) -> str | None:
    """Return the name of the likelihood that `--task` or `--likelihood` names; None where neither does.

    Args:
        task: One of `TASKS`.
        likelihood: Name of a likelihood.

    Raises:
        UsageError: If there is no such task, or the two contradict each other.
    """
    if task is None:
        return likelihood
    if task not in TASKS:
        raise UsageError(f"--task: expected one of {', '.join(TASKS)}, got {task!r}")
    if likelihood is not None and likelihood != TASKS[task]:
        raise UsageError(
            f"--likelihood: expected {TASKS[task]} for --task {task}, got {likelihood}; leave one out"
        )
    return TASKS[task]


def own_parts(network: str | None, data: str | None = None) -> dict[str, Any]:
    """Return the own network and data of a finished run, as far as they were typed: `model`, `data`.

    Args:
        network: `--network`; it is imported and called.
        data: `--data`; a function is called, a file is read later.

    Raises:
        SecateurError: If a function fails, or returns no network or no data.
        UsageError: If the network is no function.
    """
    found: dict[str, Any] = {}
    if network is not None and network not in networks.names():
        if not is_factory(network):
            raise UsageError(f"--network: expected package.module:function, got {network!r}")
        found["model"] = build_module("--network", network)
    if data is not None:
        found["data"] = examples_from(call_factory("--data", data), data) if is_factory(data) else data
    return found


def training_data(
    text: str,
    *,
    target: list[str] | None = None,
    ignore: list[str] | None = None,
    test: str | None = None,
    share: float = TEST_FRACTION,
    likelihood: str | None = None,
    image_size: int | None = None,
) -> str | OwnData | Dataset:
    """Return what DATA names: a name as it is, where own data are, or what a function returned.

    Args:
        text: As typed.
        target: Columns of a table to predict.
        ignore: Columns of a table to leave out.
        test: Other data to judge by.
        share: Share of the data to judge by.
        likelihood: Name of the likelihood, if it is known.
        image_size: Height and width to resize images to.

    Raises:
        SecateurError: If a function fails or returns no data.
        UsageError: If options do not fit the data.
    """
    if not 0 < share < 1:
        raise InvalidArgumentError(f"--test-share: expected a share between 0 and 1, got {share}")
    given: dict[str, Any] = {"--target": target, "--ignore": ignore, "--test-data": test}
    if text in data_names() or not (is_factory(text) or is_own_data(text)):
        for option, value in given.items():
            if value:
                raise UsageError(f"{option}: expected own data, got the data set {text}; leave {option} out")
        return text
    if is_factory(text):
        examples = examples_from(call_factory("data", text), text)
        if isinstance(examples, Dataset):
            return examples
        source = {"function": text, "test_fraction": share, "likelihood": likelihood}
        return prepare_own(examples, text, likelihood=likelihood, test_fraction=share, source=source)
    return OwnData(
        path=text,
        target=tuple(target or ()),
        ignore=tuple(ignore or ()),
        test=test,
        test_fraction=share,
        likelihood=likelihood,
        image_size=image_size,
    )
