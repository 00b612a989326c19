"""The one value every way of inference ends in: a Gaussian over named weights, independent per weight.

    q(w) = prod_k N(w_k | mean_k, 1 / precision_k),     p(w) = prod_k N(w_k | 0, 1 / prior_precision_k)

Reduction reads nothing else, so any new inference method works with all pruning, and the reverse.
"""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from secateur.errors import ArtifactError, InvalidArgumentError

__all__ = ["Posterior"]

FORMAT = "secateur-posterior-1"


@dataclass(frozen=True)
class Posterior:
    """A Gaussian posterior of a network's weights, with the prior it was fitted under.

    Attributes:
        mean: Posterior mean of each parameter, keyed by its qualified name.
        precision: Posterior inverse variance, of the mean's shape; `inf` for a point estimate.
        prior_precision: Inverse variance of the zero-mean prior, a scalar or broadcastable to the mean.
        keep: False where an entry has already been removed; a missing name means that all of it stays.

    Raises:
        InvalidArgumentError: If names or shapes do not agree.
    """

    mean: dict[str, Tensor]
    precision: dict[str, Tensor]
    prior_precision: dict[str, Tensor]
    keep: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for attribute in ("precision", "prior_precision"):
            names = getattr(self, attribute).keys()
            if names != self.mean.keys():
                differing = sorted(names ^ self.mean.keys())[0]
                raise InvalidArgumentError(
                    f"{attribute}: expected the names of mean, got a difference at {differing!r}"
                )
        if unknown := self.keep.keys() - self.mean.keys():
            raise InvalidArgumentError(f"keep: expected names of mean, got {sorted(unknown)[0]!r}")
        for name, keep in self.keep.items():
            if keep.dtype != torch.bool:
                raise InvalidArgumentError(f"keep[{name!r}]: expected booleans, got {keep.dtype}")
        for name, mean in self.mean.items():
            exact = {"precision": self.precision[name], "keep": self.keep.get(name, mean)}
            for attribute, tensor in exact.items():
                if tensor.shape != mean.shape:
                    got = tuple(tensor.shape)
                    raise InvalidArgumentError(
                        f"{attribute}[{name!r}]: expected shape {tuple(mean.shape)}, got {got}"
                    )
            prior = self.prior_precision[name]
            try:
                broadcast = torch.broadcast_shapes(prior.shape, mean.shape)
            except RuntimeError:
                broadcast = None
            if broadcast != mean.shape:
                raise InvalidArgumentError(
                    f"prior_precision[{name!r}]: expected a shape that broadcasts to {tuple(mean.shape)}, "
                    f"got {tuple(prior.shape)}"
                )

    @property
    def std(self) -> dict[str, Tensor]:
        """Posterior standard deviations, of the mean's shapes; 0 for a point estimate."""
        return {name: precision.rsqrt() for name, precision in self.precision.items()}

    def present(self, name: str) -> Tensor:
        """Return where the entries of a parameter have not been removed, as booleans of the mean's shape."""
        keep = self.keep.get(name)
        return torch.ones_like(self.mean[name], dtype=torch.bool) if keep is None else keep

    def sample(self, *, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Draw one set of weights; removed entries are exactly zero.

        Args:
            generator: Source of randomness on the tensors' device; torch's global one when missing.

        Returns:
            Weights keyed by name, of the mean's shapes.
        """
        drawn = {}
        for name, mean in self.mean.items():
            noise = torch.randn(mean.shape, dtype=mean.dtype, device=mean.device, generator=generator)
            weight = mean + noise * self.precision[name].rsqrt()
            drawn[name] = weight * self.keep[name] if name in self.keep else weight
        return drawn

    def point(self) -> dict[str, Tensor]:
        """Return the posterior-mean weights, removed entries exactly zero."""
        return {
            name: mean * self.keep[name] if name in self.keep else mean for name, mean in self.mean.items()
        }

    def at_temperature(self, temperature: float) -> "Posterior":
        """Return the posterior with likelihood and prior both raised to `1 / temperature`.

        Args:
            temperature: Positive; below 1 the posterior is narrower ("colder"). The mean does not move.

        Raises:
            InvalidArgumentError: If `temperature` is not positive.
        """
        if not temperature > 0:
            raise InvalidArgumentError(f"temperature: expected a positive number, got {temperature}")
        return replace(
            self,
            precision={name: value / temperature for name, value in self.precision.items()},
            prior_precision={name: value / temperature for name, value in self.prior_precision.items()},
        )

    def to(self, device: torch.device | str) -> "Posterior":
        """Return the posterior with every tensor on `device`."""
        moved = {
            name: {key: value.to(device) for key, value in getattr(self, name).items()}
            for name in ("mean", "precision", "prior_precision", "keep")
        }
        return Posterior(**moved)

    def kl_divergence(self) -> Tensor:
        """Return KL(q || p) of the entries that are still in, summed, in nats.

        Per weight: (log(P / P0) - 1 + P0 / P + P0 m^2) / 2.
        """
        total = torch.zeros((), dtype=torch.float64)
        for name, mean in self.mean.items():
            ratio = self.prior_precision[name] / self.precision[name]
            each = 0.5 * (ratio - 1 - ratio.log() + self.prior_precision[name] * mean.square())
            if name in self.keep:
                each = torch.where(self.keep[name], each, 0.0)
            total = total + each.sum(dtype=torch.float64).cpu()
        return total

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the posterior to one safetensors file, whole or not at all.

        Args:
            path: File to write; replaced only once the new one is complete.

        Raises:
            ArtifactError: If it cannot be written; the old file is then untouched.
        """
        path = Path(path)
        tensors = {
            f"{kind}/{name}": tensor.detach().cpu().contiguous().clone()  # safetensors refuses shared memory
            for kind in ("mean", "precision", "prior_precision", "keep")
            for name, tensor in getattr(self, kind).items()
        }
        temporary = path.with_name(path.name + ".partial")
        try:
            save_file(tensors, temporary, metadata={"format": FORMAT})
            temporary.replace(path)
        except (SafetensorError, OSError) as error:
            temporary.unlink(missing_ok=True)
            raise ArtifactError(
                f"{path}: expected to write it, got: {error}; choose another path or free space"
            ) from error

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Posterior":
        """Read a posterior that `save` wrote.

        Args:
            path: A safetensors file.

        Raises:
            ArtifactError: If the file is missing, damaged, or not a posterior.
        """
        kinds: dict[str, dict[str, Tensor]] = {"mean": {}, "precision": {}, "prior_precision": {}, "keep": {}}
        try:
            with safe_open(path, "pt") as file:
                written = (file.metadata() or {}).get("format")
                if written != FORMAT:
                    raise ArtifactError(f"{path}: expected a posterior ({FORMAT}), got format {written!r}")
                for key in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                    kind, _, name = key.partition("/")
                    kinds[kind][name] = file.get_tensor(key)
            return cls(**kinds)
        except (SafetensorError, OSError, KeyError, InvalidArgumentError) as error:
            raise ArtifactError(f"{path}: expected a readable posterior, got: {error}") from error
