"""Finished runs: network, posterior and metrics; load, predict, evaluate."""

import math
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from secateur import networks
from secateur.data import Dataset, Split, Standardisation
from secateur.data.examples import OwnExamples
from secateur.errors import ArtifactError, DataError, InvalidArgumentError
from secateur.factories import is_factory
from secateur.likelihoods import Likelihood, resolve
from secateur.modules import evaluation_mode, hold
from secateur.posterior import Posterior
from secateur.runs import RunDirectory
from secateur.training.device import layout, placed, resolve_device
from secateur.training.own_data import dataset_of, standardisation_in
from secateur.training.prediction import average_prediction, predictions, scores
from secateur.version import __version__

__all__ = ["Run", "evaluate", "example_images", "load_run", "run_data", "versions"]


@dataclass(frozen=True)
class Run:
    """Network, posterior and metrics of a finished fit.

    Attributes:
        model: Posterior-mean network; its removed weights are held at zero.
        posterior: Posterior of its weights at the evidence's temperature.
        metrics: The content of `metrics.json`.
        config: The content of `config.json`.
        history: One row per epoch.
        out: Where it was written, if anywhere.
        calibration: Training images that each draw's batch norm is calibrated on; None where the network
            has none. They are stored with the run.
    """

    model: nn.Module
    posterior: Posterior
    metrics: dict[str, Any]
    config: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)
    out: Path | None = None
    calibration: Tensor | None = None

    @property
    def likelihood(self) -> Likelihood:
        """Distribution of the labels given the network's outputs."""
        return resolve(self.config.get("predictive_likelihood", "categorical"))

    @property
    def inputs(self) -> Standardisation | None:
        """How new inputs are standardised; None where the user of the network does that."""
        return standardisation_in(self.config)

    def predict(self, x: Tensor, *, num_samples: int = 100, seed: int = 0) -> Tensor:
        """Return class probabilities (or expected targets) averaged over posterior samples.

        Args:
            x: Inputs in their own units where the run standardised its own data, as given to
                `secateur.data.from_arrays` or read from a file; else standardised as the training data were.
            num_samples: Draws to average over; 0 uses the posterior-mean network in one pass.
            seed: Seed of the draws.

        Returns:
            Shape (data, outputs).

        Raises:
            DataError: If `x` are not inputs of the shape the network was trained on.
            InvalidArgumentError: If `num_samples` is negative.
        """
        expected = tuple(self.config["image_shape"])
        if tuple(x.shape[1:]) != expected:
            kind = "images" if len(expected) == 3 else "rows"
            raise DataError(f"x: expected {kind} of shape (n, *{expected}), got {tuple(x.shape)}")
        if num_samples < 0:
            raise InvalidArgumentError(f"num_samples: expected at least 0, got {num_samples}")
        if self.inputs is not None:
            x = self.inputs.apply(x)
        temperature = self.config["predictive_temperature"]
        with evaluation_mode(self.model):
            if num_samples == 0 or temperature == 0 or self.posterior.is_point:
                return self.likelihood.expectation(predictions(self.model, x, likelihood=self.likelihood))
            warm = self.posterior.at_temperature(temperature)
            device = next(iter(warm.mean.values())).device
            averaged, _ = average_prediction(
                self.model,
                x,
                warm,
                num_samples=num_samples,
                likelihood=self.likelihood,
                generator=torch.Generator(device).manual_seed(seed),
                calibration=self.calibration,
            )
        return self.likelihood.expectation(averaged).to(device)


