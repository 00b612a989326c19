"""Networks as ONNX files: masked, compact, posterior mean, or the average over posterior samples."""

import inspect
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from secateur.compaction import CompactionWarning, compact, plain_copy
from secateur.errors import ArtifactError, InvalidArgumentError
from secateur.likelihoods import LINKS
from secateur.modules import (
    call_arguments,
    has_batch_norm,
    held_masks,
    largest_relative_difference,
    reestimate,
)
from secateur.posterior import Posterior
from secateur.runs import replacing

__all__ = ["OnnxFile", "PosteriorAverage", "onnx", "onnx_session"]

_TOLERANCE = 1e-4  # float32 sums in another order
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True)
class OnnxFile:
    """What was written.

    Attributes:
        path: The file.
        num_bytes: Its size.
        largest_difference: Between onnxruntime and PyTorch, relative to the largest output.
    """

    path: Path
    num_bytes: int
    largest_difference: float


class PosteriorAverage(nn.Module):
    """The posterior-predictive average of fixed samples: mean over s of link(network(x; w_s)).

    Args:
        members: One network per sample.
        link: What turns outputs into expected targets before averaging, one of `likelihoods.LINKS`:
            "softmax", "sigmoid" or "exp"; "identity" averages outputs.
    """

    def __init__(self, members: list[nn.Module], link: str = "softmax") -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.likelihood = LINKS[link]

    def forward(self, *inputs: Any) -> Tensor:
        """Return the average, shape of one network's output."""
        total: Tensor | None = None
        for member in self.members:
            output = self.likelihood.mean(member(*inputs))
            total = output if total is None else total + output
        assert total is not None
        return total / len(self.members)


