"""Running average of the curvature of a network while it trains.

    average <- average + share (look - average),     share = r / (1 - (1 - r)^t)

after look t: an exponential average at rate r that begins at zero, divided by what its weights sum to. So it
has no initial value to forget. A look is one batch at sampled targets, through `secateur.curvature`: it costs
one more forward and backward pass, and is unbiased wherever the network is in training.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from secateur.curvature.batches import first_data, read_batch
from secateur.curvature.curvature_pass import CurvaturePass
from secateur.curvature.value import Curvature, LayerCurvature
from secateur.distributed import Share, gathered, num_ranks, together
from secateur.errors import ArtifactError, InvalidArgumentError
from secateur.likelihoods import Likelihood
from secateur.modules.matrix import LayerMatrix

__all__ = ["RunningCurvature"]

FACTORS = ("A", "G", "row_sums", "diagonal")


class RunningCurvature:
    """Average a network's curvature while it trains, for `Calibrated` and for joint pruning.

        curvature = RunningCurvature(model)
        optimizer = Calibrated(model.named_parameters(), num_data=len(train_set), curvature=curvature)
        for x, y in loader:
            ...                       # as without it
            optimizer.step()
            curvature.step((x, y))    # every tenth time one backward pass more

    In a process group every rank gives its own batch. A look is at the first data of all ranks' batches
    together, dealt as `DistributedSampler` deals them, and gives all ranks the same average.

    Args:
        model: The network, in `DistributedDataParallel` or not; it is looked at in evaluation mode.
        likelihood: Distribution of the targets, a name or a value of `secateur.likelihoods`.
        every: Steps between looks.
        max_data: Data of a batch that a look takes; None is all.
        rate: Weight r of a new look, so that about 1 / r looks are averaged.
        structure: As for `estimate`.
        include: Name patterns (`fnmatch`) of parameters; all that take a gradient when None.
        exclude: Name patterns of parameters to leave out.
        generator: Source of the sampled targets, on the model's device; seeded with 0 when None. Its state is
            part of `state_dict`.

    Attributes:
        num_steps: Calls of `step`.
        num_looks: Looks so far.

    Raises:
        InvalidArgumentError: If a number is out of range, or as for `estimate`.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        likelihood: str | Likelihood = "categorical",
        every: int = 10,
        max_data: int | None = 32,
        rate: float = 0.01,
        structure: str = "kronecker",
        include: Sequence[str] | None = None,
        exclude: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        for argument, number in (("every", every), ("max_data", 1 if max_data is None else max_data)):
            if number < 1:
                raise InvalidArgumentError(f"{argument}: expected at least 1, got {number}")
        if not 0 < rate <= 1:
            raise InvalidArgumentError(f"rate: expected a fraction in (0, 1], got {rate}")
        device = next(model.parameters()).device
        self.generator = generator or torch.Generator(device).manual_seed(0)
        self._pass = CurvaturePass(
            model,
            likelihood=likelihood,
            structure=structure,
            diagonal=True,
            include=include,
            exclude=exclude,
            generator=self.generator,
        )
        self._model, self._device = model, device
        self.every, self.max_data, self.rate = every, max_data, rate
        self.num_steps = self.num_looks = 0
        self._average: Curvature | None = None

    @property
    def likelihood(self) -> Likelihood:
        """Distribution that targets are sampled from; a learned one may be replaced as it learns."""
        return self._pass.likelihood

    @likelihood.setter
    def likelihood(self, likelihood: Likelihood) -> None:
        self._pass.likelihood = likelihood

    def step(self, batch: Any) -> bool:
        """Count a step of the training, and look at its batch if a look is due.

        Args:
            batch: As a loader of `estimate` gives it; the labels are not read, but for which tokens have one.

        Returns:
            Whether it was looked at.

        Raises:
            InvalidArgumentError: As for `CurvaturePass.add`.
        """
        due = self.num_steps % self.every == 0
        self.num_steps += 1
        if due:
            self.add(batch)
        return due

    @together()
    def add(self, batch: Any) -> None:
        """Look at a batch now.

        Args:
            batch: As for `step`.

        Raises:
            InvalidArgumentError: As for `CurvaturePass.add`.
        """
        read = read_batch(batch, self._device, self._model)
        if self._average is None:
            self._pass.look(read if self.max_data is None else first_data(read, self.max_data))
        if num_ranks() > 1:
            read = replace(read, share=Share.dealt(gathered(read.size)))
        if self.max_data is not None:
            read = first_data(read, self.max_data)
        look = self._pass.restarted()
        look.add(read)
        found = look.result(ends=True)
        self.num_looks += 1
        share = self.rate / (1 - (1 - self.rate) ** self.num_looks)
        self._average = found if self._average is None else self._average.mixed(found, share)

    def value(self, num_data: int) -> Curvature:
        """Return the average.

        Args:
            num_data: Number of training data.

        Raises:
            InvalidArgumentError: If there was no look yet.
        """
        if self._average is None:
            raise InvalidArgumentError(
                "curvature: expected a look before its average is asked for, got none; call "
                "RunningCurvature.step(batch) after each step of the optimizer"
            )
        return replace(self._average, num_data=num_data)

    def state_dict(self) -> dict[str, Any]:
        """Return everything that later looks and averages depend on besides the model."""
        average = self._average
        layers = {} if average is None else average.layers
        return {
            "num_steps": self.num_steps,
            "num_looks": self.num_looks,
            "num_seen": 0 if average is None else average.num_seen,
            "loss": None if average is None else average.loss,
            "generator": self.generator.get_state(),
            "diagonal": {} if average is None else dict(average.diagonal),
            "layers": {
                name: {
                    "names": list(layer.matrix.shapes),
                    "transposed": layer.matrix.transposed,
                    "num_positions": layer.num_positions,
                    **{key: getattr(layer, key) for key in FACTORS if getattr(layer, key) is not None},
                }
                for name, layer in layers.items()
            },
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on where `state_dict()` was taken.

        Args:
            state_dict: What `state_dict()` returned for the same network.

        Raises:
            ArtifactError: If it is of another network; nothing is then changed.
        """
        try:
            seen = int(state_dict["num_seen"])
            average = None
            if state_dict["num_looks"]:
                layers = {name: self._layer(saved) for name, saved in state_dict["layers"].items()}
                diagonal = {name: self._owned(name, value) for name, value in state_dict["diagonal"].items()}
                average = Curvature(layers, diagonal, seen, seen, state_dict["loss"])
            num_steps, num_looks = int(state_dict["num_steps"]), int(state_dict["num_looks"])
            self.generator.set_state(state_dict["generator"].cpu())
        except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise ArtifactError(
                f"curvature state: expected that of this network, got another's: {error}"
            ) from error
        self.num_steps, self.num_looks, self._average = num_steps, num_looks, average

    def _owned(self, name: str, value: Tensor) -> Tensor:
        shape = self._pass.parameters[name].shape
        if value.shape != shape:
            raise ValueError(f"{name} has the shape {tuple(value.shape)}, not {tuple(shape)}")
        return value.to(self._device)

    def _layer(self, saved: Mapping[str, Any]) -> LayerCurvature:
        names = [str(name) for name in saved["names"]]
        shapes = [tuple(self._pass.parameters[name].shape) for name in names]
        matrix = LayerMatrix.of(names, shapes, transposed=bool(saved["transposed"]))
        columns = matrix.columns
        expected = {
            "A": (columns, columns),
            "G": (matrix.rows, matrix.rows),
            "row_sums": (matrix.rows,),
            "diagonal": (matrix.rows, columns),
        }
        found: dict[str, Any] = {}
        for key, shape in expected.items():
            value = saved.get(key)
            if value is not None and tuple(value.shape) != shape:
                raise ValueError(f"{names[0]} has a {key} of shape {tuple(value.shape)}, not {shape}")
            found[key] = None if value is None else value.to(self._device)
        return LayerCurvature(matrix=matrix, num_positions=int(saved["num_positions"]), **found)