def versions() -> dict[str, str]:
    """Return the versions a result may depend on."""
    return {
        "secateur": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def load_run(out: Path | str, *, model: nn.Module | None = None, device: torch.device | str = "cpu") -> Run:
    """Load a finished run; no code from its files is executed.

    Args:
        out: Directory that `fit` wrote.
        model: Network of the run, needed only if it is none of `secateur.networks`; it gets the weights.
        device: Where to put network and posterior.

    Raises:
        ArtifactError: If a file is missing or damaged, or belongs to another network.
    """
    from secateur.runs.reading import read_run  # and with it pydantic

    directory = RunDirectory(Path(out))
    if not directory.metrics.exists():
        raise ArtifactError(
            f"{out}: expected a finished run (metrics.json), got none; finish it by secateur fit ... --resume"
        )
    record = read_run(directory.path, verified=True)
    config, metrics = record.config_values, record.metrics_values
    if missing := REQUIRED_CONFIG - config.keys():
        raise ArtifactError(f"{directory.config}: expected the field {sorted(missing)[0]!r}, got none")
    named = config["network"] in networks.names()
    if model is None:
        if not named:
            remedy = ""
            if is_factory(config["network"]):  # a name in a file is never imported
                remedy = f"; give --network {config['network']}, which imports it, if you trust it"
            raise ArtifactError(
                f"{out}: expected the run's own network as `model`, got none for "
                f"{config['network']!r}{remedy}"
            )
        _require_size(directory, config)
        model = networks.build(
            config["network"],
            image_shape=tuple(config["image_shape"]),
            num_classes=config["num_classes"],
            dropout=config["recipe"]["dropout"],
            seed=0,  # the weights are replaced, and the global random state stays as it was
        )
    try:
        model.load_state_dict(load_file(directory.model))
    except (SafetensorError, OSError, RuntimeError) as error:
        line = str(error).splitlines()[-1].strip()
        raise ArtifactError(
            f"{directory.model}: expected the weights of this network, got: {line}"
        ) from error
    posterior = Posterior.load(directory.posterior)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    for name, mean in posterior.mean.items():
        if shapes.get(name) != mean.shape:
            raise ArtifactError(
                f"{directory.posterior}: expected the posterior of this network, got {name!r} of shape "
                f"{tuple(mean.shape)}"
            )
    model.to(device, memory_format=layout(torch.device(device), named=named))  # type: ignore[call-overload]
    # A file of tensors has its own order, and draws follow the order of the parameters.
    ordered = {
        kind: {name: getattr(posterior, kind)[name] for name in shapes if name in getattr(posterior, kind)}
        for kind in ("mean", "precision", "prior_precision", "keep")
    }
    posterior = Posterior(**ordered).to(device)
    hold(model, posterior.keep)
    model.eval()
    calibration = _read_calibration(directory.calibration)
    return Run(
        model=model,
        posterior=posterior,
        metrics=metrics,
        config=config,
        history=record.history,
        out=directory.path,
        calibration=None if calibration is None else calibration.to(device),
    )


LARGEST_IMAGE = 2**20  # values of one image that any network may be built for
REQUIRED_CONFIG = {
    "network",
    "data",
    "image_shape",
    "num_classes",
    "recipe",
    "seed",
    "predictive_temperature",
}


def _require_size(files: RunDirectory, config: dict[str, Any]) -> None:
    """Refuse declared sizes that the file of weights does not bear out, before anything is built of them."""
    try:
        with safe_open(files.model, "pt") as file:
            shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{files.model}: expected the weights of this network, got: {error}") from error
    outputs, entries = max((shape[0] for shape in shapes if shape), default=0), sum(map(math.prod, shapes))
    num_classes, num_values = config["num_classes"], math.prod(config["image_shape"])
    if num_classes > outputs or num_values > max(entries, LARGEST_IMAGE):
        raise ArtifactError(
            f"{files.config}: expected classes and images that fit the {entries} weights of the run, got "
            f"{num_classes} classes and images of shape {config['image_shape']}"
        )


def _read_calibration(path: Path) -> Tensor | None:
    if not path.exists():
        return None
    try:
        return load_file(path)["images"]
    except (SafetensorError, OSError, KeyError) as error:
        raise ArtifactError(f"{path}: expected the calibration images of a run, got: {error}") from error


def evaluate(
    out: Path | str,
    *,
    data_dir: Path | None = None,
    device: str = "auto",
    num_samples: int = 100,
    split: str = "test",
    seed: int | None = None,
    model: nn.Module | None = None,
    data: Dataset | OwnExamples | str | None = None,
) -> dict[str, Any]:
    """Evaluate a finished run again.

    Args:
        out: Directory that `fit` wrote.
        data_dir: Where to look for its data set first.
        device: "auto", "cpu", "cuda", ...
        num_samples: Posterior samples to average over.
        split: "test" or "train".
        seed: Seed of the draws; the run's own when None.
        model: Network of the run, if it is none of `secateur.networks`.
        data: The run's own data, if they are no longer where they were.

    Returns:
        The figures of the average and, under "mean_network", of the posterior-mean network.

    Raises:
        InvalidArgumentError: If `split` is neither, or `num_samples` is not positive.
        ArtifactError: If the run is missing, damaged, or its data set has no name.
    """
    if split not in ("test", "train"):
        raise InvalidArgumentError(f"split: expected test or train, got {split!r}")
    if num_samples < 1:
        raise InvalidArgumentError(f"num_samples: expected at least 1, got {num_samples}")
    where = resolve_device(device)
    run = load_run(out, model=model, device=where)
    wanted = run_data(run, split, data_dir, data)
    return scores(
        run.model,
        run.posterior,
        placed(wanted, where, layout(where, named=model is None)),
        temperature=run.config["predictive_temperature"],
        num_samples=num_samples,
        seed=run.config["seed"] if seed is None else seed,
        likelihood=run.likelihood,
        calibration=run.calibration,
    )


def example_images(run: Run, count: int = 2) -> Tensor:
    """Return random images of the shape a run was trained on; the same ones in every call.

    Args:
        run: A finished run.
        count: How many.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (count, *run.config["image_shape"])
    return torch.randn(shape, generator=generator).to(next(run.model.parameters()).device)


def run_data(
    run: Run, split: str, data_dir: Path | None = None, data: Dataset | OwnExamples | str | None = None
) -> Split:
    """Load the data set that a run was trained on.

    Args:
        run: A finished run.
        split: "test" or "train".
        data_dir: Where to look first.
        data: The run's own data as read, or the path where they are now.

    Raises:
        ArtifactError: If that data set has no name, or its function has to be named again.
        DataError: If it cannot be found, or is another one.
    """
    found = dataset_of(run.config, run.out, kind=run.likelihood.name, data_dir=data_dir, data=data)
    wanted: Split = getattr(found, split)
    return wanted
