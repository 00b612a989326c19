"""Recording of every use of a parameter during a forward pass, by whatever module or function.

A mode of torch sees each call of a torch function with its arguments, so a use is recognised by the parameter
itself. Tied weights, modules called twice and functional code need no treatment of their own, and nothing is
attached to the model. Uses that are recognised:

* linear maps: `F.linear`, `addmm`, `mm` and `matmul` with the weight on the right, whole, transposed, or a
  slice of its output units; those inside `F.multi_head_attention_forward` too;
* convolutions of one, two and three dimensions, with groups;
* `F.embedding`;
* sums, differences, products and quotients with data, `expand` to the batch, and the scales and shifts of
  layer, batch, group, instance and root-mean-square normalisation.

Anything else (recurrent kernels, reparametrised weights, an `einsum`) lands in `others`.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from secateur.curvature.sources import Sources, expanded, padded, slice_of, tensors_among
from secateur.curvature.uses import ConvUse, LinearUse, LookupUse, MatrixUse, ProbeUse, by_datum

__all__ = ["Capture"]

CONVOLUTIONS: dict[Any, int] = {torch.conv1d: 1, torch.conv2d: 2, torch.conv3d: 3}
NORMALISATIONS = (F.layer_norm, F.batch_norm, F.group_norm, F.instance_norm, F.rms_norm)
PRODUCTS = ("matmul", "mm", "__matmul__")
ELEMENTWISE = frozenset(
    f"{left}{name}{right}"
    for name in ("add", "sub", "mul", "div", "truediv", "true_divide")
    for left, right in (("", ""), ("", "_"), ("__", "__"), ("__r", "__"), ("__i", "__"), ("r", ""))
)


class Capture(TorchFunctionMode):
    """Record how the parameters are used while the mode is entered.

    Args:
        parameters: The parameters to follow, by name.
        batch: Number of data in the batch.
        biases: Bias of each weight that is its last column, by the weight's name. None decides it at the
            first use: a bias belongs to the first weight that it is used with.
        layouts: Whether each weight is stored (inputs, outputs), by its name; None decides at the first use.
        positions_first: Names of parameters that are used with positions in the first axis, data in the
            second. It decides only where both readings fit; uses that fit this one alone are added.

    Attributes:
        matrices: Linear maps and convolutions, in order.
        lookups: Embeddings, in order.
        probes: Elementwise uses, in order.
        others: Names of the parameters that are used in another way, too.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        batch: int,
        *,
        biases: dict[str, str] | None = None,
        layouts: dict[str, bool] | None = None,
        positions_first: set[str] | None = None,
    ) -> None:
        super().__init__()
        self.positions_first: set[str] = set() if positions_first is None else positions_first
        self.matrices: list[MatrixUse] = []
        self.lookups: list[LookupUse] = []
        self.probes: list[ProbeUse] = []
        self.others: set[str] = set()
        self.biases: dict[str, str] = {} if biases is None else biases
        self.layouts: dict[str, bool] = {} if layouts is None else layouts
        self._decides = biases is None
        self._parameters = parameters
        self._sources = Sources(parameters)
        self._batch = batch
        self._axis = 0

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call the function, and record the parameters among its arguments."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if func is F.multi_head_attention_forward:
            return self._attention(func, args, kwargs)
        tracked = [hit for value in tensors_among(args, kwargs) if (hit := self._sources.name(value))]
        if not tracked:
            return func(*args, **kwargs)
        if func is F.linear:
            return self._linear(*args, **kwargs)
        if name == "addmm" and not kwargs and len(args) == 3:
            return self._product(args[1], args[2], args[0])
        if name in PRODUCTS and len(args) == 2 and not kwargs:
            return self._product(*args, None)
        if func in CONVOLUTIONS:
            return self._convolution(func, *args, **kwargs)
        if func is F.embedding:
            return self._embedding(args, kwargs)
        if func in NORMALISATIONS:
            return self._normalisation(func, args, kwargs)
        if name in ELEMENTWISE and len(args) == 2:
            return self._elementwise(func, args, kwargs)
        if name in {"expand", "repeat"} and self._sources.name(args[0]):
            return self._expand(func, args, kwargs)
        result = func(*args, **kwargs)
        self._note(result, tracked)
        return result

    def __exit__(self, *exception: Any) -> None:
        """Leave the mode and forget intermediate tensors."""
        self._sources.forget()
        super().__exit__(*exception)

    def _note(self, result: Any, tracked: list[str]) -> None:
        """Count an unknown use, unless the result is a view (followed further) or takes no gradient."""
        for value in result if isinstance(result, tuple | list) else [result]:
            if isinstance(value, Tensor) and value.requires_grad and self._sources.name(value) is None:
                self.others.update(tracked)

    # Linear maps

    def _attention(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run the function with its linear maps recorded: modes do not reach inside it."""
        query = args[0] if args else kwargs["query"]
        key, value = (args[i] if len(args) > i else kwargs[n] for i, n in ((1, "key"), (2, "value")))
        bound = inspect.signature(func).bind(*args, **kwargs).arguments
        loose = [bound.get("bias_k"), bound.get("bias_v")]
        self.others.update(name for tensor in loose if (name := self._sources.name(tensor)))
        for tensor in (query, key, value):
            if name := self._sources.name(tensor):
                self.others.add(name)
        before, self._axis = self._axis, 1
        try:
            with mock.patch.object(F, "linear", self._linear):
                return func(*args, **kwargs)
        finally:
            self._axis = before

    def _linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        return self._map(input, weight, bias, stored_transposed=False)

    def _product(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """A product with the weight on the right, stored (inputs, outputs)."""
        if not isinstance(input, Tensor) or self._sources.name(input) or not isinstance(weight, Tensor):
            tracked = [hit for value in (input, weight, bias) if (hit := self._sources.name(value))]
            result = torch.matmul(input, weight) if bias is None else torch.addmm(bias, input, weight)
            self._note(result, tracked)
            return result
        return self._map(input, weight, bias, stored_transposed=True)

    def _map(self, rows: Tensor, weight: Tensor, bias: Tensor | None, *, stored_transposed: bool) -> Tensor:
        name = self._sources.name(weight)
        joined = self._joined(name, weight, bias)
        apart = bias is not None and not joined and self._sources.name(bias) is not None
        shown = None if apart else bias
        if stored_transposed:
            result = torch.matmul(rows, weight) if shown is None else torch.addmm(shown, rows, weight)
        else:
            result = _torch_linear(rows, weight, shown)
        if (hit := self._sources.name(rows)) is not None:
            self.others.add(hit)
        if name is not None and result.requires_grad:
            use = self._linear_use(name, rows, weight, result, joined, stored_transposed)
            if use is None:
                self.others.add(name)
            else:
                self.matrices.append(use)
        return self._elementwise(torch.add, (result, bias), {}) if apart else result

    def _linear_use(
        self, name: str, rows: Tensor, weight: Tensor, result: Tensor, joined: bool, stored_transposed: bool
    ) -> LinearUse | None:
        parameter = self._parameters[name]
        place = slice_of(weight, parameter)
        axis = self._axis_of(name, rows)
        if place is None or by_datum(rows, self._batch, axis) is None:
            return None
        first, viewed_transposed = place
        transposed = stored_transposed != viewed_transposed
        swapped = self.layouts.setdefault(name, transposed) != transposed
        sliced = weight.numel() != parameter.numel()
        if sliced and (transposed or swapped):
            return None
        return LinearUse(
            weight=name,
            edge=get_gradient_edge(result),
            inputs=rows.detach(),
            batch=self._batch,
            axis=axis,
            first_row=first,
            num_rows=parameter.shape[1] if self.layouts[name] else parameter.shape[0],
            column=self._column(name, joined),
            swapped=swapped,
        )

    def _joined(self, name: str | None, weight: Tensor, bias: Tensor | None) -> bool:
        """Return whether a bias is the last column of this weight, and of no other."""
        shift = self._sources.name(bias)
        if name is None or shift is None or bias is None or self._sources.is_looked_up(bias):
            return False
        parameter, whole = self._parameters[name], self._parameters[shift]
        if weight is not parameter:  # a slice of the weight needs the same slice of the bias
            place = slice_of(weight, parameter)
            if place is None or (place[0], len(weight)) != (
                bias.storage_offset() - whole.storage_offset(),
                len(bias),
            ):
                return False
        elif bias is not whole:
            return False
        free = name not in self.biases and shift not in self.biases.values()
        if self._decides and free and whole.dim() == 1 and len(whole) in parameter.shape[:2]:
            self.biases[name] = shift
        return self.biases.get(name) == shift

    def _axis_of(self, name: str, rows: Tensor) -> int:
        """Return which axis of the rows that a parameter is used with counts data."""
        if rows.dim() > 2 and len(rows) != self._batch and rows.shape[1] == self._batch:
            self.positions_first.add(name)
        return 1 if name in self.positions_first else self._axis

    def _column(self, name: str, joined: bool) -> float | None:
        """Return what is appended to the inputs of a weight."""
        return float(joined) if name in self.biases else None

    # Convolutions

    def _convolution(
        self,
        func: Callable[..., Tensor],
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        name = self._sources.whole(weight)
        joined = self._joined(name, weight, bias)
        apart = bias is not None and not joined and self._sources.name(bias) is not None
        result = func(input, weight, None if apart else bias, stride, padding, dilation, groups)
        for value in (input, None if name else weight):
            if (hit := self._sources.name(value)) is not None:
                self.others.add(hit)
        dims = CONVOLUTIONS[func]
        if name is not None and result.requires_grad:
            if input.dim() == dims + 2 and len(input) % self._batch == 0:
                kernel = tuple(weight.shape[2:])
                steps = [tuple([x] * dims) if isinstance(x, int) else tuple(x) for x in (stride, dilation)]
                self.layouts.setdefault(name, False)
                self.matrices.append(
                    ConvUse(
                        weight=name,
                        edge=get_gradient_edge(result),
                        inputs=padded(input.detach(), kernel, steps[1], padding),
                        batch=self._batch,
                        kernel=kernel,
                        stride=expanded(steps[0], dims),
                        dilation=expanded(steps[1], dims),
                        groups=groups,
                        column=self._column(name, joined),
                    )
                )
            else:
                self.others.add(name)
        if not apart or bias is None:
            return result
        return self._elementwise(torch.add, (result, bias.view(-1, *[1] * dims)), {})

    # Lookups and elementwise uses

    def _embedding(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        bound = inspect.signature(F.embedding).bind(*args, **kwargs).arguments
        result = F.embedding(*args, **kwargs)
        index, name, padding = bound["input"], self._sources.whole(bound["weight"]), bound.get("padding_idx")
        if not result.requires_grad:
            return result
        if name is None or bound.get("scale_grad_by_freq"):
            self._note(result, [hit for hit in [self._sources.name(bound["weight"])] if hit])
        elif index.dim() and len(index) == self._batch and name not in self.positions_first:
            if padding is not None and padding < 0:
                padding += len(bound["weight"])
            self.lookups.append(
                LookupUse(name, get_gradient_edge(result), index.reshape(self._batch, -1), padding)
            )
        elif padding is None and (index.dim() == 1 or len(index) == 1):  # positions, the same for all data
            width = result.shape[-1]
            flat = index.unsqueeze(-1) * width + torch.arange(width, device=index.device)
            self._sources.looked_up(result, name, flat)
        else:
            self.others.add(name)
        return result

    def _normalisation(
        self, func: Callable[..., Tensor], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Tensor:
        """Normalise without scale and shift, then apply both elementwise."""
        bound = inspect.signature(func).bind(*args, **kwargs)
        scale, shift = bound.arguments.get("weight"), bound.arguments.get("bias")
        for key in ("weight", "bias"):
            if key in bound.arguments:
                bound.arguments[key] = None
        value = func(*bound.args, **bound.kwargs)
        trailing = 0 if func in (F.layer_norm, F.rms_norm) else value.dim() - 2
        for operation, parameter in ((torch.mul, scale), (torch.add, shift)):
            if parameter is not None:
                shaped = parameter.view(*parameter.shape, *[1] * trailing) if trailing else parameter
                if self._sources.name(shaped) is None:
                    value = operation(value, shaped)
                else:
                    value = self._elementwise(operation, (value, shaped), {})
        return value

    def _elementwise(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        sources = [self._sources.name(value) for value in args]
        tracked = [name for name in sources if name]
        which = 0 if sources[0] else 1
        mine, other = args[which], args[1 - which]
        count = len(other) if isinstance(other, Tensor) and other.dim() else 0
        fits = len(tracked) == 1 and not kwargs and count
        if fits and isinstance(other, Tensor) and mine.requires_grad:
            lead = other.dim() - mine.dim()
            shape = [1] * lead + list(mine.shape)
            second = other.dim() > 1 and other.shape[1] == self._batch and shape[1:2] == [1]
            axis = int(second and self._axis_of(tracked[0], other) == 1)
            divides = axis == 1 or count % self._batch == 0
            if divides and lead >= 0 and len(shape) > axis and shape[axis] == 1:
                copies = self._copies(tracked[0], mine, shape, axis, count)
                if copies is not None:
                    new = (copies, other) if which == 0 else (other, copies)
                    return func(*new)
        result = func(*args, **kwargs)
        self._note(result, tracked)
        return result

    def _copies(self, name: str, value: Tensor, shape: list[int], axis: int, count: int) -> Tensor | None:
        """Return the value with a zero of its own added for each datum, and record the zeros."""
        index = self._sources.index(value)
        if index is None:
            return None
        probe_shape = [self._batch, *shape[:axis], *shape[axis + 1 :]]
        probe = value.new_zeros(probe_shape).requires_grad_()
        whole = self._sources.whole(value) is not None
        size = self._parameters[name].numel()
        self.probes.append(ProbeUse(name, probe, None if whole else index.flatten(), size))
        copies = value.reshape(shape) + probe.movedim(0, axis)
        if axis == 0 and count != self._batch:
            copies = copies.repeat_interleave(count // self._batch, 0)
        return copies

    def _expand(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = args[0]
        result = func(*args, **kwargs)
        name = self._sources.name(value)
        assert name is not None
        lead = result.dim() - value.dim()
        shape = [1] * lead + list(value.shape)
        if result.dim() == 0 or len(result) != self._batch or shape[0] != 1 or not value.requires_grad:
            self._note(result, [name])
            return result
        copies = self._copies(name, value, shape, 0, self._batch)
        if copies is None:
            self.others.add(name)
            return result
        sizes = [new // old for new, old in zip(result.shape, copies.shape, strict=True)]
        return copies.expand(result.shape) if func.__name__ == "expand" else copies.repeat(sizes)


_torch_linear = F.linear
