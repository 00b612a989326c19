"""Dots of a comparison, beside what they are compared with."""

import importlib.util
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from secateur.study.comparison_cost import dots
from secateur.study.comparison_runs import collect

_path = Path(__file__).with_name("synthetic_comparison.py")
_spec = importlib.util.spec_from_file_location("synthetic_comparison", _path)
_module = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_module)


@pytest.fixture(scope="module")
def group(tmp_path_factory):
    out = tmp_path_factory.mktemp("comparison")
    for method in ("flat-map", "calibrated"):
        _module.make_run(out, method=method, seed=0, shapes={"dense": (6, 20), "output": (10, 6)})
    return collect(out).groups[0]


@pytest.mark.parametrize("ratio", [1.02, 1.14, 1.9, 2.5, 40.0])
def test_a_logarithmic_scale_has_round_ticks_however_narrow_it_is(group, ratio):
    axes = Figure().subplots()
    dots(group, {"flat-map": [1.0], "calibrated": [ratio]}, "Time", axes, logarithmic=True)
    low, high = axes.get_xlim()
    ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert 2 <= len(ticks) <= 10
    assert all(len(f"{tick:g}") <= 4 for tick in ticks)
    assert any(text.get_text() == f"{ratio:.2f}" for text in axes.texts)
