"""Curvature by one pass against whole Jacobians, for every way in which a parameter can be used."""

import pytest
import torch
from support.curvature_oracle import split, whole_ggn

from secateur.curvature import estimate

TIGHT = {"rtol": 1e-9, "atol": 1e-12}


def test_the_diagonal_and_its_row_sums_are_exact(kind):
    expected = split(kind.model, whole_ggn(kind.model, kind.inputs).diagonal())
    found = estimate(kind.model, [kind.inputs], outputs="exact", diagonal=True)
    assert set(found.layers) == kind.layers
    assert found.num_seen == found.num_data == len(kind.inputs)
    diagonals = found.diagonals()
    assert diagonals.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(diagonals[name], value, **TIGHT, msg=lambda text, n=name: f"{n}: {text}")
    rows_only = estimate(kind.model, [kind.inputs[:4], kind.inputs[4:]], outputs="exact")
    for name, layer in rows_only.layers.items():
        sums = layer.matrix.pack(expected).sum(1)
        torch.testing.assert_close(layer.row_sums, sums, **TIGHT)
        torch.testing.assert_close(found.layers[name].row_sums, sums, **TIGHT)
