"""A finished fit: the masked network, its posterior, its figures; written to a directory and read back."""

import json
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from secateur import networks
from secateur.data import Split
from secateur.data import load as load_data
from secateur.errors import ArtifactError, InvalidArgumentError
from secateur.metrics import reliability
from secateur.posterior import Posterior
from secateur.pruning import apply_masks
from secateur.training.device import resolve_device
from secateur.training.files import RunDirectory, read_json
from secateur.training.prediction import evaluation_mode, log_probabilities, score
from secateur.version import __version__

__all__ = ["Run", "best_temperature", "evaluate", "figures", "load_run", "versions"]


@dataclass(frozen=True)
class Run:
    """What a fit hands back.

    Attributes:
        model: Posterior-mean network, removed weights masked through `torch.nn.utils.prune`.
        posterior: Posterior of its weights at the evidence's temperature.
        metrics: The content of `metrics.json`.
        config: The content of `config.json`.
        history: One row per epoch.
        out: Where it was written, if anywhere.
    """

    model: nn.Module
    posterior: Posterior
    metrics: dict[str, Any]
    config: dict[str, Any]
    history: list[dict[str, Any]] = field(default_factory=list)
    out: Path | None = None

    def predict(self, x: Tensor, *, num_samples: int = 100, seed: int = 0) -> Tensor:
        """Return class probabilities averaged over posterior samples, shape (data, classes).

        Args:
            x: Inputs, standardised as the training data were.
            num_samples: Draws to average over; 0 uses the posterior-mean network in one pass.
            seed: Seed of the draws.
        """
        with evaluation_mode(self.model):
            if num_samples == 0 or self.config["predictive_temperature"] == 0 or is_point(self.posterior):
                return log_probabilities(self.model, x).exp()
            temperature = self.config["predictive_temperature"]
            warm = self.posterior.at_temperature(temperature)
            device = next(iter(warm.mean.values())).device
            generator = torch.Generator(device).manual_seed(seed)
            total = None
            for _ in range(num_samples):
                drawn = log_probabilities(self.model, x, warm.sample(generator=generator)).exp()
                total = drawn if total is None else total + drawn
        assert total is not None
        return total / num_samples


def is_point(posterior: Posterior) -> bool:
    """Return whether a posterior is a point estimate, without spread."""
    return any(bool(torch.isinf(precision).any()) for precision in posterior.precision.values())


def versions() -> dict[str, str]:
    """Return the versions a result may depend on."""
    return {
        "secateur": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def figures(
    model: nn.Module,
    posterior: Posterior,
    split: Split,
    *,
    temperature: float,
    num_samples: int,
    seed: int,
) -> dict[str, Any]:
    """Return the figures of the averaged prediction, beside those of the posterior-mean network.

    Args:
        model: Network at the posterior mean.
        posterior: Its posterior.
        split: Data to judge by.
        temperature: Temperature of the draws.
        num_samples: Draws to average over; a point posterior has one.
        seed: Seed of the draws.
    """
    mean_figures, mean_predicted = score(model, split)
    if temperature == 0 or is_point(posterior):
        averaged, predicted, num_samples = mean_figures, mean_predicted, 1
    else:
        device = next(iter(posterior.mean.values())).device
        averaged, predicted = score(
            model,
            split,
            posterior.at_temperature(temperature),
            num_samples=num_samples,
            generator=torch.Generator(device).manual_seed(seed),
        )
    bins = reliability(predicted, split.labels.cpu())
    return {
        **averaged.as_dict(),
        "num_samples": num_samples,
        "temperature": temperature,
        "mean_network": mean_figures.as_dict(),
        "reliability": {
            "confidence": bins.confidence.tolist(),
            "accuracy": bins.accuracy.tolist(),
            "count": bins.count.tolist(),
        },
    }


def best_temperature(
    model: nn.Module,
    posterior: Posterior,
    held_out: Split,
    temperatures: Sequence[float],
    *,
    num_samples: int = 32,
    seed: int = 0,
) -> float:
    """Return the temperature whose averaged prediction has the least loss on held-out data.

    Args:
        model: Network at the posterior mean.
        posterior: Its posterior.
        held_out: Data it was not trained on.
        temperatures: Temperatures to try; 0 is the posterior mean alone.
        num_samples: Draws to average over, the same ones at each temperature.
        seed: Seed of the draws.
    """
    losses = {}
    for temperature in temperatures:
        found = figures(
            model, posterior, held_out, temperature=temperature, num_samples=num_samples, seed=seed
        )
        losses[temperature] = found["negative_log_likelihood"]
    return min(losses, key=losses.__getitem__)


def load_run(out: Path | str, *, model: nn.Module | None = None, device: torch.device | str = "cpu") -> Run:
    """Read a finished run; nothing in it is executed.

    Args:
        out: Directory that `fit` wrote.
        model: Network of the run, needed only if it is none of `secateur.networks`; it gets the weights.
        device: Where to put network and posterior.

    Raises:
        ArtifactError: If a file is missing or damaged, or belongs to another network.
    """
    directory = RunDirectory(Path(out))
    if not directory.metrics.exists():
        raise ArtifactError(
            f"{out}: expected a finished run (metrics.json), got none; finish it by secateur fit ... --resume"
        )
    config = read_json(directory.config)
    if model is None:
        if config["network"] not in networks.names():
            raise ArtifactError(
                f"{out}: expected the run's own network as `model`, got none for {config['network']!r}"
            )
        model = networks.build(
            config["network"],
            image_shape=tuple(config["image_shape"]),
            num_classes=config["num_classes"],
            dropout=config["recipe"]["dropout"],
        )
    try:
        model.load_state_dict(load_file(directory.model))
    except (SafetensorError, OSError, RuntimeError) as error:
        line = str(error).splitlines()[-1].strip()
        raise ArtifactError(
            f"{directory.model}: expected the weights of this network, got: {line}"
        ) from error
    posterior = Posterior.load(directory.posterior)
    apply_masks(model, posterior.keep)
    model.to(device).eval()
    history = directory.history.read_text().splitlines() if directory.history.exists() else []
    return Run(
        model=model,
        posterior=posterior.to(device),
        metrics=read_json(directory.metrics),
        config=config,
        history=[json.loads(line) for line in history],
        out=directory.path,
    )


def evaluate(
    out: Path | str,
    *,
    data_dir: Path | None = None,
    device: str = "auto",
    num_samples: int = 100,
    split: str = "test",
    seed: int = 0,
) -> dict[str, Any]:
    """Judge a finished run again.

    Args:
        out: Directory that `fit` wrote.
        data_dir: Where to look for its data set first.
        device: "auto", "cpu", "cuda", ...
        num_samples: Posterior samples to average over.
        split: "test" or "train".
        seed: Seed of the draws.

    Returns:
        The figures of the average and, under "mean_network", of the posterior-mean network.

    Raises:
        InvalidArgumentError: If `split` is neither.
        ArtifactError: If the run is missing, damaged, or its data set has no name.
    """
    if split not in ("test", "train"):
        raise InvalidArgumentError(f"split: expected test or train, got {split!r}")
    run = load_run(out, device=resolve_device(device))
    data = load_data(
        run.config["data"], data_dir=data_dir, image_size=networks.image_size(run.config["network"])
    )
    return figures(
        run.model,
        run.posterior,
        getattr(data, split),
        temperature=run.config["predictive_temperature"],
        num_samples=num_samples,
        seed=seed,
    )
