"""A trained network, by what the command line calls it."""

from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as as_bytes
from torch import Tensor, nn

from secateur import networks
from secateur.compaction import plain_copy
from secateur.errors import ArtifactError, UsageError
from secateur.export.transformers_network import CONFIG, load_network, write_network
from secateur.factories import build_module, is_factory
from secateur.runs import write_whole

__all__ = ["TrainedModel"]

NETWORK = "network.safetensors"


@dataclass(frozen=True)
class TrainedModel:
    """Where a trained network comes from.

    Attributes:
        name: `package.module:function`, a name of `secateur.networks`, or a directory.
        weights: File with the weights; None where the function or the directory has them.
    """

    name: str
    weights: Path | None

    @property
    def is_ours(self) -> bool:
        """Whether it is built by `secateur.networks`, for images of the data."""
        return self.name in networks.names()

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory of the Transformers library."""
        return not self.is_ours and not is_factory(self.name) and Path(self.name).is_dir()

    def check(self) -> None:
        """Refuse names and weights that cannot be, before anything is loaded.

        Raises:
            ArtifactError: If a directory or a file is not there.
            UsageError: If the name is none of the three kinds, or weights are missing or too many.
        """
        if self.is_ours and self.weights is None:
            raise UsageError(f"--weights: expected the trained weights of {self.name}, got none")
        if self.is_directory:
            if not (Path(self.name) / CONFIG).is_file():
                raise ArtifactError(
                    f"--model {self.name}: expected {CONFIG} of the Transformers library in it, got none; a "
                    "finished run is pruned by secateur prune"
                )
            if self.weights is not None:
                raise UsageError(
                    f"--weights: expected none, since {self.name} has its own, got {self.weights}"
                )
        elif not self.is_ours and not is_factory(self.name):
            raise UsageError(
                "--model: expected package.module:function, a directory, or one of "
                f"{', '.join(networks.names())}, got {self.name!r}"
            )
        if self.weights is not None and not self.weights.is_file():
            raise ArtifactError(f"--weights {self.weights}: expected a safetensors file, got no such file")

    def load(self, image_shape: tuple[int, ...] | None = None, num_classes: int | None = None) -> nn.Module:
        """Return the network with its weights, in evaluation mode.

        Args:
            image_shape: Of the data, for which networks of ours are built.
            num_classes: Of the data.

        Raises:
            SecateurError: If it cannot be built, or the weights are not its own.
        """
        if self.is_directory:
            return load_network(Path(self.name))
        found = None if self.weights is None else _read(self.weights)
        if self.is_ours:
            assert found is not None
            if image_shape is None or num_classes is None:
                raise UsageError(
                    f"--data: expected images and class numbers, for which {self.name} is built, got others; "
                    "give --model package.module:function"
                )
            if num_classes > (longest := max((len(x) for x in found.values() if x.dim()), default=0)):
                raise ArtifactError(  # before so many outputs are built
                    f"--weights {self.weights}: expected an output for each of the {num_classes:,} classes "
                    f"of --data, got at most {longest:,}"
                )
            model = networks.build(self.name, image_shape=image_shape, num_classes=num_classes)
        else:
            model = build_module("--model", self.name)
        if found is not None:
            _put_into(model, found, f"--weights {self.weights}")
        return model.eval()

    def write(self, model: nn.Module, out: Path) -> Path:
        """Write the pruned network, and return the file with its weights.

        Args:
            model: The network; removed weights are written as zeros.
            out: Directory to write to; it exists.

        Raises:
            ArtifactError: If it cannot be written.
        """
        if self.is_directory:
            return write_network(model, out, Path(self.name))
        state = plain_copy(model).state_dict()
        content = as_bytes({name: value.detach().cpu().contiguous().clone() for name, value in state.items()})
        write_whole(out / NETWORK, content)
        return out / NETWORK


def _read(path: Path) -> dict[str, Tensor]:
    try:
        found: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError, ValueError) as error:
        raise ArtifactError(f"--weights {path}: expected a safetensors file, got: {error}") from error
    return found


def _put_into(model: nn.Module, found: dict[str, Tensor], where: str) -> None:
    """Load weights into a network; all of them, and no others."""
    wanted = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    present = {value.data_ptr() for name, value in wanted.items() if name in found}
    for name, value in wanted.items():
        if name not in found and value.data_ptr() in present:
            continue  # tied to one that is there: safetensors writes such weights once
        if name not in found:
            raise ArtifactError(f"{where}: expected a tensor {name}, got none of that name")
        if found[name].shape != value.shape:
            raise ArtifactError(
                f"{where}: expected {name} of shape {tuple(value.shape)}, got {tuple(found[name].shape)}"
            )
    if others := sorted(set(found) - set(wanted)):
        raise ArtifactError(f"{where}: expected tensors of the network only, got {others[0]} as well")
    model.load_state_dict(found, strict=False)