class _ByPosition(nn.Module):
    """A network that is called by name, with the same tensors in order.

    Args:
        network: The network.
        names: Its arguments.
    """

    def __init__(self, network: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.network, self.names = network, tuple(names)
        cached = "use_cache" in inspect.signature(network.forward).parameters
        self.fixed = {"use_cache": False} if cached else {}  # a graph hands no cache over

    def forward(self, *tensors: Tensor) -> Any:
        """Return the logits, or the first output where none are called so."""
        result = self.network(**dict(zip(self.names, tensors, strict=True)), **self.fixed)
        if isinstance(result, Mapping):
            return result["logits"] if "logits" in result else next(iter(result.values()))
        return result


def onnx(
    model: nn.Module,
    path: str | Path,
    example_input: Any,
    *,
    posterior: Posterior | None = None,
    num_samples: int = 0,
    link: str = "softmax",
    calibration: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> OnnxFile:
    """Write a network as an ONNX file and check it against PyTorch with onnxruntime.

    Args:
        model: Masked or compact network; exported in evaluation mode, masks made permanent.
        path: The file; replaced as a whole.
        example_input: A batch, the tuple of positional arguments of a call, or a dict of named ones. The
            first axis of each tensor is the batch, and any batch size will do. The second axis of named
            integers counts tokens, and any number of these will do; names are those of the file's inputs,
            and its output is the logits.
        posterior: Weights to take instead of the model's own, with the model's masks: their mean, or
            `num_samples` samples.
        num_samples: Samples whose outputs the one graph averages; 0 takes the mean.
        link: What happens to each sample's output before averaging, one of `likelihoods.LINKS`.
        calibration: Training images from which each sample's batch norm takes its moments; needed where
            samples of a network with batch norm are averaged.
        generator: Randomness of the samples.

    Returns:
        Size and largest difference of the file.

    Raises:
        InvalidArgumentError: If an argument is out of range, a package of the extra `export` is missing, or
            ONNX lacks an operator of the network; it is named.
        ArtifactError: If onnxruntime's output differs from PyTorch's.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise InvalidArgumentError(
            f"expected the packages {', '.join(_PACKAGES)}, got no {', '.join(missing)}: "
            "pip install 'secateur[export]'"
        )
    if link not in LINKS:
        raise InvalidArgumentError(f"link: expected one of {', '.join(LINKS)}, got {link!r}")
    if num_samples < 0 or (num_samples and posterior is None):
        raise InvalidArgumentError(f"num_samples: expected 0, or more with a posterior, got {num_samples}")
    if num_samples and calibration is None and has_batch_norm(model):
        raise InvalidArgumentError(
            "calibration: expected training images to average samples of a network with batch norm, got "
            "none; each sample needs moments of its own"
        )
    inputs, named = call_arguments(example_input)
    if named and inputs:
        raise InvalidArgumentError(
            "example_input: expected arguments by position or by name, got both; give "
            f"all in a dict, as {', '.join(named)}"
        )
    names = tuple(named)
    inputs = tuple(named.values()) if named else inputs
    network = plain_copy(model).eval()
    if posterior is not None and num_samples:
        samples = [posterior.sample(generator=generator) for _ in range(num_samples)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CompactionWarning)  # a network without smaller units stays whole
            members = [
                compact(_calibrated(_with_weights(model, sample), calibration), named or inputs)
                for sample in samples
            ]
        if names:
            members = [_ByPosition(member, names) for member in members]
        network = PosteriorAverage(members, link).eval()
    elif posterior is not None:
        keep = posterior.keep
        network = _with_weights(
            model, {k: v * keep[k] if k in keep else v for k, v in posterior.mean.items()}
        )
    if names and not isinstance(network, PosteriorAverage):
        network = _ByPosition(network, names).eval()
    with replacing(Path(path)) as draft:
        _export(network, draft, inputs, names)
        difference = _check(network, draft, inputs)
    return OnnxFile(Path(path), Path(path).stat().st_size, difference)


def _calibrated(network: nn.Module, images: Tensor | None) -> nn.Module:
    if images is not None:
        reestimate(network, images)
    return network


def _with_weights(model: nn.Module, weights: dict[str, Tensor]) -> nn.Module:
    """Return a copy of the masked network with other weights under the same masks."""
    network = plain_copy(model).eval()
    # torch.nn.utils.prune keeps its masks as buffers beside the parameters
    masks = {name.removesuffix("_mask"): mask for name, mask in model.named_buffers()} | held_masks(model)
    with torch.no_grad():
        for name, weight in weights.items():
            try:
                parameter = network.get_parameter(name)
            except AttributeError as error:
                raise InvalidArgumentError(
                    f"posterior: expected parameters of the network, got {name}"
                ) from error
            mask = masks.get(name)
            parameter.copy_(weight if mask is None else weight * mask)
    return network


def _export(network: nn.Module, path: Path, inputs: tuple[Any, ...], names: tuple[str, ...]) -> None:
    # torch.export takes sizes of 0 and 1 for constants.
    batch = pytree.tree_map(lambda x: torch.cat([x, x]) if _is_batch(x) and len(x) == 1 else x, inputs)
    size = torch.export.Dim("batch")
    shapes = pytree.tree_map(lambda x: {0: size} if _is_batch(x) else None, batch)
    for name, tensor, axes in zip(names, batch, shapes, strict=False):
        if _is_batch(tensor) and tensor.dim() == 2 and not tensor.is_floating_point():
            axes[1] = torch.export.Dim("decoder_tokens" if name.startswith("decoder") else "tokens")
    if isinstance(network, PosteriorAverage | _ByPosition):  # their forward takes all as one tuple
        shapes = (shapes,)
    try:
        with _quiet():
            program = torch.onnx.export(
                network,
                batch,
                dynamo=True,
                dynamic_shapes=shapes,
                input_names=list(names) or None,
                verbose=False,
            )
            assert program is not None
            program.save(path)
    except Exception as error:  # the exporter's errors are private and many
        raise InvalidArgumentError(_reason(network, error)) from error


def _is_batch(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dim() > 0


def _reason(network: nn.Module, error: BaseException) -> str:
    """Return the innermost cause in one line, naming the operator where that is the cause."""
    causes = [error]
    while causes[-1].__cause__ is not None:
        causes.append(causes[-1].__cause__)
    found = re.search(r"op='([\w.:]+)'", " ".join(str(cause) for cause in reversed(causes)))
    kind = type(network).__name__
    if found:
        return f"expected operators that ONNX has, got {found[1]} in {kind}: replace it or export otherwise"
    last = " ".join(str(causes[-1]).split())[:300]
    return f"expected a network that can be exported with any batch size, got {kind}: {last}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about packages of its own choice to itself."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _check(network: nn.Module, path: Path, inputs: tuple[Any, ...]) -> float:
    """Return the largest relative difference on the example and on a batch three times its size."""
    worst = 0.0
    run = onnx_session(path)
    thrice = pytree.tree_map(lambda x: torch.cat([x, x.flip(-1), x]) if _is_batch(x) else x, inputs)
    for batch in (inputs, thrice):
        with torch.no_grad():
            expected = network(*batch)
        try:
            found = run(batch)
        except Exception as error:  # onnxruntime's errors have no class in common
            raise InvalidArgumentError(
                "expected a network that can be exported with any batch size, got "
                f"{type(network).__name__}, whose file takes one only; use x.shape[0] for len(x) in its code"
            ) from error
        worst = max(worst, largest_relative_difference(expected, found))
    if worst > _TOLERANCE:
        raise ArtifactError(
            f"expected onnxruntime to agree with PyTorch within {_TOLERANCE}, got {worst:.1e}"
        )
    return worst


def onnx_session(path: str | Path) -> Callable[[Any], list[Tensor]]:
    """Return a function that runs an ONNX file on the CPU, with as many threads as PyTorch uses.

    Args:
        path: The file.

    Returns:
        A function from the network's input, the tuple of its arguments, or the dict of named ones, to its
        outputs.
    """
    onnxruntime = import_module("onnxruntime")  # part of the extra `export`

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def run(inputs: Any) -> list[Tensor]:
        if isinstance(inputs, Mapping):
            inputs = [inputs[name] for name in names]
        tensors = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
        fed = {name: tensor.detach().cpu().numpy() for name, tensor in zip(names, tensors, strict=True)}
        return [torch.from_numpy(output) for output in session.run(None, fed)]

    return run
