"""A layer as one matrix: rows are output units, whatever way its parameters are kept."""

import pytest
import torch
from torch import nn

from secateur.errors import InvalidArgumentError
from secateur.modules.matrix import LayerMatrix


def layout_of(layer: nn.Module, *, transposed: bool = False) -> LayerMatrix:
    parameters = dict(layer.named_parameters())
    shapes = [parameter.shape for parameter in parameters.values()]
    return LayerMatrix.of(list(parameters), shapes, transposed=transposed)


LAYERS = {
    "linear": (lambda: nn.Linear(5, 3), False, (3, 6)),
    "without bias": (lambda: nn.Linear(5, 3, bias=False), False, (3, 5)),
    "convolution": (lambda: nn.Conv2d(2, 4, 3), False, (4, 19)),
    "grouped": (lambda: nn.Conv2d(4, 6, 3, groups=2), False, (6, 19)),
    "transposed convolution": (lambda: nn.ConvTranspose2d(4, 6, (3, 2)), True, (6, 25)),
    "lstm": (lambda: nn.LSTM(3, 2), False, (8, 7)),
    "scale and shift": (lambda: nn.LayerNorm(4), False, (4, 2)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_unpacking_undoes_packing(kind, generator):
    build, transposed, shape = LAYERS[kind]
    layer = build()
    layout = layout_of(layer, transposed=transposed)
    assert (layout.rows, layout.columns) == shape
    tensors = {name: parameter.detach() for name, parameter in layer.named_parameters()}
    matrix = layout.pack(tensors)
    assert matrix.shape == shape
    assert all(torch.equal(part, tensors[name]) for name, part in layout.unpack(matrix).items())
    masks = {name: torch.rand(each.shape, generator=generator) > 0.5 for name, each in tensors.items()}
    assert all(torch.equal(part, masks[name]) for name, part in layout.unpack(layout.pack(masks)).items())


def test_a_row_is_what_feeds_an_output_unit_and_the_bias_comes_last():
    layer = nn.Linear(5, 3)
    layer.register_parameter("before", nn.Parameter(torch.ones(3)))  # a vector named before the weight
    shapes = {"bias": (3,), "weight": (3, 5)}
    layout = LayerMatrix.of(list(shapes), list(shapes.values()))
    matrix = layout.pack({"weight": layer.weight.detach(), "bias": layer.bias.detach()})
    inputs = torch.cat([torch.randn(5), torch.ones(1)])
    torch.testing.assert_close(matrix @ inputs, layer(inputs[:5]).detach())


def test_a_transposed_convolution_has_its_output_channels_as_rows():
    layer = nn.ConvTranspose1d(2, 3, 1)
    matrix = layout_of(layer, transposed=True).pack(dict(layer.named_parameters())).detach()
    inputs = torch.randn(2)
    torch.testing.assert_close(
        matrix @ torch.cat([inputs, torch.ones(1)]), layer(inputs.reshape(1, 2, 1)).detach().reshape(3)
    )


def test_a_scalar_is_a_matrix_of_one_entry():
    layout = LayerMatrix.of(["gain"], [()])
    assert (layout.rows, layout.columns) == (1, 1)
    assert layout.unpack(layout.pack({"gain": torch.tensor(2.0)}))["gain"].shape == ()


@pytest.mark.parametrize(
    ("names", "shapes", "message"),
    [
        ([], [], "expected at least one parameter"),
        (["w", "b"], [(3, 2), (2,)], "same output units, got: w has 3, b has 2"),
    ],
)
def test_parameters_without_rows_in_common_are_refused(names, shapes, message):
    with pytest.raises(InvalidArgumentError, match=message):
        LayerMatrix.of(names, shapes)


def test_tensors_of_other_shapes_are_refused():
    layout = LayerMatrix.of(["w", "b"], [(3, 2), (3,)])
    with pytest.raises(InvalidArgumentError, match=r"tensors\['b'\]: expected shape \(3,\), got none"):
        layout.pack({"w": torch.ones(3, 2)})
    with pytest.raises(InvalidArgumentError, match=r"tensors\['w'\]: expected shape \(3, 2\), got \(2, 3\)"):
        layout.pack({"w": torch.ones(2, 3), "b": torch.ones(3)})
    with pytest.raises(InvalidArgumentError, match=r"matrix: expected shape \(3, 3\), got \(3, 2\)"):
        layout.unpack(torch.ones(3, 2))
